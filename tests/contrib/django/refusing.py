"""A router that lets no message to one task pass: an error of the event's own, to the relay."""

from __future__ import annotations

from typing import Any

REFUSED = "tests.contrib.django.shop.tasks.invoice"


def route(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **_: Any) -> None:
    """Refuse."""
    if name == REFUSED:
        raise ValueError("no such place, for DE89370400440532013000")
