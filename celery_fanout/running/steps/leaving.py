"""How a step leaves the body and the worker: for a time, an event, child runs, or for good."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_fanout.exceptions.runs import Superseded
from celery_fanout.running.steps.checkpoints import reachable
from celery_fanout.running.suspending import Suspended

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_fanout.running.claimed import ClaimedRun
    from celery_fanout.running.execution import Execution
    from celery_fanout.stores.records import NewRun


def suspend(
    execution: Execution, until: float, reason: str, step: str, group: str = ""
) -> Suspended:
    """Return the :class:`Suspended` to raise, and note that the step leaves the body by it."""
    suspended = execution.leave(Suspended(until, reason, step, group))
    store = execution.store
    wait = until - execution.now()
    if store.supports_extend and store.keeps is not None and wait > store.keeps / 4:
        with reachable(execution):  # what this run already has must outlive the wait
            store.extend(execution.run.id, execution.used, wait + store.keeps)
    return suspended


def suspend_for_children(
    execution: Execution,
    claimed: ClaimedRun,
    reason: str,
    step: str,
    group: str,
    children: Sequence[NewRun],
) -> Suspended:
    """Record and wake the child runs of a step, and return what to raise until all have ended.

    Raises:
        Superseded: if the run is no longer this worker's.
    """
    settled = claimed.patiently(
        claimed.ledger.spawn, claimed.run_id, claimed.token, group, children
    )
    if not settled.ok:
        raise lost_run(execution, claimed)
    execution.engine.wake([child.id for child in children])
    return suspend(execution, float("inf"), reason, step, group)


def lost_run(execution: Execution, claimed: ClaimedRun) -> Superseded:
    """Mark the run as no longer this worker's, and return what to raise."""
    return execution.leave(Superseded(claimed.run_id))
