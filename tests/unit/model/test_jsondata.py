"""What JSON can carry: what is accepted comes back unchanged, the rest is refused by place."""

import dataclasses
import datetime as dt
import decimal
import enum
import json
import math
import uuid
from collections import Counter, OrderedDict
from typing import Any, NamedTuple

import pytest
from django.utils.safestring import mark_safe
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SerializeAsAny

from celery_fanout.exceptions import InvalidEventData
from celery_fanout.model.jsondata import as_json_data, encode


class Color(str, enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    LARGE = 3


class Plain(enum.Enum):
    PAIR = (1, 2)


class Item(BaseModel):
    sku: str
    added: dt.date = dt.date(2026, 1, 2)


@dataclasses.dataclass
class Order:
    id: uuid.UUID
    items: list[Item]
    note: Any = None


class Loose(BaseModel):
    anything: SerializeAsAny[Any] = None


class Point(NamedTuple):
    x: int
    y: int


UUID = uuid.UUID("12345678-1234-5678-1234-567812345678")

scalars = st.none() | st.booleans() | st.integers() | st.text()
floats = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    scalars | floats, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)
# much that JSON has, and much that it has not
anything = st.recursive(
    scalars
    | st.floats()
    | st.text(st.characters())  # half surrogate pairs too
    | st.binary()
    | st.datetimes()
    | st.uuids()
    | st.decimals()
    | st.sampled_from([Color.RED, Size.LARGE, Plain.PAIR, Item(sku="a"), object]),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.sets(st.integers())
        | st.dictionaries(st.text(st.characters()) | st.integers() | st.just(Color.RED), inner)
        | st.builds(Order, st.uuids(), st.just([]), inner)
    ),
)


@given(json_values)
def test_json_is_returned_equal(value):
    assert as_json_data("a", value) == value


@given(anything)
def test_what_is_accepted_survives_json_and_the_rest_is_refused(value):
    try:
        data = as_json_data("a", value)
    except InvalidEventData:
        return
    text = encode(data)
    text.encode()  # as UTF-8
    assert json.loads(text) == data
    assert as_json_data("a", data) == data


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((1, (2,)), [1, [2]]),
        (Point(1, 2), [1, 2]),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (Counter("aab"), {"a": 2, "b": 1}),
        (dt.date(2026, 11, 22), "2026-11-22"),
        (dt.time(10, 30), "10:30:00"),
        (dt.datetime(2026, 11, 22, 10, tzinfo=dt.timezone.utc), "2026-11-22T10:00:00+00:00"),
        (UUID, "12345678-1234-5678-1234-567812345678"),
        (decimal.Decimal("1.10"), "1.10"),
        (Color.RED, "red"),
        ({Color.RED: 1}, {"red": 1}),
        (Size.LARGE, 3),
        (Plain.PAIR, [1, 2]),
        (Item(sku="a"), {"sku": "a", "added": "2026-01-02"}),
        (
            Order(UUID, [Item(sku="a")]),
            {
                "id": "12345678-1234-5678-1234-567812345678",
                "items": [{"sku": "a", "added": "2026-01-02"}],
                "note": None,
            },
        ),
        (mark_safe("<b>"), "<b>"),
        ({mark_safe("<b>"): mark_safe("<i>")}, {"<b>": "<i>"}),
        (True, True),
    ],
    ids=repr,
)
def test_what_becomes_json(value, expected):
    data = as_json_data("a", value)
    assert data == expected
    assert plain_types(data)


def plain_types(data):
    if type(data) is dict:
        return all(type(key) is str and plain_types(item) for key, item in data.items())
    if type(data) is list:
        return all(map(plain_types, data))
    return data is None or type(data) in {str, int, float, bool}


def test_the_callers_data_is_copied():
    given = {"list": [1], "dict": {"a": 1}}
    data = as_json_data("a", given)
    given["list"].append(2)
    given["dict"]["a"] = 2
    assert data == {"list": [1], "dict": {"a": 1}}


def test_the_same_object_may_be_there_twice():
    shared = [1]
    assert as_json_data("a", [shared, {"b": shared}]) == [[1], {"b": [1]}]


def nested(depth):
    value = 0
    for _ in range(depth):
        value = [value]
    return value


def circle():
    value = {"a": []}
    value["a"].append(value)
    return value


DECODE = "Decode the text properly, or clean it with .encode(errors='replace').decode()."


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1, math.nan]}, "data['a'][1]: nan is no JSON number. Use None or a text instead."),
        (-math.inf, "data: -inf is no JSON number. Use None or a text instead."),
        ("\ud800", f"data: its text holds half a surrogate pair. {DECODE}"),
        (
            {"\ud800": 1},
            f"the key '\\ud800' of data: its text holds half a surrogate pair. {DECODE}",
        ),
        (
            {"a": {1: "b"}},
            "data['a']: its key 1 is no string. Use strings as keys: JSON has no others.",
        ),
        (
            {Plain.PAIR: 1},
            (
                "data: its key <Plain.PAIR: (1, 2)> is no string. Use strings as keys: JSON has no "
                "others."
            ),
        ),
        (circle(), "data['a'][0]: it contains itself. Emit a reference instead of the object."),
        (
            nested(101),
            f"data{'[0]' * 100}: it is nested deeper than 100 levels. Emit flatter data.",
        ),
        (10**5000, "data: its number is too long for JSON. Use a text instead."),
        (
            [b"raw"],
            "data[0]: JSON has no bytes. Convert it to a dict, list, string or number first.",
        ),
        ({1}, "data: JSON has no set. Convert it to a dict, list, string or number first."),
        (Order, "data: JSON has no type. Convert it to a dict, list, string or number first."),
        (
            [Order(UUID, [], note=object())],
            (
                "data[0]['note']: JSON has no object. Convert it to a dict, list, string or number "
                "first."
            ),
        ),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value[:30],
)
def test_what_json_cannot_carry(value, message):
    with pytest.raises(InvalidEventData) as caught:
        as_json_data("order/paid", value)
    assert str(caught.value) == f"The event 'order/paid' cannot carry {message}"


def test_the_deepest_data():
    assert as_json_data("a", nested(100)) == nested(100)


def test_a_model_that_cannot_be_written_is_named():
    with pytest.raises(InvalidEventData) as caught:
        as_json_data("a", [Loose(anything=object())])
    assert str(caught.value) == (
        "The event 'a' cannot carry data[0]: Loose cannot be written as JSON (Unable to serialize "
        "unknown type: <class 'object'>). Give its fields types that JSON has."
    )


def test_encode_is_compact_and_keeps_letters():
    assert encode({"a": [1, "ä"]}) == '{"a":[1,"ä"]}'
