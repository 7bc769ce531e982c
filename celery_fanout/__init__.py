"""Event fan-out and durable, resumable steps for Celery apps that already exist."""

from celery_fanout.app.api import aemit, emit, emit_many, explain
from celery_fanout.app.fanout import Fanout, get_fanout
from celery_fanout.emitting.emission import Emission, Outcome, RunHandle
from celery_fanout.exceptions import (
    EmitError,
    FanoutError,
    NonRetriable,
    RetryAfter,
    RunFailed,
    StepFailed,
)
from celery_fanout.model.event_types import event_type
from celery_fanout.model.events import Event
from celery_fanout.running.execution import Run, current_event, current_run
from celery_fanout.running.steps.step import Step, step
from celery_fanout.subscribing.limits import (
    Batch,
    CancelOn,
    Concurrency,
    Debounce,
    Idempotency,
    RateLimit,
    Singleton,
    Throttle,
)
from celery_fanout.subscribing.on_event import on_event
from celery_fanout.subscribing.registry import Explanation, Registry, Subscription

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
