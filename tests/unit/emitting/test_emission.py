"""What ``emit()`` returns: handles and outcomes, with results that a backend really stores."""

import uuid

import pytest
from celery import Celery
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import AsyncResult, EagerResult

from celery_fanout import Emission, Event, Outcome, RunHandle, Subscription
from celery_fanout.exceptions import EmissionTimeout, FanoutError

EVENT = Event("order/paid", id="e-1")


@pytest.fixture
def app():
    return Celery("shop", backend="cache+memory://", set_as_current=False)


def subscriber(app, name, *tail, options=None, **task_options):
    @app.task(name=name, shared=False, lazy=False, **task_options)
    def task(data): ...

    return Subscription(
        f"{name}@order/paid", "order/paid", task, None, tail, None, options or {}, "shop.py:3", 0
    )


@pytest.fixture
def run(app):
    def make(name, *tail, eager=None, **options):
        ids = [str(uuid.uuid4()) for _ in range(1 + len(tail))]
        subscription = subscriber(app, name, *tail, **options)
        return RunHandle(app, ids[0], ids[-1], subscription, eager=eager)

    return make


def store(app, run, value, state="SUCCESS"):
    app.backend.store_result(run.result.id, value, state)


def test_outcomes_come_in_the_order_of_the_runs(app, run):
    first, second = run("first"), run("second")
    store(app, second, 2)
    store(app, first, [1])
    assert Emission(EVENT, [first, second]).get(timeout=5) == [
        Outcome(first, value=[1]),
        Outcome(second, value=2),
    ]


def test_an_error_is_an_outcome(app, run):
    failed, fine = run("failed"), run("fine")
    store(app, failed, ValueError("no"), "FAILURE")
    store(app, fine, None)
    bad, good = Emission(EVENT, [failed, fine]).get(timeout=5)
    assert (repr(bad.error), bad.value, bad.ok, bad.ignored) == (
        "ValueError('no')",
        None,
        False,
        False,
    )
    assert (good.error, good.value, good.ok, good.ignored) == (None, None, True, False)


def test_no_runs_no_outcomes():
    assert Emission(EVENT, []).get() == []


def test_the_result_is_that_of_the_last_link(app, run):
    found = run("first", {"task": "second"}, {"task": "last"})
    assert isinstance(found.result, AsyncResult)
    assert found.result.id != found.id
    store(app, found, "end")
    assert Emission(EVENT, [found]).get(timeout=5) == [Outcome(found, value="end")]


def test_who_is_late_is_named(app, run):
    runs = [run("fine"), run("late"), run("later")]
    store(app, runs[0], 1)
    with pytest.raises(EmissionTimeout) as caught:
        Emission(EVENT, runs).get(timeout=0.01)
    assert str(caught.value) == (
        "The event 'order/paid' (e-1) had no outcome after 0.01 s from: late@order/paid, "
        "later@order/paid. Wait longer, or look whether a worker serves their queues."
    )
    assert isinstance(caught.value, CeleryTimeoutError)
    assert isinstance(caught.value, FanoutError)


@pytest.mark.parametrize(
    ("task", "options", "ignored"),
    [
        ({}, {}, False),
        ({"ignore_result": True}, {}, True),
        ({}, {"ignore_result": True}, True),
        ({"ignore_result": True}, {"ignore_result": False}, False),
    ],
)
def test_whether_a_result_is_stored(run, task, options, ignored):
    found = run("quiet", options=options, **task)
    assert found.ignored is ignored
    if ignored:
        [outcome] = Emission(EVENT, [found]).get(timeout=5)
        assert outcome == Outcome(found, ignored=True)
        assert not outcome.ok


def test_whether_the_last_links_result_is_stored(app, run):
    subscriber(app, "quiet", ignore_result=True)
    assert run("first", {"task": "quiet"}).ignored
    assert not run("second", {"task": "only elsewhere"}).ignored


def test_an_eager_result_is_at_hand(run):
    fine = run("fine", eager=EagerResult("fine-id", 7, "SUCCESS"), ignore_result=True)
    bad = run("bad", eager=EagerResult("bad-id", ValueError("no"), "FAILURE"))
    assert isinstance(fine.result, EagerResult)
    good, failed = Emission(EVENT, [fine, bad]).get()
    assert (good.value, good.ok) == (7, True)
    assert (repr(failed.error), failed.ok) == ("ValueError('no')", False)


def test_how_a_handle_looks(run):
    found = run("first")
    assert repr(found) == (
        f"RunHandle(id={found.id!r}, subscription=<Subscription first@order/paid>)"
    )
