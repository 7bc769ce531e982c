"""What only a worker's main process sees of a run: a dead child, a revoked message, ..."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from billiard.exceptions import WorkerLostError
from celery.utils.log import get_logger

from celery_fanout.exceptions import FanoutError, describe
from celery_fanout.model.boot import boot_id, is_main
from celery_fanout.model.headers import RUN_HEADER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery_fanout.stores.ledger import Ledger

__all__ = ["Supervisor"]

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
