"""``step.run``: number the call, look for its checkpoint, call, store, read back."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded

from celery_fanout import signals
from celery_fanout.emitting.emission import Emission
from celery_fanout.exceptions import (
    NonRetriable,
    RetryAfter,
    StepFailed,
    StepOrderWarning,
    StoreUnavailable,
    Superseded,
)
from celery_fanout.exceptions.describing import MAX_MESSAGE, describe
from celery_fanout.running.execution import Execution, current_step
from celery_fanout.running.steps.checkpoints import (
    announce_completed,
    load,
    reachable,
    save,
    step_failed,
)
from celery_fanout.running.steps.entering import check_function
from celery_fanout.running.steps.leaving import suspend
from celery_fanout.running.steps.policy import NO_RETRIES
from celery_fanout.running.steps.timeouts import time_limit
from celery_fanout.running.steps.values import from_stored, to_stored
from celery_fanout.stores.checkpoints import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_fanout.running.steps.policy import StepPolicy
    from celery_fanout.stores.checkpoints import StepKey

__all__ = ["call_function", "run_in_place", "run_step"]


def run_step(  # noqa: C901 - the whole path of a step, to be read in one go
    execution: Execution,
    id: str,
    policy: StepPolicy,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Return a step's value: the stored one, or that of calling its function.

    Raises:
        StepFailed: if the step has failed for good.
        Suspended: if it is tried again later.
    """
    check_function(id, fn)
    key = execution.next_key(id)
    while True:
        checkpoint = load(execution, key) or Checkpoint("retrying")
        if checkpoint.final:
            return _cached(execution, key, checkpoint, fn)
        if not execution.is_due(checkpoint.due):
            raise suspend(execution, checkpoint.due or 0.0, "step-retry", id)
        checkpoint.attempts += 1
        if execution.was_put_back:
            # the store may answer and yet refuse to write: find out before there is an effect
            save(execution, key, checkpoint)
        try:
            value = _call(execution, key, policy, fn, args, kwargs)
        except NonRetriable as exc:
            raise _failed(execution, key, checkpoint, _cause(exc)) from exc
        except RetryAfter as exc:
            if not policy.max_retries:
                _announce_failed(execution, key, checkpoint, exc.cause or exc, final=False)
                raise  # the task's retries decide
            again = policy.next_try(checkpoint.attempts, exc.seconds)
            _tried(execution, key, checkpoint, exc.cause or exc, again)
        except (Ignore, Retry, Reject, SoftTimeLimitExceeded):
            raise  # Celery's control flow, and the last moment before the worker kills the process
        except Exception as exc:
            if not policy.covers(exc):
                _announce_failed(execution, key, checkpoint, exc, final=False)
                raise
            _tried(execution, key, checkpoint, exc, policy.next_try(checkpoint.attempts))
        else:
            return _complete(execution, key, checkpoint, fn, value)


def _cause(exc: NonRetriable) -> BaseException:
    return exc.cause if isinstance(exc.cause, BaseException) else exc


def run_in_place(
    id: str,
    policy: StepPolicy,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Return the value of a step with options outside of a run: tried again at once, not stored.

    Raises:
        StepFailed: when no try is left.
    """
    attempts = 0
    while True:
        attempts += 1
        try:
            with time_limit(id, policy.timeout):
                return fn(*args, **kwargs)
        except NonRetriable as exc:
            error, again = _cause(exc), None
        except RetryAfter as exc:
            if not policy.max_retries:
                raise
            error, again = exc.cause or exc, policy.next_try(attempts)
        except (Ignore, Retry, Reject, SoftTimeLimitExceeded):
            raise
        except Exception as exc:
            if not policy.covers(exc):
                raise
            error, again = exc, policy.next_try(attempts)
        if again is None:
            raise StepFailed(id, type(error).__name__, str(error), attempts) from error


def _cached(execution: Execution, key: StepKey, checkpoint: Checkpoint, fn: Any) -> Any:
    """Return the stored value, or raise the stored failure; use keeps a checkpoint alive."""
    store = execution.store
    age = execution.now() - (checkpoint.stored or execution.now())
    if store.supports_extend and store.keeps is not None and age > store.keeps / 2:
        with reachable(execution):
            store.extend(execution.run.id, [key], store.keeps)
    if checkpoint.status == "failed":
        raise step_failed(key, checkpoint)
    _warn_order(execution, key, checkpoint)
    announce_completed(execution, key, checkpoint, cached=True)
    return from_stored(key[0], fn, checkpoint.value)


def _warn_order(execution: Execution, key: StepKey, checkpoint: Checkpoint) -> None:
    """Warn if the body calls its steps in another order than when their results were stored."""
    before = execution.is_out_of_order(key[0], checkpoint.stored)
    if before:
        warnings.warn(
            StepOrderWarning(
                f"{execution.run.task} calls the step {key[0]!r} after {before!r}, and their "
                "results were stored the other way round. Each keeps its result; if code that was "
                "deployed meanwhile changed their order, see that the later one does not rely on "
                "the earlier."
            ),
            stacklevel=2,
        )


def _call(
    execution: Execution,
    key: StepKey,
    policy: StepPolicy,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    token = current_step.set((key[0], execution.run.id, key))
    try:
        with time_limit(key[0], policy.timeout):
            return fn(*args, **kwargs)
    finally:
        current_step.reset(token)


def call_function(
    execution: Execution, key: StepKey, fn: Callable[..., Any], args: tuple[Any, ...]
) -> Any:
    """Call a step's function; steps inside it are refused."""
    return _call(execution, key, NO_RETRIES, fn, args, {})


def _complete(
    execution: Execution, key: StepKey, checkpoint: Checkpoint, fn: Any, value: Any
) -> Any:
    checkpoint.status, checkpoint.error, checkpoint.due = "done", None, None
    limit = execution.engine.settings.max_step_size
    try:
        if isinstance(value, Emission):
            value = value.event.id  # published already; step.emit() is the better way
        checkpoint.value, checkpoint.stored = to_stored(fn, value), execution.now()
        text = checkpoint.dumps()
        stored = Checkpoint.loads(text)
        size = len(text.encode())
        if size > limit:
            raise ValueError(  # noqa: TRY301 - all that cannot be stored ends below
                f"its result has {size:,} bytes and fanout_max_step_size allows {limit:,}; "
                "store it elsewhere and return a reference to it"
            )
        save(execution, key, checkpoint, text)
    except (StoreUnavailable, Superseded, SoftTimeLimitExceeded):
        raise
    except Exception as exc:  # values may bring encoders of their own
        # the effect has happened, so no retry may repeat it
        error = ValueError(f"the step's result cannot be stored: {exc}")
        raise _failed(execution, key, checkpoint, error) from exc
    announce_completed(execution, key, checkpoint, cached=False)
    return from_stored(key[0], fn, stored.value)


def _tried(
    execution: Execution,
    key: StepKey,
    checkpoint: Checkpoint,
    error: BaseException,
    again: float | None,
) -> None:
    """Note a failed try. Return to try again at once; raise to do so later, or never.

    Args:
        execution: the execution.
        key: the step's key.
        checkpoint: what is known about the step.
        error: what its function raised.
        again: seconds to the next try, or ``None`` when there is none left.
    """
    if again is None:
        raise _failed(execution, key, checkpoint, error) from error
    checkpoint.error = describe(error, MAX_MESSAGE)
    checkpoint.due = execution.now() + again
    save(execution, key, checkpoint)
    _announce_failed(execution, key, checkpoint, error, final=False)
    if again > 0:
        raise suspend(execution, checkpoint.due, "step-retry", key[0]) from error


def _failed(
    execution: Execution, key: StepKey, checkpoint: Checkpoint, error: BaseException
) -> StepFailed:
    """Store that a step failed for good, and return what to raise into the body."""
    checkpoint.status, checkpoint.due, checkpoint.value = "failed", None, None
    checkpoint.error = describe(error, MAX_MESSAGE)
    save(execution, key, checkpoint)
    _announce_failed(execution, key, checkpoint, error, final=True)
    return step_failed(key, checkpoint)


def _announce_failed(
    execution: Execution,
    key: StepKey,
    checkpoint: Checkpoint,
    error: BaseException,
    *,
    final: bool,
) -> None:
    signals.step_failed.send(
        sender=execution.task,
        run=execution.run,
        step=key[0],
        number=key[1],
        attempts=checkpoint.attempts,
        error_type=type(error).__name__,
        final=final,
    )
