"""Event fan-out and durable, resumable steps for Celery apps that already exist.

Public are the names below, :mod:`~celery_fanout.checks`, :mod:`~celery_fanout.exceptions`,
:mod:`~celery_fanout.signals`, :mod:`~celery_fanout.testing`, and of
:mod:`celery_fanout.contrib.django` what the API reference names. All other packages and modules are
private: they may change in any release.

The names below are imported when they are first used (PEP 562). Importing this package, or any
module of it, attaches it to every Celery app of the process.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from celery_fanout.app.attaching import attach

if TYPE_CHECKING:
    from celery_fanout.app.api import aemit, emit, emit_many, explain, step
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
    from celery_fanout.model.run import Run, run_of
    from celery_fanout.operating.control import Bulk, RunControl
    from celery_fanout.operating.limits import LimitControl, LimitRecord
    from celery_fanout.operating.redaction import redact
    from celery_fanout.operating.timeline import timeline
    from celery_fanout.running.current import current_event, current_run
    from celery_fanout.running.steps.step import Step
    from celery_fanout.stores.checkpoints import Checkpoint, key_of
    from celery_fanout.stores.records import EventRecord, RunOutcome, RunRecord
    from celery_fanout.stores.states import RunState
    from celery_fanout.subscribing.cancel_on import CancelOn
    from celery_fanout.subscribing.limits import (
        Batch,
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
    "Bulk",
    "CancelOn",
    "Checkpoint",
    "Concurrency",
    "Debounce",
    "Emission",
    "EmitError",
    "Event",
    "EventRecord",
    "Explanation",
    "Fanout",
    "FanoutError",
    "Idempotency",
    "LimitControl",
    "LimitRecord",
    "NonRetriable",
    "Outcome",
    "RateLimit",
    "Registry",
    "RetryAfter",
    "Run",
    "RunControl",
    "RunFailed",
    "RunHandle",
    "RunOutcome",
    "RunRecord",
    "RunState",
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
    "key_of",
    "on_event",
    "redact",
    "run_of",
    "step",
    "timeline",
]

#: Where each name is.
_MODULES = {
    "app.api": ("aemit", "emit", "emit_many", "explain", "step"),
    "app.fanout": ("Fanout", "get_fanout"),
    "emitting.emission": ("Emission", "Outcome", "RunHandle"),
    "exceptions": (
        "EmitError",
        "FanoutError",
        "NonRetriable",
        "RetryAfter",
        "RunFailed",
        "StepFailed",
    ),
    "model.event_types": ("event_type",),
    "model.events": ("Event",),
    "model.run": ("Run", "run_of"),
    "operating.control": ("Bulk", "RunControl"),
    "operating.limits": ("LimitControl", "LimitRecord"),
    "operating.redaction": ("redact",),
    "operating.timeline": ("timeline",),
    "running.current": ("current_event", "current_run"),
    "running.steps.step": ("Step",),
    "stores.checkpoints": ("Checkpoint", "key_of"),
    "stores.records": ("EventRecord", "RunOutcome", "RunRecord"),
    "stores.states": ("RunState",),
    "subscribing.cancel_on": ("CancelOn",),
    "subscribing.limits": (
        "Batch",
        "Concurrency",
        "Debounce",
        "Idempotency",
        "RateLimit",
        "Singleton",
        "Throttle",
    ),
    "subscribing.on_event": ("on_event",),
    "subscribing.registry": ("Explanation", "Registry", "Subscription"),
}
_HOMES = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


attach()
