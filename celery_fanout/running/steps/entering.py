"""Before a step: where it was called, and with what."""

from __future__ import annotations

import inspect
import warnings
from typing import TYPE_CHECKING, Any

from celery._state import get_current_task

from celery_fanout.exceptions import (
    InvalidStep,
    NestedStep,
    NotDurableWarning,
)
from celery_fanout.exceptions.configuration import StoreUnsupported
from celery_fanout.running.current import current_run
from celery_fanout.running.execution import Execution, active_runs, current_execution, current_step
from celery_fanout.running.suspending import warn_swallowed

if TYPE_CHECKING:
    from celery_fanout.running.claimed import ClaimedRun

#: The longest step id, in characters.
MAX_ID = 200


def enter(id: str) -> Execution | None:
    """Return the execution that a step belongs to; ``None`` where it is an ordinary call."""
    untyped: Any = id  # not everybody runs a type checker
    if not isinstance(untyped, str) or not 0 < len(untyped) <= MAX_ID:
        raise InvalidStep(
            str(untyped)[:50], "has no valid id", "Use a text of 1 to 200 characters."
        )
    execution = current_execution.get()
    if execution is None:
        if current_run() is not None:
            raise InvalidStep(
                id,
                "was called beside the task's body, in a hook such as before_start",
                "Call it in the body.",
            )
        if active_runs() and _may_be_a_lost_thread():
            warnings.warn(
                NotDurableWarning(
                    f"The step {id!r} was called outside of the run that is active in this "
                    "process, so it is not durable. Call it from the task's own thread, or start "
                    "the thread with contextvars.copy_context().run."
                ),
                stacklevel=3,
            )
        return None
    outer = current_step.get()
    if outer is not None:
        raise NestedStep(id, outer[0])
    if execution.leaving is not None:
        warn_swallowed(execution, f"before the step {id!r}", stacklevel=4)
        raise execution.leaving
    return execution


def _may_be_a_lost_thread() -> bool:
    # the pools' own threads execute ordinary tasks beside runs; those have a request
    task: Any = get_current_task()
    return task is None


def check_function(id: str, fn: Any) -> None:
    """Refuse what calling would not execute.

    Raises:
        InvalidStep: if ``fn`` is no function, or a coroutine or generator function.
    """
    if not callable(fn):
        raise InvalidStep(id, f"was given {fn!r}, which cannot be called", "Pass a function.")
    if inspect.iscoroutinefunction(fn) or inspect.isgeneratorfunction(fn):
        kind = "a coroutine" if inspect.iscoroutinefunction(fn) else "a generator"
        name = getattr(fn, "__qualname__", repr(fn))
        raise InvalidStep(
            id,
            f"was given {name}, and calling it only makes {kind}",
            "Pass a function that does the work: lambda: asyncio.run(...), or lambda: list(...).",
        )


def claimed_of(execution: Execution, feature: str) -> ClaimedRun:
    """Return the claimed run of an execution; refuse by name what level 1 does not have."""
    if execution.claimed is None:
        raise StoreUnsupported.on_level_1(execution.store.name, feature)
    return execution.claimed
