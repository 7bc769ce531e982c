"""The outbox as people look after it: how much waits, and what was given up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db.models import Min
from django.utils import timezone

from celery_fanout.contrib.django.models import DeadOutboxEvent, OutboxEvent

if TYPE_CHECKING:
    from django.db.models import QuerySet

__all__ = ["requeue", "status"]


def requeue(rows: QuerySet[DeadOutboxEvent]) -> int:
    """Let relays publish dead rows again, with all their attempts; return how many there were.

    A row that a relay publishes, or somebody else requeues, at the same time is left alone.
    """
    dead = rows.filter(dead_at__isnull=False)
    count: int = dead.update(
        dead_at=None, attempts=0, lease_token=None, available_at=timezone.now()
    )
    return count


def status(alias: str) -> dict[str, Any]:
    """Return how the outbox of a database is.

    ``pending``: how many rows no relay has published yet; ``oldest``: how many seconds ago the
    first of them was emitted, ``None`` without one; ``dead``: how many rows relays gave up.
    """
    pending = OutboxEvent.objects.using(alias).filter(dead_at__isnull=True)
    first = pending.aggregate(first=Min("created_at"))["first"]
    age = None if first is None else max(0.0, (timezone.now() - first).total_seconds())
    return {
        "database": alias,
        "pending": pending.count(),
        "oldest": age,
        "dead": DeadOutboxEvent.objects.using(alias).count(),
    }
