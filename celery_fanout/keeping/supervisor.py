"""What only a worker's main process sees of a run: a dead child, a revoked message, ...

Nobody in that process holds the run's token, so the ledger changes it by the worker's boot id.
"""

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

__all__ = ["UNKNOWN_TASK_DELAY", "Supervisor"]

logger = get_logger(__name__)

#: How long a run whose task this process does not know waits for another process, in seconds.
UNKNOWN_TASK_DELAY = 5.0


class Supervisor:
    """Tells the ledger what the main process of a worker sees.

    What the ledger cannot be told, a keeper finds when the lease of the run is over.

    Args:
        ledger: the ledger.
        wake: publishes runs that are due now; best effort.
        follow_up: records what follows from the end of a run.
    """

    def __init__(
        self,
        ledger: Ledger,
        wake: Callable[[Sequence[str]], None],
        follow_up: Callable[[str], None],
    ) -> None:
        self._ledger = ledger
        self._wake = wake
        self._follow_up = follow_up

    # -- of the requests of a worker -------------------------------------------------------------

    def process_died(self, run_id: str, error: BaseException) -> bool:
        """The process that executed a run has died; return whether the ledger knows."""
        return self._abandon(run_id, error, final=False)

    def timed_out(self, run_id: str, error: BaseException) -> None:
        """A hard time limit ends the process of a run, and the run with it."""
        self._abandon(run_id, error, final=True)

    def let_go(self, run_id: str) -> None:
        """This worker ends the process of a run: it goes on elsewhere, and has not crashed."""
        try:
            self._ledger.release(boot_id(), [run_id])
        except FanoutError as exc:
            logger.warning("%s", exc)

    # -- of Celery's signals ---------------------------------------------------------------------

    def failed(self, request: Any, exception: BaseException) -> None:
        """A task failed in the eyes of the main process: its child died."""
        if not is_main() or RUN_HEADER not in (request.headers or ()):
            return
        if isinstance(exception, WorkerLostError):
            request.fanout_crashed = True
            self._abandon(request.id, exception, final=False)

    def revoked(self, request: Any, *, expired: bool) -> None:
        """A message was revoked, or has expired, or its process was terminated."""
        headers: Any = request.headers or {}  # Celery sends the task's context
        if RUN_HEADER not in headers:
            return
        try:
            reason = "expired" if expired else "revoked"
            cancelled, woken = self._ledger.cancel([request.id], reason)
            if woken:
                self._wake(woken)
            for run_id in cancelled:
                self._follow_up(run_id)
        except FanoutError as exc:
            logger.warning("%s", exc)

    def unknown(self, message: Any, task_id: str) -> None:
        """A message names a task that this worker does not know."""
        if RUN_HEADER not in (message.headers or ()):
            return
        try:
            self._ledger.unregistered(task_id, UNKNOWN_TASK_DELAY)
            logger.warning("Run %s is put back: this worker does not know its task", task_id)
        except FanoutError as exc:
            logger.warning("%s", exc)

    def _abandon(self, run_id: str, error: BaseException, *, final: bool) -> bool:
        try:
            described = {**describe(error), "traceback": ""}
            settled = self._ledger.abandon(run_id, boot_id(), described, final=final)
            if settled.woken:
                self._wake(settled.woken)
            elif settled.ok:
                self._follow_up(run_id)
        except FanoutError as exc:
            logger.warning("%s", exc)
            return False
        return settled.ok
