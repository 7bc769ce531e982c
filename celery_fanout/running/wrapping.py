"""The wrapper around a task's body: recognise a run and have it executed.

It stands outside Celery's own ``autoretry`` wrapper and is put there in the same manner, on
``task.run``. A call that is no run goes straight through.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from celery.exceptions import Ignore, Reject, Retry
from celery.utils.log import get_task_logger

from celery_fanout.exceptions import StoreUnavailable, Superseded
from celery_fanout.model.headers import BATCH_HEADER, RUN_HEADER
from celery_fanout.model.run import run_of
from celery_fanout.running.batch_models import as_models
from celery_fanout.running.endings import STEERING, steered
from celery_fanout.running.executing import execute
from celery_fanout.running.execution import Engine, Execution, current_execution, test_engine
from celery_fanout.running.retrying import hold_retries
from celery_fanout.running.suspending import BranchDone, Suspended, warn_swallowed

if TYPE_CHECKING:
    from collections.abc import Callable

logger = get_task_logger(__name__)


class TaskWrapper:
    """Makes tasks of one app execute runs.

    Args:
        engine: gives the parts that runs work with: those for eager execution, or the app's.
    """

    def __init__(self, engine: Callable[[bool], Engine]) -> None:
        self._engine = engine
        #: Whether this worker may execute nothing else: it is a fast one.
        self.only_runs = False

    def wrap(self, task: Any) -> None:
        """Wrap ``task.run``, once."""
        if getattr(task.run, "fanout_wrapped", False):
            return
        # below autoretry, which would take what follows a swallowed suspension for the error
        innermost = "_orig_run" if hasattr(task, "_orig_run") else "run"
        setattr(task, innermost, _unswallowed(getattr(task, innermost)))
        body = task.run

        @functools.wraps(body)
        def fanout_run(*args: Any, **kwargs: Any) -> Any:
            request = _delivered(task)
            outer = current_execution.get()
            if request is not None and outer is not None and outer.request is request:
                return body(*args, **kwargs)  # the body called its own task
            run = None if request is None else run_of(task, request)
            if request is None or run is None:
                return self._call_ordinary(task, functools.partial(body, *args, **kwargs))
            engine = test_engine.get() or self._engine(bool(request.is_eager))
            execution = Execution(run, task, request, engine)
            # the body may change what it is given, and the message may be published again
            try:
                return execute(execution, lambda: body(*_arguments(task, request, args), **kwargs))
            except Ignore as steering:
                # Celery copies every frame of it, and all positions in their code, and reads none
                # of that: 2 ms and 500 KB for each suspension
                raise steering.with_traceback(None) from None

        wrapped: Any = fanout_run
        wrapped.fanout_wrapped = True
        task.run = wrapped
        hold_retries(task)

    def _call_ordinary(self, task: Any, call: Callable[[], Any]) -> Any:
        """Call the body of a task that is no run; RetryAfter and the like work there too."""
        if task.request.called_directly:  # nothing to steer, and the caller wants to see it
            return call()
        if self.only_runs:
            _send_elsewhere(task)
        try:
            return call()
        except STEERING as exc:
            raise steered(task, exc) from exc


def _send_elsewhere(task: Any) -> None:
    """Publish an ordinary task to the app's own queue: a fast worker could lose it."""
    queue = task.app.conf.task_default_queue
    logger.error(
        "%s[%s] is no recorded run, and does not belong into the queue of a fast worker. It is "
        "sent to %r.",
        task.name,
        task.request.id,
        queue,
    )
    task.signature_from_request(task.request, queue=queue).apply_async(add_to_parent=False)
    raise Ignore


def _arguments(task: Any, request: Any, args: tuple[Any, ...]) -> list[Any]:
    """Return the arguments of a message for a body to change; a batch of models, if it wants it."""
    copies = [_copied(value) for value in args]
    if BATCH_HEADER in (request.headers or ()):
        return [as_models(task, value) for value in copies]
    return copies


def _copied(argument: Any) -> Any:
    """Return a copy of what JSON knows; a body may have been given anything else to share it."""
    value: Any = argument  # looked at, a checker would know it for a dict of unknowns
    if type(argument) is dict:
        return {key: _copied(item) for key, item in value.items()}
    if type(argument) is list:
        return [_copied(item) for item in value]
    return value


def _unswallowed(body: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a body: a suspension that it swallowed wins over how it ended."""

    @functools.wraps(body)
    def run(*args: Any, **kwargs: Any) -> Any:
        execution = current_execution.get()
        try:
            value = body(*args, **kwargs)
        except (Suspended, StoreUnavailable, Superseded, BranchDone):
            raise
        except (Retry, Reject):
            if execution is not None and execution.leaving is not None:
                # its message is on its way already; what was swallowed is met again then
                warn_swallowed(execution, "and asked Celery for a retry")
            raise
        except Exception as exc:
            if execution is None or execution.leaving is None:
                raise
            warn_swallowed(execution, f"and raised {type(exc).__name__}")
            raise execution.leaving from exc
        if execution is not None and execution.leaving is not None:
            warn_swallowed(execution, "and returned")
            raise execution.leaving
        return value

    return run


def _delivered(task: Any) -> Any:
    """Return the request of the message that is being executed, if it is a run's; else ``None``.

    Outside of Celery's workers a task with a ``__call__`` of its own, which calls Celery's, has
    its body called with an empty request on top of that of the message.
    """
    for request in reversed(task.request_stack.stack):
        if not request.called_directly:
            headers = request.headers  # Celery lets them be anything
            return request if isinstance(headers, Mapping) and RUN_HEADER in headers else None
    return None
