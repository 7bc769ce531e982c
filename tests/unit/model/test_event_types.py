"""Typed events, and checking data where it is emitted."""

import datetime as dt
import importlib
import sys

import pytest
from pydantic import BaseModel, Field

from celery_fanout import event_type
from celery_fanout.exceptions import (
    DuplicateEventType,
    EventTooLarge,
    InvalidEventData,
    InvalidEventName,
    InvalidEventType,
)
from celery_fanout.model.event_types import checked_data, model_of, name_of

LIMIT = 1000


@event_type("typed/uploaded", dataschema="https://example.com/document")
class Uploaded(BaseModel):
    id: str
    pages: int = 1
    at: dt.datetime | None = None
    tags: list[str] = Field(default=[], alias="labels")


class Scanned(Uploaded):
    dpi: int = 300


# -- registering -------------------------------------------------------------------------------


def test_the_class_stays_as_it_is():
    assert Uploaded(id="d").model_dump() == {"id": "d", "pages": 1, "at": None, "tags": []}


def test_a_type_and_its_name_find_each_other():
    assert model_of("typed/uploaded") is Uploaded
    assert name_of(Uploaded) == ("typed/uploaded", "https://example.com/document")
    assert model_of("typed/other") is None


def test_a_subclass_is_that_event_too():
    assert name_of(Scanned) == ("typed/uploaded", "https://example.com/document")


def test_a_subclass_may_have_a_name_of_its_own():
    @event_type("typed/scanned")
    class Own(Uploaded): ...

    assert name_of(Own) == ("typed/scanned", None)
    assert name_of(Uploaded)[0] == "typed/uploaded"


def test_a_class_that_was_not_registered():
    class Nameless(BaseModel): ...

    with pytest.raises(InvalidEventType) as caught:
        name_of(Nameless)
    assert str(caught.value) == (
        'Nameless is the type of no event. Decorate it: @event_type("...") above class Nameless.'
    )


def test_two_classes_for_one_name():
    with pytest.raises(DuplicateEventType) as caught:

        @event_type("typed/uploaded")
        class Other(BaseModel): ...

    place = "tests.unit.model.test_event_types"
    assert str(caught.value) == (
        f"The event 'typed/uploaded' already has the type {place}.Uploaded, so "
        f"{place}.test_two_classes_for_one_name.<locals>.Other cannot be its type too. Give one "
        "of them another event name."
    )
    assert model_of("typed/uploaded") is Uploaded


def test_a_module_that_is_reloaded_defines_its_types_anew(tmp_path, monkeypatch):
    (tmp_path / "reloaded_types.py").write_text(
        "from pydantic import BaseModel\n"
        "from celery_fanout import event_type\n"
        "@event_type('thing/made')\n"
        "class Made(BaseModel):\n"
        "    n: int\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("reloaded_types")
    old = module.Made
    importlib.reload(module)
    assert old is not module.Made
    assert model_of("thing/made") is module.Made
    assert name_of(old) == name_of(module.Made) == ("thing/made", None)
    del sys.modules["reloaded_types"]


@pytest.mark.parametrize(("wrong", "name"), [(dict, "dict"), (7, "7"), (Uploaded(id="d"), None)])
def test_only_a_pydantic_model_is_a_type(wrong, name):
    with pytest.raises(InvalidEventType) as caught:
        event_type("thing/made")(wrong)
    assert str(caught.value) == (
        f"{name or repr(wrong)} is no pydantic model. Derive the class from pydantic.BaseModel."
    )
    assert model_of("thing/made") is None


def test_its_name_must_be_one():
    with pytest.raises(InvalidEventName):
        event_type("typed/*")


# -- checking ----------------------------------------------------------------------------------


def test_data_without_a_type_is_json_data():
    assert checked_data("thing/made", {"at": dt.date(2026, 1, 2)}, LIMIT) == {"at": "2026-01-02"}


@pytest.mark.parametrize(
    "data",
    [
        {"id": "d", "pages": 1, "at": "2026-11-22T12:00:00Z"},
        {"id": "d", "at": dt.datetime(2026, 11, 22, 12, tzinfo=dt.timezone.utc)},
        Uploaded(id="d", at="2026-11-22T12:00:00Z"),
    ],
)
def test_data_becomes_what_its_type_says(data):
    assert checked_data("typed/uploaded", data, LIMIT) == {
        "id": "d",
        "pages": 1,
        "at": "2026-11-22T12:00:00Z",
        "labels": [],
    }


def test_what_was_checked_passes_again():
    data = checked_data("typed/uploaded", {"id": "d", "labels": ["a"]}, LIMIT)
    assert checked_data("typed/uploaded", data, LIMIT) == data
    assert Uploaded.model_validate(data).tags == ["a"]


def test_a_subclass_brings_its_own_fields():
    assert checked_data("typed/uploaded", Scanned(id="d"), LIMIT)["dpi"] == 300


def test_data_that_does_not_fit_its_type():
    with pytest.raises(InvalidEventData) as caught:
        checked_data("typed/uploaded", {"pages": 1, "labels": ["a", 2]}, LIMIT)
    assert str(caught.value) == (
        "The event 'typed/uploaded' cannot carry data['id']: Field required (2 problem(s) in "
        "all). The event's type is tests.unit.model.test_event_types.Uploaded."
    )


def test_the_error_does_not_quote_the_data():
    with pytest.raises(InvalidEventData) as caught:
        checked_data("typed/uploaded", {"id": ["secret"]}, LIMIT)
    assert "secret" not in str(caught.value)


def test_the_size_is_that_of_utf_8():
    assert checked_data("thing/made", "ä" * 499, LIMIT)
    with pytest.raises(EventTooLarge) as caught:
        checked_data("thing/made", "ä" * 500, LIMIT)
    assert str(caught.value) == (
        "The event 'thing/made' has 1,002 bytes of data and fanout_max_event_size allows 1,000. "
        "Store the data elsewhere and emit a reference to it, or raise the setting."
    )
