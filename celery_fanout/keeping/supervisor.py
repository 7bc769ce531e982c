"""What only a worker's main process sees of a run: a dead child, a revoked message, ...

Nobody in that process holds the run's token, so the ledger changes it by the worker's boot id.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery.utils.imports import symbol_by_name
from celery.utils.log import get_logger

from celery_fanout.exceptions import FanoutError, describe
from celery_fanout.model.boot import boot_id, is_main
from celery_fanout.model.headers import RUN_HEADER

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from celery_fanout.stores.ledger import Ledger

logger = get_logger(__name__)

#: How long a run whose task this process does not know waits for another process, in seconds.
UNKNOWN_TASK_DELAY = 5.0


@dataclass(eq=False, repr=False)
class Supervisor:
    """Tells the ledger what the main process of a worker sees.

    What the ledger cannot be told, a keeper finds when the lease of the run is over.

    Args:
        ledger: the ledger.
        wake: publishes runs that are due now; best effort.
        follow_up: records what follows from the end of a run.
    """

    _ledger: Ledger
    _wake: Callable[[Sequence[str]], None]
    _follow_up: Callable[[str], None]

    # -- of the requests of a worker -------------------------------------------------------------

    def process_died(self, run_id: str, error: BaseException) -> bool:
        """The process that executed a run has died; return whether the ledger knows."""
        return self._abandon(run_id, error, final=False)

    def timed_out(self, run_id: str, error: BaseException) -> None:
        """A hard time limit ends the process of a run, and the run with it."""
        self._abandon(run_id, error, final=True)

    def let_go(self, run_id: str) -> None:
        """This worker ends the process of a run: it goes on elsewhere, and has not crashed."""
        with _logged():
            self._ledger.release(boot_id(), [run_id])

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
        with _logged():
            reason = "expired" if expired else "revoked"
            cancelled, woken = self._ledger.cancel([request.id], reason)
            if woken:
                self._wake(woken)
            for run_id in cancelled:
                self._follow_up(run_id)

    def unknown(self, message: Any, task_id: str) -> None:
        """A message names a task that this worker does not know."""
        if RUN_HEADER not in (message.headers or ()):
            return
        with _logged():
            self._ledger.unregistered(task_id, UNKNOWN_TASK_DELAY)
            logger.warning("Run %s is put back: this worker does not know its task", task_id)

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


@contextmanager
def _logged() -> Generator[None]:
    """Log what the ledger says, and go on: Celery must not meet it."""
    try:
        yield
    except FanoutError as exc:
        logger.warning("%s", exc)


def supervise_requests(task: Any, supervisor: Supervisor) -> None:
    """Let a task's requests tell the ledger of processes that died.

    Celery gives the message of such a request back to the broker, or drops it, by four settings;
    none counts how often. For a run it is enough to tell the ledger, which publishes it again at
    once. A process that the worker ends itself, as it stops at once or has lost its broker, is no
    crash.
    """
    base: Any = symbol_by_name(task.Request)
    if not getattr(base, "fanout_supervised", False):
        task.Request = _supervised(base, supervisor)


def _supervised(base: Any, supervisor: Supervisor) -> Any:
    class RunRequest(base):  # type: ignore[misc]  # whatever the task has
        fanout_supervised = True

        def cancel(self, *args: Any, **kwargs: Any) -> Any:
            if RUN_HEADER in self.request_dict:
                supervisor.let_go(self.id)  # Celery forgets the request now
            celery: Any = super()
            try:
                return celery.cancel(*args, **kwargs)
            except NotImplementedError:
                # A solo or threads pool cannot end a task. Celery calls this from a signal handler,
                # and so, in a solo worker, inside the body: it would fail with the pool's error.
                logger.warning("Task %s goes on: its pool cannot end it", self.id)

        def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
            error = getattr(exc_info.exception, "exc", exc_info.exception)
            celery: Any = super()
            if RUN_HEADER not in self.request_dict:
                return celery.on_failure(exc_info, *args, **kwargs)
            from celery.worker import state

            # a worker that stops at once ends its processes in this way, too
            if isinstance(error, TimeLimitExceeded) and not _stops_at_once(state):
                supervisor.timed_out(self.id, error)
            if not isinstance(error, WorkerLostError):
                return celery.on_failure(exc_info, *args, **kwargs)
            if getattr(self, "_already_cancelled", False) or _stops_at_once(state):
                supervisor.let_go(self.id)
            elif supervisor.process_died(self.id, error):
                logger.warning("Run %s is published again: its process died (%s)", self.id, error)
            else:
                return celery.on_failure(exc_info, *args, **kwargs)
            state.task_ready(self)
            self.acknowledge()
            return None

    return RunRequest


def _stops_at_once(state: Any) -> bool:
    """Whether this worker is in a cold shutdown; Celery notes its exit code, which may be 0."""
    return state.should_terminate is not None and state.should_terminate is not False
