"""What the texts of errors are made of, and an error as text and as data."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["causes_of", "describe", "did_you_mean", "nearest", "reason_of", "text_of"]


def nearest(word: str, words: Iterable[str], *, likeness: float = 0.6) -> str:
    """Return which of several words somebody may have meant; ``""`` if none is like this one.

    Args:
        word: what was written.
        words: what there is.
        likeness: how alike two words must be, from 0 to 1, where they are equal.
    """
    return next(iter(difflib.get_close_matches(word, list(words), n=1, cutoff=likeness)), "")


def did_you_mean(name: str, otherwise: str) -> str:
    """Return a remedy: to use a name that was found by :func:`nearest`, or another sentence."""
    return f"Did you mean {name!r}?" if name else otherwise


def reason_of(exc: BaseException) -> str:
    """Return an error as text; the one behind it where kombu has only given it another type."""
    while type(exc).__name__ in {"OperationalError", "BatchPublishError"} and exc.__cause__:
        exc = exc.__cause__
    text = text_of(exc)
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def text_of(exc: BaseException) -> str:
    """Return an error's text without the command that redis-py quotes: it contains values."""
    return str(exc).rpartition(" of pipeline caused error: ")[2]


#: How much of an error's message a store keeps, in characters: some quote whole documents.
MAX_MESSAGE = 10_000


def describe(error: BaseException, longest: int | None = None) -> dict[str, Any]:
    """Return an exception as data: its type's name and its message.

    Args:
        error: the exception.
        longest: how much of the message, in characters; all of it by default.
    """
    try:
        message = str(error)
    except Exception as broken:  # noqa: BLE001 - a broken __str__ must not hide the error itself
        message = f"<its text cannot be made: {type(broken).__name__}>"
    return {"type": type(error).__name__, "message": message[:longest]}


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, and what it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__
