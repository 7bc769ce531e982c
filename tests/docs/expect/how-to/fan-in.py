# ruff: noqa: F821 - the names are those of the page
"""What the page says of fan-ins, in a worker on level 2."""

from celery.contrib.testing.worker import start_worker

from celery_fanout import current_event, get_fanout
from celery_fanout.stores.states import RunState
from tests.processes import wait_until

runs = get_fanout(app).runs
seen = []


@app.task
def look(outcomes, *more):
    seen.append((outcomes, more, current_event()))


@app.task
def shorten(text):
    return text[:5]


@on_event("mixed/up", then=shorten)
@app.task
def with_tail(data):
    return "a long text"


@on_event("mixed/up")
@app.task
def broken(data):
    raise ValueError("broken")


def waiting(name, state):
    return [run for run in runs.list(state=state) if run.subscription.endswith(name)]


late = emit("document/uploaded", {"text": "late"}, expires=0.01)
with start_worker(app, perform_ping_check=False):
    assert [outcome.value for outcome in emission.get(30)] == [6, "TO BE OR NOT TO BE"]
    wait_until(lambda: any(run.kind == "fan-in" for run in runs.list(state="succeeded")))
    (fan_in,) = (run for run in runs.list(state="succeeded") if run.kind == "fan-in")
    assert runs.get(fan_in.id).detail["result"] == '"2 of 2 succeeded"'

    # a dict per run: its keys, states and values
    mixed = emit("mixed/up", then=look.s("weekly"))
    wait_until(lambda: seen)
    ((outcomes, more, event),) = seen
    assert more == ("weekly",)
    assert event.id == mixed.event.id
    assert [outcome["state"] for outcome in outcomes] == ["succeeded", "failed"]
    assert [outcome["value"] for outcome in outcomes] == ["a lon", None]
    assert [outcome["error"] for outcome in outcomes] == [None, "ValueError: broken"]
    assert outcomes[0].keys() == {"run", "subscription", "state", "value", "error"}

    # the same id again, and a retried dead letter: not called again
    emit("mixed/up", id=mixed.event.id, then=look)
    runs.retry(mixed.runs[1].id)
    wait_until(lambda: runs.get(mixed.runs[1].id).state is RunState.FAILED)
    emit("nobody/listens", then=look)
    wait_until(lambda: len(seen) > 1)
    assert seen[1][0] == []
    assert len(seen) == 2

    # Start later, or in time
    for found in late.get(30):
        assert str(found.error) == "The run was cancelled: expired"
    delayed = waiting("count_words@document/uploaded", "pending")
    assert any(run.due - run.created > 7.9 * 3600 for run in delayed)
    assert [found.value for found in second.get(30)] == [1, "ONCE"]
