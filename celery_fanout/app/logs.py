"""Logging, as a plain consumer of our own signals. Ids and names only, never data.

Each record has ``extra={"action": ...}``, a key that stays the same when its text changes.
"""

from __future__ import annotations

import datetime as dt
import logging
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_task_logger

from celery_fanout import signals

if TYPE_CHECKING:
    from celery_fanout.model.events import Event
    from celery_fanout.model.run import Run

# not Celery's get_logger: its loggers say nothing in a process that has no logging set up
logger = logging.getLogger("celery_fanout.emit")
task_logger = get_task_logger("celery_fanout.run")


def _emitted(event: Event, runs: list[Any], **_: Any) -> None:
    if runs:
        logger.debug(
            "Event %s[%s] published to %d subscriber(s)",
            event.name,
            event.id,
            len(runs),
            extra={"action": "event_emitted"},
        )
    else:
        logger.info(
            "Event %s[%s] has no subscriber",
            event.name,
            event.id,
            extra={"action": "event_without_subscriber"},
        )


def _time(until: float) -> str:
    if until == float("inf"):
        return "its child runs have ended"
    return dt.datetime.fromtimestamp(until, dt.timezone.utc).isoformat(timespec="milliseconds")


def _suspended(run: Run, until: float, reason: str, step: str | None, **_: Any) -> None:
    task_logger.info(
        "Run %s suspended (%s%s) until %s",
        run.id,
        reason,
        f" in step {step!r}" if step else "",
        _time(until),
        extra={"action": "run_suspended"},
    )


def _step_completed(run: Run, step: str, number: int, *, cached: bool, **_: Any) -> None:
    task_logger.debug(
        "Run %s step %r (%d) %s",
        run.id,
        step,
        number,
        "read from its checkpoint" if cached else "completed",
        extra={"action": "step_completed"},
    )


def _step_failed(
    run: Run, step: str, number: int, attempts: int, error_type: str, *, final: bool, **_: Any
) -> None:
    task_logger.warning(
        "Run %s step %r (%d) raised %s in attempt %d%s",
        run.id,
        step,
        number,
        error_type,
        max(attempts, run.attempt),  # a step without retries of its own counts with its run
        " and has failed for good" if final else "",
        extra={"action": "step_failed"},
    )


def _failed(run: Run, exception: BaseException, **_: Any) -> None:
    task_logger.debug(
        "Run %s of %s failed with %s in attempt %d",
        run.id,
        run.subscription,
        type(exception).__name__,
        run.attempt,
        extra={"action": "run_failed"},
    )


signals.event_emitted.connect(_emitted, weak=False)
signals.run_suspended.connect(_suspended, weak=False)
signals.step_completed.connect(_step_completed, weak=False)
signals.step_failed.connect(_step_failed, weak=False)
signals.run_failed.connect(_failed, weak=False)
