"""What the scripts of the Django tests use: see :mod:`tests.contrib.django.conftest`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from django.db import connection, connections, transaction

from celery_fanout import aemit, emit, emit_many, get_fanout
from celery_fanout.contrib.django import signals
from celery_fanout.contrib.django.models import DeadOutboxEvent, OutboxEvent
from tests.contrib.django.celery_app import app
from tests.contrib.django.shop.models import Order

__all__ = [
    "DeadOutboxEvent",
    "Order",
    "OutboxEvent",
    "aemit",
    "app",
    "connection",
    "connections",
    "emit",
    "emit_many",
    "error_of",
    "get_fanout",
    "published",
    "rolled_back",
    "signals",
    "tell",
    "transaction",
]


def published() -> list[str]:
    """Return the ids of all events that the ledger has, in the order of their recording."""
    found = get_fanout(app).runs.events(limit=1000)
    return [json.loads(event.attributes)["id"] for event in reversed(found)]


def tell(*values: Any) -> None:
    """Print values for the test, as JSON."""
    print(json.dumps(values))  # noqa: T201 - to the test


def error_of(call: Callable[[], Any]) -> str:
    """Return the error that a call raises."""
    try:
        call()
    except Exception as exc:  # noqa: BLE001 - whatever it is
        return f"{type(exc).__name__}: {exc}"
    return "no error"


class rolled_back:  # noqa: N801 - used as a function
    """A block that rolls back what was done in it, as an exception that is handled outside does."""

    def __init__(self, using: str = "default") -> None:
        self._atomic = transaction.atomic(using=using)

    def __enter__(self) -> None:
        self._atomic.__enter__()

    def __exit__(self, *error: object) -> bool:
        self._atomic.__exit__(RuntimeError, RuntimeError("roll back"), None)
        return error[0] is None
