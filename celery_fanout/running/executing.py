"""The path of a run on level 2: claim, call the body, settle.

Every way in which a body can end is one row of the table in docs/explanation/the-ledger.md.
"""

from __future__ import annotations

import datetime as dt
import traceback
from typing import TYPE_CHECKING, Any

from celery.app.task import Task as BaseTask
from celery.exceptions import Ignore, Reject, Retry
from celery.utils.log import get_task_logger
from kombu.utils import json as kombu_json

from celery_fanout import signals
from celery_fanout.emitting.broker.routing import routed_to
from celery_fanout.exceptions import (
    INTERRUPTS,
    FanoutError,
    RunFailed,
    StoreUnavailable,
    Superseded,
    describe,
)
from celery_fanout.model.failpoints import hit
from celery_fanout.model.headers import IGNORED_HEADER, KIND_HEADER
from celery_fanout.model.tracing import current_trace
from celery_fanout.running.claiming import claim
from celery_fanout.running.execution import Execution, activate
from celery_fanout.running.suspending import BranchDone, NotClaimed, Suspended
from celery_fanout.stores.ledger import NewRun
from celery_fanout.stores.states import RunState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from celery_fanout.model.run import Run
    from celery_fanout.running.claimed import ClaimedRun
    from celery_fanout.running.execution import Engine
    from celery_fanout.stores.ledger import Claim, Settled

__all__ = ["execute", "failed_late", "finished"]

logger = get_task_logger(__name__)

#: How much of an error is kept, in characters.
MAX_MESSAGE, MAX_TRACEBACK = 10_000, 50_000


def execute(
    task: Any,
    request: Any,
    run: Run,
    engine: Engine,
    body: Callable[[], Any],
    translate: Callable[[BaseException], BaseException],
) -> Any:
    """Execute one attempt of a run.

    Args:
        task: its task.
        request: the message's request.
        run: the run.
        engine: what it works with.
        body: calls the task's body.
        translate: what Celery is to see of an error that steers a run; itself for any other.

    Returns:
        What the body returned.

    Raises:
        Ignore: if there is nothing for Celery to do: the run was not claimed, or has left.
        StoreUnavailable: if the ledger does not answer.
    """
    assert engine.ledger is not None  # noqa: S101 - the caller looked
    answer, claimed = claim(engine, run, request)
    if claimed is None:
        raise _refused(run, answer, engine)
    request.fanout_claimed = claimed
    request.fanout_tail = list(request.chain or ())  # Celery takes the next link out of its own
    request.chain = request.chain if engine.dispatches else None
    if answer.status == "completing":  # it was executed; Celery has yet to dispatch its tail
        return None if answer.result is None else kombu_json.loads(answer.result)
    hit("claim.after")
    execution = Execution(run, task, request, engine, claimed)
    try:
        with activate(execution):
            signals.run_started.send(sender=task, run=run)
            value = _returned(request, body())
    except BranchDone as done:
        _succeed(execution, claimed, done.value, tail=None)
        raise NotClaimed from None  # Celery has nothing to do with its value
    except (Superseded, StoreUnavailable, NotClaimed):
        raise
    except Suspended as suspended:
        _suspend(execution, claimed, suspended)
        raise
    except Reject as reject:
        _reject(execution, claimed, reject)
        raise
    except Exception as exc:
        # from here on what Celery sees: RetryAfter became a Retry, NonRetriable its cause
        ending = _translated(translate, exc)
        _end(execution, claimed, ending, exc)
        if ending is exc:
            raise
        raise ending from exc
    if _has_own_call(task):
        # what the task returns is known only when its __call__ has: see `finished`
        request.fanout_execution = execution
    else:
        _succeed(execution, claimed, value, tail=request.fanout_tail)
    return value


def _has_own_call(task: Any) -> bool:
    """Whether a task's class has a ``__call__`` of its own; a worker replaces Celery's."""
    base: Any = BaseTask
    return type(task).__call__ is not base.__call__


def _returned(request: Any, value: Any) -> Any:
    """Return what a body returned, unless it asked for a retry and went on after that."""
    asked: Retry | None = getattr(request, "fanout_retry", None)
    if asked is not None:
        raise asked
    return value


def _translated(
    translate: Callable[[BaseException], BaseException], exc: BaseException
) -> BaseException:
    try:
        return translate(exc)
    except Exception as out_of_retries:  # noqa: BLE001 - task.retry raises the cause itself
        return out_of_retries


def _end(
    execution: Execution, claimed: ClaimedRun, ending: BaseException, raised: BaseException
) -> None:
    """Settle a body that raised ``raised``, of which Celery sees ``ending``."""
    if isinstance(ending, Retry):
        _retry(claimed, ending)
    elif isinstance(ending, Ignore):
        # the body has seen to everything itself; so has Task.replace()
        hit("settle.before")
        _wake(execution.engine, claimed.settle(RunState.SUCCEEDED, reason="ignored"))
    else:
        _fail(execution, claimed, ending, where=raised)


def _refused(run: Run, answer: Claim, engine: Engine) -> NotClaimed:
    level = logger.warning if answer.status == "unknown" else logger.info
    level("Run %s is not executed: it is %s", run.id, answer.status)
    if answer.status in ("crashed", "expired") and engine.ended is not None:
        engine.ended(run.id)
    if engine.wake is not None and answer.woken:
        engine.wake(answer.woken)
    return NotClaimed(answer.status)


def _wake(engine: Engine, settled: Settled) -> None:
    if settled.woken and engine.wake is not None:
        engine.wake(settled.woken)


def _succeed(execution: Execution, claimed: ClaimedRun, value: Any, tail: Any) -> None:
    headers: Mapping[str, Any] = execution.request.headers or {}
    wanted = tail or headers.get(KIND_HEADER) in ("invoke", "parallel")
    ignored = (execution.task.ignore_result or IGNORED_HEADER in headers) and not wanted
    try:
        result = None if ignored else str(kombu_json.dumps(value, separators=(",", ":")))
    except INTERRUPTS:
        raise
    except Exception as exc:
        # values may bring encoders of their own
        failure = RunFailed(f"Its result cannot be stored: {exc}")
        _fail(execution, claimed, failure)
        raise failure from exc
    hit("settle.before")
    if not tail:
        settled = claimed.settle(RunState.SUCCEEDED, result=result)
    else:
        settled = claimed.settle(
            RunState.COMPLETING, result=result, child=_next_link(execution.task.app, tail, value)
        )
    hit("settle.after" if not tail else "tail.before_dispatch")
    _wake(execution.engine, settled)


def _next_link(app: Any, tail: list[dict[str, Any]], value: Any) -> NewRun:
    """Return the next link of a chain as a run, so that it can be published again if it is lost."""
    *rest, link = tail  # Celery's chain option has the last link first
    options: Mapping[str, Any] = link.get("options") or {}
    headers: Mapping[str, Any] = options.get("headers") or {}
    message = {"signature": dict(link), "chain": rest or None, "value": value}
    return NewRun(
        id=str(options["task_id"]),
        subscription=str(headers.get("fanout_subscription", "")),
        kind="then",
        queue=routed_to(app, link["task"], options),
        message=str(kombu_json.dumps(message)),
    )


def finished(request: Any, engine: Engine, value: Any) -> None:
    """Settle a run whose tail Celery has dispatched, or whose task has a ``__call__``."""
    claimed: ClaimedRun | None = getattr(request, "fanout_claimed", None)
    execution: Execution | None = getattr(request, "fanout_execution", None)
    if claimed is None:
        return
    try:
        if execution is not None:
            _succeed(execution, claimed, value, tail=request.fanout_tail)
        if request.fanout_tail:
            _wake(engine, claimed.settle(RunState.SUCCEEDED))
    except FanoutError as exc:
        logger.warning("%s", exc)  # the keeper settles it when the lease is over


def failed_late(request: Any, exc: BaseException) -> None:
    """Settle a run whose task's ``__call__`` raised after its body had returned."""
    execution: Execution | None = getattr(request, "fanout_execution", None)
    if execution is None or execution.claimed is None:
        return
    try:
        _fail(execution, request.fanout_claimed, exc)
    except (Superseded, StoreUnavailable) as lost:
        logger.warning("%s", lost)


def _suspend(execution: Execution, claimed: ClaimedRun, suspended: Suspended) -> None:
    until = suspended.until
    settled = claimed.settle(
        RunState.SUSPENDED,
        reason=suspended.reason,
        due=None if until == float("inf") else until,
        group=suspended.group,
        trace=current_trace(),
    )
    signals.run_suspended.send(
        sender=execution.task,
        run=execution.run,
        until=until,
        reason=suspended.reason,
        step=suspended.step,
    )
    _wake(execution.engine, settled)


def _retry(claimed: ClaimedRun, retry: Retry) -> None:
    """Leave until the next attempt: a timer of the ledger, not a message in a worker's memory."""
    asked: Any = retry
    when = asked.when
    if isinstance(when, dt.datetime):
        due = when.timestamp() if when.tzinfo else when.astimezone().timestamp()
    else:
        due = claimed.now() + float(when or 0)
    cause = asked.exc or retry
    error = {**_brief(cause), "traceback": ""}
    retries = asked.sig.options.get("retries") if asked.sig is not None else None
    claimed.settle(
        RunState.RETRYING,
        due=due,
        retries=1 if retries is None else int(retries),
        error=error,
        reason=f"{error['type']}"[:60],
        trace=current_trace(),
    )


def _reject(execution: Execution, claimed: ClaimedRun, reject: Reject) -> None:
    asked: Any = reject
    if asked.requeue:
        # Celery gives the message back to the broker
        claimed.settle(RunState.PENDING, reason="rejected")
        return
    _fail(execution, claimed, reject, reason="rejected")


def _brief(exc: BaseException) -> dict[str, str]:
    found = describe(exc)
    return {**found, "message": found["message"][:MAX_MESSAGE]}


def _fail(
    execution: Execution,
    claimed: ClaimedRun,
    exc: BaseException,
    *,
    reason: str = "error",
    where: BaseException | None = None,
) -> None:
    place = exc.__traceback__ or (where.__traceback__ if where is not None else None)
    text = "".join(traceback.format_exception(type(exc), exc, place))  # without locals
    error = {**_brief(exc), "traceback": text[-MAX_TRACEBACK:]}
    hit("settle.before")
    settled = claimed.settle(RunState.FAILED, error=error, reason=reason)
    hit("settle.after")
    _wake(execution.engine, settled)
    if execution.engine.ended is not None:
        execution.engine.ended(claimed.run_id)
