"""An error as data and as text: what is recorded of it, and what is logged."""

from __future__ import annotations

from typing import Any

__all__ = ["reason_of"]


def reason_of(exc: BaseException) -> str:
    """Return an error as text; the one behind it where kombu has only given it another type."""
    while type(exc).__name__ in {"OperationalError", "BatchPublishError"} and exc.__cause__:
        exc = exc.__cause__
    # redis-py quotes the command, which may contain the event's data
    text = str(exc).rpartition(" of pipeline caused error: ")[2]
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


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
