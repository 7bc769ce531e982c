"""For tests of a Django project, beside :mod:`celery_fanout.testing`, which knows ``TestCase``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_fanout.app.fanout import get_fanout
from celery_fanout.contrib.django.models import OutboxEvent
from celery_fanout.contrib.django.outbox.rows import read_row

if TYPE_CHECKING:
    from celery import Celery

    from celery_fanout.emitting.emission import Emission

__all__ = ["drain_outbox"]


def drain_outbox(*, using: str | None = None, app: Celery | None = None) -> list[Emission]:
    """Publish what is in the outbox, in this process and on this connection, as the relay does.

    So it sees rows of a transaction that has not committed, such as that of a ``TestCase``. In a
    block of ``capture()`` or ``simulate()`` the events end up there, else at the broker.

    Args:
        using: the alias of the outbox's database; ``fanout_outbox_database`` by default.
        app: the Celery app whose setting that is; the current one by default.

    Returns:
        What was published, in the order of emitting.

    Raises:
        UnreadableRow: if a row is no event of ours. Dead rows are left alone.
        EmitError: if publishing was cut short. The row is still there then.
    """
    alias = using or get_fanout(app).settings.outbox_database
    everything: Any = OutboxEvent.objects.using(alias)
    rows: list[OutboxEvent] = list(
        everything.filter(dead_at__isnull=True).order_by("created_at", "id")
    )
    published: list[Emission] = []
    for row in rows:
        draft, passed = read_row(row)
        published += draft.emit(passed)
        row.delete()
    return published
