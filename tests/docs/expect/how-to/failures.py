# ruff: noqa: F821 - the names are those of the page
from celery.contrib.testing.worker import start_worker
from proj import calls, warehouse

from celery_fanout import RunFailed, step
from celery_fanout.testing import run
from tests.processes import wait_until

ORDER = {"id": 17, "quantity": 1}

# Be told when a run has failed for good
seen = []
told = tell_support.run


@app.task
def look(failure):
    seen.append((failure, current_event()))
    return told(failure)


@on_event("parcel/lost", on_failure=look)
@app.task
def search(parcel):
    return warehouse.reserve(parcel)


app.conf.task_always_eager = True
emission_lost = emit("parcel/lost", ORDER)
app.conf.task_always_eager = False
((failure, event),) = seen
assert failure.keys() == {"run", "subscription", "task", "attempts", "event", "error"}
assert failure["error"].keys() == {"type", "message", "traceback"}
assert failure["event"]["type"] == "parcel/lost"
assert failure["run"] == emission_lost.runs[0].id
assert event == emission_lost.event
assert calls.taken()[-1] == (
    "mail support@example.com: tasks.search failed after 1 attempt(s): nothing is left"
)

# Compensate
found = run(fulfil, ORDER)
assert found.value == "refunded after 3 attempts: nothing is left"
assert calls.taken() == ["charge None", *["reserve 17"] * 3, "refund p-1"]
warehouse.stock = 1
assert run(fulfil, ORDER).value == "pick it up at shelf 12"

# Give up at once
found = run(check, {"id": 17})
assert found.state == "failed"
assert repr(found.error) == "ValueError('there is no quantity')"
found = run(check, {"id": 17, "quantity": 0})
assert found.state == "failed"
assert type(found.error).__name__ == "RunFailed"
assert "the quantity is less than 1" in str(found.error)

# Emit again after an error
assert place({"id": 18}).runs[0].id == place({"id": 18}).runs[0].id

# Dead letters, and subscribing to failures: on level 2
warehouse.stock = 0
ends = []


@on_event("fanout/run.failed")
@on_event("fanout/run.cancelled")
@app.task
def note_end(end):
    ends.append((current_event(), end))


@on_event("ball/thrown")
@app.task
def throw_back(ball):
    step.emit("back", "ball/thrown", ball)


@on_event("letter/ignored")
@app.task(ignore_result=True)
def ignore_result(letter):
    return "a value"


with start_worker(app, perform_ping_check=False):
    (lost,) = emit("parcel/lost", ORDER).get(30)
    assert isinstance(lost.error, RunFailed)
    assert lost.error.error_type == "OutOfStock"
    assert str(lost.error) == "OutOfStock: nothing is left"
    wait_until(lambda: len(seen) == 2 and lost.run.id in [event.causationid for event, _ in ends])
    failure, event = seen[1]
    assert failure.keys() == {"run", "subscription", "task", "attempts", "event", "error"}
    assert "in reserve" in failure["error"]["traceback"]
    assert event.name == "parcel/lost"
    ((event, end),) = [found for found in ends if found[0].causationid == lost.run.id]
    assert event.name == "fanout/run.failed"
    assert end.keys() == {*failure, "reason"}
    assert end["error"].keys() == {"type", "message"}
    assert count_failures.run(end) == "tasks.search@parcel/lost: OutOfStock (error)"
    (letter,) = [found for found in runs.list(state="failed") if found.id == lost.run.id]
    assert letter.reason == "error"
    assert runs.get(letter.id).detail["error"]["type"] == "OutOfStock"
    runs.retry(letter.id)
    wait_until(lambda: len(seen) == 3)  # told of again

    # Events that cause one another
    ends.clear()
    emit("ball/thrown", {})
    wait_until(lambda: any("fanout_max_depth is 50" in str(end) for _, end in ends), 60)

    (outcome,) = emit("letter/ignored").get(30)
    assert outcome.ok
    assert outcome.value is None
