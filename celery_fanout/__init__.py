"""Event fan-out and durable, resumable steps for Celery apps that already exist."""

from celery_fanout.app import Fanout, get_fanout
from celery_fanout.context import Run, current_event, current_run
from celery_fanout.declarations import on_event
from celery_fanout.doors import aemit, emit, emit_many, explain
from celery_fanout.emission import Emission, Outcome, RunHandle
from celery_fanout.events import Event
from celery_fanout.eventtypes import event_type
from celery_fanout.exceptions import (
    EmitError,
    FanoutError,
    NonRetriable,
    RetryAfter,
    RunFailed,
    StepFailed,
)
from celery_fanout.options import (
    Batch,
    CancelOn,
    Concurrency,
    Debounce,
    Idempotency,
    RateLimit,
    Singleton,
    Throttle,
)
from celery_fanout.registry import Explanation, Registry, Subscription
from celery_fanout.steps import Step, step

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "CancelOn",
    "Concurrency",
    "Debounce",
    "Emission",
    "EmitError",
    "Event",
    "Explanation",
    "Fanout",
    "FanoutError",
    "Idempotency",
    "NonRetriable",
    "Outcome",
    "RateLimit",
    "Registry",
    "RetryAfter",
    "Run",
    "RunFailed",
    "RunHandle",
    "Singleton",
    "Step",
    "StepFailed",
    "Subscription",
    "Throttle",
    "aemit",
    "current_event",
    "current_run",
    "emit",
    "emit_many",
    "event_type",
    "explain",
    "get_fanout",
    "on_event",
    "step",
]
