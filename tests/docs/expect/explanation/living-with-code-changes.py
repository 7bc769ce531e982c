# ruff: noqa: F821 - the names are those of the page
"""The table of steps."""

import datetime as dt
import warnings

from celery.contrib.testing.worker import start_worker

from celery_fanout import Event, current_run, emit, exceptions, explain, get_fanout, step
from celery_fanout.emitting.chains import chain_for
from celery_fanout.stores.states import RunState
from celery_fanout.subscribing.on_event import declared
from celery_fanout.testing import run
from tests.processes import wait_until

state = {}

seen = []


def note(value):
    seen.append(value)
    return value


@on_event("code/changed")
@app.task
def subscriber(data):
    return state["body"]()


def upgraded(before, after):
    """Run the old body up to its step "b", go on with the new one; return what was called."""
    seen.clear()
    state["body"] = before
    found = run(subscriber, crash_after="b")
    assert found.state == "crashed"
    state["body"] = after
    found.resume()
    assert found.state == "succeeded", found.error
    return list(seen), found.value


def old():
    step.run("a", note, "a")
    step.run("b", note, "b")
    return step.run("c", note, "c")


def inserted():
    step.run("a", note, "a")
    step.run("new", note, "new")
    step.run("b", note, "b")
    return step.run("c", note, "c")


def removed():
    step.run("b", note, "b")
    return step.run("c", note, "c")


def moved():
    step.run("c", note, "c")
    step.run("b", note, "b")
    return step.run("a", note, "a")


def renamed():
    step.run("first", note, "a")
    step.run("b", note, "b")
    return step.run("c", note, "c")


def other_function():
    return step.run("a", note, "other") + step.run("b", str.upper, "other")


assert upgraded(old, inserted) == (["a", "b", "new", "c"], "c")
assert upgraded(old, removed) == (["a", "b", "c"], "c")
assert upgraded(old, moved) == (["a", "b", "c"], "a")
assert upgraded(old, renamed) == (["a", "b", "a", "c"], "c")
assert upgraded(old, other_function) == (["a", "b"], "ab")


def loop(*items):
    def body():
        values = [step.run("item", note, item) for item in items]
        step.run("b", note, "b")
        return values

    return body


assert upgraded(loop("x", "y", "z"), loop("x", "z"))[1] == ["x", "y"]


# Types
def date() -> dt.date:
    raise AssertionError


def dated():
    return step.run("b", date)


with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert upgraded(old, dated)[1] == "b"
assert caught[0].category is exceptions.StepValueWarning

# Tasks and subscriptions
assert index({"id": "d-1"}) == "d-1 is indexed"
assert [found.matches for found in explain("document/replaced")] == [False] * len(
    explain("document/replaced")
)


# "A worker finishes runs of a subscription that is gone"
(subscription,) = [
    found for found in get_fanout(app).registry if found.task.name == subscriber.name
]
event = Event("code/changed", {})
chain = chain_for(event, event.headers(), subscription, "")


def once():
    return step.run("once", note, "called")


@app.task
def forgotten(data):
    return once()


state["body"] = once
get_fanout(app).prepare_worker()  # what a worker does when it starts
for task, times in ((forgotten, 1), (subscriber, 0)):  # one run id, one checkpoint
    seen.clear()
    for _ in range(2):
        task.apply(args=chain.args, task_id=chain.run_id, headers=dict(chain.headers))
    assert len(seen) == times, (task, seen)


# "When the order has changed", and a subscription that is gone: on level 2
@on_event("order/changed")
@app.task(bind=True, default_retry_delay=0)
def reordered(self, data):
    if current_run().attempt == 1:
        step.run("a", str, "a")
        step.sleep("a while", 0.1)
        step.run("b", str, "b")
        raise self.retry()
    return [step.run("b", str, "b"), step.run("a", str, "a")]


@on_event("subscription/dropped")
@app.task
def dropped(data):
    step.sleep("a while", 1)
    return "slept"


ledger = get_fanout(app).ledger
with start_worker(app, perform_ping_check=False):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (outcome,) = emit("order/changed").get(30)
    assert outcome.value == ["b", "a"]
    (text,) = [str(w.message) for w in caught if w.category is exceptions.StepOrderWarning]
    assert "calls the step 'a' after 'b'" in text

    (handle,) = emit("subscription/dropped").runs
    wait_until(lambda: ledger.run(handle.id).state is RunState.SUSPENDED)
    (declaration,) = [found for found in declared.all if found.pattern == "subscription/dropped"]
    declared.all.remove(declaration)
    declared.version += 1
    get_fanout(app).registry.refresh()
    wait_until(lambda: ledger.run(handle.id).due - ledger.time() > 2, 20)  # put back
    assert ledger.run(handle.id).state is RunState.PENDING
    dropped = on_event("subscription/dropped")(dropped)  # another process has it
    wait_until(lambda: ledger.run(handle.id).state is RunState.SUCCEEDED, 30)
