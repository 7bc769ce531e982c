"""What only a worker's main process sees of a run: a dead child, a revoked message, ..."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from billiard.exceptions import WorkerLostError
from celery.utils.log import get_logger

from celery_fanout.emitting.chains import RUN_HEADER
from celery_fanout.exceptions import FanoutError, describe
from celery_fanout.model.boot import boot_id, is_main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from celery import Celery

    from celery_fanout.stores.ledger import Ledger

__all__ = ["LostMessages", "Supervisor"]

logger = get_logger(__name__)

#: How long a run whose task this worker does not know waits for another worker, in seconds.
ELSEWHERE = 5.0


class Supervisor:
    """Tells the ledger what the main process of a worker sees.

    Args:
        ledger: the ledger.
        wake: publishes runs that are due now; best effort.
        ended: records what follows from the end of a run.
    """

    def __init__(
        self,
        ledger: Ledger,
        wake: Callable[[Sequence[str]], None],
        ended: Callable[[str], None],
    ) -> None:
        self._ledger = ledger
        self._wake = wake
        self._ended = ended

    def _try(self, call: Callable[[], object]) -> None:
        try:
            call()
        except FanoutError as exc:
            # the keeper sees to it when the lease is over
            logger.warning("%s", exc)

    def lost(self, run_id: str, error: BaseException) -> bool:
        """The process that executed a run has died; return whether the ledger knows."""
        try:
            settled = self._abandon(run_id, error, final=False)
        except FanoutError as exc:
            logger.warning("%s", exc)
            return False
        return settled

    def let_go(self, run_id: str) -> None:
        """This worker ends the process of a run: it goes on elsewhere, and has not crashed."""
        self._try(lambda: self._ledger.release(boot_id(), [run_id]))

    def _abandon(self, run_id: str, error: BaseException, *, final: bool) -> bool:
        described = {**describe(error), "traceback": ""}
        settled = self._ledger.abandon(run_id, boot_id(), described, final=final)
        if settled.woken:
            self._wake(settled.woken)
        elif settled.ok:
            self._ended(run_id)
        return settled.ok

    def late(self, run_id: str, error: BaseException) -> None:
        """A hard time limit ends the process of a run, and the run with it."""
        self._try(lambda: self._abandon(run_id, error, final=True))

    def failed(self, request: Any, exception: BaseException) -> None:
        """A task failed in the eyes of the main process: its child died."""
        if not is_main() or RUN_HEADER not in (request.headers or ()):
            return
        if not isinstance(exception, WorkerLostError):
            return
        request.fanout_crashed = True
        self._try(lambda: self._abandon(request.id, exception, final=False))

    def revoked(self, request: Any, *, expired: bool) -> None:
        """A message was revoked, or has expired, or its process was terminated."""
        headers: Any = request.headers or {}  # Celery sends the task's context
        if RUN_HEADER not in headers:
            return

        def tell() -> None:
            reason = "expired" if expired else "revoked"
            cancelled, woken = self._ledger.cancel([request.id], reason)
            if woken:
                self._wake(woken)
            for run_id in cancelled:
                self._ended(run_id)

        self._try(tell)

    def unknown(self, message: Any, task_id: str) -> None:
        """A message names a task that this worker does not know."""
        if RUN_HEADER in (message.headers or ()):
            self._try(lambda: _put_back(self._ledger, task_id))


def _put_back(ledger: Ledger, run_id: str) -> None:
    ledger.unregistered(run_id, ELSEWHERE)
    logger.warning("Run %s is put back: this worker does not know its task", run_id)


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
        found: list[tuple[str, float]] = []
        known: Any = self._app.amqp.queues
        queues = list(known.consume_from) if self._queues is None else list(self._queues())
        prefix = channel.global_keyprefix or ""  # kombu's client does not add it to LINDEX
        with channel.conn_or_acquire() as client:
            for name in queues:
                before = self._ledger.time()
                for priority in channel.priority_steps:
                    oldest = client.lindex(prefix + channel._q_for_pri(name, priority), -1)
                    if oldest is not None:
                        before = min(before, self._published(oldest))
                if before > 0:
                    found.append((str(name), before - margin))
        return found

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
