# ruff: noqa: F821 - the names are those of the page
from proj import calls, warehouse

from celery_fanout.testing import run

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
