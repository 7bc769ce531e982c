"""What is stored of a step: reading it, writing it, and what it says."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_task_logger

from celery_fanout import signals
from celery_fanout.exceptions import StepFailed, StoreUnavailable, Superseded
from celery_fanout.running.steps.values import from_stored
from celery_fanout.stores.checkpoints import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from celery_fanout.running.execution import Execution
    from celery_fanout.stores.checkpoints import CheckpointStore, StepKey

logger = get_task_logger(__name__)


def load(execution: Execution, key: StepKey) -> Checkpoint | None:
    """Return what is known about a step."""
    with reachable(execution) as store:
        text = store.get(execution.run.id, key)
    if text is None:
        return None
    try:
        return Checkpoint.loads(text)
    except (ValueError, KeyError, TypeError):
        # a worker was killed while it wrote a file, so the result was not stored
        logger.warning(
            "Run %s: the checkpoint of step %r is damaged and counts as none",
            execution.run.id,
            key[0],
        )
        return None


def save(execution: Execution, key: StepKey, checkpoint: Checkpoint, text: str = "") -> None:
    """Store what is known about a step; ``text`` is that as JSON, where it was made already."""
    checkpoint.stored = execution.now()
    with reachable(execution) as store:
        store.put(execution.run.id, key, text or checkpoint.dumps(), final=checkpoint.final)


@contextmanager
def reachable(execution: Execution) -> Generator[CheckpointStore]:
    """Lend the store. An outage or a lost run ends the body, also if the body catches the error."""
    try:
        yield execution.store
    except (StoreUnavailable, Superseded) as exc:
        execution.leave(exc)
        raise


def step_failed(key: StepKey, checkpoint: Checkpoint) -> StepFailed:
    """Return what a step that failed for good raises into the body."""
    error = checkpoint.error or {}
    return StepFailed(key[0], error.get("type", "?"), error.get("message", ""), checkpoint.attempts)


def announce_completed(
    execution: Execution, key: StepKey, checkpoint: Checkpoint, *, cached: bool
) -> None:
    """Tell the receivers of ``step_completed``."""
    signals.step_completed.send(
        sender=execution.task,
        run=execution.run,
        step=key[0],
        number=key[1],
        cached=cached,
        attempts=checkpoint.attempts,
    )


def read_back(
    execution: Execution, key: StepKey, checkpoint: Checkpoint, fn: Callable[..., Any]
) -> Any:
    """Return what a step that has ended returned, as the type that its function says.

    Raises:
        StepFailed: if it has failed.
    """
    if checkpoint.status == "failed":
        raise step_failed(key, checkpoint)
    announce_completed(execution, key, checkpoint, cached=True)
    return from_stored(key[0], fn, checkpoint.value)
