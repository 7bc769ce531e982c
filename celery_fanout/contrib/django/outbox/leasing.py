"""The outbox's table as relays use it: rows leased to one relay at a time, by the database's clock.

A claim moves a row's ``available_at`` to the end of its lease, so that a relay which dies needs no
cleaning up. What becomes of the row afterwards is only done where the row still has the claim's
token: a relay that was too slow changes nothing of what another has by then.
"""

from __future__ import annotations

import datetime as dt
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import connections, transaction
from django.utils import timezone

from celery_fanout.contrib.django.models import OutboxEvent

if TYPE_CHECKING:
    from collections.abc import Iterable

#: How long a text of an error may be.
MAX_ERROR = 2000

#: What asks a database for its time. SQLite has that of its machine.
CLOCKS = {"postgresql": "SELECT statement_timestamp()", "mysql": "SELECT UTC_TIMESTAMP(6)"}


@dataclass(frozen=True)
class Lease:
    """Rows that are this relay's, until the lease ends.

    Attributes:
        token: what the rows have while that is so.
        rows: the rows.
        until: when it ends, by :func:`time.monotonic`.
    """

    token: uuid.UUID
    rows: list[OutboxEvent]
    until: float

    @property
    def holds(self) -> bool:
        """Whether it has not ended yet."""
        return time.monotonic() < self.until


class Outbox:
    """The outbox in one database.

    Args:
        alias: the database.
        lease: for how long a claim holds, in seconds.
    """

    def __init__(self, alias: str, lease: float) -> None:
        self.alias = alias
        self._lease = lease

    # what the stubs say of a query set needs mypy's plugin
    @property
    def _rows(self) -> Any:
        return OutboxEvent.objects.using(self.alias)

    @property
    def _connection(self) -> Any:
        return connections[self.alias]

    @property
    def skips_locked(self) -> bool:
        """Whether several relays may claim from it at the same time."""
        # of MySQL and MariaDB that is known after a look at their version
        return bool(self._connection.features.has_select_for_update_skip_locked)

    @property
    def exists(self) -> bool:
        """Whether the migration was applied."""
        model: Any = OutboxEvent
        return model._meta.db_table in self._connection.introspection.table_names()

    def now(self) -> dt.datetime:
        """Return the database's time, as the models' fields take it.

        Clocks of machines differ, and a lease that ends early is a duplicate.
        """
        connection = self._connection
        statement = CLOCKS.get(connection.vendor)
        if statement is None:
            return timezone.now()
        with connection.cursor() as cursor:
            cursor.execute(statement)
            now: dt.datetime = cursor.fetchone()[0]
        if connection.vendor == "mysql":
            now = now.replace(tzinfo=dt.timezone.utc)
            return now if settings.USE_TZ else timezone.make_naive(now)
        return now

    def claim(self, limit: int) -> Lease | None:
        """Lease the rows that are due, the longest waiting first; ``None`` if there are none.

        By availability and never by a high-water mark: a lower id may be committed after a higher
        one was published.
        """
        token, began = uuid.uuid4(), time.monotonic()
        if self.skips_locked:
            with transaction.atomic(using=self.alias):
                now = self.now()
                due = self._due(now).select_for_update(skip_locked=True)
                rows = list(due[:limit])
                self._take(rows, token, now)
        else:
            # one statement takes what is still there, so not even two relays get the same row
            now = self.now()
            self._take(list(self._due(now).only("pk")[:limit]), token, now)
            rows = list(self._rows.filter(lease_token=token).order_by("id"))
        return Lease(token, rows, began + self._lease) if rows else None

    def _due(self, now: dt.datetime) -> Any:
        due = self._rows.filter(dead_at__isnull=True, available_at__lte=now)
        return due.order_by("available_at", "id")

    def _take(self, rows: list[OutboxEvent], token: uuid.UUID, now: dt.datetime) -> None:
        if rows:
            still = self._rows.filter(pk__in=_keys(rows), available_at__lte=now)
            still.update(lease_token=token, available_at=now + dt.timedelta(seconds=self._lease))

    def _held(self, lease: Lease, rows: Iterable[OutboxEvent]) -> Any:
        return self._rows.filter(pk__in=_keys(rows), lease_token=lease.token)

    def delete(self, lease: Lease, rows: list[OutboxEvent]) -> int:
        """Delete rows that were published; return how many of them were still ours."""
        deleted: int = self._held(lease, rows).delete()[0]
        return deleted

    def give_back(self, lease: Lease, rows: list[OutboxEvent], seconds: float) -> None:
        """Let go of rows, which are due again after that many seconds."""
        due = self.now() + dt.timedelta(seconds=seconds)
        self._held(lease, rows).update(lease_token=None, available_at=due)

    def fail(self, lease: Lease, row: OutboxEvent, error: str, seconds: float) -> None:
        """Count a failed attempt; the row is due again after that many seconds."""
        due = self.now() + dt.timedelta(seconds=seconds)
        self._count(lease, row, error, available_at=due)

    def bury(self, lease: Lease, row: OutboxEvent, error: str) -> None:
        """Give a row up, with its error."""
        self._count(lease, row, error, dead_at=self.now())

    def _count(self, lease: Lease, row: OutboxEvent, error: str, **changes: dt.datetime) -> None:
        held = self._held(lease, [row])
        text = _text(error)
        held.update(attempts=row.attempts + 1, last_error=text, lease_token=None, **changes)

    def prune(self, retention: float, limit: int) -> int:
        """Delete up to a limit of dead rows older than that many seconds; return how many."""
        before = self.now() - dt.timedelta(seconds=retention)
        old = self._rows.filter(dead_at__lt=before).order_by("dead_at")
        keys: list[int] = list(old.values_list("pk", flat=True)[:limit])
        # a row that was requeued meanwhile stays
        deleted: int = self._rows.filter(pk__in=keys, dead_at__lt=before).delete()[0]
        return deleted

    def left(self) -> int:
        """Return how many rows wait, due or not."""
        count: int = self._rows.filter(dead_at__isnull=True).count()
        return count


def _keys(rows: Iterable[OutboxEvent]) -> list[int]:
    return [row.pk for row in rows]


def _text(error: str) -> str:
    # in ASCII, so that it fits a database or table of any encoding
    return error[:MAX_ERROR].replace("\0", " ").encode("ascii", "backslashreplace").decode()
