"""A property that is computed once, whichever threads ask for it first."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from celery_fanout.model.locks import fork_safe_lock

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

if TYPE_CHECKING:
    once = property  # type checkers know no other descriptor that fits a protocol
else:

    class once(cached_property[T]):  # noqa: N801 - used as a decorator
        """``functools.cached_property`` with a lock, which that has no more since Python 3.12.

        Without it the first two requests of a web process may each make a part of their own, and go
        on with different ones.
        """

        def __init__(self, func: Callable[[Any], T]) -> None:
            super().__init__(func)
            self._lock = self.lock = fork_safe_lock()  # before Python 3.12 it has one, a plain one

        def __get__(self, instance: Any, owner: Any = None) -> Any:
            """Return the value; only called as long as the instance has none."""
            if instance is None:
                return self
            with self._lock:
                return super().__get__(instance, owner)
