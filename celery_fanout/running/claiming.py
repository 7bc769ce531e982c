"""Claiming the run of a message; one that the ledger has lost is recreated from the message."""

from __future__ import annotations

import logging
import time
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_task_logger

from celery_fanout.model.boot import boot_id
from celery_fanout.model.headers import (
    BATCH_HEADER,
    BATCHED,
    BRANCH_HEADER,
    GENERATION_HEADER,
    KIND_HEADER,
    STORE_LEFT_HEADER,
    STORE_RETRIES_HEADER,
)
from celery_fanout.model.ids import event_key
from celery_fanout.model.jsondata import encode
from celery_fanout.running.claimed import ClaimedRun, patiently
from celery_fanout.running.suspending import NotClaimed
from celery_fanout.stores.records import NewEvent, NewRun

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_fanout.model.run import Run
    from celery_fanout.running.execution import Engine, Execution
    from celery_fanout.stores.ledger import Ledger
    from celery_fanout.stores.records import Claim

# the name that docs/how-to/monitoring.md gives it
logger = get_task_logger("celery_fanout.claims")


def claim(execution: Execution) -> ClaimedRun:
    """Claim the run of an attempt for this worker.

    Raises:
        NotClaimed: if it is not to be executed.
        StoreUnavailable: if the ledger does not answer.
    """
    run, request, engine = execution.run, execution.request, execution.engine
    ledger = engine.ledger
    assert ledger is not None  # noqa: S101 - the caller looked
    headers: Mapping[str, Any] = request.headers or {}
    ask = partial(
        ledger.claim,
        run.id,
        boot_id(),
        uuid.uuid4().hex[:8],
        retries=request.retries or 0,
        put_back=bool(headers.get(STORE_RETRIES_HEADER)),
        left=int(headers.get(STORE_LEFT_HEADER) or 0),
    )
    patience = ledger.rules.lease
    patience_here = min(patience, 5.0)  # the message can wait elsewhere
    answer: Claim = patiently(patience_here, ask)
    if answer.status == "unknown":
        lost = _recreated(ledger, run, headers, engine)
        if lost is not None:
            answer = patiently(patience_here, partial(ask, recreate=lost))
    if answer.status not in ("claimed", "completing"):
        raise _refused(run, answer, engine)
    if answer.crashes:
        logger.warning(
            "Run %s goes on here: the process that had it died (crash %d of at most %d)",
            run.id,
            answer.crashes,
            ledger.rules.max_crashes,
            extra={"action": "run_taken_over"},
        )
    item: Any = headers.get(BRANCH_HEADER)
    branch = None if item is None else (str(item[0]), int(item[1]))
    execution.claimed = ClaimedRun(ledger, run.id, answer, branch, patience)
    request.fanout_execution = execution
    execution.tail = list(request.chain or ())  # Celery takes the next link out of its own
    request.chain = request.chain if engine.dispatches else None
    return execution.claimed


def _refused(run: Run, answer: Claim, engine: Engine) -> NotClaimed:
    level = logging.WARNING if answer.status == "unknown" else logging.INFO
    logger.log(level, "Run %s is not executed: it is %s", run.id, answer.status)
    if answer.status in ("crashed", "expired"):
        engine.follow_up(run.id)
    if answer.woken:
        engine.wake(answer.woken)
    return NotClaimed(answer.status)


def _recreated(
    ledger: Ledger, run: Run, headers: Mapping[str, Any], engine: Engine
) -> NewEvent | None:
    """Return what a run is recorded with if Redis has lost its data, inside the window."""
    kind: Any = headers.get(KIND_HEADER, "event")
    event = run.event
    age = time.time() - event.time.timestamp()
    if kind not in ("event", "then") or age > ledger.rules.dedup_window:
        return None
    batched = BATCHED if BATCH_HEADER in headers else ""
    # the limits of a batch are by its first event, which nobody knows any more
    limited = kind == "event" and not batched and ledger.supports_flow
    flow = engine.flow(run.subscription, event) if limited else None
    cancel_on = engine.cancels(run.subscription, event) if kind == "event" else ()
    new = NewRun(run.id, run.subscription, kind, message=batched, cancel_on=cancel_on, flow=flow)
    return NewEvent(
        key=event_key(event.name, event.id),
        name=event.name,
        attributes=encode(event.attributes()),
        data=encode(event.data),
        runs=[new],
        generation=int(headers.get(GENERATION_HEADER, 0)),
    )
