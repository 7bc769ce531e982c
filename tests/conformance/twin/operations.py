"""What makes a method of the twin one atomic change."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["operation"]

P = ParamSpec("P")
R = TypeVar("R")


def operation(method: Callable[P, R]) -> Callable[P, R]:
    """Make a method one atomic change."""

    @functools.wraps(method)
    def locked(*args: P.args, **kwargs: P.kwargs) -> R:
        ledger: Any = args[0]
        with ledger.lock:
            ledger.book.begin()
            return method(*args, **kwargs)

    return locked
