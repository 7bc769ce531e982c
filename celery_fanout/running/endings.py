"""How an attempt ended, made from what its task returned or raised.

Nothing is written here: ``settling`` says which state a run gets by which ending, and stores it.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, NamedTuple

from celery.app.task import Task as BaseTask
from celery.exceptions import Ignore, Reject, Retry
from kombu.utils import json as kombu_json

from celery_fanout.exceptions import (
    INTERRUPTS,
    NonRetriable,
    RetryAfter,
    RunFailed,
    StepFailed,
    StepMisused,
    StoreUnavailable,
    Superseded,
)
from celery_fanout.model.headers import IGNORED_HEADER, KIND_HEADER
from celery_fanout.running.suspending import BranchDone, NotClaimed, Suspended

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from celery_fanout.running.execution import Execution

#: What a body, or a step in it, raises to end or repeat its task.
STEERING = (RetryAfter, NonRetriable, StepFailed, StepMisused)


class EndingKind(enum.Enum):
    """The ways in which an attempt of a claimed run ends."""

    RETURNED = "the task has returned"
    BODY_RETURNED = "the body has returned; the __call__ of its task decides what the task returns"
    TAIL_DISPATCHED = "Celery has dispatched the tail of a task that had returned"
    ITEM_DONE = "the item of step.parallel that the body was replayed for is done"
    SUSPENDED = "a step has left the worker"
    RETRY = "the task is to be tried again"
    IGNORED = "the body has seen to everything itself; so has Task.replace()"
    REQUEUED = "the body gave its message back to the broker"
    REJECTED = "the body refused its message for good"
    FAILED = "the task has failed for good"
    LOST = "another has the run now, or the ledger does not answer: there is nothing to write"


class Ending(NamedTuple):
    """How an attempt of a claimed run ended.

    Attributes:
        kind: in which way.
        value: what was returned.
        result: the same as JSON; ``None`` if it is not kept.
        error: what Celery is to see instead of a value.
        cause: what the body raised, if Celery is to see another error.
        traceback: where the error came from.
    """

    kind: EndingKind
    value: Any = None
    result: str | None = None
    error: BaseException | None = None
    cause: BaseException | None = None
    traceback: TracebackType | None = None

    def conclude(self) -> Any:
        """Return what Celery is to see, or raise it."""
        if self.error is None:
            return self.value
        if self.cause is None:
            raise self.error
        raise self.error from self.cause


def body_returned(execution: Execution, value: Any) -> Ending:
    """Return the ending of a body that returned ``value``."""
    if execution.retry is not None:  # it asked for one, and went on after that
        return body_raised(execution, execution.retry)
    if _has_own_call(execution.task):
        return Ending(EndingKind.BODY_RETURNED, value)
    return task_returned(execution, value)


def task_returned(execution: Execution, value: Any) -> Ending:
    """Return the ending of a task that returned ``value``: it fails if that cannot be kept."""
    return _with_result(execution, EndingKind.RETURNED, value, tail=bool(execution.tail))


def body_raised(execution: Execution, raised: Exception) -> Ending:
    """Return the ending of a body that raised. Call it while the error is handled."""
    if isinstance(raised, BranchDone):
        # Celery has nothing to do with its value
        return _with_result(execution, EndingKind.ITEM_DONE, raised.value, NotClaimed(), tail=False)
    if isinstance(raised, (Superseded, StoreUnavailable, NotClaimed)):
        return Ending(EndingKind.LOST, error=raised)
    if isinstance(raised, Suspended):
        return Ending(EndingKind.SUSPENDED, error=raised)
    if isinstance(raised, Reject):
        reject: Any = raised
        kind = EndingKind.REQUEUED if reject.requeue else EndingKind.REJECTED
        return Ending(kind, error=raised, traceback=raised.__traceback__)
    return _error_raised(execution.task, raised)


def _error_raised(task: Any, raised: Exception) -> Ending:
    error = _seen_by_celery(task, raised)
    cause = None if error is raised else raised
    if isinstance(error, Retry):
        return Ending(EndingKind.RETRY, error=error, cause=cause)
    if isinstance(error, Ignore):
        return Ending(EndingKind.IGNORED, error=error, cause=cause)
    traceback = error.__traceback__ or raised.__traceback__
    return Ending(EndingKind.FAILED, error=error, cause=cause, traceback=traceback)


def task_raised(error: BaseException) -> Ending:
    """Return the ending of a task whose ``__call__`` raised after its body had returned."""
    # KNOWN FAULT: a Retry or an Ignore that a __call__ raises gets here neither; the run stays
    # claimed
    return Ending(EndingKind.FAILED, error=error, traceback=error.__traceback__)


def steered(task: Any, exc: BaseException) -> BaseException:
    """Return what Celery is to see of an error that passed autoretry as an ``Ignore``."""
    if isinstance(exc, RetryAfter):
        policy: Mapping[str, Any] = getattr(task, "retry_kwargs", None) or {}
        cause = exc.cause or RunFailed(f"It asked to be tried again after {exc.seconds:g} s.")
        limit = policy.get("max_retries")
        retry: BaseException = task.retry(
            countdown=exc.seconds, exc=cause, max_retries=limit, throw=False
        )
        return retry
    if isinstance(exc, NonRetriable):
        return exc.error
    return RunFailed(str(exc))


def _seen_by_celery(task: Any, raised: Exception) -> BaseException:
    if not isinstance(raised, STEERING):
        return raised
    try:
        return steered(task, raised)
    except Exception as out_of_retries:  # noqa: BLE001 - task.retry raises the cause itself
        return out_of_retries


def _with_result(
    execution: Execution,
    kind: EndingKind,
    value: Any,
    error: Exception | None = None,
    *,
    tail: bool,
) -> Ending:
    """Return an ending with its value as JSON; where that is not possible, a failure."""
    headers: Mapping[str, Any] = execution.request.headers or {}
    needed = tail or headers.get(KIND_HEADER) in ("invoke", "parallel")
    if not needed and (execution.task.ignore_result or IGNORED_HEADER in headers):
        return Ending(kind, value, None, error)
    try:
        result = str(kombu_json.dumps(value, separators=(",", ":")))
    except INTERRUPTS:
        raise
    except Exception as exc:  # noqa: BLE001 - values may bring encoders of their own
        failure = RunFailed(f"Its result cannot be stored: {exc}")
        return Ending(EndingKind.FAILED, error=failure, cause=exc)
    return Ending(kind, value, result, error)


def _has_own_call(task: Any) -> bool:
    """Whether a task's class has a ``__call__`` of its own; a worker replaces Celery's."""
    base: Any = BaseTask
    return type(task).__call__ is not base.__call__
