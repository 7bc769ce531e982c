"""``step.emit``: an event, emitted once in a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_fanout.exceptions import EmitError, StoreUnavailable
from celery_fanout.model.events import Event
from celery_fanout.model.ids import child_id
from celery_fanout.running.steps.calling import run_step
from celery_fanout.running.steps.policy import NO_RETRIES

if TYPE_CHECKING:
    from celery_fanout.running.execution import Execution


def emit_step(execution: Execution, id: str, event: Any, data: Any, **options: Any) -> str:
    """Emit an event once in this run, and return its id.

    Args:
        execution: the run's.
        id: the step's name.
        event: an event name, an instance of a typed event, or an event.
        data: the event's data.
        **options: as those of ``emit()``; a whole event takes ``delay`` only.
    """
    if isinstance(event, Event):  # it has an id and everything else
        data, options = None, {"delay": options["delay"]}
    else:
        # fixed before the first try, so that a repeat after a lost answer gives the same runs
        number = execution.numbers[id] + 1
        options["id"] = child_id(execution.run.id, "emit", id, number)

    def emit() -> str:
        return _emitted(execution, event, data, cause=execution.run, **options)

    return str(run_step(execution, id, NO_RETRIES, emit, (), {}))


def _emitted(execution: Execution, event: Any, data: Any, **options: Any) -> str:
    """Emit, and return the event's id.

    On level 2 a ledger that cannot be reached is waited for, as it is when a result is stored: a
    task without retries would otherwise fail for good because Redis restarts.
    """

    def emit() -> str:
        try:
            return str(execution.engine.emit(event, data, **options).event.id)
        except EmitError as exc:
            if isinstance(exc.__cause__, StoreUnavailable):
                raise exc.__cause__ from exc
            raise

    if execution.claimed is None:
        return emit()
    try:
        return str(execution.claimed.patiently(emit))
    except StoreUnavailable as exc:
        execution.leave(exc)
        raise
