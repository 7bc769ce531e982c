"""The wrapper around a subscriber's body: recognise the run, call the body, settle.

It stands outside Celery's own ``autoretry`` wrapper and is put there in the same manner, on
``task.run``. A call that is no run goes straight through.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

from celery import signals as celery_signals
from celery.exceptions import Ignore, Reject, Retry
from celery.utils.log import get_task_logger

from celery_fanout import signals
from celery_fanout.exceptions import (
    NonRetriable,
    RetryAfter,
    RunFailed,
    StepFailed,
    StepMisused,
    StoreUnavailable,
    Superseded,
)
from celery_fanout.model.headers import (
    BATCH_HEADER,
    RESUME_HEADER,
    RUN_HEADER,
    STORE_LEFT_HEADER,
    STORE_RETRIES_HEADER,
)
from celery_fanout.model.run import Run, run_of
from celery_fanout.running.batch_models import as_models
from celery_fanout.running.executing import execute, failed_late, finished
from celery_fanout.running.execution import Engine, Execution, activate, current, engine_override
from celery_fanout.running.retrying import hold_retries
from celery_fanout.running.suspending import BranchDone, Suspended, Suspension, warn_swallowed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Runs"]

logger = get_task_logger(__name__)

#: How often a run is put back in a row while the store does not answer, before it fails. With the
#: pauses below that is about an hour.
MAX_STORE_RETRIES = 70
STORE_PAUSE_MAX = 60.0


#: What a body, or a step in it, raises to end or repeat its task.
STEERING = (RetryAfter, NonRetriable, StepFailed, StepMisused)


class Runs:
    """Makes tasks of one app execute runs.

    Args:
        engine: gives the parts that runs work with: those for eager execution, or the app's.
        suspension: publishes a run again.
    """

    def __init__(self, engine: Callable[[bool], Engine], suspension: Suspension) -> None:
        self._engine = engine
        self._suspension = suspension
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
        def run(*args: Any, **kwargs: Any) -> Any:
            request = _delivered(task)
            active = current.get()
            # the second case: the body called its own task
            own = request is not None and active is not None and active.request is request
            found = None if request is None or own else run_of(task, request)
            if found is None and self.only_runs and not own and not task.request.called_directly:
                self._send_elsewhere(task)
            if found is None:
                call = functools.partial(body, *args, **kwargs)
                return call() if own else _ordinary(task, call)
            # the body may change what it is given, and the message may be published again
            try:
                return self._execute(
                    task, request, found, lambda: body(*_given(task, request, args), **kwargs)
                )
            except Ignore as steering:
                # Celery copies every frame of it, and all positions in their code, and reads none
                # of that: 2 ms and 500 KB for each suspension
                raise steering.with_traceback(None) from None

        wrapped: Any = run
        wrapped.fanout_wrapped = True
        task.run = wrapped
        hold_retries(task)

    def _execute(self, task: Any, request: Any, run: Run, body: Callable[[], Any]) -> Any:
        engine = engine_override.get() or self._engine(bool(request.is_eager))
        if engine.ledger is not None:
            return self._execute_claimed(task, request, run, engine, body)
        execution = Execution(run, task, request, engine)
        self._hop_on(execution)
        request.fanout_began = time.monotonic()
        signals.run_started.send(sender=task, run=run)
        while True:
            try:
                with activate(execution):
                    return body()
            except Suspended as suspended:  # noqa: PERF203 - a second pass is rare
                self._leave(execution, suspended)
            except StoreUnavailable as exc:
                self._put_back(execution, exc)
            except STEERING as exc:
                raise _steered(task, exc) from exc

    def _execute_claimed(
        self, task: Any, request: Any, run: Run, engine: Engine, body: Callable[[], Any]
    ) -> Any:
        """Execute a run of level 2."""
        request.fanout_began = time.monotonic()
        request.fanout_engine = engine

        def translate(exc: BaseException) -> BaseException:
            return _steered(task, exc) if isinstance(exc, STEERING) else exc

        try:
            return execute(task, request, run, engine, body, translate)
        except StoreUnavailable as exc:
            self._put_back(Execution(run, task, request, engine), exc)

    def _send_elsewhere(self, task: Any) -> None:
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

    def _hop_on(self, execution: Execution) -> None:
        """Send a message that came early on its way again, without calling the body."""
        headers: Mapping[str, Any] = execution.request.headers or {}
        until = headers.get(RESUME_HEADER)
        if until is not None and not execution.is_due(until):
            self._leave(execution, Suspended(until, "delay"))

    def _leave(self, execution: Execution, suspended: Suspended) -> None:
        """Leave the worker until ``suspended.until``; where nothing waits, skip the time."""
        engine = execution.engine
        if not engine.waits:
            execution.restart()
            execution.skipped += max(0.0, suspended.until - execution.now())
            return
        if engine_override.get() is None:
            self._suspension.republish(execution.task, execution.request, suspended.until)
        signals.run_suspended.send(
            sender=execution.task,
            run=execution.run,
            until=suspended.until,
            reason=suspended.reason,
            step=suspended.step,
        )
        raise suspended

    def _put_back(self, execution: Execution, error: StoreUnavailable) -> None:
        """Try again later because the store did not answer."""
        headers: Mapping[str, Any] = execution.request.headers or {}
        retries = headers.get(STORE_RETRIES_HEADER) or 0
        if retries >= MAX_STORE_RETRIES or not execution.engine.waits:
            raise RunFailed(f"{error.store} could not be reached: {error.reason}") from error
        logger.warning("%s", error)
        until = execution.now() + min(STORE_PAUSE_MAX, 2.0**retries)
        if engine_override.get() is None:
            claimed: Any = getattr(execution.request, "fanout_claimed", None)
            left = int(headers.get(STORE_LEFT_HEADER) or 0) if claimed is None else claimed.token
            self._suspension.republish(
                execution.task, execution.request, until, store_retries=retries + 1, left=left
            )
        signals.run_suspended.send(
            sender=execution.task, run=execution.run, until=until, reason="store", step=None
        )
        raise Suspended(until, "store") from error


def _given(task: Any, request: Any, args: tuple[Any, ...]) -> list[Any]:
    """Return the arguments of a message for a body to change; a batch of models, if it wants it."""
    copies = [_copied(value) for value in args]
    if BATCH_HEADER in (request.headers or ()):
        return [as_models(task, value) for value in copies]
    return copies


def _copied(argument: Any) -> Any:
    """Return a copy of what JSON knows; a body may have been given anything else to share it."""
    found: Any = argument  # looked at, a checker would know it for a dict of unknowns
    if type(argument) is dict:
        return {key: _copied(item) for key, item in found.items()}
    if type(argument) is list:
        return [_copied(item) for item in found]
    return found


def _ordinary(task: Any, call: Callable[[], Any]) -> Any:
    """Call the body of a task that is no run; what it raises to steer itself works there too."""
    if task.request.called_directly:  # there is nothing to steer, and the caller wants to see it
        return call()
    try:
        return call()
    except STEERING as exc:
        raise _steered(task, exc) from exc


def _steered(task: Any, exc: BaseException) -> BaseException:
    """Return what Celery is to see of an error that passed autoretry as an ``Ignore``."""
    if isinstance(exc, RetryAfter):
        policy: Mapping[str, Any] = getattr(task, "retry_kwargs", None) or {}
        cause = exc.cause or RunFailed(f"It asked to be tried again after {exc.seconds:g} s.")
        limit = policy.get("max_retries")
        retry: BaseException = task.retry(
            countdown=exc.seconds, exc=cause, max_retries=limit, throw=False
        )
        return retry
    if isinstance(exc, NonRetriable):
        return exc.error
    return RunFailed(str(exc))


def _unswallowed(body: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a body: a suspension that it swallowed wins over how it ended."""

    @functools.wraps(body)
    def run(*args: Any, **kwargs: Any) -> Any:
        execution = current.get()
        try:
            value = body(*args, **kwargs)
        except (Suspended, StoreUnavailable, Superseded, BranchDone):
            raise
        except (Retry, Reject):
            if execution is not None and execution.suspension is not None:
                # its message is on its way already; what was swallowed is met again then
                warn_swallowed(execution, "and asked Celery for a retry")
            raise
        except Exception as exc:
            if execution is None or execution.suspension is None:
                raise
            warn_swallowed(execution, f"and raised {type(exc).__name__}")
            raise execution.suspension from exc
        if execution is not None and execution.suspension is not None:
            warn_swallowed(execution, "and returned")
            raise execution.suspension
        return value

    return run


def _delivered(task: Any) -> Any:
    """Return the request of the message that is being executed, if it is a run's; else ``None``.

    Outside of Celery's workers a task with a ``__call__`` of its own, which calls Celery's, has
    its body called with an empty request on top of that of the message.
    """
    for request in reversed(task.request_stack.stack):
        if not request.called_directly:
            return request if RUN_HEADER in (request.headers or ()) else None
    return None


# Celery's own signals tell how a run ended: success only after its tail was dispatched.


def _on_success(sender: Any = None, result: Any = None, **_: Any) -> None:
    run = run_of(sender, sender.request)
    if run is not None:
        engine: Engine | None = getattr(sender.request, "fanout_engine", None)
        if engine is not None:
            finished(sender.request, engine, result)
        now = time.monotonic()  # Celery 5.5 does not tell the runtime
        runtime = now - getattr(sender.request, "fanout_began", now)
        signals.run_succeeded.send(sender=sender, run=run, runtime=runtime)


def _on_failure(sender: Any = None, exception: Any = None, **_: Any) -> None:
    run = run_of(sender, sender.request)
    # a process that died is no failure of its run yet, where a ledger counts crashes
    if run is not None and not getattr(sender.request, "fanout_crashed", False):
        failed_late(sender.request, exception)
        signals.run_failed.send(sender=sender, run=run, exception=exception)


def _on_postrun(retval: Any = None, **_: Any) -> None:
    """Let go of the frames of an exception that steers a run.

    It refers to Celery's frame, which refers to it and to what Celery copied of its traceback: 350
    KB, which only the garbage collector would free, and that counts objects, not bytes.
    """
    if isinstance(retval, (Ignore, Retry)):
        retval.__traceback__ = None


celery_signals.task_postrun.connect(_on_postrun, weak=False)
celery_signals.task_success.connect(_on_success, weak=False)
celery_signals.task_failure.connect(_on_failure, weak=False)
