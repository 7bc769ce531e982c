"""``step.run``: number the call, look for its checkpoint, call, store, read back."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
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
from celery_fanout.running.execution import current_step
from celery_fanout.running.steps.checkpoints import (
    announce_completed,
    load,
    reachable,
    read_back,
    save,
    step_failed,
)
from celery_fanout.running.steps.entering import check_function
from celery_fanout.running.steps.leaving import suspend
from celery_fanout.running.steps.policy import time_limit
from celery_fanout.running.steps.values import from_stored, to_stored
from celery_fanout.stores.checkpoints import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_fanout.running.execution import Execution
    from celery_fanout.running.steps.policy import StepPolicy
    from celery_fanout.stores.checkpoints import StepKey


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
        step = _Step(execution, key, fn, checkpoint)
        if checkpoint.final:
            return step.cached()
        if not execution.is_due(checkpoint.due):
            raise suspend(execution, checkpoint.due or 0.0, "step-retry", id)
        checkpoint.attempts += 1
        if execution.was_put_back:
            # the store may answer and yet refuse to write: find out before there is an effect
            step.save()
        try:
            value = call_function(execution, key, fn, args, kwargs, policy.timeout)
        except NonRetriable as exc:
            raise step.failed(_cause(exc)) from exc
        except RetryAfter as exc:
            if not policy.max_retries:
                step.announce_failed(exc.cause or exc)
                raise  # the task's retries decide
            step.tried(exc.cause or exc, policy.next_try(checkpoint.attempts, exc.seconds))
        except (Ignore, Retry, Reject, SoftTimeLimitExceeded):
            raise  # Celery's control flow, and the last moment before the worker kills the process
        except Exception as exc:
            if not policy.covers(exc):
                step.announce_failed(exc)
                raise
            step.tried(exc, policy.next_try(checkpoint.attempts))
        else:
            return step.complete(value)


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


def call_function(
    execution: Execution,
    key: StepKey,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    timeout: float | None = None,
) -> Any:
    """Call a step's function; steps inside it are refused."""
    token = current_step.set((key[0], execution.run.id, key))
    try:
        with time_limit(key[0], timeout):
            return fn(*args, **kwargs)
    finally:
        current_step.reset(token)


@dataclass
class _Step:
    """One call of ``step.run``, and what is known about it."""

    execution: Execution
    key: StepKey
    fn: Callable[..., Any]
    checkpoint: Checkpoint

    def save(self, text: str = "") -> None:
        save(self.execution, self.key, self.checkpoint, text)

    def cached(self) -> Any:
        """Return the stored value, or raise the stored failure; use keeps a checkpoint alive."""
        execution, checkpoint = self.execution, self.checkpoint
        store = execution.store
        age = execution.now() - (checkpoint.stored or execution.now())
        if store.supports_extend and store.keeps is not None and age > store.keeps / 2:
            with reachable(execution):
                store.extend(execution.run.id, [self.key], store.keeps)
        if checkpoint.status == "done":
            self._warn_order()
        return read_back(execution, self.key, checkpoint, self.fn)

    def _warn_order(self) -> None:
        """Warn if the body calls its steps in another order than when their results were stored."""
        before = self.execution.is_out_of_order(self.key[0], self.checkpoint.stored)
        if before:
            warnings.warn(
                StepOrderWarning(
                    f"{self.execution.run.task} calls the step {self.key[0]!r} after {before!r}, "
                    "and their results were stored the other way round. Each keeps its result; if "
                    "code that was deployed meanwhile changed their order, see that the later one "
                    "does not rely on the earlier."
                ),
                stacklevel=2,
            )

    def complete(self, value: Any) -> Any:
        """Store what the function returned, and return that as it is read back."""
        execution, checkpoint = self.execution, self.checkpoint
        checkpoint.status, checkpoint.error, checkpoint.due = "done", None, None
        limit = execution.engine.settings.max_step_size
        try:
            if isinstance(value, Emission):
                value = value.event.id  # published already; step.emit() is the better way
            checkpoint.value, checkpoint.stored = to_stored(self.fn, value), execution.now()
            text = checkpoint.dumps()
            stored = Checkpoint.loads(text)
            size = len(text.encode())
            if size > limit:
                raise ValueError(  # noqa: TRY301 - all that cannot be stored ends below
                    f"its result has {size:,} bytes and fanout_max_step_size allows {limit:,}; "
                    "store it elsewhere and return a reference to it"
                )
            self.save(text)
        except (StoreUnavailable, Superseded, SoftTimeLimitExceeded):
            raise
        except Exception as exc:  # values may bring encoders of their own
            # the effect has happened, so no retry may repeat it
            raise self.failed(ValueError(f"the step's result cannot be stored: {exc}")) from exc
        announce_completed(execution, self.key, checkpoint, cached=False)
        return from_stored(self.key[0], self.fn, stored.value)

    def tried(self, error: BaseException, again: float | None) -> None:
        """Note a failed try. Return to try again at once; raise to do so later, or never.

        Args:
            error: what the function raised.
            again: seconds to the next try, or ``None`` when there is none left.
        """
        if again is None:
            raise self.failed(error) from error
        self.checkpoint.error = describe(error, MAX_MESSAGE)
        self.checkpoint.due = self.execution.now() + again
        self.save()
        self.announce_failed(error)
        if again > 0:
            raise suspend(self.execution, self.checkpoint.due, "step-retry", self.key[0]) from error

    def failed(self, error: BaseException) -> StepFailed:
        """Store that the step failed for good, and return what to raise into the body."""
        checkpoint = self.checkpoint
        checkpoint.status, checkpoint.due, checkpoint.value = "failed", None, None
        checkpoint.error = describe(error, MAX_MESSAGE)
        self.save()
        self.announce_failed(error, final=True)
        return step_failed(self.key, checkpoint)

    def announce_failed(self, error: BaseException, *, final: bool = False) -> None:
        """Tell the receivers of ``step_failed``."""
        signals.step_failed.send(
            sender=self.execution.task,
            run=self.execution.run,
            step=self.key[0],
            number=self.key[1],
            attempts=self.checkpoint.attempts,
            error_type=type(error).__name__,
            final=final,
        )
