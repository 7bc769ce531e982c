"""step.*, through real messages, a real store, and a worker in this process."""

from __future__ import annotations

import contextvars
import dataclasses
import datetime as dt
import decimal
import enum
import itertools
import logging
import re
import threading
import time
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pydantic
import pytest
from celery.exceptions import Ignore
from typing_extensions import TypedDict

from celery_fanout import (
    Event,
    NonRetriable,
    RetryAfter,
    RunFailed,
    StepFailed,
    current_event,
    current_run,
    step,
)
from celery_fanout.exceptions import (
    InvalidStep,
    NestedStep,
    NotDurableWarning,
    StepTimeout,
    StepValueWarning,
    StoreUnsupported,
    SwallowedSuspensionWarning,
)
from celery_fanout.signals import step_completed, step_failed
from tests.integration.inprocess import EVENT, Boom, Shop, published, receiving, suspensions
from tests.processes import wait_until
from tests.servers import RedisServer


@pytest.fixture(params=["backend", "ledger"])
def shop(
    redis_server: RedisServer, redis_url: str, request: pytest.FixtureRequest
) -> Iterator[Shop]:
    """An app on both levels: its steps in the result backend, or its runs in the ledger."""
    store = "backend" if request.param == "backend" else None
    with Shop(redis_url, redis_server.url(1), fanout_store_url=store) as shop:
        yield shop


#: What concerns level 1 alone: Celery's own exceptions, messages that wait for their time.
level_1 = pytest.mark.parametrize("shop", ["backend"], indirect=True)


def attempt() -> int:
    run = current_run()
    assert run is not None
    return run.attempt


RETRIED: dict[str, Any] = {"autoretry_for": (Exception,), "max_retries": 5}


# --- step.run ------------------------------------------------------------------------------------


def test_a_step_runs_once_over_retries(shop: Shop) -> None:
    calls: list[str] = []

    def fetch(name: str, *, upper: bool) -> str:
        calls.append(name)
        return name.upper() if upper else name

    def body(order: dict[str, Any]) -> list[Any]:
        found = step.run("fetch", fetch, order["name"], upper=True)
        calls.append(f"attempt {attempt()} has {found}")
        if attempt() < 3:
            raise Boom
        return [found, step.run("fetch more", fetch, "b", upper=False)]

    outcome = shop.handle(body, {"name": "a"}, **RETRIED)

    assert outcome.value == ["A", "b"]
    assert calls == ["a", "attempt 1 has A", "attempt 2 has A", "attempt 3 has A", "b"]


def test_an_error_of_a_step_is_the_tasks_to_retry(shop: Shop) -> None:
    calls: list[int] = []

    def charge() -> str:
        calls.append(attempt())
        if len(calls) < 3:
            raise Boom
        return "charged"

    def body(order: Any) -> str:
        return step.run("charge", charge)

    assert shop.handle(body, **RETRIED).value == "charged"
    assert calls == [1, 2, 3]


def test_an_id_that_repeats_is_numbered(shop: Shop) -> None:
    calls: list[int] = []

    def ocr(page: int) -> str:
        calls.append(page)
        return f"page {page}"

    def body(order: Any) -> list[str]:
        pages = [step.run("ocr", ocr, page) for page in range(3)]
        if attempt() == 1:
            raise Boom
        return [*pages, step.run("ocr", ocr, 3)]

    assert shop.handle(body, **RETRIED).value == ["page 0", "page 1", "page 2", "page 3"]
    assert calls == [0, 1, 2, 3]


def test_no_id_collides_with_a_number(shop: Shop) -> None:
    ids = [
        "a",
        "a",
        "a:2",
        "a2",
        '["a",2]',
        "('a', 2)",
        "a\x00",
        "é",
        "e\u0301",
        "\U0001f600" * 200,
    ]

    def body(order: Any) -> list[str]:
        values = [step.run(id, lambda n=n: f"value {n}") for n, id in enumerate(ids)]
        if attempt() == 1:
            raise Boom
        return values

    assert shop.handle(body, **RETRIED).value == [f"value {n}" for n in range(len(ids))]


@pytest.mark.parametrize("id", ["", "x" * 201, None, 5])
def test_an_id_is_a_text(id: Any) -> None:
    with pytest.raises(InvalidStep) as caught:
        step.run(id, print)
    assert str(caught.value) == (
        f"The step {str(id)[:50]!r} has no valid id. Use a text of 1 to 200 characters."
    )


@pytest.mark.parametrize(
    "inner",
    [
        lambda: step.run("inner", print),
        lambda: step.options(max_retries=3).run("inner", print),
        lambda: step.sleep("inner", 1),
        lambda: step.emit("inner", "x/y"),
    ],
    ids=["run", "options", "sleep", "emit"],
)
def test_steps_do_not_nest(shop: Shop, inner: Any) -> None:
    calls: list[str] = []

    def outer() -> None:
        calls.append("outer")
        inner()

    def body(order: Any) -> str:
        # no retry of the step's would help
        step.options(max_retries=3).run("outer", outer)
        return "not reached"

    # nor would one of the task's
    error = shop.handle(body, **RETRIED).error

    assert isinstance(error, RunFailed)
    assert str(error) == (
        "The step 'inner' was called inside the step 'outer', and steps do not nest. Call 'inner' "
        "from the task's body, or call its function directly."
    )
    assert calls == ["outer"]


def test_after_a_refused_step_the_body_goes_on(shop: Shop) -> None:
    def body(order: Any) -> str:
        with pytest.raises(NestedStep):
            step.run("outer", lambda: step.run("inner", print))
        return step.run("next", lambda: "fine")

    assert shop.handle(body).value == "fine"


# --- values --------------------------------------------------------------------------------------


def twice(shop: Shop, fn: Any) -> list[Any]:
    """Return the value of a step as its first run sees it, and as a resumed run does."""
    values: list[Any] = []

    def body(order: Any) -> None:
        values.append(step.run("value", fn))
        if attempt() == 1:
            raise Boom

    outcome = shop.handle(body, **RETRIED)
    assert outcome.error is None
    return values


def test_a_value_is_what_is_read_back_at_once(shop: Shop) -> None:
    first, later = twice(shop, lambda: {1: ("a", 2.5), "b": [None, True, "é\x00\U0001f600"]})
    assert first == later == {"1": ["a", 2.5], "b": [None, True, "é\x00\U0001f600"]}


def test_what_celery_itself_can_carry_needs_no_annotation(shop: Shop) -> None:
    given = {
        "datetime": dt.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=dt.timezone.utc),
        "date": dt.date(2026, 1, 2),
        "uuid": uuid.UUID(int=5),
        "decimal": decimal.Decimal("1.10"),
        "bytes": b"\x00\xff",
    }
    assert twice(shop, lambda: given) == [given, given]


class Receipt(pydantic.BaseModel):
    id: uuid.UUID
    lines: list[tuple[str, decimal.Decimal]]


@dataclasses.dataclass
class Parcel:
    weight: float
    sent: dt.datetime | None = None


class Colour(enum.Enum):
    RED = "red"


class Address(TypedDict):
    street: str
    since: dt.date


RECEIPT = Receipt(id=uuid.UUID(int=7), lines=[("tea", decimal.Decimal("1.10"))])


def a_model() -> Receipt:
    return RECEIPT


def a_dataclass() -> Parcel:
    return Parcel(1.5, dt.datetime(2026, 1, 2, tzinfo=dt.timezone.utc))


def an_enum() -> Colour:
    return Colour.RED


def a_typed_dict() -> Address:
    return {"street": "Elm", "since": dt.date(2020, 1, 2)}


def a_datetime() -> dt.datetime:
    return dt.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=dt.timezone(dt.timedelta(hours=2)))


def a_timedelta() -> dt.timedelta:
    return dt.timedelta(days=1, microseconds=5)


def a_uuid() -> uuid.UUID:
    return uuid.UUID(int=9)


def a_decimal() -> decimal.Decimal:
    return decimal.Decimal("1.10")


def some_bytes() -> bytes:
    return b"\x00\xff"


def a_path() -> Path:
    return Path("/tmp/x")


def a_set() -> set[int]:
    return {1, 2}


def a_tuple() -> tuple[int, str]:
    return 1, "a"


def a_dict() -> dict[int, Receipt]:
    return {1: RECEIPT}


def an_optional() -> Receipt | None:
    return None


def an_annotated() -> Annotated[list[Colour], "all of them"]:
    return [Colour.RED]


class Maker:
    def method(self) -> Receipt:
        return RECEIPT

    def __call__(self) -> Receipt:
        return RECEIPT


TYPED: list[tuple[Any, Any]] = [
    (a_model, RECEIPT),
    (a_dataclass, a_dataclass()),
    (an_enum, Colour.RED),
    (a_typed_dict, a_typed_dict()),
    (a_datetime, a_datetime()),
    (a_timedelta, a_timedelta()),
    (a_uuid, a_uuid()),
    (a_decimal, a_decimal()),
    (some_bytes, some_bytes()),
    (a_path, a_path()),
    (a_set, {1, 2}),
    (a_tuple, (1, "a")),
    (a_dict, {1: RECEIPT}),
    (an_optional, None),
    (an_annotated, [Colour.RED]),
    (Maker().method, RECEIPT),
    (Maker(), RECEIPT),
    (lambda: RECEIPT, RECEIPT.model_dump(mode="json")),
    (lambda: Parcel(1.5), {"weight": 1.5, "sent": None}),
    (lambda: Colour.RED, "red"),
]


def test_values_have_the_types_that_their_functions_name(shop: Shop) -> None:
    seen: list[list[Any]] = []

    def body(order: Any) -> None:
        seen.append([step.run(f"value {number}", fn) for number, (fn, _) in enumerate(TYPED)])
        if attempt() == 1:
            raise Boom

    assert shop.handle(body, **RETRIED).error is None
    for (fn, value), first, later in zip(TYPED, *seen, strict=True):
        assert first == later == value, fn
        assert type(first) is type(later) is type(value), fn


def test_a_class_makes_its_instances(shop: Shop) -> None:
    seen: list[Any] = []

    def body(order: Any) -> None:
        seen.append(step.run("parcel", Parcel, 1.5))
        if attempt() == 1:
            raise Boom

    assert shop.handle(body, **RETRIED).error is None
    assert seen == [Parcel(1.5), Parcel(1.5)]


def test_a_value_that_does_not_fit_its_annotation_is_returned_as_it_is(shop: Shop) -> None:
    def numbers() -> list[int]:
        return ["one", 2]  # type: ignore[list-item]

    with pytest.warns(StepValueWarning) as caught:
        assert twice(shop, numbers) == [["one", 2], ["one", 2]]
    (text,) = set(texts(caught, StepValueWarning))
    assert text == (
        "The value of the step 'value' does not fit list[int] (1 problem(s)) and is returned as it "
        "is stored. Correct the annotation, or what "
        "test_a_value_that_does_not_fit_its_annotation_is_returned_as_it_is.<locals>.numbers "
        "returns."
    )


def test_none_is_a_value(shop: Shop) -> None:
    calls: list[int] = []

    def nothing() -> None:
        calls.append(1)

    assert twice(shop, nothing) == [None, None]
    assert calls == [1]


def texts(caught: Any, category: type[Warning]) -> list[str]:
    """Return what the warnings of a category say; libraries warn too."""
    return [str(warning.message) for warning in caught if warning.category is category]


class BringsItsOwn:
    def __json__(self) -> Any:
        raise LookupError("no encoder today")


def nested(depth: int) -> Any:
    value: Any = None
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("max_retries", [0, 3])
def test_a_value_that_cannot_be_stored_fails_the_step_for_good(
    shop: Shop, max_retries: int
) -> None:
    """The effect has happened, so neither the step's retries nor the task's may repeat it."""
    values: list[tuple[Any, str]] = [
        (object(), "Object of type object is not JSON serializable"),
        ({1, 2}, "Object of type set is not JSON serializable"),
        ({(1, 2): 3}, "keys must be str, int, float, bool or None, not tuple"),
        (BringsItsOwn(), "no encoder today"),
    ]
    calls: list[int] = []
    seen: list[str] = []

    def pay(number: int) -> Any:
        calls.append(number)
        return values[number][0]

    def body(order: Any) -> None:
        for number in range(len(values)):
            with pytest.raises(StepFailed) as failed:
                step.options(max_retries=max_retries).run(f"pay {number}", pay, number)
            seen.append(str(failed.value))
        if attempt() == 1:
            raise Boom

    assert shop.handle(body, **RETRIED).error is None
    assert calls == list(range(len(values)))
    messages = [
        f"The step 'pay {number}' failed after 1 attempt: ValueError: the step's result cannot be "
        f"stored: {problem}"
        for number, (_, problem) in enumerate(values)
    ]
    assert seen == messages * 2


def test_a_value_nested_too_deeply_fails_the_step_for_good(shop: Shop) -> None:
    def body(order: Any) -> None:
        step.run("pay", nested, 100_000)

    error = shop.handle(body, **RETRIED).error
    assert isinstance(error, RunFailed)
    assert "the step's result cannot be stored: maximum recursion depth exceeded" in str(error)


def test_a_value_that_is_too_large_fails_the_step_for_good(shop: Shop) -> None:
    shop.app.conf.fanout_max_step_size = 1000
    calls: list[int] = []

    def text(size: int) -> str:
        calls.append(size)
        return "x" * size

    def body(order: Any) -> None:
        step.run("small", text, 900)
        step.run("large", text, 1000)

    error = shop.handle(body, **RETRIED).error

    assert isinstance(error, RunFailed)
    # the time when it was stored is written with as many digits as it takes
    size = re.search(r"has (1,0\d\d) bytes", str(error))
    assert size
    assert str(error) == (
        "The step 'large' failed after 1 attempt: ValueError: the step's result cannot be stored: "
        f"its result has {size[1]} bytes and fanout_max_step_size allows 1,000; store it "
        "elsewhere and return a reference to it"
    )
    assert calls == [900, 1000]


# --- retries of a step's own ---------------------------------------------------------------------


def test_retries_are_counted_per_step_and_spend_none_of_the_task(shop: Shop) -> None:
    calls: list[str] = []

    def flaky(name: str, failures: int) -> str:
        calls.append(name)
        if calls.count(name) <= failures:
            raise Boom(name)
        return name

    def body(order: Any) -> list[Any]:
        patient = step.options(max_retries=2)
        values = [patient.run("a", flaky, "a", 2), patient.run("b", flaky, "b", 2)]
        return [*values, attempt()]

    with suspensions() as left:
        assert shop.handle(body, max_retries=0).value == ["a", "b", 1]
    assert calls == ["a", "a", "a", "b", "b", "b"]
    assert left == []  # without a backoff the next try follows at once


def test_a_backoff_leaves_the_worker_free(shop: Shop) -> None:
    happened: list[str] = []

    def charge() -> str:
        happened.append("charge")
        if happened.count("charge") < 3:
            shop.emit(event="other/thing")
            raise Boom
        return "charged"

    def body(order: Any) -> list[Any]:
        patient = step.options(max_retries=5, retry_backoff=0.2, retry_jitter=False)
        return [patient.run("charge", charge), attempt()]

    def other(data: Any) -> None:
        happened.append("other")

    shop.subscribe(other, name="other", event="other/thing")
    with receiving(step_failed) as failures, suspensions() as left:
        assert shop.handle(body, max_retries=0).value == ["charged", 1]
    # the worker executes one task at a time
    assert happened == ["charge", "other", "charge", "other", "charge"]
    assert left == [("step-retry", "charge")] * 2
    assert [(f["attempts"], f["final"]) for f in failures] == [(1, False), (2, False)]


def test_a_backoff_doubles(shop: Shop) -> None:
    times: list[float] = []

    def charge() -> None:
        times.append(time.time())
        raise Boom

    def body(order: Any) -> None:
        patient = step.options(
            max_retries=3, retry_backoff=0.2, retry_backoff_max=0.4, retry_jitter=False
        )
        patient.run("charge", charge)

    assert isinstance(shop.handle(body).error, RunFailed)
    waits = [after - before for before, after in itertools.pairwise(times)]
    assert len(waits) == 3
    assert all(wait >= least for wait, least in zip(waits, [0.19, 0.39, 0.39], strict=True))


def test_retries_are_durable(shop: Shop) -> None:
    """They are counted on in another worker."""
    calls: list[int] = []

    def charge() -> None:
        calls.append(1)
        raise Boom("declined")

    def body(order: Any) -> str:
        try:
            step.options(max_retries=3, retry_backoff=0.5, retry_jitter=False).run("charge", charge)
        except StepFailed as exc:
            return str(exc)
        return "charged"

    shop.subscribe(body)
    emission = shop.emit()
    while len(calls) < 4:
        with shop.worker():
            before = len(calls)
            wait_until(lambda before=before: len(calls) > before)
    with shop.worker():
        (outcome,) = emission.get(timeout=60)
    assert outcome.value == "The step 'charge' failed after 4 attempts: Boom: declined"
    assert len(calls) == 4


def test_exhausted_retries_are_remembered_and_can_be_compensated(shop: Shop) -> None:
    calls: list[str] = []

    def reserve() -> str:
        calls.append("reserve")
        return "r-1"

    def charge() -> None:
        calls.append("charge")
        raise Boom("declined")

    def release(reservation: str) -> None:
        calls.append(f"release {reservation}")

    def body(order: Any) -> Any:
        reservation = step.run("reserve", reserve)
        try:
            step.options(max_retries=2).run("charge", charge)
        except StepFailed as exc:
            step.run("release", release, reservation)
            if attempt() < 3:
                raise Boom from exc
            return [exc.step, exc.error_type, exc.message, exc.attempts, str(exc)]

    with receiving(step_failed) as failures:
        outcome = shop.handle(body, **RETRIED)
    assert outcome.value == [
        "charge",
        "Boom",
        "declined",
        3,
        "The step 'charge' failed after 3 attempts: Boom: declined",
    ]
    assert calls == ["reserve", "charge", "charge", "charge", "release r-1"]
    assert [(f["attempts"], f["error_type"], f["final"]) for f in failures] == [
        (1, "Boom", False),
        (2, "Boom", False),
        (3, "Boom", True),
    ]


def test_a_failed_step_that_nobody_catches_ends_the_run(shop: Shop) -> None:
    calls: list[int] = []

    def charge() -> None:
        raise Boom("declined")

    def body(order: Any) -> None:
        calls.append(attempt())
        step.options(max_retries=1).run("charge", charge)

    error = shop.handle(body, **RETRIED).error

    assert isinstance(error, RunFailed)
    assert str(error) == "The step 'charge' failed after 2 attempts: Boom: declined"
    assert calls == [1]


def test_of_a_long_error_the_beginning_is_kept(shop: Shop) -> None:
    seen: list[str] = []

    def charge() -> None:
        raise Boom("x" * 3_000_000)

    def body(order: Any) -> None:
        try:
            step.options(max_retries=1).run("charge", charge)
        except StepFailed as exc:
            seen.append(exc.message)
        if attempt() == 1:
            raise Boom

    assert shop.handle(body, **RETRIED).error is None
    assert seen == ["x" * 10_000] * 2


@level_1
def test_only_the_errors_named_are_worth_a_retry(shop: Shop) -> None:
    calls: list[int] = []

    def charge() -> None:
        calls.append(attempt())
        raise (KeyError if len(calls) < 3 else LookupError)("no such card")

    def body(order: Any) -> None:
        step.options(max_retries=9, retry_on=KeyError).run("charge", charge)

    with receiving(step_failed) as failures:
        error = shop.handle(body, autoretry_for=(LookupError,), max_retries=2).error
    assert isinstance(error, LookupError)
    # the third error left the call, and was the task's to retry, twice
    assert calls == [1, 1, 1, 2, 3]
    assert [(f["attempts"], f["error_type"], f["final"]) for f in failures] == [
        (1, "KeyError", False),
        (2, "KeyError", False),
        (3, "LookupError", False),
        (3, "LookupError", False),
        (3, "LookupError", False),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"max_retries": -1},
            "The step 'step.options' has max_retries=-1. It must be a whole number, 0 or more.",
        ),
        (
            {"retry_on": "Boom"},
            (
                "The step 'step.options' has retry_on='Boom'. It must be an exception class or a "
                "tuple of them."
            ),
        ),
        (
            {"timeout": 0},
            "The step 'step.options' has timeout=0. It must be a number of seconds above 0.",
        ),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidStep) as caught:
        step.options(**options)
    assert str(caught.value) == message


# --- RetryAfter and NonRetriable from a step -----------------------------------------------------


def test_a_step_may_ask_for_the_time_of_its_next_try(shop: Shop) -> None:
    times: list[float] = []

    def charge() -> str:
        times.append(time.time())
        if len(times) < 3:
            raise RetryAfter(0.3, cause=Boom("busy"))
        return "charged"

    def body(order: Any) -> list[Any]:
        return [step.options(max_retries=2).run("charge", charge), attempt()]

    with suspensions() as left:
        assert shop.handle(body, **RETRIED).value == ["charged", 1]
    assert left == [("step-retry", "charge")] * 2
    assert all(after - before > 0.29 for before, after in itertools.pairwise(times))


def test_asking_again_when_no_retry_is_left_fails_the_step(shop: Shop) -> None:
    def charge() -> None:
        raise RetryAfter(0.1, cause=Boom("busy"))

    def body(order: Any) -> None:
        step.options(max_retries=1).run("charge", charge)

    error = shop.handle(body, **RETRIED).error
    assert isinstance(error, RunFailed)
    assert str(error) == "The step 'charge' failed after 2 attempts: Boom: busy"


@level_1
def test_a_step_without_retries_asks_for_one_of_the_task(shop: Shop) -> None:
    times: list[float] = []
    attempts: list[int] = []

    def charge() -> None:
        times.append(time.time())
        attempts.append(attempt())
        raise RetryAfter(0.3, cause=Boom("busy"))

    def body(order: Any) -> None:
        step.run("charge", charge)

    with receiving(step_failed) as failures:
        error = shop.handle(body, autoretry_for=(Exception,), max_retries=2).error
    assert type(error).__name__ == "Boom"
    assert attempts == [1, 2, 3]
    assert all(after - before > 0.29 for before, after in itertools.pairwise(times))
    assert [(f["error_type"], f["final"]) for f in failures] == [("Boom", False)] * 3


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        (Boom("stolen card"), "The step 'charge' failed after 1 attempt: Boom: stolen card"),
        ("stolen card", "The step 'charge' failed after 1 attempt: NonRetriable: stolen card"),
    ],
)
def test_a_step_may_refuse_another_try(shop: Shop, cause: Any, message: str) -> None:
    calls: list[int] = []
    seen: list[str] = []

    def charge() -> None:
        calls.append(1)
        raise NonRetriable(cause)

    def body(order: Any) -> None:
        try:
            step.options(max_retries=9).run("charge", charge)
        except StepFailed as exc:
            seen.append(str(exc))
        if attempt() == 1:
            raise Boom

    assert shop.handle(body, **RETRIED).error is None
    assert calls == [1]
    assert seen == [message, message]


# --- timeouts ------------------------------------------------------------------------------------


def test_a_thread_cannot_be_interrupted(shop: Shop) -> None:
    """The worker of these tests is a thread."""
    calls: list[int] = []

    def body(order: Any) -> None:
        step.options(max_retries=3, timeout=5).run("charge", calls.append, 1)

    error = shop.handle(body).error

    assert isinstance(error, RunFailed)
    assert str(error) == (
        "The step 'charge' has a timeout, and a function in a thread cannot be interrupted. Run "
        "the task in a prefork, solo or gevent worker, or give the client that the step calls a "
        "timeout of its own."
    )
    assert calls == []


def test_a_timeout_is_an_error_like_any_other(shop: Shop) -> None:
    """Where tasks are eager, the body runs in this thread, the main one."""
    shop.app.conf.task_always_eager = True
    calls: list[int] = []

    def charge() -> str:
        calls.append(1)
        if len(calls) < 3:
            threading.Event().wait(30)
        return "charged"

    def body(order: Any) -> str:
        return step.options(max_retries=2, timeout=0.2).run("charge", charge)

    shop.subscribe(body)
    (outcome,) = shop.emit().get()
    assert outcome.value == "charged"
    assert len(calls) == 3


def test_a_timeout_without_retries_leaves_the_call(shop: Shop) -> None:
    shop.app.conf.task_always_eager = True

    def body(order: Any) -> None:
        step.options(timeout=0.2).run("charge", threading.Event().wait, 30)

    shop.subscribe(body)
    (outcome,) = shop.emit().get()
    assert isinstance(outcome.error, StepTimeout)
    assert str(outcome.error) == (
        "The step 'charge' ran longer than its timeout of 0.2 s. Raise the timeout, or make the "
        "step smaller."
    )


# --- step.emit -----------------------------------------------------------------------------------


def test_an_event_is_emitted_once(shop: Shop) -> None:
    received: list[Event | None] = []
    ids: list[str] = []

    def body(order: Any) -> None:
        ids.append(step.emit("paid", "order/paid", {"n": order["n"]}, subject="o-1"))
        ids.append(step.emit("paid", "order/paid", {"n": 2}))
        if attempt() < 3:
            raise Boom

    def paid(data: Any) -> None:
        received.append(current_event())

    shop.subscribe(body, **RETRIED)
    shop.subscribe(paid, name="paid", event="order/paid")
    with shop.worker():
        emission = shop.emit({"n": 1})
        assert emission.get(timeout=60)[0].error is None
        wait_until(lambda: len(received) == 2)
    with shop.worker():  # which works off what is left, before it ends
        pass
    first, second = received
    assert ids == [first.id, second.id] * 3
    assert (first.data, first.subject) == ({"n": 1}, "o-1")
    assert (second.data, second.subject) == ({"n": 2}, None)
    for event in (first, second):
        assert event.correlationid == emission.event.id
        assert event.causationid == emission.runs[0].id


def test_a_chain_of_events_is_correlated_to_its_first(shop: Shop) -> None:
    received: list[Event | None] = []

    def body(order: Any) -> None:
        received.append(current_event())
        if order:
            step.emit("next", EVENT, order - 1)

    shop.subscribe(body)
    with shop.worker():
        first = shop.emit(2).event
        wait_until(lambda: len(received) == 3)
    assert [event.correlationid for event in received] == [None, first.id, first.id]


# --- sleep ---------------------------------------------------------------------------------------


def test_a_sleep_leaves_the_worker_and_spends_no_retry(shop: Shop) -> None:
    happened: list[str] = []

    def body(order: Any) -> int:
        happened.append("before")
        if happened.count("before") == 1:
            shop.emit(event="other/thing")
        step.sleep("a while", dt.timedelta(seconds=0.5))
        happened.append("after")
        return attempt()

    def other(data: Any) -> None:
        happened.append("other")

    shop.subscribe(other, name="other", event="other/thing")
    began = time.time()
    with suspensions() as left:
        assert shop.handle(body, max_retries=0).value == 1
    assert time.time() - began > 0.5
    assert happened == ["before", "other", "before", "after"]
    assert left == [("sleep", "a while")]


def test_a_sleep_that_is_over_is_over(shop: Shop) -> None:
    passes: list[int] = []

    def body(order: Any) -> int:
        passes.append(attempt())
        step.sleep("one", 0.2)
        step.sleep("two", 0.2)
        step.sleep("past", -1)
        step.sleep_until("past too", 5)
        if attempt() == 1:
            raise Boom
        return len(passes)

    with suspensions() as left:
        assert shop.handle(body, **RETRIED).value == 4
    assert left == [("sleep", "one"), ("sleep", "two")]
    assert passes == [1, 1, 1, 2]


def test_the_time_to_sleep_until_is_asked_once(shop: Shop) -> None:
    """A body that computes it anew at each pass would never wake up."""

    def body(order: Any) -> str:
        step.sleep_until("soon", dt.datetime.now(dt.timezone.utc) + dt.timedelta(seconds=0.3))
        step.sleep_until("later", time.time() + 0.3)
        return "awake"

    with suspensions() as left:
        assert shop.handle(body).value == "awake"
    assert left == [("sleep", "soon"), ("sleep", "later")]


@level_1
def test_a_long_sleep_goes_in_hops(shop: Shop) -> None:
    """Redis delivers again what a worker holds for longer than ``visibility_timeout``."""
    shop.app.conf.broker_transport_options["visibility_timeout"] = 1
    passes: list[float] = []

    def body(order: Any) -> str:
        passes.append(time.time())
        step.sleep("long", 1.7)
        return "awake"

    with suspensions() as left, published() as messages:
        assert shop.handle(body).value == "awake"
    assert len(passes) == 2
    assert passes[1] - passes[0] > 1.69
    # two halves of a second each, and what is left
    assert left[0] == ("sleep", "long")
    assert set(left[1:]) == {("delay", None)}
    assert len(left) >= 4
    waits = [dt.datetime.fromisoformat(headers["eta"]).timestamp() for headers in messages[1:]]
    assert all(0 < after - before < 0.7 for before, after in itertools.pairwise(waits))


@level_1
def test_a_run_that_sleeps_does_not_expire(shop: Shop) -> None:
    """``expires`` of a subscription means its first start."""

    def body(order: Any) -> str:
        step.sleep("long", 1.5)
        return "awake"

    with published() as messages:
        outcome = shop.handle(body, subscription={"options": {"expires": 1}})
    assert outcome.value == "awake"
    assert [headers["expires"] is None for headers in messages] == [False, True]


@level_1
def test_a_run_comes_back_with_all_that_its_message_had(shop: Shop) -> None:
    def body(order: Any) -> None:
        step.sleep("a while", 0.2)

    def then(result: Any) -> str:
        return "end"

    def failed(failure: Any) -> None: ...

    options = {
        "priority": 6,
        "queue": "slow",
        "soft_time_limit": 50,
        "time_limit": 60,
        "headers": {"tenant": "t-1"},
    }
    shop.app.conf.task_create_missing_queues = True
    subscription = {
        "options": options,
        "then": shop.task(then, name="then"),
        "on_failure": shop.task(failed, name="failed"),
    }
    shop.subscribe(body, subscription=subscription)
    shop.app.conf.task_queues = None
    shop.app.amqp.queues.select_add("slow")
    with published() as messages, shop.worker():
        (outcome,) = shop.emit().get(timeout=60)
    assert outcome.value == "end"
    first, again = messages[0], messages[1]
    assert {key for key in first.keys() | again.keys() if first.get(key) != again.get(key)} == {
        "eta",
        "fanout_resume_at",
        "parent_id",  # as in the retries of Celery, a task is its own parent
    }


@level_1
@pytest.mark.parametrize("ignore", [True, False])
def test_a_run_that_sleeps_keeps_or_ignores_its_result_as_before(shop: Shop, ignore: bool) -> None:
    done: list[int] = []

    def body(order: Any) -> None:
        step.sleep("a while", 0.2)
        done.append(1)

    shop.subscribe(
        body,
        subscription={"options": {"ignore_result": ignore}},
        ignore_result=not ignore,
    )
    with published() as messages, shop.worker():
        shop.emit()
        wait_until(lambda: done)
    assert [headers["ignore_result"] for headers in messages] == [ignore, ignore]


def test_a_time_without_a_zone_is_refused(shop: Shop) -> None:
    def body(order: Any) -> None:
        step.sleep_until("noon", dt.datetime(2026, 1, 2, 12, 0))  # noqa: DTZ001 - to be refused

    error = shop.handle(body).error
    assert isinstance(error, RunFailed)
    assert str(error) == (
        "The step 'noon' sleeps until 2026-01-02T12:00:00, which names no instant. Use a datetime "
        "with a time zone, such as datetime.now(timezone.utc)."
    )


@pytest.mark.parametrize("seconds", [float("inf"), float("nan")])
def test_a_sleep_ends(shop: Shop, seconds: float) -> None:
    def body(order: Any) -> None:
        step.sleep("for ever", seconds)

    error = shop.handle(body).error
    assert isinstance(error, RunFailed)
    assert str(error) == (
        f"The step 'for ever' sleeps until {seconds}, which is no time. "
        "Use a finite number of seconds."
    )


def test_a_sleep_longer_than_checkpoints_are_kept_is_refused(shop: Shop, tmp_path: Path) -> None:
    shop.app.conf.fanout_store_url = f"db+sqlite:///{tmp_path}/steps"
    shop.app.conf.result_expires = 3600

    def body(order: Any) -> None:
        step.sleep("a day", dt.timedelta(days=1))

    error = shop.handle(body).error
    assert isinstance(error, RunFailed)
    assert str(error) == (
        "The step 'a day' would sleep for 86,400 s, and the store drops checkpoints after 3,600 s, "
        "so finished steps would run again. Raise result_expires, or sleep for less."
    )


@level_1
def test_what_a_run_has_outlives_its_sleep(shop: Shop, redis_server: RedisServer) -> None:
    shop.app.conf.fanout_checkpoint_expires = 600

    def body(order: Any) -> None:
        step.run("fetch", lambda: "fetched")
        step.sleep("long", 100_000)

    shop.subscribe(body)
    with suspensions() as left, shop.worker():
        shop.emit()
        wait_until(lambda: left)
    with redis_server.client(1) as client:
        keys = client.keys("celery-task-meta-*")
        assert len(keys) == 2  # the step and the sleep
        assert all(100_500 < client.ttl(key) <= 100_601 for key in keys)


# --- control flow that the body swallows ---------------------------------------------------------


def test_a_swallowed_suspension_is_raised_again_by_the_next_step(shop: Shop) -> None:
    calls: list[str] = []

    def body(order: Any) -> str:
        try:
            step.sleep("a while", 0.2)
        except Exception:  # noqa: BLE001 - the mistake
            calls.append("swallowed")
        step.run("next", calls.append, "next")
        return "end"

    with pytest.warns(SwallowedSuspensionWarning) as caught:
        assert shop.handle(body).value == "end"
    line = body.__code__.co_firstlineno + 2
    (text,) = texts(caught, SwallowedSuspensionWarning)
    assert text == (
        f"subscriber caught the suspension raised at {__file__}:{line} before the step 'next'; it "
        "is raised again. Let celery.exceptions.Ignore pass: put `except Ignore: raise` before "
        "`except Exception`."
    )
    (warning,) = [w for w in caught if w.category is SwallowedSuspensionWarning]
    assert (warning.filename, warning.lineno) == (__file__, line + 3)
    assert calls == ["swallowed", "next"]


@pytest.mark.parametrize(
    ("then_raise", "how"), [(False, "and returned"), (True, "and raised Boom")]
)
def test_a_swallowed_suspension_wins_over_how_the_body_ends(
    shop: Shop, then_raise: bool, how: str
) -> None:
    passes: list[int] = []

    def body(order: Any) -> str:
        passes.append(attempt())
        try:
            step.sleep("a while", 0.2)
        except BaseException as exc:
            if then_raise:
                raise Boom from exc
            return "too early"
        return "end"

    with pytest.warns(SwallowedSuspensionWarning) as caught:
        assert shop.handle(body, **RETRIED).value == "end"
    line = body.__code__.co_firstlineno + 3
    (text,) = texts(caught, SwallowedSuspensionWarning)
    assert text == (
        f"subscriber caught the suspension raised at {__file__}:{line} {how}; it is raised again. "
        "Let celery.exceptions.Ignore pass: put `except Ignore: raise` before `except Exception`."
    )
    assert passes == [1, 1]


def test_the_remedy_works(shop: Shop) -> None:
    def body(order: Any) -> str:
        try:
            step.sleep("a while", 0.2)
        except Ignore:
            raise
        except Exception:  # noqa: BLE001 - no mistake here
            return "swallowed"
        return "end"

    assert shop.handle(body).value == "end"


# --- threads -------------------------------------------------------------------------------------


def test_a_thread_without_the_context_is_warned(shop: Shop) -> None:
    calls: list[int] = []
    seen: list[warnings.WarningMessage] = []

    def work() -> None:
        step.run("in a thread", calls.append, 1)

    def body(order: Any) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        seen.extend(caught)
        if attempt() == 1:
            raise Boom

    assert shop.handle(body, **RETRIED).error is None
    assert calls == [1, 1]
    first, second = texts(seen, NotDurableWarning)
    assert first == second
    assert first == (
        "The step 'in a thread' was called outside of the run that is active in this process, so "
        "it is not durable. Call it from the task's own thread, or start the thread with "
        "contextvars.copy_context().run."
    )
    places = {(w.filename, w.lineno) for w in seen if w.category is NotDurableWarning}
    assert places == {(__file__, work.__code__.co_firstlineno + 1)}


def test_a_thread_with_the_context_is_durable(shop: Shop) -> None:
    calls: list[int] = []

    def work() -> None:
        step.run("in a thread", calls.append, 1)

    def body(order: Any) -> None:
        thread = threading.Thread(target=contextvars.copy_context().run, args=(work,))
        thread.start()
        thread.join()
        if attempt() == 1:
            raise Boom

    assert shop.handle(body, **RETRIED).error is None
    assert calls == [1]


# --- idempotency keys ----------------------------------------------------------------------------


def test_a_step_has_a_key_of_its_own_for_all_attempts(shop: Shop) -> None:
    keys: list[tuple[str, str | None]] = []

    def charge(name: str) -> None:
        keys.append((name, step.idempotency_key))
        if attempt() < 3:
            raise Boom

    def body(order: Any) -> None:
        assert step.idempotency_key is None
        step.run("charge", charge, f"{order} first")
        step.run("charge", charge, f"{order} second")

    shop.subscribe(body, **RETRIED)
    with shop.worker():
        for order in ("a", "b"):
            assert shop.emit(order).get(timeout=60)[0].error is None
    assert len(keys) == 8
    assert len(set(keys)) == 4
    assert len({key for _, key in keys}) == 4
    assert all(uuid.UUID(key) for _, key in keys)


# --- outside of a run ----------------------------------------------------------------------------


def test_outside_of_a_run_steps_simply_do_their_work(shop: Shop) -> None:
    shop.app.conf.task_always_eager = True
    shop.app.set_current()
    received: list[Any] = []

    def paid(data: Any) -> None:
        received.append(data)

    shop.subscribe(paid, name="paid", event="order/paid")

    class Plain:
        """Comes back as it is: nothing is stored."""

    value = Plain()
    assert step.run("fetch", lambda: value) is value
    assert step.options(max_retries=3, timeout=5).run("fetch", lambda: value) is value
    began = time.monotonic()
    step.sleep("long", 1000)
    step.sleep_until("long", time.time() + 1000)
    assert time.monotonic() - began < 100
    assert step.idempotency_key is None
    assert uuid.UUID(step.emit("paid", "order/paid", {"n": 1}))
    assert received == [{"n": 1}]
    with pytest.raises(Boom):
        step.run("fetch", raise_boom)


def test_outside_of_a_run_a_step_is_tried_again_at_once() -> None:
    calls: list[int] = []

    def charge(failures: int) -> str:
        calls.append(1)
        if len(calls) <= failures:
            raise Boom("declined")
        return "charged"

    patient = step.options(max_retries=3, retry_backoff=1000)
    began = time.monotonic()
    assert patient.run("charge", charge, 3) == "charged"
    calls.clear()
    with pytest.raises(StepFailed) as caught:
        patient.run("charge", charge, 9)
    assert str(caught.value) == "The step 'charge' failed after 4 attempts: Boom: declined"
    assert time.monotonic() - began < 100


def raise_boom() -> None:
    raise Boom


def test_a_task_that_is_called_as_always_has_no_steps(shop: Shop) -> None:
    """``.delay()`` of a subscriber is an ordinary call."""
    calls: list[int] = []

    def body(order: Any) -> Any:
        step.run("fetch", calls.append, 1)
        if current_task_retries(task) == 0:
            raise Boom
        return [current_run(), current_event(), order]

    task = shop.subscribe(body, **RETRIED)
    with shop.worker():
        assert task.delay("hello").get(timeout=60) == [None, None, "hello"]
    assert calls == [1, 1]


def current_task_retries(task: Any) -> int:
    return int(task.request.retries)


# --- eager apps ----------------------------------------------------------------------------------


def test_eager_runs_skip_their_waits(shop: Shop) -> None:
    shop.app.conf.task_always_eager = True
    calls: list[int] = []

    def charge() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise Boom
        return "charged"

    def body(order: Any) -> list[Any]:
        step.sleep("a day", dt.timedelta(days=1))
        value = step.options(max_retries=5, retry_backoff=60).run("charge", charge)
        if attempt() == 1:
            raise Boom
        return [value, attempt()]

    shop.subscribe(body, **RETRIED)
    began = time.monotonic()
    (outcome,) = shop.emit().get()
    assert outcome.value == ["charged", 2]
    assert time.monotonic() - began < 60
    assert len(calls) == 3


def test_an_eager_run_inside_a_step_is_a_run_of_its_own(shop: Shop) -> None:
    """Where tasks are eager, ``step.emit`` executes the subscribers inside of the step."""
    shop.app.conf.task_always_eager = True
    keys: list[str | None] = []

    def body(order: Any) -> str:
        keys.append(step.idempotency_key)
        step.emit("paid", "order/paid", 1)
        return step.run("next", lambda: "end")

    def paid(data: Any) -> None:
        keys.append(step.idempotency_key)
        step.run("paid", keys.append, "paid")

    shop.subscribe(body)
    shop.subscribe(paid, name="paid", event="order/paid")
    (outcome,) = shop.emit().get()
    assert outcome.value == "end"
    assert keys == [None, None, "paid"]


# --- stores --------------------------------------------------------------------------------------


def test_without_a_store_a_run_with_steps_fails_by_name(redis_url: str) -> None:
    seen: list[str] = []

    def body(order: Any) -> None:
        try:
            step.run("fetch", print)
        except StoreUnsupported as exc:
            seen.append(str(exc))

    with Shop(redis_url, "rpc://") as shop:
        shop.subscribe(body)
        with shop.worker():
            shop.emit()
            wait_until(lambda: seen)
    assert seen[0] == (
        "The result backend rpc:// does not support steps. Set result_backend, or "
        'fanout_store_url, to one that can be read back, such as "redis://", "db+postgresql://" or '
        '"django-db".'
    )


def test_a_damaged_checkpoint_counts_as_none(
    shop: Shop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that is killed while it writes a file leaves half of it."""
    shop.app.conf.fanout_store_url = f"file://{tmp_path}"
    calls: list[int] = []

    def body(order: Any) -> str:
        step.run("fetch", calls.append, 1)
        if attempt() == 1:
            (file,) = tmp_path.iterdir()
            file.write_bytes(file.read_bytes()[:5])
            raise Boom
        return "end"

    logger = logging.getLogger("celery_fanout.checkpoints")
    logger.addHandler(caplog.handler)  # the worker keeps its tasks' records from the root
    caplog.set_level(logging.WARNING, logger.name)
    outcome = shop.handle(body, **RETRIED)
    logger.removeHandler(caplog.handler)
    assert outcome.value == "end"
    assert calls == [1, 1]
    assert (
        f"Run {outcome.run.id}: the checkpoint of step 'fetch' is damaged and counts as none"
        in caplog.messages
    )


# --- signals -------------------------------------------------------------------------------------


def test_signals_of_steps(shop: Shop) -> None:
    def body(order: Any) -> None:
        step.run("fetch", lambda: 1)
        step.run("fetch", lambda: 2)
        step.sleep("nap", -1)
        if attempt() == 1:
            step.run("charge", raise_boom)
        step.run("charge", lambda: 3)

    with receiving(step_completed) as completed, receiving(step_failed) as failed:
        outcome = shop.handle(body, **RETRIED)
    assert outcome.error is None
    runs = [call.pop("run") for call in (*completed, *failed)]
    assert {run.id for run in runs} == {outcome.run.id}

    def done(step: str, number: int, cached: bool, attempts: int) -> dict[str, Any]:
        return {
            "sender": "subscriber",
            "step": step,
            "number": number,
            "cached": cached,
            "attempts": attempts,
        }

    assert completed == [
        done("fetch", 1, False, 1),
        done("fetch", 2, False, 1),
        done("nap", 1, False, 0),
        done("fetch", 1, True, 1),
        done("fetch", 2, True, 1),
        done("nap", 1, True, 0),
        done("charge", 1, False, 1),
    ]
    assert failed == [
        {
            "sender": "subscriber",
            "step": "charge",
            "number": 1,
            "attempts": 1,
            "error_type": "Boom",
            "final": False,
        }
    ]
