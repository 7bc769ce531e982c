"""Step values: stored as JSON, and read back as what the step's function is annotated with."""

import dataclasses
import datetime as dt
import decimal
import enum
import functools
import pathlib
import uuid
from typing import Annotated, Any, Literal, NamedTuple, Optional, TypeVar

import pytest
from celery import Celery
from kombu.utils import json as kombu_json
from pydantic import BaseModel, ConfigDict, Field, Json, computed_field
from typing_extensions import TypedDict  # pydantic takes typing's since Python 3.12

from celery_fanout.exceptions import StepValueWarning
from celery_fanout.running.steps.values import from_stored, to_stored

UUID = uuid.UUID("12345678-1234-5678-1234-567812345678")
NOON = dt.datetime(2026, 11, 22, 12, tzinfo=dt.timezone.utc)
T = TypeVar("T")


class Color(enum.Enum):
    RED = "red"


class Line(TypedDict):
    sku: str
    added: dt.date


@dataclasses.dataclass(frozen=True)
class Money:
    amount: decimal.Decimal
    currency: str = "EUR"


class Invoice(BaseModel):
    id: uuid.UUID
    total: Money
    lines: tuple[Line, ...] = ()
    note: str | None = Field(None, alias="remark")


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    at: dt.datetime
    pair: tuple[int, int]
    raw: Json[Any] = None

    @computed_field
    @property
    def year(self) -> int:
        return self.at.year


class Point(NamedTuple):
    x: int
    y: int


class Opaque:
    """pydantic knows nothing about it."""


def annotated(annotation):
    def fn(): ...

    fn.__annotations__["return"] = annotation
    return fn


def stored(fn, value):
    """What a run that is resumed finds in the store."""
    return kombu_json.loads(kombu_json.dumps(to_stored(fn, value)))


def read_back(fn, value):
    return from_stored("fetch", fn, stored(fn, value))


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Invoice, Invoice(id=UUID, total=Money(decimal.Decimal("1.10")), remark="hello")),
        (list[Invoice], [Invoice(id=UUID, total=Money(decimal.Decimal(2)))]),
        (Strict, Strict(at=NOON, pair=(1, 2), raw='{"a": 1}')),
        (Money, Money(decimal.Decimal("1.10"))),
        (Line, {"sku": "a", "added": dt.date(2026, 1, 2)}),
        (Color, Color.RED),
        (Literal["red", "blue"], "red"),
        (dt.datetime, NOON),
        (dt.date, dt.date(2026, 1, 2)),
        (dt.timedelta, dt.timedelta(minutes=5)),
        (uuid.UUID, UUID),
        (decimal.Decimal, decimal.Decimal("1.10")),
        (pathlib.Path, pathlib.Path("/tmp/a")),
        (bytes, b"text"),
        (bytes, b"\xff"),  # no UTF-8: stored as kombu writes bytes
        (tuple[int, str], (1, "a")),
        (tuple[int, ...], (1, 2, 3)),
        (Point, Point(1, 2)),
        (set[int], {1, 2}),
        (dict[int, str], {1: "a"}),
        (dict[str, dt.date], {"a": dt.date(2026, 1, 2)}),
        (Optional[dt.date], None),  # noqa: UP045 - as many still write it
        (dt.date | None, dt.date(2026, 1, 2)),
        (int | str, "1"),
        (Annotated[int, Field(gt=0)], 1),
        (None, None),
    ],
    ids=repr,
)
def test_comes_back_as_it_was(annotation, value):
    found = read_back(annotated(annotation), value)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (Any, (1, 2), [1, 2]),
        (Any, {1: "a"}, {"1": "a"}),
        (dict, {1: "a"}, {"1": "a"}),
        (list, (1,), [1]),
        (object, None, None),
        (T, (1,), [1]),
        (str, "text", "text"),
        (Opaque, {"a": (1,)}, {"a": [1]}),
        ("Unknown", (1,), [1]),
        (
            Any,
            Invoice(id=UUID, total=Money(decimal.Decimal(1))),
            {
                "id": str(UUID),
                "total": {"amount": "1", "currency": "EUR"},
                "lines": [],
                "remark": None,
            },
        ),
        (Any, Money(decimal.Decimal("1.10")), {"amount": "1.10", "currency": "EUR"}),
        (Any, Color.RED, "red"),
    ],
    ids=repr,
)
def test_what_says_nothing_comes_back_as_json(annotation, value, expected):
    assert read_back(annotated(annotation), value) == expected


@pytest.mark.parametrize("value", [NOON, dt.date(2026, 1, 2), UUID, decimal.Decimal("1.10")])
def test_kombus_own_types_need_no_annotation(value):
    assert read_back(lambda: value, value) == value


def test_a_value_comes_back_the_same_on_the_first_run_and_on_later_ones():
    fn = annotated(list[float])
    first = read_back(fn, [1, 2])
    assert read_back(fn, first) == first
    assert [type(number) for number in first] == [float, float]


# -- where the annotation is found -------------------------------------------------------------


def typed(prefix: str, n: int) -> tuple[str, int]:
    return prefix, n


class Storage:
    def fetch(self) -> tuple[int, int]:
        return (1, 2)

    def __call__(self) -> tuple[int, int]:
        return (1, 2)

    @staticmethod
    def static() -> tuple[int, int]:
        return (1, 2)


def logged(fn):
    @functools.wraps(fn)
    def wrapper(*args):
        return fn(*args)

    return wrapper


class Quoted:
    def later(self) -> "Point":
        return Point(1, 2)


@pytest.mark.parametrize(
    ("fn", "value"),
    [
        (typed, ("a", 1)),
        (functools.partial(typed, "a"), ("a", 1)),
        (functools.partial(functools.partial(typed, "a"), 1), ("a", 1)),
        (logged(typed), ("a", 1)),
        (Storage().fetch, (1, 2)),
        (Storage(), (1, 2)),
        (Storage.static, (1, 2)),
        (Quoted().later, Point(1, 2)),
        (Money, Money(decimal.Decimal(1))),  # a class returns its instances
        (uuid.UUID, UUID),
    ],
    ids=[
        "function",
        "partial",
        "partial of a partial",
        "wrapped",
        "method",
        "callable object",
        "static method",
        "quoted annotation",
        "dataclass",
        "class",
    ],
)
def test_of_any_callable(fn, value):
    found = read_back(fn, value)
    assert found == value
    assert type(found) is type(value)


def test_of_a_celery_task():
    app = Celery(set_as_current=False)
    assert read_back(app.task(shared=False)(typed), ("a", 1)) == ("a", 1)


def test_of_what_has_none():
    assert read_back(len, 3) == 3
    assert read_back(lambda: (1,), (1,)) == [1]


# -- what does not fit -------------------------------------------------------------------------


def count() -> dict[str, int]: ...


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (Money, UUID, str(UUID)),
        (Strict, {"at": "2026-11-22T12:00:00Z"}, {"at": "2026-11-22T12:00:00Z"}),
        (Literal["red"], "blue", "blue"),
        (int | None, "seven", "seven"),
    ],
    ids=repr,
)
def test_a_value_that_does_not_fit_is_returned_as_stored(annotation, value, expected):
    with pytest.warns(StepValueWarning):
        assert read_back(annotated(annotation), value) == expected


def test_the_warning_names_the_step_and_the_function():
    with pytest.warns(StepValueWarning) as caught:
        assert read_back(count, {"a": "many", "b": (1,)}) == {"a": "many", "b": [1]}
    assert [str(warning.message) for warning in caught] == [
        (
            "The value of the step 'fetch' does not fit dict[str, int] (2 problem(s)) and is "
            "returned as it is stored. Correct the annotation, or what count returns."
        )
    ]


def test_what_nothing_can_write_is_left_to_fail():
    value = object()
    assert to_stored(lambda: value, value) is value
    assert to_stored(count, value) is value
