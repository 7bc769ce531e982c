"""How often and when a step is tried again, and how long each try may take."""

from __future__ import annotations

import math
import random
import signal
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery_fanout.exceptions import InvalidStep, StepError, StepTimeout, StepTimeoutUnsupported

if TYPE_CHECKING:
    from collections.abc import Generator

#: Waits double no more often than this; floats end a little above 2**1000.
MAX_DOUBLINGS = 64


def _at_least_0(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 <= value < math.inf


def _is_exception(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Exception)


def _above_0(value: Any) -> bool:
    return _at_least_0(value) and value > 0


@dataclass(frozen=True)
class StepPolicy:
    """The options of ``step.options(...)``; see there for their meaning."""

    max_retries: int = 0
    retry_backoff: float | bool = False
    retry_backoff_max: float = 600
    retry_jitter: bool = True
    retry_on: type[Exception] | tuple[type[Exception], ...] = Exception
    timeout: float | None = None

    def validated(self) -> StepPolicy:
        """Return itself.

        Raises:
            InvalidStep: if a value cannot be used.
        """
        option: Any = self  # not everybody runs a type checker
        is_tuple = isinstance(option.retry_on, tuple)
        retry_on: tuple[Any, ...] = option.retry_on if is_tuple else (option.retry_on,)

        def require(name: str, holds: bool, rule: str) -> None:  # noqa: FBT001 - read as a table
            if not holds:
                raise InvalidStep(
                    "step.options", f"has {name}={getattr(self, name)!r}", f"It must be {rule}."
                )

        retries, timeout = option.max_retries, option.timeout
        is_count = isinstance(retries, int) and retries >= 0
        require("max_retries", is_count, "a whole number, 0 or more")
        number = "a number of seconds above 0"
        backoff = "True, False or a number of seconds"
        require("retry_backoff", _at_least_0(option.retry_backoff), backoff)
        require("retry_backoff_max", _above_0(option.retry_backoff_max), number)
        require("timeout", timeout is None or _above_0(timeout), number)
        are_exceptions = all(_is_exception(kind) for kind in retry_on)
        require("retry_on", are_exceptions, "an exception class or a tuple of them")
        return self

    def covers(self, error: Exception) -> bool:
        """Whether an error is worth another try: not if the step was only written wrongly."""
        if isinstance(error, StepError) and not isinstance(error, StepTimeout):
            return False
        return self.max_retries > 0 and isinstance(error, self.retry_on)

    def next_try(self, attempts: int, wanted: float | None = None) -> float | None:
        """Return the seconds to the next try, or ``None`` if there is none left.

        Args:
            attempts: how often the step's function was called.
            wanted: the seconds that the step itself asked for with ``RetryAfter``.
        """
        if attempts > self.max_retries:
            return None
        if wanted is not None:
            return wanted
        if not self.retry_backoff:
            return 0.0
        # as Celery's own backoff: https://docs.celeryq.dev/en/stable/userguide/tasks.html
        wait = float(self.retry_backoff) * 2.0 ** min(attempts - 1, MAX_DOUBLINGS)
        wait = min(self.retry_backoff_max, wait)
        return random.uniform(0, wait) if self.retry_jitter else wait


#: A plain ``step.run``: an error is the task's business.
NO_RETRIES = StepPolicy()


@contextmanager
def time_limit(step: str, seconds: float | None) -> Generator[None]:
    """Raise :class:`StepTimeout` in the block after ``seconds``.

    Raises:
        StepTimeoutUnsupported: in a thread, which nothing can interrupt.
    """
    if seconds is None:
        yield
        return
    monkey: Any = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        gevent: Any = sys.modules["gevent"]
        with gevent.Timeout(seconds, StepTimeout(step, seconds)):
            yield
        return
    if threading.current_thread() is not threading.main_thread() or not hasattr(
        signal, "setitimer"
    ):
        raise StepTimeoutUnsupported(step)

    def interrupt(*_: object) -> None:
        raise StepTimeout(step, seconds)

    handler = signal.signal(signal.SIGALRM, interrupt)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, left, interval)
    finally:  # also if the time was over in the very line above
        signal.signal(signal.SIGALRM, handler)
