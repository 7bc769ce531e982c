"""An app whose web process and worker are traced, for tests/integration/test_publishing_tracing.py.

``TRACED_BY`` says by what. Every span that ends is a line in the oracle's file. Run it to emit one
event within a span of its own, as a request handler would.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

from celery_fanout import emit, on_event, step
from tests.servers import Oracle

oracle = Oracle.from_environment()
app = Celery("traced", broker=os.environ["TRACED_BROKER"], backend=os.environ["TRACED_BACKEND"])


@on_event("order/paid")
@app.task(name="mail")
def mail(order: dict[str, Any]) -> None: ...


@app.task(name="bill")
def bill(parcel: str) -> None: ...


@on_event("order/paid", then=bill)
@app.task(name="ship")
def ship(order: dict[str, Any]) -> str:
    return "parcel"


@on_event("order/paid")
@app.task(name="remind")
def remind(order: dict[str, Any]) -> None:
    step.sleep("a while", 0.1)
    step.emit("tell", "order/reminded", order)


@on_event("order/reminded")
@app.task(name="note")
def note(order: dict[str, Any]) -> None: ...


@app.task(name="apologise")
def apologise(failure: dict[str, Any]) -> None: ...


@on_event("order/paid", on_failure=apologise)
@app.task(name="fail")
def fail(order: dict[str, Any]) -> None:
    raise ValueError("no")


def trace_with_sentry() -> Any:
    import sentry_sdk
    from sentry_sdk.integrations.celery import CeleryIntegration
    from sentry_sdk.transport import Transport

    class Keep(Transport):
        def capture_envelope(self, envelope: Any) -> None:
            transaction = envelope.get_transaction_event()
            if transaction is None:
                return
            context = transaction["contexts"]["trace"]
            for span in (context, *transaction["spans"]):
                oracle.write(
                    name=transaction["transaction"] if span is context else span["op"],
                    trace=context["trace_id"],
                    span=span["span_id"],
                    parent=span.get("parent_span_id"),
                )

    sentry_sdk.init(
        "https://key@localhost/1",
        traces_sample_rate=1.0,
        transport=Keep,
        integrations=[CeleryIntegration()],
    )
    return sentry_sdk.start_transaction(name="request")


def trace_with_opentelemetry() -> Any:
    from opentelemetry import trace
    from opentelemetry.instrumentation.celery import CeleryInstrumentor
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import (
        SimpleSpanProcessor,
        SpanExporter,
        SpanExportResult,
    )

    class Keep(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            for span in spans:
                self.keep(span)
            return SpanExportResult.SUCCESS

        def keep(self, span: ReadableSpan) -> None:
            assert span.context is not None
            oracle.write(
                name=span.name,
                trace=f"{span.context.trace_id:032x}",
                span=f"{span.context.span_id:016x}",
                parent=f"{span.parent.span_id:016x}" if span.parent else None,
            )

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Keep()))
    trace.set_tracer_provider(provider)
    CeleryInstrumentor().instrument()
    return trace.get_tracer("traced").start_as_current_span("request")


root = {"sentry": trace_with_sentry, "opentelemetry": trace_with_opentelemetry}[
    os.environ["TRACED_BY"]
]()

if __name__ == "__main__":
    with root:
        emit("order/paid", {"order": "o-1"}, app=app)
