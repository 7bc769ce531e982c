"""The testing module and the pytest fixture, used as a user uses them."""

import inspect
import random
from contextlib import suppress

import pytest
from celery import Celery
from pydantic import BaseModel

from celery_fanout import (
    NonRetriable,
    RetryAfter,
    StepFailed,
    current_run,
    emit,
    event_type,
    on_event,
    step,
)
from celery_fanout.exceptions import InvalidEvent, SwallowedSuspensionWarning
from celery_fanout.testing import Clock, FanoutTester, NonDeterministicBody, capture, run

app = Celery("tests-of-testing", broker="memory://", set_as_current=False)
task = lambda **options: app.task(shared=False, **options)  # noqa: E731


@on_event("order/paid")
@task(name="ship", autoretry_for=(ConnectionError,), max_retries=2, default_retry_delay=7)
def ship(order):
    label = step.run("label", lambda: f"label {order['id']}")
    step.sleep("pack", 3600)
    step.emit("tell", "order/shipped", {"id": order["id"]})
    if current_run().attempt <= order.get("failures", 0):
        raise ConnectionError("carrier is down")
    return label


@pytest.fixture
def tester():
    return FanoutTester(app)


def test_the_fixture_is_there(fanout):
    assert isinstance(fanout, FanoutTester)
    assert fanout.app is None


def test_capture_records_and_publishes_nothing(tester):
    with tester.capture() as events:
        emission = emit("order/paid", {"id": 1, "lines": [1, 2]}, app=app)

    assert [run.subscription.id for run in emission.runs] == ["ship@order/paid"]
    event = events.assert_emitted("order/paid", {"id": 1})
    assert event.data == {"id": 1, "lines": [1, 2]}
    events.assert_emitted("order/paid", {"lines": [1, 2]}, times=1)
    events.assert_not_emitted("order/shipped")
    events.assert_not_emitted("order/paid", {"id": 2})
    assert events.named("order/paid") == [event]


def test_capture_validates_as_always():
    with capture(app) as events, pytest.raises(InvalidEvent):
        emit("bad name", {}, app=app)
    assert events == []


def test_capture_nests():
    with capture(app) as outer:
        emit("order/paid", {"id": 1}, app=app)
        with capture(app) as inner:
            emit("order/paid", {"id": 2}, app=app)
        emit("order/paid", {"id": 3}, app=app)
    assert [event.data["id"] for event in outer] == [1, 3]
    assert [event.data["id"] for event in inner] == [2]


@pytest.mark.parametrize(
    ("name", "data", "times", "message"),
    [
        ("a/b", ..., None, "a/b was not emitted. Emitted: order/paid {'id': 1}."),
        (
            "order/paid",
            {"id": 2},
            None,
            "order/paid with {'id': 2} was not emitted. Emitted: order/paid {'id': 1}.",
        ),
        (
            "order/paid",
            ...,
            2,
            "order/paid was emitted 1 times, not 2. Emitted: order/paid {'id': 1}.",
        ),
    ],
)
def test_a_failed_assertion_says_what_was_emitted(name, data, times, message):
    with capture(app) as events:
        emit("order/paid", {"id": 1}, app=app)
    with pytest.raises(AssertionError) as error:
        events.assert_emitted(name, data, times=times)
    assert str(error.value) == message


def test_a_run_from_start_to_end(tester):
    clock = Clock(1_000_000.0)

    found = tester.run(ship, {"id": 1}, clock=clock)
    assert (found.state, found.executed, found.due) == ("suspended", ["label"], 1_003_600.0)
    assert not found.finished

    found.resume()
    assert (found.state, found.value) == ("succeeded", "label 1")
    assert (clock.now, found.attempts, found.retries) == (1_003_600.0, 2, 0)
    assert found.executed == ["label", "pack", "tell"]
    shipped = found.events.assert_emitted("order/shipped", {"id": 1}, times=1)
    assert shipped.causationid == found.id


def test_a_crash_repeats_only_what_was_not_stored(tester):
    found = tester.run(ship, {"id": 1}, crash_after="label")
    assert (found.state, found.executed) == ("crashed", ["label"])
    found.resume(crash_after="tell")
    assert found.state == "suspended"
    found.resume(crash_after="tell")
    assert found.state == "crashed"
    found.finish()
    assert found.executed == ["label", "pack", "tell"]
    assert (found.state, found.retries, found.attempts) == ("succeeded", 0, 4)


def test_retries_take_the_delay_of_the_task(tester):
    clock = Clock(0.0)
    found = tester.run(ship, {"id": 1, "failures": 1}, clock=clock).resume()
    assert (found.state, found.due, found.retries) == ("retrying", 3607.0, 1)
    assert str(found.error) == "carrier is down"
    assert found.finish().value == "label 1"
    assert found.executed == ["label", "pack", "tell"]


def test_a_run_that_fails(tester):
    found = tester.run(ship, {"id": 1, "failures": 9}).finish()
    assert (found.state, str(found.error), found.retries) == ("failed", "carrier is down", 2)
    with pytest.raises(AssertionError, match=r"\AThe run has failed; nothing is left to resume."):
        found.resume()


def test_always_replay_accepts_a_deterministic_body(tester):
    found = tester.run(ship, {"id": 1, "failures": 1}, always_replay=True).finish()
    assert (found.state, found.executed) == ("succeeded", ["label", "pack", "tell"])


@on_event("dice/rolled")
@task(name="gamble", autoretry_for=(Exception,))
def gamble(data):
    rolls = random.Random(data["seed"] if step.run("fair", bool, data["fair"]) else None)
    for _ in range(20):
        step.run(f"choice {rolls.random()}", lambda: None)


@on_event("dice/stopped")
@task(name="stop_early")
def stop_early(data, seen=[]):  # noqa: B006 - this is what must be found
    step.run("first", lambda: None)
    if not seen:
        seen.append(1)
        step.run("second", lambda: None)


def test_always_replay_finds_other_steps(tester):
    assert tester.run(gamble, {"seed": 5, "fair": True}, always_replay=True).finish().error is None
    with pytest.raises(NonDeterministicBody) as error:
        tester.run(gamble, {"seed": 5, "fair": False}, always_replay=True)
    assert error.value.number == 2
    assert str(error.value) == (
        f"gamble called {error.value.before} as its step 2, and {error.value.now} when it was "
        "replayed. What decides which steps are called must itself come from the event or from a "
        "step: put random numbers, the time and what is read elsewhere into step.run()."
    )


def test_always_replay_finds_missing_steps(tester):
    with pytest.raises(NonDeterministicBody) as error:
        tester.run(stop_early, {}, always_replay=True)
    assert (error.value.number, error.value.now) == (2, "no step")


@task(name="unsubscribed")
def unsubscribed(data): ...


@on_event("pay/*")
@task(name="pay", max_retries=1)
def pay(data):
    try:
        step.options(max_retries=2, retry_backoff=10, retry_jitter=False).run("charge", charge)
    except StepFailed as failed:
        return f"compensated: {failed.error_type} after {failed.attempts}"
    return "paid"


def charge():
    raise ConnectionError("bank is down")


def test_step_retries_on_a_moved_clock(tester):
    clock = Clock(0.0)
    found = tester.run(pay, {}, event="pay/now", clock=clock)
    assert (found.state, found.due) == ("suspended", 10.0)
    found.resume()
    assert (found.state, found.due) == ("suspended", 30.0)
    found.resume()
    assert found.value == "compensated: ConnectionError after 3"
    assert found.retries == 0


@on_event("steer/*")
@task(name="steer", max_retries=1, autoretry_for=(Exception,))
def steer(data):
    if data == "later":
        raise RetryAfter(120, ValueError("busy"))
    raise NonRetriable(ValueError("never"))


def test_retry_after_spends_a_retry(tester):
    clock = Clock(0.0)
    found = tester.run(steer, "later", event="steer/x", clock=clock)
    assert (found.state, found.due) == ("retrying", 120.0)
    found.resume()
    assert (found.state, str(found.error)) == ("failed", "busy")


def test_non_retriable_fails_at_once(tester):
    found = tester.run(steer, "never", event="steer/x")
    assert (found.state, repr(found.error)) == ("failed", "ValueError('never')")


@on_event("swallow/it")
@task(name="swallow")
def swallow(data):
    with suppress(Exception):  # this is what must be found
        step.sleep("nap", 5)
    return "awake"


def test_a_swallowed_suspension_is_raised_again(tester):
    with pytest.warns(SwallowedSuspensionWarning) as caught:
        found = tester.run(swallow, {})
    assert found.state == "suspended"
    line = inspect.unwrap(swallow.run).__code__.co_firstlineno + 4
    assert str(caught[0].message) == (
        f"swallow caught the suspension raised at {__file__}:{line} and returned; it is raised "
        "again. Let celery.exceptions.Ignore pass: put `except Ignore: raise` before "
        "`except Exception`."
    )
    assert found.finish().value == "awake"


@on_event("swallow/twice")
@task(name="swallow-twice")
def swallow_twice(data):
    with suppress(Exception):
        step.sleep("nap", 5)
    with suppress(Exception):
        step.run("raises it again", int)
    step.run("as does this", int)


def test_the_warning_names_the_line_that_swallowed(tester):
    with pytest.warns(SwallowedSuspensionWarning) as caught:
        tester.run(swallow_twice, {})
    first = inspect.unwrap(swallow_twice.run).__code__.co_firstlineno + 4
    assert [
        (warning.lineno - first, str(warning.message).partition(" raised at ")[2].split()[0])
        for warning in caught
    ] == [(2, f"{__file__}:{first}"), (3, f"{__file__}:{first + 2}")]


def test_typed_events_need_no_name(tester):
    @event_type("typed/testing")
    class Typed(BaseModel):
        n: int

    @on_event(Typed)
    @task(name="typed", pydantic=True)
    def typed(data: Typed):
        return data.n

    assert tester.run(typed, {"n": "3"}).value == 3
    with pytest.raises(InvalidEvent):
        tester.run(typed, {"n": "x"})


@pytest.mark.parametrize(
    ("subscriber", "options", "message"),
    [
        (pay, {}, "pay subscribes to 'pay/*'. Say which with event=."),
        (pay, {"event": "a/b"}, "pay does not subscribe to 'a/b', but to 'pay/*'."),
        (unsubscribed, {}, "unsubscribed has no subscription. Put @on_event above the task."),
    ],
)
def test_which_subscription_must_be_clear(tester, subscriber, options, message):
    with pytest.raises(LookupError) as error:
        tester.run(subscriber, {}, **options)
    assert str(error.value) == message


def test_run_uses_the_tasks_own_app():
    assert run(ship, {"id": 5}).finish().value == "label 5"


def test_a_crash_that_never_comes_is_a_mistake(tester):
    found = tester.run(ship, {"id": 1}, crash_after="lable")
    with pytest.raises(AssertionError) as error:
        found.finish()
    assert str(error.value) == (
        "The run has succeeded and never completed the step 'lable' to crash after. It completed: "
        "label, pack, tell."
    )


def test_captured_runs_cannot_be_waited_for():
    with capture(app):
        [outcome] = emit("order/paid", {"id": 1}, app=app).get()
    assert (outcome.ignored, outcome.ok) == (True, False)


def test_options_outside_of_a_run_try_again_at_once():
    calls = []

    def flaky():
        calls.append(1)
        if len(calls) < 3:
            raise ConnectionError("down")
        return "up"

    assert step.options(max_retries=2, retry_backoff=3600).run("get", flaky) == "up"
    calls.clear()
    with pytest.raises(StepFailed) as error:
        step.options(max_retries=1).run("get", flaky)
    assert str(error.value) == "The step 'get' failed after 2 attempts: ConnectionError: down"

    def never():
        raise NonRetriable("closed")

    with pytest.raises(StepFailed) as error:
        step.options(max_retries=1).run("get", never)
    assert str(error.value) == "The step 'get' failed after 1 attempt: NonRetriable: closed"


@on_event("wrong/*")
@task(name="wrong_steps", autoretry_for=(Exception,), max_retries=3)
def wrong_steps(data):
    async def coroutine(): ...

    def generator():
        yield 1

    functions = {"coroutine": coroutine, "generator": generator, "number": 5}
    if data == "sleep":
        step.sleep("s", float("inf"))
    if data == "soon":
        step.sleep("s", "soon")
    if data == "noon":
        step.sleep_until("s", "noon")
    if data == "never":
        step.wait_for_event("s", "order/paid", timeout=None)
    step.run("s", functions[data])


WORK = "Pass a function that does the work: lambda: asyncio.run(...), or lambda: list(...)."


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("coroutine", f"was given {{}}.coroutine, and calling it only makes a coroutine. {WORK}"),
        ("generator", f"was given {{}}.generator, and calling it only makes a generator. {WORK}"),
        ("number", "was given 5, which cannot be called. Pass a function."),
        ("sleep", "sleeps until inf, which is no time. Use a finite number of seconds."),
        ("soon", "has the duration 'soon'. Use seconds or a timedelta."),
        ("noon", "has the time 'noon'. Use a datetime with a time zone, or a POSIX timestamp."),
        ("never", "has the timeout None. Use seconds or a timedelta."),
    ],
)
def test_a_misused_step_ends_the_run_without_a_retry(tester, data, message):
    found = tester.run(wrong_steps, data, event="wrong/x")
    said = f"The step 's' {message.format('wrong_steps.<locals>')}"
    assert (found.state, str(found.error), found.retries) == ("failed", said, 0)


def test_a_run_says_what_it_is():
    assert repr(run(ship, {"id": 1})) == "<TestRun of ship, suspended in step 'pack'>"
