"""Traces over the ledger: what OpenTelemetry and Sentry put into messages, kept with a run.

Both put the current trace into a message when it is published. A run that was suspended is
published again by a keeper, where no trace is current: so the ledger keeps the headers, and the
keeper goes on with their trace. Neither library is imported here.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator

#: Larger headers than this are left out, in characters.
MAX_SIZE = 4096


def current_trace() -> str:
    """Return the headers of the current trace as JSON; ``""`` if there is none."""
    carrier = _of_opentelemetry()
    sentry: Any = sys.modules.get("sentry_sdk")
    if sentry is not None and sentry.is_initialized():
        for name, value in (
            ("sentry-trace", sentry.get_traceparent()),
            ("sentry-baggage", sentry.get_baggage()),
        ):
            if value:
                carrier[name] = str(value)
    if not carrier:
        return ""
    text = json.dumps(carrier)
    return text if len(text) <= MAX_SIZE else ""


def is_traced() -> bool:
    """Whether what is done now belongs to a span.

    Sentry has headers for what does not, too: of a trace that begins there.
    """
    sentry: Any = sys.modules.get("sentry_sdk")
    if sentry is not None and sentry.is_initialized() and sentry.get_current_span() is not None:
        return True
    return bool(_of_opentelemetry())


def _of_opentelemetry() -> dict[str, str]:
    """Return the headers of OpenTelemetry's current trace; none outside of spans."""
    carrier: dict[str, str] = {}
    otel: Any = sys.modules.get("opentelemetry.propagate")
    if otel is not None:
        otel.inject(carrier)
    return carrier


@contextmanager
def continued(trace: str) -> Generator[None]:
    """Make a trace current again for the length of a ``with`` block.

    Args:
        trace: what :func:`current_trace` returned.
    """
    if not trace:
        yield
        return
    carrier: dict[str, str] = json.loads(trace)
    with ExitStack() as stack:
        otel: Any = sys.modules.get("opentelemetry.propagate")
        context: Any = sys.modules.get("opentelemetry.context")
        if otel is not None and context is not None:
            token = context.attach(otel.extract(carrier))
            stack.callback(context.detach, token)
        sentry: Any = sys.modules.get("sentry_sdk")
        if sentry is not None and sentry.is_initialized() and "sentry-trace" in carrier:
            headers = {"sentry-trace": carrier["sentry-trace"]}
            if "sentry-baggage" in carrier:
                headers["baggage"] = carrier["sentry-baggage"]
            stack.enter_context(sentry.isolation_scope())
            transaction = sentry.continue_trace(headers, op="queue.wake", name="celery_fanout wake")
            stack.enter_context(sentry.start_transaction(transaction))
        yield
