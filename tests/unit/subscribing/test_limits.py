"""Options of subscriptions: what cancels a run, and what a wait can match."""

import dataclasses
import json
import math

import pytest

from celery_fanout import CancelOn
from celery_fanout.exceptions import InvalidEventName, InvalidSubscription
from celery_fanout.model.data_paths import check_match, look_up

DATA = {"id": 7, "document": {"id": "d-1", "tags": ["a", {"b": True}], "at": None}, "9": "nine"}
MISSING = look_up({}, "nowhere")


# -- paths -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("id", 7),
        ("document.id", "d-1"),
        ("document.at", None),
        ("document.tags.0", "a"),
        ("document.tags.1.b", True),
        ("9", "nine"),
        ("document.tags", ["a", {"b": True}]),
    ],
)
def test_a_value_at_a_path(path, value):
    assert look_up(DATA, path) == value


@pytest.mark.parametrize(
    "path",
    [
        "nowhere",
        "id.more",
        "document.nowhere",
        "document.at.more",
        "document.tags.2",
        "document.tags.-1",
        "document.tags.a",
        "document.id.0",
    ],
)
def test_no_value_at_a_path(path):
    assert look_up(DATA, path) is MISSING
    assert MISSING is not None


@pytest.mark.parametrize("data", [None, 7, "text", []])
def test_data_without_places(data):
    assert look_up(data, "id") is MISSING


# -- cancel_on ---------------------------------------------------------------------------------


def matched(match, data=DATA):
    found = CancelOn("order/cancelled", match=match).match_for(data)
    return None if found is None else json.loads(found)


def test_any_event_of_that_name():
    assert CancelOn("order/cancelled").match_for(DATA) == "{}"
    assert CancelOn("order/cancelled").match_for(None) == "{}"


def test_the_same_path_in_both():
    assert matched("document.id") == {"document.id": "d-1"}


def test_one_path_in_theirs_and_another_in_ours():
    assert matched({"document": "document.id", "n": "id"}) == {"document": "d-1", "n": 7}


def test_none_is_a_value():
    assert matched("document.at") == {"document.at": None}


@pytest.mark.parametrize("match", ["nowhere", "document", "document.tags", {"a": "id", "b": "no"}])
def test_no_event_can_match_what_the_data_lacks(match):
    assert matched(match) is None


@pytest.mark.parametrize(
    ("number", "tells"), [(2**53 - 1, True), (1 - 2**53, True), (2**53, False), (-(2**60), False)]
)
def test_numbers_that_json_readers_confuse_match_nothing(number, tells):
    # a neighbour of this number would cancel the run too
    assert matched("id", {"id": number}) == ({"id": number} if tells else None)


def test_letters_of_all_kinds():
    assert CancelOn("a", match="ключ").match_for({"ключ": "значение"}) == '{"ключ":"значение"}'


def test_it_is_a_value():
    first = CancelOn("order/cancelled", match="id")
    assert first == CancelOn("order/cancelled", match="id")
    assert first != CancelOn("order/cancelled")
    assert repr(first) == "CancelOn(event='order/cancelled', match='id')"
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.event = "other"


@pytest.mark.parametrize("event", ["", "order/*", "a b", None])
def test_no_name(event):
    with pytest.raises(InvalidEventName):
        CancelOn(event)


@pytest.mark.parametrize(
    ("match", "shown"),
    [
        ("", "''"),
        ("a..b", "'a..b'"),
        (".a", "'.a'"),
        (7, "7"),
        (["id"], "['id']"),
        ({"id": 7}, "7"),
        ({7: "id"}, "7"),
        ({"id": ""}, "''"),
        ({"id": "a."}, "'a.'"),
    ],
)
def test_no_match(match, shown):
    with pytest.raises(InvalidSubscription) as caught:
        CancelOn("order/cancelled", match=match)
    assert str(caught.value) == (
        f"cancel_on 'order/cancelled' cannot match {shown}. Use dotted paths into the data, such "
        "as 'document.id'."
    )


# -- what a wait matches -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "match",
    [{}, {"id": "d-1"}, {"a.b": 7, "c": None, "d": True, "e": 0.5}, {"n": 1 - 2**53}, {"f": 1e300}],
)
def test_a_match(match):
    assert check_match(match) == ""


@pytest.mark.parametrize(
    ("match", "problem"),
    [
        ("id", "matches 'id'"),
        (["id"], "matches ['id']"),
        ({"": 1}, "matches the path ''"),
        ({"a..b": 1}, "matches the path 'a..b'"),
        ({7: 1}, "matches the path 7"),
        ({"id": [1]}, "matches 'id' with [1]"),
        ({"id": {}}, "matches 'id' with {}"),
        ({"id": b"x"}, "matches 'id' with b'x'"),
        ({"id": math.nan}, "matches 'id' with nan"),
        ({"id": math.inf}, "matches 'id' with inf"),
        ({"id": -math.inf}, "matches 'id' with -inf"),
        (
            {"id": 2**53},
            "matches 'id' with 9007199254740992, which JSON numbers cannot tell apart",
        ),
    ],
)
def test_what_a_match_cannot_be(match, problem):
    assert check_match(match) == problem
