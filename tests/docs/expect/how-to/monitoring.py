# ruff: noqa: F821 - the names are those of the page
import pathlib
import re

import proj.tracing
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import celery_fanout.app.logs
from celery_fanout import emit

# Logging: the table has every action that the code knows
source = pathlib.Path(celery_fanout.app.logs.__file__).read_text()
assert set(re.findall(r'"action": "(\w+)"', source)) == {
    "event_emitted",
    "event_without_subscriber",
    "run_suspended",
    "step_completed",
    "step_failed",
    "run_failed",
}

# Signals
app.conf.task_always_eager = True
emit("document/uploaded", {"id": "d-1"})
emit("nobody/listens")
app.conf.task_always_eager = False
assert COUNTS["tasks.index@document/uploaded", "succeeded"] == 1
assert COUNTS["document/uploaded", 1] == 1
assert COUNTS["nobody/listens", 0] == 1

# OpenTelemetry: one trace from emit() to the message
proj.tracing.start_tracing()
exporter = InMemorySpanExporter()
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
with trace.get_tracer("test").start_as_current_span("request"):
    emission = emit("document/uploaded", {"id": "d-2"})
with app.connection_for_read() as connection, connection.SimpleQueue("celery") as queue:
    message = queue.get(timeout=5)
spans = {span.name: span for span in exporter.get_finished_spans()}
trace_id = f"{spans['request'].context.trace_id:032x}"
assert trace_id in message.headers["traceparent"]
assert "'d-2'" not in message.headers["argsrepr"]  # an event id may have d-2 in it
assert emission.event.id in message.headers["argsrepr"]
