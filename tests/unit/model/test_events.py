"""Events: names, patterns, times, and CloudEvents as the ``cloudevents`` package reads them."""

import base64
import dataclasses
import datetime as dt
import json

import pytest
from cloudevents.core.bindings import http
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import example, given
from hypothesis import strategies as st

from celery_fanout import Event
from celery_fanout.exceptions import (
    InvalidEvent,
    InvalidEventData,
    InvalidEventName,
    InvalidPattern,
)
from celery_fanout.model.events import check_name, check_pattern, parse_time, patterns_of

UTC = dt.timezone.utc
NOON = dt.datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)
FULL = Event(
    name="document/uploaded",
    data={"id": "d-1", "tags": ["ä", None]},
    id="e-1",
    source="/docs",
    time=NOON,
    subject='Grüße "100 %"',
    dataschema="https://example.com/schema",
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    correlationid="e-0",
    causationid="r-1",
)

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}", fullmatch=True)
texts = st.text(min_size=1)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
).filter(lambda value: "Infinity" not in json.dumps(value))
# with offsets down to the second, and away from the ends of time, where no other zone fits
times = st.datetimes(
    min_value=dt.datetime(2, 1, 1),  # noqa: DTZ001 - the strategy adds the zone
    max_value=dt.datetime(9998, 1, 1),  # noqa: DTZ001
    timezones=st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23)).map(
        lambda offset: dt.timezone(dt.timedelta(seconds=int(offset.total_seconds())))
    ),
)
events = st.builds(
    Event,
    name=names,
    data=json_values,
    id=texts,
    source=texts,
    time=times,
    subject=st.none() | texts,
    dataschema=st.none() | texts,
    traceparent=st.none() | texts,
    correlationid=st.none() | texts,
    causationid=st.none() | texts,
)


# -- names and patterns ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "0", "document/uploaded", "a.b_c-d/E", "a/", "x" * 200])
def test_a_name(name):
    assert check_name(name) == name
    assert check_pattern(name) == name


@pytest.mark.parametrize(
    "name", ["", "/a", ".a", "-a", "a b", "a*", "ä", "a\n", "a\x00", "x" * 201, None, 7, b"a"]
)
def test_no_name(name):
    with pytest.raises(InvalidEventName) as caught:
        check_name(name)
    shown = name if isinstance(name, str) else repr(name)
    assert str(caught.value) == (
        f"The event {shown!r} has no valid name. A name has 1 to 200 characters, starts with a "
        "letter or digit, and goes on with letters, digits, '.', '_', '/' and '-'."
    )


@pytest.mark.parametrize("pattern", ["*", "a/*", "a.*", "a/b.c/*", "x" * 199 + "/*"])
def test_a_pattern(pattern):
    assert check_pattern(pattern) == pattern


@pytest.mark.parametrize(
    "pattern", ["", "a*", "*/a", "a/*/b", "**", "a/**", "/*", "a-*", "x" * 200 + "/*", None, 7]
)
def test_no_pattern(pattern):
    with pytest.raises(InvalidPattern) as caught:
        check_pattern(pattern)
    shown = pattern if isinstance(pattern, str) else repr(pattern)
    assert str(caught.value) == (
        f"{shown!r} is no event pattern. Use an event name such as 'document/uploaded', a name "
        "that ends in '*' after '/' or '.', such as 'document/*', or '*' alone."
    )


@pytest.mark.parametrize(
    ("name", "patterns"),
    [
        ("a", ["a", "*"]),
        ("document/uploaded", ["document/uploaded", "document/*", "*"]),
        ("a.b/c", ["a.b/c", "a.b/*", "a.*", "*"]),
        ("a/", ["a/", "*"]),
        ("a//b", ["a//b", "a//*", "a/*", "*"]),
    ],
)
def test_patterns_of(name, patterns):
    assert patterns_of(name) == patterns


@given(names, st.data())
def test_patterns_of_are_those_that_match(name, data):
    prefix = name[: data.draw(st.integers(0, len(name) - 1))]
    pattern = f"{prefix}*"
    try:
        check_pattern(pattern)
    except InvalidPattern:
        assert pattern not in patterns_of(name)
    else:
        assert pattern in patterns_of(name)
    assert patterns_of(name)[0] == name
    assert [check_pattern(each) for each in patterns_of(name)] == patterns_of(name)


# -- the record --------------------------------------------------------------------------------


def test_defaults():
    one, two = Event("a"), Event("a")
    assert one.id != two.id
    assert (one.source, one.subject, one.data, one.time.tzinfo) == ("/", None, None, UTC)


def test_an_event_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError) as caught:
        FULL.id = "other"
    assert str(caught.value) == "cannot assign to field 'id'"


def test_headers():
    assert Event("a/b", {"n": 1}, id="e-1", source="/s", time=NOON).headers() == {
        "ce_specversion": "1.0",
        "ce_id": "e-1",
        "ce_source": "/s",
        "ce_type": "a/b",
        "ce_time": "2026-11-22T12:00:00.123456Z",
    }
    assert FULL.headers() == {
        "ce_specversion": "1.0",
        "ce_id": "e-1",
        "ce_source": "/docs",
        "ce_type": "document/uploaded",
        "ce_time": "2026-11-22T12:00:00.123456Z",
        "ce_subject": 'Grüße "100 %"',
        "ce_dataschema": "https://example.com/schema",
        "ce_traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "ce_correlationid": "e-0",
        "ce_causationid": "r-1",
    }


def test_from_headers_among_others():
    headers = {**FULL.headers(), "sentry-trace": "x", "ce_unknown": "y"}
    assert Event.from_headers(headers, FULL.data) == FULL


@pytest.mark.parametrize("missing", ["ce_id", "ce_type"])
def test_no_event_in_headers(missing):
    headers = FULL.headers()
    del headers[missing]
    assert Event.from_headers(headers, {}) is None
    assert Event.from_headers({}, {}) is None


@given(events)
def test_headers_round_trip(event):
    assert Event.from_headers(event.headers(), event.data) == event


# -- CloudEvents -------------------------------------------------------------------------------


@given(events)
@example(FULL)
def test_structured_mode_round_trip(event):
    structured = event.to_cloudevent()
    assert Event.from_cloudevent(structured) == event
    text = json.dumps(structured)
    assert Event.from_cloudevent(text) == event
    assert Event.from_cloudevent(text.encode()) == event


@given(events)
@example(FULL)
def test_binary_mode_round_trip(event):
    headers, body = event.to_cloudevent_binary()
    assert Event.from_cloudevent(body, headers) == event
    assert all(value.isascii() and value.isprintable() for value in headers.values())


def test_structured_mode():
    assert FULL.to_cloudevent() == {
        "specversion": "1.0",
        "id": "e-1",
        "source": "/docs",
        "type": "document/uploaded",
        "time": "2026-11-22T12:00:00.123456Z",
        "subject": 'Grüße "100 %"',
        "dataschema": "https://example.com/schema",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "correlationid": "e-0",
        "causationid": "r-1",
        "datacontenttype": "application/json",
        "data": {"id": "d-1", "tags": ["ä", None]},
    }


def test_binary_mode():
    headers, body = FULL.to_cloudevent_binary()
    assert headers == {
        "ce-specversion": "1.0",
        "ce-id": "e-1",
        "ce-source": "/docs",
        "ce-type": "document/uploaded",
        "ce-time": "2026-11-22T12:00:00.123456Z",
        "ce-subject": "Gr%C3%BC%C3%9Fe%20%22100%20%25%22",
        "ce-dataschema": "https://example.com/schema",
        "ce-traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "ce-correlationid": "e-0",
        "ce-causationid": "r-1",
        "content-type": "application/json",
    }
    assert body == '{"id":"d-1","tags":["ä",null]}'.encode()


def test_the_cloudevents_package_reads_what_we_write():
    expected = {key: value for key, value in FULL.to_cloudevent().items() if key != "data"}
    expected["time"] = NOON
    structured = JSONFormat().read(None, json.dumps(FULL.to_cloudevent()))
    headers, body = FULL.to_cloudevent_binary()
    binary = http.from_binary(http.HTTPMessage(headers, body), JSONFormat())
    for found in (structured, binary):
        assert type(found) is CloudEvent
        assert found.get_attributes() == expected
        assert found.get_data() == FULL.data


def test_we_read_what_the_cloudevents_package_writes():
    attributes = {key[3:]: value for key, value in FULL.headers().items()}
    attributes.update(time=NOON, datacontenttype="application/json")
    event = CloudEvent(attributes, FULL.data)
    structured = http.to_structured(event, JSONFormat())
    binary = http.to_binary(event, JSONFormat())
    assert Event.from_cloudevent(structured.body, structured.headers) == FULL
    assert Event.from_cloudevent(binary.body, binary.headers) == FULL


@given(events.filter(lambda event: event.data is not None))
def test_binary_mode_as_the_cloudevents_package_reads_it(event):
    headers, body = event.to_cloudevent_binary()
    found = http.from_binary(http.HTTPMessage(headers, body), JSONFormat())
    assert Event.from_cloudevent(JSONFormat().write(found)) == event


def test_header_names_have_no_case():
    headers, body = FULL.to_cloudevent_binary()
    assert (
        Event.from_cloudevent(body, {key.upper(): value for key, value in headers.items()}) == FULL
    )


def test_quoted_header_values_are_unquoted_first():
    headers, body = FULL.to_cloudevent_binary()
    headers["ce-subject"] = r'"Gr%C3%BC%C3%9Fe \"100%20\%25\""'
    assert Event.from_cloudevent(body, headers) == FULL


@pytest.mark.parametrize("content_type", [None, "Application/JSON; charset=utf-8", "a/b+json"])
def test_content_types_that_are_json(content_type):
    headers, body = FULL.to_cloudevent_binary()
    del headers["content-type"]
    if content_type is not None:
        headers["Content-Type"] = content_type
    assert Event.from_cloudevent(body, headers) == FULL


def test_no_body_is_no_data():
    headers, _ = FULL.to_cloudevent_binary()
    assert Event.from_cloudevent(b"", headers) == dataclasses.replace(FULL, data=None)


def test_base64_data():
    structured = FULL.to_cloudevent()
    text = json.dumps(structured.pop("data")).encode()
    structured["data_base64"] = base64.b64encode(text).decode()
    assert Event.from_cloudevent(structured) == FULL


def test_what_is_optional():
    event = Event.from_cloudevent(
        {"specversion": "1.0", "id": "1", "source": "/s", "type": "a", "subject": None, "extra": 1}
    )
    assert event == Event("a", None, id="1", source="/s", time=event.time)
    assert event.time.tzinfo is UTC


SMALL = {"specversion": "1.0", "id": "1", "source": "/s", "type": "a"}
REQUIRED = "CloudEvents 1.0 requires id, source and type, each a non-empty string."


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ("[]", "The event '?' is no JSON object. Pass one CloudEvent, not a batch."),
        ([SMALL], "The event '?' is no JSON object. Pass one CloudEvent, not a batch."),
        ({}, "The event '?' has specversion None. Send CloudEvents 1.0."),
        (
            {**SMALL, "specversion": "0.3"},
            "The event 'a' has specversion '0.3'. Send CloudEvents 1.0.",
        ),
        ({**SMALL, "id": ""}, f"The event 'a' has no id. {REQUIRED}"),
        ({**SMALL, "id": 1}, f"The event 'a' has no id. {REQUIRED}"),
        ({**SMALL, "source": None}, f"The event 'a' has no source. {REQUIRED}"),
        ({**SMALL, "type": ""}, f"The event '' has no type. {REQUIRED}"),
        (
            "{",
            (
                "The event '?' is no JSON (Expecting property name enclosed in double quotes: "
                "line 1 column 2 (char 1)). Send JSON in UTF-8."
            ),
        ),
        (
            b"\xff\xff",
            (
                "The event '?' is no JSON ('utf-8' codec can't decode byte 0xff in position 0: "
                "invalid start byte). Send JSON in UTF-8."
            ),
        ),
        (
            {**SMALL, "data_base64": "*"},
            (
                "The event 'a' has a data_base64 that is no Base64. "
                "Encode the bytes of the JSON text, or put JSON into data."
            ),
        ),
        (
            {**SMALL, "data_base64": "AAAA", "datacontenttype": "image/png"},
            (
                "The event 'a' carries image/png. Send application/json; other content belongs "
                "into a store, with a reference here."
            ),
        ),
        (
            {**SMALL, "time": "yesterday"},
            "The event 'a' has the time 'yesterday'. Use RFC 3339, such as 2026-11-22T10:00:00Z.",
        ),
    ],
)
def test_no_cloudevent(event, message):
    with pytest.raises(InvalidEvent) as caught:
        Event.from_cloudevent(event)
    assert str(caught.value) == message


def test_binary_mode_carries_json_only():
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/", "ce-type": "a"}
    with pytest.raises(InvalidEvent) as caught:
        Event.from_cloudevent(b"<a/>", {**headers, "content-type": "text/xml; charset=utf-8"})
    assert str(caught.value) == (
        "The event 'a' carries text/xml. Send application/json; other content belongs into a "
        "store, with a reference here."
    )


def test_names_and_data_from_outside_are_checked():
    with pytest.raises(InvalidEventName):
        Event.from_cloudevent({**SMALL, "type": "a b"})
    with pytest.raises(InvalidEventData):
        Event.from_cloudevent('{"specversion":"1.0","id":"1","source":"/","type":"a","data":NaN}')


def test_json_that_is_too_deep_to_be_read():
    with pytest.raises(InvalidEvent) as caught:
        Event.from_cloudevent("[" * 1_000_000)
    assert str(caught.value).startswith(
        "The event '?' is no JSON (maximum recursion depth exceeded"
    )


# -- times -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-11-22T12:00:00Z", NOON.replace(microsecond=0)),
        ("2026-11-22t12:00:00z", NOON.replace(microsecond=0)),
        ("2026-11-22T14:00:00+02:00", NOON.replace(microsecond=0)),
        ("2026-11-22T12:00:00.1Z", NOON.replace(microsecond=100_000)),
        ("2026-11-22T12:00:00.1234Z", NOON.replace(microsecond=123_400)),
        ("2026-11-22T12:00:00.123456789Z", NOON),
        ("2026-11-22T12:00:00.123456-00:00", NOON),
    ],
)
def test_rfc_3339(text, time):
    assert parse_time("a", text) == time


def test_a_datetime_is_kept():
    assert parse_time("a", NOON) is NOON


def test_no_time_is_now():
    before = dt.datetime.now(UTC)
    assert before <= parse_time("a", None) <= dt.datetime.now(UTC)


RFC_3339 = "Use RFC 3339, such as 2026-11-22T10:00:00Z."
NAMELESS = (
    "which names no instant. Use a datetime with a time zone, such as datetime.now(timezone.utc)."
)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("noon", f"'noon'. {RFC_3339}"),
        ("2026-13-01T00:00:00Z", f"'2026-13-01T00:00:00Z'. {RFC_3339}"),
        ("2026-11-22T12:00:00", f"datetime.datetime(2026, 11, 22, 12, 0), {NAMELESS}"),
        (
            NOON.replace(tzinfo=None),
            f"datetime.datetime(2026, 11, 22, 12, 0, 0, 123456), {NAMELESS}",
        ),
        (NOON.date(), f"datetime.date(2026, 11, 22), {NAMELESS}"),
        (1.5, f"1.5, {NAMELESS}"),
    ],
)
def test_no_time(value, message):
    with pytest.raises(InvalidEvent) as caught:
        parse_time("a/b", value)
    assert str(caught.value) == f"The event 'a/b' has the time {message}"


@pytest.mark.parametrize(
    ("offset", "text"),
    [
        (dt.timedelta(0), "2026-11-22T12:00:00.123456Z"),
        (dt.timedelta(hours=2), "2026-11-22T14:00:00.123456+02:00"),
        (dt.timedelta(hours=-3, minutes=-30), "2026-11-22T08:30:00.123456-03:30"),
        (dt.timedelta(seconds=1), "2026-11-22T12:00:00.123456Z"),
        (dt.timedelta(minutes=53, seconds=28), "2026-11-22T12:00:00.123456Z"),
    ],
)
def test_times_as_rfc_3339(offset, text):
    event = Event("a", time=NOON.astimezone(dt.timezone(offset)))
    assert event.attributes()["time"] == text


@pytest.mark.parametrize(
    "media_type", ["application/cloudevents+json", "Application/CloudEvents+JSON; charset=UTF-8"]
)
def test_a_structured_message_may_carry_the_headers_of_a_binary_one(media_type):
    headers = {f"ce-{key}": value for key, value in FULL.attributes().items()}
    headers["Content-Type"] = media_type
    assert Event.from_cloudevent(json.dumps(FULL.to_cloudevent()), headers) == FULL


@pytest.mark.parametrize("headers", [{}, {"ce-specversion": "1.0"}])
def test_a_batch_is_refused(headers):
    headers = {**headers, "content-type": "application/cloudevents-batch+json"}
    with pytest.raises(InvalidEvent, match="Pass one CloudEvent, not a batch"):
        Event.from_cloudevent(json.dumps([FULL.to_cloudevent()]), headers)


@pytest.mark.parametrize("media_type", ["text/json", "application/problem+json", "a/JSON; x=y"])
def test_what_is_json(media_type):
    headers, body = FULL.to_cloudevent_binary()
    assert Event.from_cloudevent(body, {**headers, "content-type": media_type}) == FULL
