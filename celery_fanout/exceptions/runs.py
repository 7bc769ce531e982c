"""Errors of runs and steps, and what a body raises to steer its run."""

from __future__ import annotations

import datetime as dt
import math

from celery.exceptions import Ignore, SoftTimeLimitExceeded

from celery_fanout.exceptions.root import FanoutError


class StoreUnavailable(FanoutError, Ignore):
    """The store did not answer, so the run is put back and continues later. Spends no retry.

    Args:
        store: the store, by name.
        reason: its error.
    """

    def __init__(self, store: str, reason: str) -> None:
        super().__init__(store, reason)
        self.store = store
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.store} cannot be reached ({self.reason}). The run continues when it can be."


class StoreRefused(StoreUnavailable):
    """The store answered, and refused: it is read-only or full, or this user may not do that.

    It is treated like one that is away, as who mends it need not start anything again.
    """

    def __str__(self) -> str:
        return (
            f"{self.store} answers and refuses ({self.reason}). The run continues when it no "
            "longer does."
        )


class Superseded(FanoutError, Ignore):
    """The run is no longer this worker's: it was cancelled, or claimed by another. It stops here.

    Args:
        run_id: the run.
    """

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id)
        self.run_id = run_id

    def __str__(self) -> str:
        return (
            f"The run {self.run_id} was cancelled, or its lease was over and another worker took "
            "it. Nothing more of this attempt counts."
        )


class RunFailed(FanoutError):
    """A run ended for good, without another retry.

    Args:
        reason: why.

    Attributes:
        error_type: for a dead letter of the ledger: name of the exception's class.
    """

    error_type: str = ""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class StepError(FanoutError):
    """A step that was called wrongly or did not succeed."""


class StepMisused(StepError, Ignore):
    """A mistake in how a step is called. It ends the run: a retry would make it again."""


class InvalidStep(StepMisused, ValueError):
    """A step with an argument that cannot be used.

    Args:
        step: the step id.
        problem: what is wrong.
        remedy: what to change.
    """

    def __init__(self, step: str, problem: str, remedy: str) -> None:
        super().__init__(step, problem, remedy)
        self.step = step
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"The step {self.step!r} {self.problem}. {self.remedy}"


class NestedStep(StepMisused):
    """A step was called inside another step's function.

    Args:
        inner: id of the step called.
        outer: id of the step that was running.
    """

    def __init__(self, inner: str, outer: str) -> None:
        super().__init__(inner, outer)
        self.inner = inner
        self.outer = outer

    def __str__(self) -> str:
        return (
            f"The step {self.inner!r} was called inside the step {self.outer!r}, and steps do not "
            f"nest. Call {self.inner!r} from the task's body, or call its function directly."
        )


class StepTimeout(StepError, TimeoutError):
    """A step's function took longer than its ``timeout``.

    Args:
        step: the step id.
        timeout: the time allowed, in seconds.
    """

    def __init__(self, step: str, timeout: float) -> None:
        super().__init__(step, timeout)
        self.step = step
        self.timeout = timeout

    def __str__(self) -> str:
        return (
            f"The step {self.step!r} ran longer than its timeout of {self.timeout:g} s. "
            "Raise the timeout, or make the step smaller."
        )


class StepTimeoutUnsupported(StepMisused):
    """``timeout=`` was asked for where Python cannot interrupt a function.

    Args:
        step: the step id.
    """

    def __init__(self, step: str) -> None:
        super().__init__(step)
        self.step = step

    def __str__(self) -> str:
        return (
            f"The step {self.step!r} has a timeout, and a function in a thread cannot be "
            "interrupted. Run the task in a prefork, solo or gevent worker, or give the client "
            "that the step calls a timeout of its own."
        )


class SleepTooLong(StepMisused):
    """A sleep that would outlive the run's checkpoints.

    Args:
        step: the step id.
        seconds: how long the sleep would last.
        limit: how long checkpoints are kept, in seconds.
        setting: the setting that says so.
    """

    def __init__(self, step: str, seconds: float, limit: float, setting: str) -> None:
        super().__init__(step, seconds, limit, setting)
        self.step = step
        self.seconds = seconds
        self.limit = limit
        self.setting = setting

    def __str__(self) -> str:
        return (
            f"The step {self.step!r} would sleep for {self.seconds:,.0f} s, and the store drops "
            f"checkpoints after {self.limit:,.0f} s, so finished steps would run again. "
            f"Raise {self.setting}, or sleep for less."
        )


#: What interrupts code from outside; whoever catches everything lets these pass.
INTERRUPTS = (SoftTimeLimitExceeded, StepTimeout)


class StepFailed(StepError, Ignore):
    """A step failed for good. Raised into the task's body, now and on every later attempt.

    Catch it to compensate. If it leaves the body, the run ends without a retry.

    Args:
        step: the step id.
        error_type: name of the exception's class.
        message: its message.
        attempts: how often the step's function was called.
    """

    def __init__(self, step: str, error_type: str, message: str, attempts: int = 1) -> None:
        super().__init__(step, error_type, message, attempts)
        self.step = step
        self.error_type = error_type
        self.message = message
        self.attempts = attempts

    def __str__(self) -> str:
        tries = "1 attempt" if self.attempts == 1 else f"{self.attempts} attempts"
        return f"The step {self.step!r} failed after {tries}: {self.error_type}: {self.message}"


class RetryAfter(FanoutError, Ignore):
    """Raise it to be run again after a time that you know, such as a ``Retry-After`` header.

    From the body it spends one retry of the task, from a step with retries of its own one of the
    step's.

    Args:
        seconds: how long to wait; a timedelta will do too.
        cause: the error to report when no retry is left.
    """

    def __init__(self, seconds: float | dt.timedelta, cause: BaseException | None = None) -> None:
        if isinstance(seconds, dt.timedelta):
            seconds = seconds.total_seconds()
        if not 0 <= seconds < math.inf:
            raise ValueError(f"RetryAfter({seconds}) names no time. Use seconds, 0 or more.")
        super().__init__(seconds, cause)
        self.seconds = float(seconds)
        self.cause = cause

    def __str__(self) -> str:
        because = f" because of {self.cause!r}" if self.cause else ""
        return f"Asked to run again after {self.seconds:g} s{because}."


class NonRetriable(FanoutError, Ignore):
    """Raise it to end without another retry: the run from the body, the step from a step.

    Args:
        cause: an exception, which is then what the run fails with, or a message.
    """

    def __init__(self, cause: BaseException | str) -> None:
        super().__init__(cause)
        self.cause = cause

    @property
    def error(self) -> Exception:
        """What the run or step is reported to have failed with."""
        if isinstance(self.cause, Exception):
            return self.cause
        return RunFailed(str(self.cause))

    def __str__(self) -> str:
        return str(self.cause)
