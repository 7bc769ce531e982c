"""Published runs that were lost on the way: those older than what is left in their queue."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger

from celery_fanout.exceptions.root import FanoutError
from celery_fanout.model.headers import RUN_HEADER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from celery import Celery

    from celery_fanout.stores.ledger import Ledger

logger = get_logger(__name__)


class LostMessages:
    """Which published runs have left their queue, by the oldest message that is still in it.

    Only on Redis, where one can look: queues are lists, and consumed from their end.

    Args:
        app: the Celery app.
        ledger: the ledger.
        queues: returns the names of the queues to look at; those that this worker consumes from by
            default.
    """

    def __init__(
        self, app: Celery, ledger: Ledger, queues: Callable[[], Iterable[str]] | None = None
    ) -> None:
        self._app = app
        self._ledger = ledger
        self._queues = queues
        self._connection: Any = None

    def __call__(self) -> list[tuple[str, float]]:
        """Return pairs of a queue and a time: what was published to it before has left it."""
        try:
            if self._connection is None:
                self._connection = self._app.connection_for_read()
            if self._connection.transport.driver_type != "redis":
                return []
            return self._look()
        except FanoutError:
            raise
        except Exception as exc:  # noqa: BLE001 - the broker is away; there is always a next time
            logger.debug("%s", exc)
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.release()
            return []

    def _look(self) -> list[tuple[str, float]]:
        channel = self._connection.default_channel
        # a worker notes what it received within a few heartbeats
        margin = self._ledger.rules.lease / 2
        lost_before: list[tuple[str, float]] = []
        own: Any = self._app.amqp.queues
        queues = list(own.consume_from) if self._queues is None else list(self._queues())
        prefix = channel.global_keyprefix or ""  # kombu's client does not add it to LINDEX
        with channel.conn_or_acquire() as client:
            for name in queues:
                before = self._ledger.time()
                for priority in channel.priority_steps:
                    oldest = client.lindex(prefix + channel._q_for_pri(name, priority), -1)
                    if oldest is not None:
                        before = min(before, self._published(oldest))
                if before > 0:
                    lost_before.append((str(name), before - margin))
        return lost_before

    def _published(self, text: Any) -> float:
        """Return when a message was published; 0 if that cannot be told."""
        message: dict[str, Any] = json.loads(text)
        headers: dict[str, Any] = message.get("headers") or {}
        run_id = headers.get(RUN_HEADER)
        run = None if run_id is None else self._ledger.run(str(run_id))
        if run is None or run.state.value != "published":
            return 0.0  # an ordinary task, or a second message
        return run.updated

    def close(self) -> None:
        """Close its connection."""
        if self._connection is not None:
            self._connection.release()
            self._connection = None
