"""``step.sleep`` and ``step.sleep_until``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from celery_fanout.exceptions.runs import InvalidStep, SleepTooLong
from celery_fanout.running.steps.checkpoints import announce_completed, load, save
from celery_fanout.running.steps.leaving import suspend
from celery_fanout.stores.checkpoints import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_fanout.running.execution import Execution


def sleep_step(execution: Execution, id: str, wake: Callable[[], float]) -> None:
    """Return if the sleep is over; ``wake`` says when it is, asked once in the run.

    Raises:
        Suspended: if it is not.
        SleepTooLong: if the store would drop the run's checkpoints before.
    """
    key = execution.next_key(id)
    checkpoint = load(execution, key)
    if checkpoint is not None and checkpoint.final:
        announce_completed(execution, key, checkpoint, cached=True)
        return
    if checkpoint is None:
        due = wake()
        if not math.isfinite(due):
            raise InvalidStep(
                id, f"sleeps until {due}, which is no time", "Use a finite number of seconds."
            )
        checkpoint = Checkpoint("waiting", due=due)
        _refuse_too_long(execution, id, due - execution.now())
        if not execution.is_due(checkpoint.due):
            save(execution, key, checkpoint)
    if not execution.is_due(checkpoint.due):
        raise suspend(execution, checkpoint.due or 0.0, "sleep", id)
    checkpoint.status = "done"
    save(execution, key, checkpoint)
    announce_completed(execution, key, checkpoint, cached=False)


def _refuse_too_long(execution: Execution, id: str, seconds: float) -> None:
    store = execution.store
    if store.longest is not None and seconds > store.longest:
        raise SleepTooLong(id, seconds, store.longest, store.keeps_setting)
