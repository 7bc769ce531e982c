"""Runs from emit to their end, through real messages and a worker in this process."""

from __future__ import annotations

import contextlib
import gc
import itertools
import time
import uuid
import weakref
from collections.abc import Iterator
from typing import Any

import pydantic
import pytest
from celery import Task, shared_task, signals
from celery.exceptions import Ignore, Reject

from celery_fanout import (
    NonRetriable,
    RetryAfter,
    RunFailed,
    StepFailed,
    current_event,
    current_run,
    emit,
    event_type,
    on_event,
    step,
)
from celery_fanout.signals import (
    run_failed,
    run_started,
    run_succeeded,
    run_suspended,
    step_failed,
)
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


def told(error: BaseException | None) -> tuple[str, str]:
    """Return type and message of an outcome's error; those of the ledger are data, in a text."""
    if isinstance(error, RunFailed) and ": " in str(error) and error.error_type != "RunFailed":
        kind, _, message = str(error).partition(": ")
        assert error.error_type == kind
        return kind, message
    return type(error).__name__, str(error)


def attempt() -> int:
    run = current_run()
    assert run is not None
    return run.attempt


# --- what a subscriber can be --------------------------------------------------------------------


def test_a_bound_task(shop: Shop) -> None:
    def body(self: Task, order: Any) -> list[Any]:
        if self.request.retries == 0:
            raise self.retry(countdown=0)
        return [self.name, self.request.id, order, self.request.headers["ce_type"]]

    outcome = shop.handle(body, {"n": 1}, bind=True)
    assert outcome.value == ["subscriber", outcome.run.id, {"n": 1}, EVENT]


def test_a_class(shop: Shop) -> None:
    seen: list[Any] = []

    @on_event(EVENT)
    class Subscriber(Task):
        name = "subscriber"
        autoretry_for = (Boom,)
        default_retry_delay = 0

        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            seen.append(("before_start", current_run()))

        def run(self, order: Any) -> Any:
            seen.append(("run", current_run()))
            step.run("fetch", seen.append, "fetch")
            if self.request.retries == 0:
                raise Boom
            return order

        def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
            seen.append(("on_success", current_run()))

    shop.app.register_task(Subscriber())
    with shop.worker():
        (outcome,) = shop.emit({"n": 1}).get(timeout=60)
    assert outcome.value == {"n": 1}
    found = [(entry[0], entry[1].id, entry[1].attempt) for entry in seen if entry != "fetch"]
    run = outcome.run.id
    assert found == [
        ("before_start", run, 1),
        ("run", run, 1),
        ("before_start", run, 2),
        ("run", run, 2),
        ("on_success", run, 2),
    ]
    assert seen.count("fetch") == 1


def test_a_shared_task(shop: Shop) -> None:
    @on_event(EVENT)
    @shared_task(name=f"shared-{uuid.uuid4()}", autoretry_for=(Boom,), default_retry_delay=0)
    def subscriber(order: Any) -> Any:
        value = step.run("fetch", lambda: order)
        if attempt() == 1:
            raise Boom
        return value

    with shop.worker():
        (outcome,) = shop.emit({"n": 1}).get(timeout=60)
    assert outcome.value == {"n": 1}


def test_a_pydantic_task_gets_the_model(shop: Shop) -> None:
    @event_type(f"order/{uuid.uuid4()}")
    class Placed(pydantic.BaseModel):
        id: uuid.UUID
        lines: list[tuple[str, int]]

    seen: list[Any] = []

    def body(order: Placed) -> Placed:
        seen.append(order)
        if attempt() == 1:
            raise Boom
        return step.run("same", same, order)

    def same(order: Placed) -> Placed:
        return order

    body.__annotations__ = {"order": Placed, "return": Placed}
    same.__annotations__ = {"return": Placed}
    task = shop.task(body, pydantic=True, autoretry_for=(Boom,))
    on_event(Placed)(task)
    placed = Placed(id=uuid.UUID(int=1), lines=[("tea", 2)])
    with shop.worker():
        (outcome,) = emit(placed, app=shop.app).get(timeout=60)
    assert outcome.value == {"id": str(uuid.UUID(int=1)), "lines": [["tea", 2]]}
    assert seen == [placed, placed]


def test_two_subscriptions_of_one_task_are_two_runs(shop: Shop) -> None:
    calls: list[str] = []

    def body(order: Any) -> None:
        run = current_run()
        assert run is not None
        step.run("note", calls.append, run.subscription)

    on_event("order/*")(shop.subscribe(body))
    with shop.worker():
        outcomes = shop.emit().get(timeout=60)
    assert len({outcome.run.id for outcome in outcomes}) == 2
    assert sorted(calls) == ["subscriber@order/*", f"subscriber@{EVENT}"]


def test_what_a_run_can_ask_about_itself(shop: Shop) -> None:
    seen: list[Any] = []

    def body(order: Any) -> None:
        seen.append((current_run(), current_event()))

    shop.subscribe(body)
    with shop.worker():
        emission = shop.emit({"n": [1]}, subject="o-1", source="/till")
        emission.get(timeout=60)
    ((run, event),) = seen
    assert event == run.event == emission.event
    assert (event.data, event.subject, event.source) == ({"n": [1]}, "o-1", "/till")
    assert (run.id, run.subscription, run.task, run.attempt) == (
        emission.runs[0].id,
        f"subscriber@{EVENT}",
        "subscriber",
        1,
    )
    assert current_run() is None
    assert current_event() is None


def test_a_task_that_a_run_calls_directly_is_part_of_it(shop: Shop) -> None:
    calls: list[str] = []

    def inner(order: Any) -> str:
        step.run("inner", calls.append, "inner")
        run = current_run()
        assert run is not None
        return run.task

    def body(order: Any) -> list[Any]:
        found = [inner_task(order), inner_task.run(order)]
        if attempt() == 1:
            raise Boom
        return found

    inner_task = shop.subscribe(inner, name="inner", event="other/thing")
    assert shop.handle(body, autoretry_for=(Boom,)).value == ["subscriber", "subscriber"]
    assert calls == ["inner", "inner"]  # its two calls, each once


@level_1
def test_a_repeated_event_gives_the_same_run_with_the_same_steps(shop: Shop) -> None:
    calls: list[int] = []

    def body(order: Any) -> int:
        return step.run("count", lambda: calls.append(1) or len(calls))

    shop.subscribe(body)
    with shop.worker():
        first = shop.emit(id="e-1")
        first.get(timeout=60)
        second = shop.emit(id="e-1")
        with receiving(run_succeeded) as done:
            wait_until(lambda: done)
    assert [run.id for run in first.runs] == [run.id for run in second.runs]
    assert calls == [1]


# --- how a body ends its run ---------------------------------------------------------------------


def test_a_run_may_ask_for_the_time_of_its_next_attempt(shop: Shop) -> None:
    times: list[float] = []

    def body(order: Any) -> int:
        times.append(time.time())
        if len(times) < 3:
            raise RetryAfter(0.3)
        return attempt()

    # neither is it caught by autoretry, nor does autoretry's backoff count
    options = {"autoretry_for": (Exception,), "retry_backoff": 300, "max_retries": 2}
    assert shop.handle(body, **options).value == 3
    assert all(after - before > 0.29 for before, after in itertools.pairwise(times))


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"max_retries": 1}, Boom("busy")),
        ({"retry_kwargs": {"max_retries": 1}}, None),
        ({}, Boom("busy")),
    ],
    ids=str,
)
def test_asking_again_spends_a_retry_of_the_task(
    shop: Shop, options: dict[str, Any], cause: Exception | None
) -> None:
    attempts: list[int] = []

    def body(order: Any) -> None:
        attempts.append(attempt())
        raise RetryAfter(0, cause)

    error = shop.handle(body, autoretry_for=(KeyError,), **options).error
    # Celery's own default is 3
    assert attempts == list(range(1, 3 if options else 5))
    if cause:
        assert told(error) == ("Boom", "busy")
    else:
        assert isinstance(error, RunFailed)
        assert str(error) == "It asked to be tried again after 0 s."


@pytest.mark.parametrize(
    ("cause", "kind", "message"),
    [(LookupError("gone"), LookupError, "gone"), ("gone", RunFailed, "gone")],
)
def test_a_run_may_refuse_another_attempt(
    shop: Shop, cause: Any, kind: type[Exception], message: str
) -> None:
    attempts: list[int] = []

    def body(order: Any) -> None:
        attempts.append(attempt())
        raise NonRetriable(cause)

    with receiving(run_failed) as failures:
        error = shop.handle(body, autoretry_for=(Exception,)).error
    assert told(error) == (kind.__name__, message)
    assert attempts == [1]
    assert [type(failure["exception"]) for failure in failures] == [kind]


@pytest.mark.parametrize(
    ("control", "state"),
    [(Ignore(), "IGNORED"), (Reject("no", requeue=False), "REJECTED")],
    ids=["ignore", "reject"],
)
def test_celerys_own_control_flow_is_left_alone(shop: Shop, control: Exception, state: str) -> None:
    states: list[str] = []

    def end(state: str, **_: Any) -> None:
        states.append(state)

    def body(order: Any) -> None:
        step.options(max_retries=3).run("charge", raise_it, control)

    shop.subscribe(body, autoretry_for=(KeyError,))
    signals.task_postrun.connect(end)
    with receiving(run_succeeded) as succeeded, receiving(step_failed) as failed, shop.worker():
        shop.emit()
        wait_until(lambda: states)
    signals.task_postrun.disconnect(end)
    assert states == [state]
    assert succeeded == failed == []


def raise_it(error: Exception) -> None:
    raise error


def test_an_ordinary_call_may_steer_itself_too(shop: Shop) -> None:
    """``.delay()`` of a subscriber."""
    times: list[float] = []

    def body(order: Any) -> int:
        times.append(time.time())
        if order == "refused":
            raise NonRetriable("no such order")
        if len(times) < 3:
            raise RetryAfter(0.3)
        return len(times)

    task = shop.subscribe(body, autoretry_for=(Exception,), retry_backoff=300)
    with shop.worker():
        assert task.delay("busy").get(timeout=60) == 3
        with pytest.raises(RunFailed, match=r"^no such order$"):
            task.delay("refused").get(timeout=60)
    assert len(times) == 4
    assert times[1] - times[0] > 0.29


# --- what follows a run --------------------------------------------------------------------------


def test_a_tail_belongs_to_its_run(shop: Shop) -> None:
    seen: list[Any] = []

    def note(what: str) -> str:
        run, event = current_run(), current_event()
        assert run is not None
        seen.append((what, run.id, run.task, run.subscription, run.attempt, event))
        return what

    def body(order: Any) -> str:
        return note("subscriber")

    def save(result: str, colour: str) -> str:
        step.run("save", seen.append, "saved")
        note(f"{result}, {colour}")
        if attempt() == 1:
            raise Boom
        step.sleep("a while", 0.1)
        return f"{result}, {colour}"

    def report() -> str:
        return note("report")

    save_task = shop.task(save, name="save", autoretry_for=(Boom,))
    report_task = shop.task(report, name="report")
    shop.subscribe(body, subscription={"then": [save_task.s("red"), report_task.si()]})
    with shop.worker():
        emission = shop.emit({"n": 1})
        (outcome,) = emission.get(timeout=60)
    assert outcome.value == "report"
    assert seen.count("saved") == 1
    notes = [entry for entry in seen if entry != "saved"]
    assert {entry[5] for entry in map(repr_event, notes)} == {repr(emission.event)}
    assert [(what, task, sub, number) for what, _, task, sub, number, _ in notes] == [
        ("subscriber", "subscriber", f"subscriber@{EVENT}", 1),
        ("subscriber, red", "save", f"subscriber@{EVENT}", 1),
        ("subscriber, red", "save", f"subscriber@{EVENT}", 2),
        ("subscriber, red", "save", f"subscriber@{EVENT}", 2),
        ("report", "report", f"subscriber@{EVENT}", 1),
    ]
    assert notes[0][1] == emission.runs[0].id
    assert len({entry[1] for entry in notes}) == 3  # each link has an id of its own


def repr_event(entry: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*entry[:5], repr(entry[5]))


@pytest.fixture
def failures() -> list[dict[str, Any]]:
    """What the task "failed" is called with."""
    return []


def with_on_failure(shop: Shop, failures: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    def failed(failure: dict[str, Any]) -> None:
        failures.append(failure)

    return {"on_failure": shop.task(failed, name="failed"), **more}


def fail(order: Any) -> None:
    raise Boom("no")


def fail_in_a_step(order: Any) -> None:
    step.options(max_retries=1).run("charge", fail, order)


def sleep_and_fail(order: Any) -> None:
    step.sleep("a while", 0.1)
    raise Boom("no")


def refuse(order: Any) -> None:
    raise NonRetriable(Boom("no"))


@pytest.mark.parametrize(
    ("body", "options", "error", "attempts"),
    [
        (fail, {}, ("Boom", "no"), 1),
        (fail, {"autoretry_for": (Boom,), "max_retries": 2}, ("Boom", "no"), 3),
        (
            fail_in_a_step,
            {"autoretry_for": (Exception,)},
            ("RunFailed", "The step 'charge' failed after 2 attempts: Boom: no"),
            1,
        ),
        (sleep_and_fail, {}, ("Boom", "no"), 1),
        (refuse, {"autoretry_for": (Exception,)}, ("Boom", "no"), 1),
    ],
    ids=["exception", "exhausted", "step", "slept", "refused"],
)
def test_on_failure_is_told_once_what_failed(
    shop: Shop,
    failures: list[dict[str, Any]],
    body: Any,
    options: dict[str, Any],
    error: tuple[str, str],
    attempts: int,
) -> None:
    shop.subscribe(body, subscription=with_on_failure(shop, failures), **options)
    with shop.worker():
        emission = shop.emit({"n": 1})
        wait_until(lambda: failures)
    with shop.worker():  # which works off what is left, before it ends
        pass
    (failure,) = failures
    traceback = failure["error"].pop("traceback")
    assert failure == {
        "run": emission.runs[0].id,
        "subscription": f"subscriber@{EVENT}",
        "task": "subscriber",
        "attempts": attempts,
        "event": emission.event.to_cloudevent(),
        "error": {"type": error[0], "message": error[1]},
    }
    assert traceback.startswith("Traceback (most recent call last):\n")
    assert f"{error[0]}: {error[1]}" in traceback


def test_on_failure_is_told_of_a_failing_tail(shop: Shop, failures: list[dict[str, Any]]) -> None:
    def body(order: Any) -> str:
        return "result"

    def save(result: str) -> None:
        raise Boom("disk full")

    def never(result: Any) -> None:
        raise AssertionError("not reached")

    then = [shop.task(save, name="save"), shop.task(never, name="never")]
    shop.subscribe(body, subscription=with_on_failure(shop, failures, then=then))
    with shop.worker():
        emission = shop.emit({"n": 1})
        (outcome,) = emission.get(timeout=60)
        wait_until(lambda: failures)
    assert told(outcome.error) == ("Boom", "disk full")
    (failure,) = failures
    del failure["error"]["traceback"]
    link = failure.pop("run")
    assert link != emission.runs[0].id
    assert uuid.UUID(link)
    assert failure == {
        "subscription": f"subscriber@{EVENT}",
        "task": "save",
        "attempts": 1,
        "event": emission.event.to_cloudevent(),
        "error": {"type": "Boom", "message": "disk full"},
    }


def test_on_failure_has_retries_and_steps_of_its_own(shop: Shop) -> None:
    seen: list[Any] = []

    def failed(failure: dict[str, Any]) -> None:
        run, event = current_run(), current_event()
        assert run is not None
        assert event is not None
        step.run("tell", seen.append, failure["error"]["message"])
        seen.append((run.id, run.task, run.attempt, event.data))
        if run.attempt < 3:
            raise Boom("told nobody")

    task = shop.task(failed, name="failed", autoretry_for=(Boom,))
    shop.subscribe(fail, subscription={"on_failure": task})
    with shop.worker():
        emission = shop.emit({"n": 1})
        wait_until(lambda: len(seen) == 4)
    assert seen[0] == "no"
    ids = {entry[0] for entry in seen[1:]}
    assert len(ids) == 1
    assert ids != {emission.runs[0].id}
    assert [entry[1:] for entry in seen[1:]] == [
        ("failed", 1, {"n": 1}),
        ("failed", 2, {"n": 1}),
        ("failed", 3, {"n": 1}),
    ]


def test_on_failure_is_not_told_of_what_goes_on(shop: Shop, failures: list[dict[str, Any]]) -> None:
    def body(order: Any) -> str:
        step.sleep("a while", 0.1)
        if attempt() == 1:
            raise Boom
        try:
            step.options(max_retries=1).run("charge", fail, order)
        except StepFailed:
            return "compensated"
        return "charged"

    subscription = with_on_failure(shop, failures)
    outcome = shop.handle(body, autoretry_for=(Boom,), subscription=subscription)
    assert outcome.value == "compensated"
    assert failures == []


# --- delays --------------------------------------------------------------------------------------


@level_1
def test_a_delayed_event_is_handled_later(shop: Shop) -> None:
    shop.app.conf.broker_transport_options["visibility_timeout"] = 1
    times: list[float] = []

    def body(order: Any) -> str:
        times.append(time.time())
        step.sleep("a while", 0.1)
        return "end"

    shop.subscribe(body)
    with receiving(run_started) as started, published() as messages, shop.worker():
        began = time.time()
        (outcome,) = shop.emit(delay=1.2).get(timeout=60)
    assert outcome.value == "end"
    assert times[0] - began > 1.19
    assert len(started) == 2  # the first pass and the one after the sleep; hops are none
    assert len(messages) >= 4  # in hops of half the visibility_timeout


# --- signals -------------------------------------------------------------------------------------


def test_signals_of_runs(shop: Shop) -> None:
    def body(order: Any) -> str:
        step.sleep("a while", 0.1)
        if attempt() == 1:
            raise Boom
        return "result"

    def save(result: str) -> None:
        raise Boom("disk full")

    shop.subscribe(body, subscription={"then": shop.task(save, name="save")}, autoretry_for=(Boom,))
    with (
        receiving(run_started) as started,
        receiving(run_suspended) as suspended,
        receiving(run_succeeded) as succeeded,
        receiving(run_failed) as failed,
        shop.worker(),
    ):
        emission = shop.emit({"n": 1})
        (outcome,) = emission.get(timeout=60)
        wait_until(lambda: failed)
    assert told(outcome.error) == ("Boom", "disk full")

    def brief(calls: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
        found = []
        for call in calls:
            run = call.pop("run")
            assert run.event == emission.event
            found.append((call.pop("sender"), run.task, run.attempt))
        return found

    assert brief(started) == [
        ("subscriber", "subscriber", 1),
        ("subscriber", "subscriber", 1),
        ("subscriber", "subscriber", 2),
        ("save", "save", 1),
    ]
    assert started == [{}] * 4
    assert brief(suspended) == [("subscriber", "subscriber", 1)]
    until = suspended[0].pop("until")
    assert suspended == [{"reason": "sleep", "step": "a while"}]
    assert abs(until - time.time()) < 60
    assert brief(succeeded) == [("subscriber", "subscriber", 2)]
    assert 0 <= succeeded[0].pop("runtime") < 60
    assert succeeded == [{}]
    assert brief(failed) == [("save", "save", 1)]
    assert [str(call["exception"]) for call in failed] == ["disk full"]


# --- retries that are asked for without being raised ---------------------------------------------


@pytest.mark.parametrize("shop", ["ledger"], indirect=True)
@pytest.mark.parametrize("caught", [False, True])
def test_a_retry_that_was_asked_for_is_not_lost(shop: Shop, caught: bool) -> None:
    def body(self: Task, order: Any) -> int:
        if self.request.retries < 2:
            if not caught:
                self.retry(countdown=0, throw=False)
            else:
                with contextlib.suppress(Exception):
                    self.retry(countdown=0)
        return attempt()

    # Celery tries it again too, and may have stored this attempt's result before
    assert shop.handle(body, bind=True).value == 3


def test_ordinary_calls_send_no_signals(shop: Shop) -> None:
    def body(order: Any) -> str:
        return "result"

    task = shop.subscribe(body)
    with (
        receiving(run_started) as started,
        receiving(run_succeeded) as succeeded,
        suspensions() as left,
        shop.worker(),
    ):
        assert task.delay(1).get(timeout=60) == "result"
    assert started == succeeded == left == []


def test_a_suspension_leaves_nothing_to_the_garbage_collector(shop: Shop) -> None:
    """Celery copies the traceback of an exception that its own frame refers to."""
    raised: list[weakref.ref[BaseException]] = []

    def note(retval: Any, **_: Any) -> None:
        if isinstance(retval, Ignore):
            raised.append(weakref.ref(retval))

    def body(order: Any) -> None:
        step.sleep("a while", 0.1)

    shop.subscribe(body)
    signals.task_postrun.connect(note, weak=False)
    gc.collect()
    gc.disable()
    try:
        with shop.worker():
            shop.emit().get(timeout=60)
            wait_until(lambda: raised and raised[0]() is None)
    finally:
        gc.enable()
        signals.task_postrun.disconnect(note)
