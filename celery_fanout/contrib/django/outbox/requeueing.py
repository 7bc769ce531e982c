"""The outbox as people look after it: how much waits, and what was given up."""

from __future__ import annotations

from typing import Any

from django.db.models import Min
from django.utils import timezone

from celery_fanout.contrib.django.models import DeadOutboxEvent, OutboxEvent


def dead_rows(alias: str) -> Any:
    """Return the rows of a database's outbox that relays gave up: a ``QuerySet``."""
    model: Any = DeadOutboxEvent  # django-stubs without their plugin know no managers of models
    return model.objects.using(alias)


def requeue(rows: Any) -> int:
    """Let relays publish dead rows again, with all their attempts; return how many there were.

    A row that a relay publishes, or somebody else requeues, at the same time is left alone.

    Args:
        rows: of :func:`dead_rows`.
    """
    return int(
        rows.filter(dead_at__isnull=False).update(
            dead_at=None, attempts=0, lease_token=None, available_at=timezone.now()
        )
    )


def status(alias: str) -> dict[str, Any]:
    """Return how the outbox of a database is.

    ``pending``: how many rows no relay has published yet; ``oldest``: how many seconds ago the
    first of them was emitted, ``None`` without one; ``dead``: how many rows relays gave up.
    """
    model: Any = OutboxEvent
    pending = model.objects.using(alias).filter(dead_at__isnull=True)
    first = pending.aggregate(first=Min("created_at"))["first"]
    age = None if first is None else max(0.0, (timezone.now() - first).total_seconds())
    return {
        "database": alias,
        "pending": pending.count(),
        "oldest": age,
        "dead": dead_rows(alias).count(),
    }
