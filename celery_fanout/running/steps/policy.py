"""How often and when a step is tried again."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

from celery_fanout.exceptions import InvalidStep, StepError, StepTimeout

__all__ = ["NO_RETRIES", "StepPolicy"]


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
        rules = [
            (
                "max_retries",
                isinstance(option.max_retries, int) and option.max_retries >= 0,
                "a whole number, 0 or more",
            ),
            (
                "retry_backoff",
                _at_least_0(option.retry_backoff),
                "True, False or a number of seconds",
            ),
            (
                "retry_backoff_max",
                _above_0(option.retry_backoff_max),
                "a number of seconds above 0",
            ),
            (
                "timeout",
                option.timeout is None or _above_0(option.timeout),
                "a number of seconds above 0",
            ),
            (
                "retry_on",
                all(_is_exception(kind) for kind in retry_on),
                "an exception class or a tuple of them",
            ),
        ]
        for name, holds, rule in rules:
            if not holds:
                raise InvalidStep(
                    "step.options", f"has {name}={getattr(self, name)!r}", f"It must be {rule}."
                )
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
