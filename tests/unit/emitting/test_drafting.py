"""From what a caller passes to ``emit`` to an event, or to an error before anything is sent."""

import dataclasses
import datetime as dt
import uuid
from dataclasses import replace

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from celery_fanout import Event, Run, event_type, get_fanout
from celery_fanout.emitting.drafting import draft_event
from celery_fanout.exceptions import (
    EventTooLarge,
    InvalidEvent,
    InvalidEventData,
    InvalidEventName,
    InvalidEventType,
)
from celery_fanout.model.settings import Settings
from celery_fanout.running.execution import Engine, Execution, make_current

NOON = dt.datetime(2026, 11, 22, 12, tzinfo=dt.timezone.utc)
SETTINGS = Settings(source="/shop", max_event_size=100)
CAUSE = Run("r-1", "tell@order/paid", "tell", 1, Event("order/paid", id="e-0"))


@event_type("drafts/paid", dataschema="https://example.com/paid")
class Paid(BaseModel):
    id: int
    at: dt.date | None = None


def made(*arguments, **options):
    return draft_event(SETTINGS, *arguments, **options)


def error(*arguments, **options):
    with pytest.raises(InvalidEvent) as caught:
        made(*arguments, **options)
    return str(caught.value)


def test_a_name_and_data():
    before = dt.datetime.now(dt.timezone.utc)
    event = made("thing/made", {"n": (1,)})
    assert event == Event("thing/made", {"n": [1]}, event.id, "/shop", event.time)
    assert uuid.UUID(event.id).version == 4
    assert before <= event.time <= dt.datetime.now(dt.timezone.utc)


def test_a_name_alone():
    assert made("thing/made").data is None


def test_every_attribute():
    event = made("thing/made", 1, id="e-1", subject="s", source="/other", time=NOON, cause=CAUSE)
    assert event == Event(
        "thing/made",
        1,
        id="e-1",
        source="/other",
        time=NOON,
        subject="s",
        correlationid="e-0",
        causationid="r-1",
        depth=1,
    )


def test_events_that_cause_one_another_end_somewhere():
    deep = replace(CAUSE, event=replace(CAUSE.event, depth=49))
    assert made("thing/made", cause=deep).depth == 50
    deeper = replace(CAUSE, event=replace(CAUSE.event, depth=50))
    assert error("thing/made", cause=deeper) == (
        "The event 'thing/made' would be number 51 in a chain of events that cause one another, "
        "and fanout_max_depth is 50. Find the subscribers that emit what leads back to them, or "
        "raise the setting."
    )


def test_the_depth_travels_with_the_event():
    event = Event("thing/made", depth=3)
    assert event.attributes()["causationdepth"] == "3"
    assert Event.from_headers(event.headers(), None).depth == 3
    assert "causationdepth" not in Event("thing/made").attributes()
    for wrong in ("x", "-1", "9" * 20):
        headers = {**event.headers(), "ce_causationdepth": wrong}
        assert Event.from_headers(headers, None).depth == 0


def test_a_time_as_text():
    assert made("thing/made", time="2026-11-22T12:00:00Z").time == NOON


# -- typed events ------------------------------------------------------------------------------


def test_a_typed_event():
    event = made(Paid(id=1, at="2026-01-02"))
    assert (event.name, event.data, event.dataschema) == (
        "drafts/paid",
        {"id": 1, "at": "2026-01-02"},
        "https://example.com/paid",
    )


def test_data_under_the_name_of_a_typed_event():
    event = made("drafts/paid", {"id": "1"})
    assert (event.data, event.dataschema) == ({"id": 1, "at": None}, "https://example.com/paid")


def test_data_that_does_not_fit():
    with pytest.raises(InvalidEventData) as caught:
        made("drafts/paid", {"id": "one"})
    assert str(caught.value) == (
        "The event 'drafts/paid' cannot carry data['id']: Input should be a valid integer, unable "
        "to parse string as an integer (1 problem(s) in all). The event's type is "
        "tests.unit.emitting.test_drafting.Paid."
    )


def test_a_typed_event_brings_its_data():
    assert error(Paid(id=1), {"id": 2}) == (
        "The event 'drafts/paid' was given data twice. Emit the model alone."
    )


def test_a_model_that_is_no_event():
    class Other(BaseModel): ...

    with pytest.raises(InvalidEventType):
        made(Other())


# -- events to pass on -------------------------------------------------------------------------


def test_an_event_is_passed_on_as_it_is():
    event = Event(
        "thing/made",
        {"n": 1},
        "e-1",
        "/elsewhere",
        NOON,
        "s",
        "https://example.com/s",
        "00-trace",
        "e-0",
        "r-0",
    )
    assert made(event) == event
    assert made(event, cause=CAUSE) == replace(event, depth=1)


def test_passing_events_on_ends_somewhere_too():
    event = Event("thing/made", id="e-1", source="/elsewhere", depth=7)
    deep = replace(CAUSE, event=replace(CAUSE.event, depth=49))
    assert made(event).depth == 7
    assert made(event, cause=CAUSE).depth == 7
    assert made(event, cause=deep).depth == 50
    deeper = replace(CAUSE, event=replace(CAUSE.event, depth=50))
    assert "would be number 51 in a chain" in error(event, cause=deeper)


def test_its_data_is_checked_and_copied():
    event = Event("thing/made", {"n": [1]}, source="/elsewhere")
    found = made(event)
    event.data["n"].append(2)
    assert found.data == {"n": [1]}
    with pytest.raises(InvalidEventData):
        made(Event("drafts/paid", {"id": None}))
    with pytest.raises(InvalidEventName):
        made(Event("no name"))


@pytest.mark.parametrize(
    "more", [{"data": 1}, {"id": "e"}, {"subject": "s"}, {"source": "/"}, {"time": NOON}]
)
def test_its_attributes_are_its_own(more):
    assert error(Event("thing/made"), **more) == (
        "The event 'thing/made' was given as an Event together with other attributes. Put them "
        "into the Event, for example with dataclasses.replace()."
    )


LENGTH = "Use a text of 1 to 1,000 characters."


@pytest.mark.parametrize(
    ("attribute", "value", "shown"),
    [
        ("id", "", "''"),
        ("id", None, "''"),
        ("id", 7, "'7'"),
        ("source", None, "''"),
        ("subject", "", "''"),
        ("subject", 7, "'7'"),
        ("dataschema", "x" * 1001, f"'{'x' * 100}'"),
        ("traceparent", b"00", "\"b'00'\""),
        ("correlationid", "\ud800", "'\\ud800'"),
        ("causationid", 7, "'7'"),
    ],
)
def test_its_attributes_are_checked(attribute, value, shown):
    event = dataclasses.replace(Event("thing/made"), **{attribute: value})
    assert error(event) == f"The event 'thing/made' has the {attribute} {shown}. {LENGTH}"


def test_its_time_is_checked():
    event = Event("thing/made", time=NOON.replace(tzinfo=None))
    assert error(event) == (
        "The event 'thing/made' has the time datetime.datetime(2026, 11, 22, 12, 0), which names "
        "no instant. Use a datetime with a time zone, such as datetime.now(timezone.utc)."
    )


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "a b", None, 7, {"id": 1}])
def test_no_name(name):
    with pytest.raises(InvalidEventName):
        made(name, {})


@pytest.mark.parametrize("attribute", ["id", "subject", "source"])
@pytest.mark.parametrize(
    ("value", "shown"),
    [("", "''"), ("x" * 1001, f"'{'x' * 100}'"), (7, "'7'"), ("\ud800", "'\\ud800'")],
)
def test_no_attribute(attribute, value, shown):
    assert error("thing/made", **{attribute: value}) == (
        f"The event 'thing/made' has the {attribute} {shown}. {LENGTH}"
    )


@pytest.mark.parametrize("attribute", ["id", "subject", "source"])
def test_the_longest_attribute(attribute):
    assert getattr(made("thing/made", **{attribute: "ä" * 1000}), attribute) == "ä" * 1000


def test_no_time():
    assert error("thing/made", time="noon") == (
        "The event 'thing/made' has the time 'noon'. Use RFC 3339, such as 2026-11-22T10:00:00Z."
    )


def test_too_large():
    with pytest.raises(EventTooLarge) as caught:
        made("thing/made", "x" * 99)
    assert str(caught.value) == (
        "The event 'thing/made' has 101 bytes of data and fanout_max_event_size allows 100. Store "
        "the data elsewhere and emit a reference to it, or raise the setting."
    )


# -- where it came from ------------------------------------------------------------------------


def test_outside_of_a_run_there_is_no_cause():
    event = made("thing/made")
    assert (event.correlationid, event.causationid) == (None, None)


def test_inside_of_a_run_that_is_the_cause():
    app = Celery("t", broker="memory://", set_as_current=False)
    engine = Engine(store=None, settings=SETTINGS, emit=None)
    with make_current(Execution(CAUSE, None, None, engine)):
        event = get_fanout(app).emit("thing/made").event
    assert (event.correlationid, event.causationid) == ("e-0", "r-1")


def test_the_first_event_correlates_the_whole_chain():
    run = dataclasses.replace(CAUSE, event=Event("a", id="e-5", correlationid="e-0"))
    event = made("thing/made", cause=run)
    assert (event.correlationid, event.causationid) == ("e-0", "r-1")


@given(
    control=st.one_of(
        st.characters(categories=["Cc", "Zl", "Zp"]), st.sampled_from("\u202a\u202e\u2066\u2069")
    ),
    before=st.text("ab", max_size=3),
    attribute=st.sampled_from(["id", "subject", "source"]),
)
def test_no_control_characters(control, before, attribute):
    """They forge lines of logs, and terminals obey them."""
    value = f"{before}{control}x"
    wrong = f"The event 'thing/made' has the {attribute} {value!r}. Leave out control characters, "
    assert error("thing/made", **{attribute: value}).startswith(wrong)
    event = dataclasses.replace(Event("thing/made"), **{attribute: value})
    assert error(event).startswith(wrong)


@given(text=st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=50))
def test_any_other_text_is_an_attribute(text):
    assert made("thing/made", id=text, subject=text).subject == text
