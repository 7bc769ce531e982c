"""Level 2 through real messages and a worker in this process: waits, children, control, ..."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from celery_fanout import (
    CancelOn,
    RunFailed,
    StepFailed,
    current_event,
    current_run,
    emit,
    get_fanout,
    step,
)
from celery_fanout.exceptions import StoreUnsupported, UnknownStep, WrongState
from celery_fanout.stores.states import RunState
from tests.integration.inprocess import EVENT, Boom, Shop
from tests.processes import wait_until
from tests.servers import RedisServer


@pytest.fixture(params=["redis", "memory", "shards"])
def shop(
    redis_server: RedisServer, redis_url: str, request: pytest.FixtureRequest
) -> Iterator[Shop]:
    """An app with a ledger in Redis, in memory, or in several shards."""
    conf: dict[str, Any] = {
        "redis": {},
        "memory": {"fanout_store_url": "memory://"},
        "shards": {"fanout_shards": 3},
    }[request.param]
    with Shop(redis_url, redis_server.url(1), **conf) as shop:
        yield shop


def noting(calls: list[Any]) -> Any:
    """Return a body that writes down what it is given."""

    def body(data: Any) -> None:
        calls.append(data)

    return body


def state(shop: Shop, run_id: str) -> str:
    run = get_fanout(shop.app).ledger.run(run_id)
    assert run is not None
    return str(run.state)


# --- waits ---------------------------------------------------------------------------------------


def waiter(timeout: float) -> Any:
    def body(order: dict[str, Any]) -> Any:
        found = step.wait_for_event("paid", "order/paid", match={"id": 7}, timeout=timeout)
        return None if found is None else [found.name, found.data, found.id]

    return body


def test_an_event_that_comes_while_the_run_waits(shop: Shop) -> None:
    shop.subscribe(waiter(60))
    with shop.worker():
        (run,) = shop.emit({}).runs
        wait_until(lambda: state(shop, run.id) == "suspended")
        shop.emit({"id": 8}, "order/paid")
        shop.emit({"id": 7, "total": 3}, "order/paid", id="paid-7")
        assert run.get(timeout=30) == ["order/paid", {"id": 7, "total": 3}, "paid-7"]


def test_an_event_that_came_before_the_wait(shop: Shop) -> None:
    shop.subscribe(waiter(60))
    (run,) = shop.emit({}).runs
    shop.emit({"id": 7}, "order/paid", id="paid-7")
    with shop.worker():
        assert run.get(timeout=30) == ["order/paid", {"id": 7}, "paid-7"]


def test_a_run_does_not_find_its_own_event(shop: Shop) -> None:
    def body(order: dict[str, Any]) -> Any:
        found = step.wait_for_event("next", EVENT, timeout=0.2)
        return None if found is None else found.data

    assert shop.handle(body, {"n": 1}).value is None


def test_no_event_in_time(shop: Shop) -> None:
    shop.subscribe(waiter(0.2))
    with shop.worker():
        assert shop.emit({}).runs[0].get(timeout=30) is None


# --- child runs ----------------------------------------------------------------------------------


def test_another_task_is_called_once(shop: Shop) -> None:
    calls: list[int] = []

    def add(left: int, right: int) -> int:
        calls.append(left)
        if len(calls) < 2:
            raise Boom("busy")
        return left + right

    task = shop.task(add, name="add", autoretry_for=(Boom,), max_retries=3)

    def body(order: Any) -> list[int]:
        total = step.invoke("add", task, 1, right=2)
        return [total, step.run("double", lambda: total * 2)]

    assert shop.handle(body).value == [3, 6]
    assert calls == [1, 1]


def test_a_task_that_fails_fails_the_step(shop: Shop) -> None:
    def broken() -> None:
        raise Boom("no")

    task = shop.task(broken, name="broken")

    def body(order: Any) -> str:
        try:
            step.invoke("call", task)
        except StepFailed as failure:
            return f"{failure.step}: {failure.error_type}: {failure.message}"
        return "not reached"

    assert shop.handle(body).value == "call: Boom: no"


def test_calls_at_the_same_time(shop: Shop) -> None:
    calls: list[str] = []

    def ask(model: str) -> str:
        calls.append(model)
        if model == "b" and calls.count("b") == 1:
            raise Boom("busy")
        return model.upper()

    def body(question: Any) -> list[Any]:
        suffix = step.run("suffix", lambda: "!")
        answers = step.parallel("ask", [(lambda m: ask(m) + suffix, model) for model in "abc"])
        return [answers, step.run("judge", max, answers)]

    outcome = shop.handle(body, autoretry_for=(Boom,), max_retries=2)
    assert outcome.value == [["A!", "B!", "C!"], "C!"]
    assert sorted(calls) == ["a", "b", "b", "c"]  # only the one that failed was made again


def test_two_parallel_steps(shop: Shop) -> None:
    def body(order: Any) -> list[int]:
        first = step.parallel("first", [(int, n) for n in range(3)])
        return step.parallel("second", [(sum, [n, n]) for n in first])

    assert shop.handle(body).value == [0, 2, 4]


def test_a_call_that_fails_for_good(shop: Shop) -> None:
    def body(order: Any) -> str:
        try:
            step.parallel("divide", [(divmod, 4, n) for n in (1, 0)])
        except StepFailed as failure:
            return failure.error_type
        return "not reached"

    assert shop.handle(body).value == "ZeroDivisionError"


# --- emissions -----------------------------------------------------------------------------------


def test_a_batch_of_items_with_a_fan_in(shop: Shop) -> None:
    """Many items spread over the workers, and one task that gets what became of each."""
    received: list[list[dict[str, Any]]] = []
    collect = shop.task(noting(received), name="collect")

    def handle(batch: dict[str, Any]) -> int:
        return sum(step.parallel("items", [(len, item) for item in batch["items"]]))

    def broken(batch: dict[str, Any]) -> None:
        raise Boom("no")

    shop.subscribe(handle, "handle")
    shop.subscribe(broken, "broken")
    with shop.worker():
        shop.emit({"items": ["x" * n for n in range(50)]}, then=collect)
        wait_until(lambda: received, timeout=60)
    ((outcomes),) = received
    assert [(o["subscription"], o["state"], o["value"], o["error"]) for o in outcomes] == [
        (f"handle@{EVENT}", "succeeded", sum(range(50)), None),
        (f"broken@{EVENT}", "failed", None, "Boom: no"),
    ]


def test_an_event_is_handled_once_however_often_it_is_emitted(shop: Shop) -> None:
    calls: list[Any] = []
    shop.subscribe(noting(calls))
    emissions = [shop.emit({"n": n}, id="e-1") for n in range(3)]
    assert len({emission.runs[0].id for emission in emissions}) == 1
    with shop.worker():
        emissions[-1].runs[0].get(timeout=30)
        shop.emit({"n": 9}, id="e-1").runs[0].get(timeout=30)
    assert calls == [{"n": 0}]


def test_a_run_that_did_not_start_in_time(shop: Shop) -> None:
    calls: list[Any] = []
    shop.subscribe(noting(calls))
    (run,) = shop.emit({}, expires=0.05).runs
    begun = get_fanout(shop.app).ledger.time()
    wait_until(lambda: get_fanout(shop.app).ledger.time() > begun + 0.1)
    with shop.worker(), pytest.raises(RunFailed, match="The run was cancelled: expired"):
        run.get(timeout=30)
    assert calls == []


def test_an_event_cancels_a_run(shop: Shop) -> None:
    def body(order: Any) -> None:
        step.sleep("long", 3600)

    cancel = CancelOn("order/cancelled", match={"order": "id"})
    shop.subscribe(body, subscription={"cancel_on": cancel})
    with shop.worker():
        (run,) = shop.emit({"id": 7}).runs
        wait_until(lambda: state(shop, run.id) == "suspended")
        shop.emit({"order": 8}, "order/cancelled")
        shop.emit({"order": 7}, "order/cancelled")
        with pytest.raises(RunFailed, match="The run was cancelled: cancel_on order/cancelled"):
            run.get(timeout=30)


def test_an_event_cancels_a_run_that_redis_has_lost(
    redis_server: RedisServer, redis_url: str
) -> None:
    """Its message is there, and says whose it is; what cancels it the code says."""

    def body(order: Any) -> None:
        step.sleep("long", 60)

    with Shop(redis_url, redis_server.url(1)) as shop:
        cancel = CancelOn("order/cancelled", match={"id": "order.id"})
        shop.subscribe(body, subscription={"cancel_on": cancel})
        (run,) = shop.emit({"order": {"id": 7}}).runs
        with redis_server.client(1) as client:
            client.flushdb()
        with shop.worker():
            wait_until(lambda: get_fanout(shop.app).ledger.run(run.id) is not None)
            wait_until(lambda: state(shop, run.id) == "suspended")
            shop.emit({"id": 7}, "order/cancelled")
            assert state(shop, run.id) == "cancelled"


# --- failures ------------------------------------------------------------------------------------


def test_an_event_tells_of_a_dead_letter(shop: Shop) -> None:
    told: list[dict[str, Any]] = []

    def body(order: Any) -> None:
        raise Boom("no")

    def tell(failure: dict[str, Any]) -> None:
        told.append(failure)
        raise Boom("this one fails too")  # and causes no event: no loops

    shop.subscribe(body)
    shop.subscribe(tell, "tell", "fanout/run.failed")
    with shop.worker():
        emission = shop.emit({"n": 1})
        wait_until(lambda: told)
        control = get_fanout(shop.app).runs
        wait_until(lambda: control.counts()[RunState.FAILED] == 2)
    (failure,) = told
    assert failure["run"] == emission.runs[0].id
    assert failure["event"]["data"] == {"n": 1}
    assert (failure["error"], failure["reason"]) == ({"type": "Boom", "message": "no"}, "error")


def test_failures_that_cause_one_another_come_to_an_end(shop: Shop) -> None:
    """Alerts are number 0, 2 and 4 in the chain; what tells of their failure is 1, 3 and 5."""
    shop.app.conf.fanout_max_depth = 4
    told: list[int] = []

    def body(alert: Any) -> None:
        raise Boom("no")

    def tell(failure: dict[str, Any]) -> None:
        event = current_event()
        assert event is not None
        told.append(event.depth)
        emit(EVENT, {"of": failure["run"]})

    shop.subscribe(body)
    shop.subscribe(tell, "tell", "fanout/run.failed")
    control = get_fanout(shop.app).runs
    with shop.worker():
        shop.emit({})
        wait_until(lambda: control.counts()[RunState.FAILED] == 4)
        wait_until(lambda: not get_fanout(shop.app).ledger.awaiting_follow_up(older_than=-60))
    assert told == [1, 3, 5]
    counts = control.counts()
    assert (counts[RunState.SUCCEEDED], counts[RunState.FAILED]) == (2, 4)
    (run,) = control.list(state="failed", limit=1)
    assert "fanout_max_depth is 4" in control.get(run.id).detail["error"]["message"]


def test_an_event_tells_of_an_on_failure_task_that_failed(shop: Shop) -> None:
    told: list[dict[str, Any]] = []

    def body(order: Any) -> None:
        raise Boom("no")

    def rescue(failure: Any) -> None:
        raise Boom("this fails too")

    shop.subscribe(body, subscription={"on_failure": shop.task(rescue, name="rescue")})
    shop.subscribe(noting(told), "tell", "fanout/run.failed")
    control = get_fanout(shop.app).runs
    with shop.worker():
        (run,) = shop.emit({}).runs
        wait_until(lambda: len(told) == 2)
        wait_until(lambda: control.counts()[RunState.SUCCEEDED] == 2)
    assert {failure["task"] for failure in told} == {"subscriber", "rescue"}
    (rescued,) = [failure for failure in told if failure["task"] == "rescue"]
    assert control.get(rescued["run"]).parent == run.id
    assert rescued["subscription"] == run.subscription.id
    assert control.counts()[RunState.FAILED] == 2


def test_an_on_failure_task_that_fails_is_not_called_for_itself(shop: Shop) -> None:
    calls: list[Any] = []

    def body(order: Any) -> None:
        raise Boom("no")

    def tell(failure: dict[str, Any]) -> None:
        calls.append(failure["run"])
        raise Boom("this fails too")

    shop.subscribe(body, subscription={"on_failure": shop.task(tell, name="tell")})
    control = get_fanout(shop.app).runs
    with shop.worker():
        (run,) = shop.emit({}).runs
        wait_until(lambda: control.counts()[RunState.FAILED] == 2)
        shop.emit({}, "order/other")
        assert shop.emit({}).runs[0].id != run.id
        wait_until(lambda: control.counts()[RunState.FAILED] == 4)
    assert len(calls) == 2


def test_a_child_whose_failure_is_handled_is_nobodys_business(shop: Shop) -> None:
    calls: list[Any] = []

    def broken() -> None:
        raise Boom("no")

    task = shop.task(broken, name="broken")

    def body(order: Any) -> str:
        try:
            step.invoke("call", task)
        except StepFailed:
            return "handled"
        return "not reached"

    failure = shop.task(noting(calls), name="tell")
    assert shop.handle(body, subscription={"on_failure": failure}).value == "handled"
    assert calls == []


def test_a_dead_letter_keeps_what_went_wrong(shop: Shop) -> None:
    def body(order: Any) -> None:
        secret = "of the frame"  # noqa: F841 - must not be kept
        raise Boom("no")

    outcome = shop.handle(body)
    run = get_fanout(shop.app).runs.get(outcome.run.id)
    error = run.detail["error"]
    assert (run.state, error["type"], error["message"]) == (RunState.FAILED, "Boom", "no")
    assert error["traceback"].startswith("Traceback (most recent call last):\n")
    assert "of the frame" not in error["traceback"].split("raise Boom")[1]


# --- control -------------------------------------------------------------------------------------


def test_a_failed_run_is_retried_with_its_steps(shop: Shop) -> None:
    calls: list[str] = []
    broken = [True]

    def note(name: str) -> str:
        calls.append(name)
        if name == "b" and broken:
            raise Boom("no")
        return name

    def body(order: Any) -> list[str]:
        return [step.run(name, note, name) for name in "abc"]

    shop.subscribe(body)
    control = get_fanout(shop.app).runs
    with shop.worker():
        (run,) = shop.emit({}).runs
        with pytest.raises(RunFailed):
            run.get(timeout=30)
        broken.clear()
        control.retry(run.id)
        wait_until(lambda: state(shop, run.id) == "succeeded")
        with pytest.raises(WrongState):
            control.retry(run.id)
        assert calls == ["a", "b", "b", "c"]
        new = control.rerun(run.id, "c")
        wait_until(lambda: state(shop, new) == "succeeded")
        assert calls == ["a", "b", "b", "c", "c"]
        with pytest.raises(UnknownStep):
            control.rerun(run.id, "nope")
        event = control.get(run.id).event
        (again,) = control.replay(event)
        wait_until(lambda: state(shop, again) == "succeeded")
    assert calls[5:] == ["a", "b", "c"]
    assert {found.id for found in control.list(event=event)} == {run.id, new, again}


def test_a_rerun_meets_the_failures_that_the_body_went_on_from(shop: Shop) -> None:
    calls: list[str] = []

    def reserve() -> None:
        calls.append("reserve")
        raise Boom("none is left")

    def body(order: Any) -> str:
        try:
            step.options(max_retries=1, retry_jitter=False).run("reserve", reserve)
        except StepFailed as failed:
            step.run("refund", calls.append, "refund")
            return str(failed)
        return "reserved"

    shop.subscribe(body)
    control = get_fanout(shop.app).runs
    with shop.worker():
        (run,) = shop.emit({}).runs
        value = run.get(timeout=30)
        new = control.rerun(run.id, "refund")
        wait_until(lambda: state(shop, new) == "succeeded")
    assert calls == ["reserve", "reserve", "refund", "refund"]
    assert control.get(new).detail["result"] == json.dumps(value)


def test_a_paused_subscription_waits(shop: Shop) -> None:
    calls: list[Any] = []
    shop.subscribe(noting(calls))
    control = get_fanout(shop.app).runs
    control.pause(f"subscriber@{EVENT}")
    with shop.worker():
        (run,) = shop.emit(1).runs
        assert state(shop, run.id) == "gated"
        assert control.resume(f"subscriber@{EVENT}") == 1
        run.get(timeout=30)
    assert calls == [1]


def test_a_cancelled_run_stops_at_its_next_step(shop: Shop) -> None:
    calls: list[str] = []
    control = get_fanout(shop.app).runs

    def first() -> None:
        calls.append("first")
        run = current_run()
        assert run is not None
        control.cancel(run.id, "enough")

    def body(order: Any) -> None:
        step.run("first", first)
        step.run("second", calls.append, "second")

    outcome = shop.handle(body)
    assert str(outcome.error) == "The run was cancelled: enough"
    assert calls == ["first"]


# --- level 1 -------------------------------------------------------------------------------------


def test_level_1_says_what_it_lacks(redis_url: str) -> None:
    with Shop(redis_url, redis_url, fanout_store_url="backend") as shop:
        with pytest.raises(StoreUnsupported, match="It needs level 2"):
            _ = get_fanout(shop.app).runs
        task = shop.task(noting([]), name="collect")
        with pytest.raises(StoreUnsupported, match=r"does not support emit\(then=\)"):
            shop.emit({}, then=task)

        def body(order: Any) -> list[int]:
            return step.parallel("p", [(len, "a")])

        shop.subscribe(body)
        with shop.worker():
            (outcome,) = shop.emit({}).get(timeout=30)
        assert isinstance(outcome.error, StoreUnsupported)
