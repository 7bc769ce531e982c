"""Runs of level 2 in users' tests: waits, invoked tasks, parallel items, and all that follows."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from celery import Celery

from celery_fanout import (
    CancelOn,
    NonRetriable,
    StepFailed,
    current_event,
    current_run,
    emit,
    get_fanout,
    on_event,
    step,
)
from celery_fanout.exceptions import NestedStep, RunFailed, StoreUnsupported, WrongState
from celery_fanout.testing import Clock, FanoutTester

#: Nobody listens there: nothing of what follows may look for a broker.
NOWHERE = "redis://127.0.0.1:1"

app = Celery("tests-of-simulation", broker=NOWHERE, backend=NOWHERE, set_as_current=False)
task = lambda **options: app.task(shared=False, **options)  # noqa: E731

#: What the tasks did, in order.
done: list[Any] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    done.clear()


@pytest.fixture
def fanout() -> FanoutTester:
    return FanoutTester(app)


# --- waiting for an event ------------------------------------------------------------------------


@on_event("order/placed", cancel_on=CancelOn("order/withdrawn", match={"id": "id"}))
@task(name="await_payment")
def await_payment(order: Any) -> Any:
    step.run("reserve", done.append, "reserve")
    paid = step.wait_for_event("paid", "order/paid", match={"id": order["id"]}, timeout=3600)
    return "too late" if paid is None else f"paid {paid.data['amount']}"


def test_a_run_waits_for_its_event(fanout: FanoutTester) -> None:
    run = fanout.run(await_payment, {"id": 1}, clock=Clock(1000.0))
    assert (run.state, run.reason, run.step, run.due) == ("suspended", "event", "paid", 4600.0)

    assert not run.emit("order/paid", {"id": 2, "amount": 7})
    assert not run.emit("order/shipped", {"id": 1})
    assert (run.state, run.due) == ("suspended", 4600.0)

    assert run.emit("order/paid", {"id": 1, "amount": 9})
    assert (run.state, run.due) == ("suspended", 1000.0)
    run.resume()
    assert (run.state, run.value, run.clock.now) == ("succeeded", "paid 9", 1000.0)
    assert (run.executed, done, run.attempts) == (["reserve", "paid"], ["reserve"], 2)
    assert run.events == []


def test_a_wait_times_out(fanout: FanoutTester) -> None:
    run = fanout.run(await_payment, {"id": 1}, clock=Clock(1000.0)).resume()
    assert (run.state, run.value, run.clock.now) == ("succeeded", "too late", 4600.0)


def test_a_run_is_cancelled_by_an_event(fanout: FanoutTester) -> None:
    run = fanout.run(await_payment, {"id": 1})
    assert not run.emit("order/withdrawn", {"id": 2})
    assert run.emit("order/withdrawn", {"id": 1})
    assert (run.state, run.finished, run.reason) == ("cancelled", True, "cancel_on order/withdrawn")
    assert str(run.error) == "The run was cancelled: cancel_on order/withdrawn"
    assert not run.emit("order/paid", {"id": 1, "amount": 9})
    with pytest.raises(AssertionError) as caught:
        run.resume()
    assert str(caught.value) == "The run has been cancelled; nothing is left to resume."


@on_event("echo/asked")
@task(name="echo")
def echo(data: Any) -> Any:
    step.sleep("first", 10)
    if data.get("itself"):
        step.emit("call", "echo/heard", {"from": "itself"})
    heard = step.wait_for_event("heard", "echo/heard", timeout=60)
    return None if heard is None else heard.data["from"]


def test_an_event_that_comes_before_its_wait_is_found(fanout: FanoutTester) -> None:
    run = fanout.run(echo, {})
    assert not run.emit("echo/heard", {"from": "outside"})
    assert run.resume().value == "outside"


def test_a_run_finds_the_event_that_it_emitted(fanout: FanoutTester) -> None:
    run = fanout.run(echo, {"itself": True}).finish()
    assert run.value == "itself"
    run.events.assert_emitted("echo/heard", times=1)


def test_always_replay_and_crashes_with_a_wait(fanout: FanoutTester) -> None:
    run = fanout.run(await_payment, {"id": 1}, always_replay=True)
    assert run.emit("order/paid", {"id": 1, "amount": 9})
    assert run.resume(crash_after="paid").state == "crashed"
    assert run.resume().value == "paid 9"
    assert done == ["reserve"]


# --- invoking a task -----------------------------------------------------------------------------


@task(name="charge", autoretry_for=(ConnectionError,), max_retries=2, default_retry_delay=30)
def charge(amount: int, fails: int = 0) -> Any:
    run = current_run()
    assert run is not None
    done.append(run.attempt)
    if run.attempt <= fails:
        raise ConnectionError("the bank is down")
    step.run("note", done.append, "noted")
    return {"charged": amount}


@on_event("cart/checked-out")
@task(name="check_out", autoretry_for=(Exception,), max_retries=1)
def check_out(cart: Any) -> Any:
    try:
        receipt = step.invoke("charge", charge, cart["total"], fails=cart.get("fails", 0))
    except StepFailed as failed:
        return f"no: {failed.error_type}: {failed.message}"
    return receipt


def test_an_invoked_task_is_executed(fanout: FanoutTester) -> None:
    run = fanout.run(check_out, {"total": 5})
    assert (run.state, run.reason, run.step, run.due) == ("suspended", "invoke", "charge", None)
    assert done == []
    run.resume()
    assert (run.value, run.executed, done) == ({"charged": 5}, ["charge"], [1, "noted"])
    (child,) = run.children
    assert (child.kind, child.state.value, child.retries) == ("invoke", "succeeded", 0)


def test_an_invoked_task_has_its_own_retries(fanout: FanoutTester) -> None:
    run = fanout.run(check_out, {"total": 5, "fails": 2}, clock=Clock(0.0)).resume()
    assert (run.value, run.clock.now, run.retries) == ({"charged": 5}, 60.0, 0)
    assert (done, run.children[0].retries) == ([1, 2, 3, "noted"], 2)


def test_an_invoked_task_that_fails_fails_its_step(fanout: FanoutTester) -> None:
    run = fanout.run(check_out, {"total": 5, "fails": 9}).resume()
    assert run.value == "no: ConnectionError: the bank is down"
    assert (run.state, run.children[0].state.value) == ("succeeded", "failed")


@pytest.mark.parametrize(
    ("outcome", "value"),
    [
        ({"charged": (1, 2)}, {"charged": [1, 2]}),  # as it is read back
        (None, None),
        (ValueError("no such card"), "no: ValueError: no such card"),
    ],
)
@pytest.mark.parametrize("name", [charge, "charge"])
def test_a_test_may_say_what_an_invoked_task_does(
    fanout: FanoutTester, outcome: Any, value: Any, name: Any
) -> None:
    run = fanout.run(check_out, {"total": 5}, invoked={name: outcome}).resume()
    assert (run.value, done) == (value, [])


# --- parallel items ------------------------------------------------------------------------------


@on_event("pages/scanned")
@task(name="read_pages", autoretry_for=(ConnectionError,), max_retries=2, default_retry_delay=5)
def read_pages(pages: Any) -> Any:
    language = step.run("language", lambda: done.append("language") or "en")

    def read(page: Any) -> str:
        run = current_run()
        assert run is not None
        done.append(f"{page['n']} try {run.attempt}")
        if page.get("nested"):
            step.run("inner", lambda: None)
        if run.attempt <= page.get("fails", 0):
            raise ConnectionError(f"page {page['n']} is stuck")
        if page.get("blank"):
            raise NonRetriable(ValueError("blank"))
        return f"{language}{page['n']}"

    return step.parallel("read", [(read, page) for page in pages])


def test_parallel_items_are_runs_of_their_own(fanout: FanoutTester) -> None:
    run = fanout.run(read_pages, [{"n": 1}, {"n": 2, "fails": 2}, {"n": 3}], clock=Clock(0.0))
    assert (run.state, run.reason, run.step, run.due) == ("suspended", "parallel", "read", None)
    assert done == ["language"]
    run.resume()
    assert run.value == ["en1", "en2", "en3"]
    assert done == ["language", "1 try 1", "2 try 1", "3 try 1", "2 try 2", "2 try 3"]
    assert (run.executed, run.attempts, run.retries) == (["language", "read"], 2, 0)
    assert [child.retries for child in run.children] == [0, 2, 0]
    assert run.clock.now == 10.0


def test_a_parallel_item_that_fails(fanout: FanoutTester) -> None:
    run = fanout.run(read_pages, [{"n": 1}, {"n": 2, "blank": True}]).finish()
    assert run.state == "failed"
    assert str(run.error) == "The step 'read' failed after 1 attempt: ValueError: blank"
    assert [child.state.value for child in run.children] == ["succeeded", "failed"]


def test_a_step_in_a_parallel_item_is_refused(fanout: FanoutTester) -> None:
    run = fanout.run(read_pages, [{"n": 1, "nested": True}]).finish()
    assert run.state == "failed"
    assert str(run.error) == (
        f"The step 'read' failed after 1 attempt: RunFailed: {NestedStep('inner', 'read')}"
    )


def test_always_replay_with_parallel_items(fanout: FanoutTester) -> None:
    run = fanout.run(read_pages, [{"n": 1}, {"n": 2}], always_replay=True).finish()
    assert (run.value, run.executed) == (["en1", "en2"], ["language", "read"])
    assert done == ["language", "1 try 1", "2 try 1"]


@on_event("poison/taken")
@task(name="take_poison")
def take_poison(data: Any) -> Any:
    for number in range(3):
        step.run(f"sip {number}", lambda: None)


def test_a_run_that_kills_its_worker_three_times_is_a_dead_letter(fanout: FanoutTester) -> None:
    run = fanout.run(take_poison, {}, crash_after="sip 0")
    assert run.resume(crash_after="sip 1").state == "crashed"
    assert run.resume(crash_after="sip 2").state == "failed"
    assert (run.finished, run.reason) == (True, "crashed")
    assert str(run.error) == (
        "WorkerCrashed: The worker died 3 times while it executed this run. SimulatedCrash: sip 2"
    )


# --- all that follows from an event --------------------------------------------------------------


@task(name="archive")
def archive(value: Any) -> Any:
    event = current_event()
    assert event is not None
    done.append(("archive", value, event.data["id"]))
    return "archived"


@task(name="report")
def report(failure: Any) -> None:
    done.append(("report", failure["task"], failure["error"]["message"]))


@task(name="summarise")
def summarise(outcomes: Any) -> None:
    done.append(("summarise", sorted((o["state"], o["value"], o["error"]) for o in outcomes)))


@on_event("file/uploaded", then=archive, on_failure=report)
@task(name="index", autoretry_for=(ConnectionError,), max_retries=1, default_retry_delay=60)
def index(file: Any) -> Any:
    done.append("index")
    step.run("parse", done.append, "parse")
    if file.get("bad") and "mended" not in done:
        raise ConnectionError("no index")
    step.emit("tell", "file/indexed", {"id": file["id"]})
    return "indexed"


@on_event("file/uploaded", filter=lambda event: event.data.get("scan"))
@task(name="scan")
def scan(file: Any) -> str:
    done.append("scan")
    return "clean"


@on_event("file/indexed")
@task(name="notify")
def notify(file: Any) -> None:
    done.append(("notify", file["id"]))


def test_everything_follows(fanout: FanoutTester) -> None:
    with fanout.simulate() as world:
        emission = emit("file/uploaded", {"id": 1, "scan": True}, then=summarise, app=app)
        assert done == []
        assert world.work() == 5
        outcomes = emission.get(timeout=0)
    assert [(o.run.subscription.task.name, o.value) for o in outcomes] == [
        ("index", "archived"),
        ("scan", "clean"),
    ]
    assert done == [
        "index",
        "parse",
        "scan",
        ("notify", 1),
        ("archive", "indexed", 1),
        ("summarise", [("succeeded", "archived", None), ("succeeded", "clean", None)]),
    ]
    assert [event.name for event in world.events] == ["file/uploaded", "file/indexed"]
    world.events.assert_emitted("file/indexed", {"id": 1}, times=1)
    assert world.runs.counts()["succeeded"] == 5


def test_a_dead_letter_is_told_of_and_retried(fanout: FanoutTester) -> None:
    with fanout.simulate() as world:
        emission = emit("file/uploaded", {"id": 1, "bad": True}, then=summarise, app=app)
        world.work()
        (waiting,) = world.runs.list(state="retrying")
        assert waiting.due == world.clock.now + 60
        assert world.advance(59) == 0
        assert world.advance(1) == 3  # the run, its on_failure and the fan-in
        (letter,) = world.runs.list(state="failed")
        assert letter.id == emission.runs[0].id
        error = "ConnectionError: no index"
        assert done[2:] == [
            "index",
            ("summarise", [("failed", None, error)]),
            ("report", "index", "no index"),
        ]
        with pytest.raises(RunFailed, match=error):
            emission.runs[0].get(timeout=0)

        done[:] = ["mended"]
        world.runs.retry(letter.id)
        world.work()
        assert world.runs.outcomes([letter.id])[0].result == '"archived"'
        # its step was done, and the fan-in is called once
        assert done == ["mended", "index", ("notify", 1), ("archive", "indexed", 1)]
        with pytest.raises(WrongState):
            world.runs.retry(letter.id)

        done.clear()
        again = world.runs.rerun(letter.id, "parse")
        world.finish()
        assert done[:2] == ["index", "parse"]
        assert world.runs.get(again).generation == 1


def test_time_moves_from_timer_to_timer(fanout: FanoutTester) -> None:
    with fanout.simulate(clock=Clock(0.0)) as world:
        late = emit("order/placed", {"id": 1}, delay=100, app=app)
        emit("order/placed", {"id": 2}, app=app)
        world.work()
        assert [(run.state.value, run.due) for run in world.runs.list()] == [
            ("pending", 100.0),
            ("suspended", 3600.0),
        ]
        emit("order/paid", {"id": 2, "amount": 3}, app=app)
        world.finish()
        assert late.runs[0].get(timeout=0) == "too late"
        assert world.clock.now == 3700.0
        assert world.runs.list(state="suspended") == []


def test_what_expired_or_was_cancelled_does_not_start(fanout: FanoutTester) -> None:
    with fanout.simulate() as world:
        world.runs.pause("await_payment@order/placed")
        emit("order/placed", {"id": 1}, app=app)
        assert world.work() == 0
        emit("order/withdrawn", {"id": 1}, app=app)
        world.runs.resume("await_payment@order/placed")
        world.finish()
        (run,) = world.runs.list()
        assert (run.state.value, run.reason) == ("cancelled", "cancel_on order/withdrawn")
    assert done == []


@on_event("loop/round")
@task(name="go_round")
def go_round(data: Any) -> None:
    step.emit("again", "loop/round", {})


def test_a_loop_of_events_is_found(fanout: FanoutTester) -> None:
    with fanout.simulate() as world:
        emit("loop/round", {}, app=app)
        with pytest.raises(AssertionError) as caught:
            world.work(limit=50)
    assert str(caught.value) == (
        "50 attempts were executed and there is still more: does an event cause itself? The next "
        "is go_round."
    )


@on_event("reminder/asked")
@task(name="remind")
def remind(data: Any) -> None:
    step.sleep("long", 40 * 86_400)


def test_what_does_not_end_in_time_is_said(fanout: FanoutTester) -> None:
    with fanout.simulate() as world:
        emit("reminder/asked", {}, app=app)
        with pytest.raises(AssertionError) as caught:
            world.finish()
        assert world.finish(within=50 * 86_400) == 1
    assert str(caught.value) == (
        "Not all has ended after 2,592,000 s. remind@reminder/asked is suspended."
    )


def test_invoked_tasks_in_a_simulation(fanout: FanoutTester) -> None:
    with fanout.simulate(invoked={charge: {"charged": 1}}) as world:
        emission = emit("cart/checked-out", {"total": 5}, app=app)
        world.work()
        assert emission.runs[0].get(timeout=0) == {"charged": 1}


def test_the_apps_own_ledger_is_back_after_the_block(fanout: FanoutTester) -> None:
    plain = Celery("plain", broker="memory://", set_as_current=False)
    parts = get_fanout(plain)
    with FanoutTester(plain).simulate() as world:
        assert parts.runs is world.runs
        with FanoutTester(plain).capture() as events:
            emit("a/b", {}, app=plain)
        assert (events.named("a/b")[0].name, world.events) == ("a/b", [])
        emit("a/c", {}, app=plain)
        assert world.runs.event(world.events[0].id).name == "a/c"
    with pytest.raises(StoreUnsupported):
        parts.runs  # noqa: B018
    with FanoutTester(plain).capture() as events, FanoutTester(plain).simulate() as world:
        emit("a/d", {}, app=plain)
        assert (len(events), len(world.events)) == (0, 1)


def test_a_simulation_in_an_eager_app(fanout: FanoutTester) -> None:
    """Eager tests are common; nothing of a simulation goes that way."""
    app.conf.task_always_eager = True
    try:
        with fanout.simulate() as world:
            emit("file/uploaded", {"id": 1}, app=app)
            assert done == []
            world.work()
        assert ("archive", "indexed", 1) in done
        assert fanout.run(check_out, {"total": 5}).resume().value == {"charged": 5}
    finally:
        app.conf.task_always_eager = False
    gc.collect()


def test_a_stand_in_for_no_task(fanout: FanoutTester) -> None:
    """With a typo the task itself would be called: the customer's card, perhaps."""
    for call in (
        lambda: fanout.run(check_out, {"total": 5}, invoked={charge.name[:-1]: 1}),
        lambda: fanout.simulate(invoked={charge.name[:-1]: 1}).__enter__(),
    ):
        with pytest.raises(LookupError) as caught:
            call()
        assert str(caught.value) == (
            f"invoked= names {charge.name[:-1]!r}, which is no task of the app. "
            f"Did you mean {charge.name!r}?"
        )


def test_a_run_of_what_is_no_task(fanout: FanoutTester) -> None:
    with pytest.raises(TypeError) as caught:
        fanout.run(len, {})
    assert str(caught.value) == (
        "<built-in function len> is no Celery task. Put @app.task or @shared_task above it."
    )
