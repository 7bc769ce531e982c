"""PostgreSQL's NOTIFY, which tells a relay at once of what was committed. Best effort.

Polling is what a relay relies on: behind a connection pooler, in a database of another kind, or
with psycopg 2 it is not notified.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from django.db import Error, connections

logger = logging.getLogger("celery_fanout.relay")

CHANNEL = "celery_fanout_outbox"

#: How long after a failure to listen it is tried again, in seconds.
AGAIN = 30.0


def notify(using: str) -> None:
    """Tell the relays, when the transaction that is under way commits."""
    connection: Any = connections[using]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"NOTIFY {CHANNEL}")


class Listener:
    """A connection of its own that is notified.

    Args:
        alias: the database.
    """

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._wrapper: Any = None
        self._next_try = 0.0
        self._can = _can_listen(alias)

    def open(self) -> None:
        """Begin to listen, unless that is so already, or cannot be, or has just failed."""
        if not self._can or self._wrapper is not None or time.monotonic() < self._next_try:
            return
        wrapper: Any = connections.create_connection(self._alias)
        try:
            with wrapper.cursor() as cursor:
                cursor.execute(f"LISTEN {CHANNEL}")
        except Error as exc:
            wrapper.close()
            self._failed(exc)
        else:
            self._wrapper = wrapper

    def files(self) -> list[Any]:
        """Return what to wait for, beside the time: what becomes readable with a notification."""
        if self._wrapper is None or self._wrapper.connection.closed:
            return []
        return [self._wrapper.connection]

    def clear(self) -> None:
        """Read and drop what was notified: the next look at the table sees it all."""
        if self._wrapper is None:
            return
        libpq = self._wrapper.connection.pgconn
        try:
            libpq.consume_input()
            while libpq.notifies() is not None:
                pass
        except Exception as exc:  # noqa: BLE001 - psycopg's, which is not imported unless it is used
            self.close()
            self._failed(exc)

    def _failed(self, exc: Exception) -> None:
        self._next_try = time.monotonic() + AGAIN
        logger.warning(
            "The relay cannot listen to PostgreSQL (%s), and goes on polling",
            type(exc).__name__,
            extra={"action": "relay_deaf"},
        )

    def close(self) -> None:
        """Stop listening."""
        if self._wrapper is not None:
            self._wrapper.close()
            self._wrapper = None


def _can_listen(alias: str) -> bool:
    if connections[alias].vendor != "postgresql":
        return False
    from django.db.backends.postgresql.psycopg_any import is_psycopg3

    return bool(is_psycopg3)
