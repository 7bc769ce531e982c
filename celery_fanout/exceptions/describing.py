"""An error as data and as text: what is recorded of it, and what is logged."""

from __future__ import annotations

from typing import Any

__all__ = ["reason_of", "text_of"]


def reason_of(exc: BaseException) -> str:
    """Return an error as text; the one behind it where kombu has only given it another type."""
    while type(exc).__name__ in {"OperationalError", "BatchPublishError"} and exc.__cause__:
        exc = exc.__cause__
    text = text_of(exc)
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def text_of(exc: BaseException) -> str:
    """Return an error's text without the command that redis-py quotes: it contains values."""
    return str(exc).rpartition(" of pipeline caused error: ")[2]


def describe(error: BaseException) -> dict[str, Any]:
    """Return an exception as data: its type's name and its message."""
    try:
        message = str(error)
    except Exception as broken:  # noqa: BLE001 - a broken __str__ must not hide the error itself
        message = f"<its text cannot be made: {type(broken).__name__}>"
    return {"type": type(error).__name__, "message": message}
