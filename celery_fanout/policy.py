"""How often and when a step is tried again."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from celery_fanout.exceptions import InvalidStep

__all__ = ["NO_RETRIES", "StepPolicy"]


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
        given: Any = self  # not everybody runs a type checker
        retry_on = given.retry_on if isinstance(given.retry_on, tuple) else (given.retry_on,)
        rules = [
            (
                "max_retries",
                isinstance(given.max_retries, int) and given.max_retries >= 0,
                "a whole number, 0 or more",
            ),
            ("retry_backoff", self.retry_backoff >= 0, "True, False or a number of seconds"),
            ("retry_backoff_max", self.retry_backoff_max > 0, "a number of seconds above 0"),
            ("timeout", self.timeout is None or self.timeout > 0, "a number of seconds above 0"),
            (
                "retry_on",
                all(isinstance(kind, type) and issubclass(kind, Exception) for kind in retry_on),
                "an exception class or a tuple of them",
            ),
        ]
        for name, holds, rule in rules:
            if not holds:
                raise InvalidStep(
                    "step.options", f"has {name}={getattr(self, name)!r}", f"It must be {rule}."
                )
        return self

    def next_try(self, attempts: int, asked: float | None = None) -> float | None:
        """Return the seconds to the next try, or ``None`` if there is none left.

        Args:
            attempts: how often the step's function was called.
            asked: a wait that the step itself asked for with ``RetryAfter``.
        """
        if attempts > self.max_retries:
            return None
        if asked is not None:
            return asked
        if not self.retry_backoff:
            return 0.0
        # as Celery's own backoff: https://docs.celeryq.dev/en/stable/userguide/tasks.html
        wait = min(self.retry_backoff_max, float(self.retry_backoff) * 2 ** (attempts - 1))
        return random.uniform(0, wait) if self.retry_jitter else wait


#: A plain ``step.run``: an error is the task's business.
NO_RETRIES = StepPolicy()
