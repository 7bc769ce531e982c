"""Celery's requests of runs, in the worker's main process, where a dead child is met.

Celery gives the message of such a request back to the broker, or drops it, by four settings; none
counts how often. For a run it is enough to tell the ledger, which publishes it again at once.

A process that the worker ends itself, as it stops at once or has lost its broker, is no crash.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery.utils.imports import symbol_by_name
from celery.utils.log import get_logger

from celery_fanout.model.headers import RUN_HEADER

if TYPE_CHECKING:
    from celery_fanout.keeping.supervisor import Supervisor

__all__ = ["supervise_requests"]

logger = get_logger(__name__)


def supervise_requests(task: Any, supervisor: Supervisor) -> None:
    """Let a task's requests tell the ledger of processes that died."""
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
