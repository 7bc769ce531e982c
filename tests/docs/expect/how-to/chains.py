# ruff: noqa: F821 - the names are those of the page
import proj.tasks

from celery_fanout import emit
from celery_fanout.testing import run

# a tail really runs: every subscriber in place, and the links after it
app.conf.task_always_eager = True
emission = emit("document/uploaded", {"id": "d-1"})
app.conf.task_always_eager = False
(handle,) = emission.runs
assert handle.subscription.task.name == proj.tasks.summarize.name
(outcome,) = emission.get(0)
assert outcome.value == "team@example.com"

found = run(read_invoice, {"id": "d-1"})
event = found.events.assert_emitted("invoice/read", {"id": "d-1"})
assert event.causationid == found.id
assert event.correlationid == found.event.id
