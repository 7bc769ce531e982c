"""One attempt of a run: claim it, call the body, settle how that ended, and tell Celery.

On level 1 there is nothing to claim or to settle: Celery's message is all there is of the run.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from celery import signals as celery_signals
from celery.exceptions import Ignore, Retry
from celery.utils.log import get_task_logger

from celery_fanout import signals
from celery_fanout.exceptions import FanoutError, StoreUnavailable, Superseded
from celery_fanout.model.failpoints import hit
from celery_fanout.model.run import run_of
from celery_fanout.running.claiming import claim
from celery_fanout.running.endings import (
    STEERING,
    Ending,
    EndingKind,
    body_raised,
    body_returned,
    steered,
    task_raised,
    task_returned,
)
from celery_fanout.running.execution import execution_of, make_current
from celery_fanout.running.settling import settle
from celery_fanout.running.suspending import Suspended, leave_worker, put_back, put_off_if_early

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_fanout.running.execution import Execution

logger = get_task_logger(__name__)


def execute(execution: Execution, body: Callable[[], Any]) -> Any:
    """Execute one attempt of a run.

    Args:
        execution: the attempt.
        body: calls the task's body.

    Returns:
        What the body returned.

    Raises:
        Ignore: if there is nothing for Celery to do: the run was not claimed, or has left.
        Exception: what Celery is to see of an error of the body.
    """
    if execution.engine.ledger is None:
        return _execute_unrecorded(execution, body)
    try:
        return _execute_recorded(execution, body)
    except StoreUnavailable as exc:
        put_back(execution, exc)


def _execute_recorded(execution: Execution, body: Callable[[], Any]) -> Any:
    """Execute an attempt of a run that is in the ledger: level 2."""
    claimed = claim(execution)
    if claimed.has_returned:  # and Celery has yet to dispatch its tail
        return claimed.returned()
    hit("claim.after")
    ending = _call(execution, body)
    settle(execution, ending)
    return ending.conclude()


def _call(execution: Execution, body: Callable[[], Any]) -> Ending:
    """Call the body, and return how it ended."""
    try:
        with make_current(execution):
            signals.run_started.send(sender=execution.task, run=execution.run)
            value = body()
    # KNOWN FAULT: after anything else, such as SystemExit or CancelledError, the run stays claimed
    except Exception as raised:  # noqa: BLE001 - all of them are endings
        return body_raised(execution, raised)
    return body_returned(execution, value)


def _execute_unrecorded(execution: Execution, body: Callable[[], Any]) -> Any:
    """Execute an attempt of a run that is nothing but a message: level 1."""
    put_off_if_early(execution)
    execution.request.fanout_execution = execution
    signals.run_started.send(sender=execution.task, run=execution.run)
    while True:
        try:
            with make_current(execution):
                return body()
        except Suspended as suspended:  # noqa: PERF203 - a second pass is rare
            leave_worker(execution, suspended)
        except StoreUnavailable as exc:
            put_back(execution, exc)
        except STEERING as exc:
            raise steered(execution.task, exc) from exc


# What Celery's own signals say: that a tail was dispatched, or how a __call__ ended.


def _on_success(sender: Any = None, result: Any = None, **_: Any) -> None:
    run = run_of(sender, sender.request)
    if run is None:
        return
    execution = execution_of(sender.request)
    runtime = 0.0  # which Celery 5.5 does not say
    if execution is not None:
        _settle_success(execution, result)
        runtime = time.monotonic() - execution.began
    signals.run_succeeded.send(sender=sender, run=run, runtime=runtime)


def _settle_success(execution: Execution, value: Any) -> None:
    try:
        if execution.left_to_call:
            ending = task_returned(execution, value)
            settle(execution, ending)
            ending.conclude()
        if execution.tail:
            settle(execution, Ending(EndingKind.TAIL_DISPATCHED))
    except FanoutError as exc:
        # KNOWN FAULT: after this, and after any other error, the run stays claimed for a lease
        logger.warning("%s", exc)


def _on_failure(sender: Any = None, exception: Any = None, **_: Any) -> None:
    run = run_of(sender, sender.request)
    # a process that died is no failure of its run yet, where a ledger counts crashes
    if run is None or getattr(sender.request, "fanout_crashed", False):
        return
    execution = execution_of(sender.request)
    # KNOWN FAULT: what before_start raises, before the run is claimed, is no ending of it
    if execution is not None and execution.left_to_call:
        try:
            settle(execution, task_raised(exception))
        except (Superseded, StoreUnavailable) as lost:
            logger.warning("%s", lost)
    signals.run_failed.send(sender=sender, run=run, exception=exception)


def _on_postrun(sender: Any = None, retval: Any = None, **_: Any) -> None:
    """Let go of what only the garbage collector would free, which counts objects, not bytes.

    An execution refers to the request that refers to it. An exception that steers a run refers to
    Celery's frame, which refers to it and to what Celery copied of its traceback: 350 KB.
    """
    sender.request.__dict__.pop("fanout_execution", None)
    if isinstance(retval, (Ignore, Retry)):
        retval.__traceback__ = None


celery_signals.task_postrun.connect(_on_postrun, weak=False)
celery_signals.task_success.connect(_on_success, weak=False)
celery_signals.task_failure.connect(_on_failure, weak=False)
