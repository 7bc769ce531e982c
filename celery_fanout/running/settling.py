"""Writing down how an attempt ended: the only place that settles a run which its worker holds.

Every row of the table "How a body can end" in docs/explanation/the-ledger.md is one case here. What
only the worker's main process sees, such as a dead child, is settled in ``keeping.supervisor``.
"""

from __future__ import annotations

import datetime as dt
import traceback
from typing import TYPE_CHECKING, Any

from kombu.utils import json as kombu_json

from celery_fanout.emitting.broker.routing import routed_to
from celery_fanout.exceptions.describing import MAX_MESSAGE, describe
from celery_fanout.model.failpoints import hit
from celery_fanout.model.tracing import current_trace
from celery_fanout.running.endings import EndingKind
from celery_fanout.running.suspending import Suspended, announce
from celery_fanout.stores.records import NewRun
from celery_fanout.stores.states import RunState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_fanout.running.claimed import ClaimedRun
    from celery_fanout.running.endings import Ending
    from celery_fanout.running.execution import Execution

#: How much of a traceback is kept, in characters.
MAX_TRACEBACK = 50_000

#: Endings before and after which the fault tests kill the process.
_WATCHED = frozenset(
    {
        EndingKind.RETURNED,
        EndingKind.ITEM_DONE,
        EndingKind.IGNORED,
        EndingKind.REJECTED,
        EndingKind.FAILED,
    }
)


def settle(execution: Execution, ending: Ending) -> None:
    """Write down how an attempt ended, then publish what that wakes, and what follows from it.

    Raises:
        Superseded: if the run is no longer this worker's.
        StoreUnavailable: if the ledger does not answer for a while.
    """
    claimed = execution.claimed
    if claimed is None or ending.kind is EndingKind.LOST:
        return
    if ending.kind is EndingKind.BODY_RETURNED:
        # KNOWN FAULT: if its __call__ handles an error of the body, or raises Retry or Ignore after
        # this, Celery's signals do not say so, and the run stays claimed until its lease is over
        execution.left_to_call = True
        return
    state, details = _change(execution, claimed, ending)
    watched = ending.kind in _WATCHED
    if watched:
        hit("settle.before")
    settled = claimed.settle(state, **details)
    if watched:
        hit("tail.before_dispatch" if state is RunState.COMPLETING else "settle.after")
    if isinstance(ending.error, Suspended):
        announce(execution, ending.error)
    # KNOWN FAULT: a run that gets the place of one that is retried waits for a keeper
    if settled.woken and ending.kind is not EndingKind.RETRY:
        execution.engine.wake(settled.woken)
    if state is RunState.FAILED:
        execution.engine.follow_up(claimed.run_id)


def _change(  # noqa: PLR0911 - a table
    execution: Execution, claimed: ClaimedRun, ending: Ending
) -> tuple[RunState, dict[str, Any]]:
    """Return the state that a run gets by an ending, and what is written with it."""
    error: Any = ending.error
    match ending.kind:
        case EndingKind.RETURNED if execution.tail:
            child = _next_link(execution, ending.value)
            return RunState.COMPLETING, {"result": ending.result, "child": child}
        case EndingKind.RETURNED | EndingKind.ITEM_DONE:
            return RunState.SUCCEEDED, {"result": ending.result}
        case EndingKind.TAIL_DISPATCHED:
            return RunState.SUCCEEDED, {}
        case EndingKind.IGNORED:
            return RunState.SUCCEEDED, {"reason": "ignored"}
        case EndingKind.SUSPENDED:
            return RunState.SUSPENDED, {
                "reason": error.reason,
                "due": None if error.until == float("inf") else error.until,
                "group": error.group,
                "trace": current_trace(),
            }
        case EndingKind.RETRY:
            return RunState.RETRYING, _timer(claimed, error)
        case EndingKind.REQUEUED:  # Celery gives the message back to the broker
            return RunState.PENDING, {"reason": "rejected"}
        case _:
            # without locals
            text = "".join(traceback.format_exception(error.__class__, error, ending.traceback))
            return RunState.FAILED, {
                "error": {**describe(error, MAX_MESSAGE), "traceback": text[-MAX_TRACEBACK:]},
                "reason": "rejected" if ending.kind is EndingKind.REJECTED else "error",
            }


def _next_link(execution: Execution, value: Any) -> NewRun:
    """Return the next link of a chain as a run, so that it can be published again if it is lost."""
    *rest, link = execution.tail  # Celery's chain option has the last link first
    options: Mapping[str, Any] = link.get("options") or {}
    headers: Mapping[str, Any] = options.get("headers") or {}
    message = {"signature": dict(link), "chain": rest or None, "value": value}
    return NewRun(
        id=str(options["task_id"]),
        subscription=str(headers.get("fanout_subscription", "")),
        kind="then",
        queue=routed_to(execution.task.app, link["task"], options),
        message=str(kombu_json.dumps(message)),
    )


def _timer(claimed: ClaimedRun, retry: Any) -> dict[str, Any]:
    """Return the next attempt: a timer of the ledger, not a message in a worker's memory."""
    if isinstance(retry.when, dt.datetime):
        when = retry.when if retry.when.tzinfo else retry.when.astimezone()
        due = when.timestamp()
    else:
        due = claimed.now() + float(retry.when or 0)
    error = {**describe(retry.exc or retry, MAX_MESSAGE), "traceback": ""}
    retries = retry.sig.options.get("retries") if retry.sig is not None else None
    return {
        "due": due,
        "retries": 1 if retries is None else int(retries),
        "error": error,
        "reason": error["type"][:60],
        "trace": current_trace(),
    }
