"""``step.wait_for_event``: a checkpoint that an event of another run fills in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_fanout.exceptions.runs import InvalidStep
from celery_fanout.model.data_paths import check_match
from celery_fanout.model.events import Event, check_name, from_attributes
from celery_fanout.model.jsondata import encode
from celery_fanout.running.steps.checkpoints import announce_completed, load
from celery_fanout.running.steps.entering import claimed_of
from celery_fanout.running.steps.leaving import lost_run, suspend
from celery_fanout.stores.checkpoints import Checkpoint, StepKey, field_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_fanout.running.claimed import ClaimedRun
    from celery_fanout.running.execution import Execution


def wait_step(
    execution: Execution,
    id: str,
    name: str,
    match: Mapping[str, Any] | None,
    timeout: float,
) -> Event | None:
    """Return the event, or ``None`` if none came in time.

    Raises:
        Suspended: while it waits.
    """
    claimed = claimed_of(execution, "step.wait_for_event")
    check_name(name)
    problem = check_match(match or {})
    if problem:
        raise InvalidStep(
            id, problem, "Use a dict of dotted paths into the data to texts, numbers or booleans."
        )
    if not 0 < timeout < float("inf"):
        raise InvalidStep(id, f"has the timeout {timeout}", "Use a number of seconds above 0.")
    key = execution.next_key(id)
    field = field_of(key)
    checkpoint = load(execution, key)
    if checkpoint is None:
        text = claimed.patiently(
            claimed.ledger.wait,
            claimed.run_id,
            claimed.token,
            field,
            name,
            encode(dict(match or {})),
            since=claimed.created,
            due=claimed.now() + timeout,
        )
        checkpoint = _answered(execution, claimed, field, text)
    elif not checkpoint.final and execution.is_due(checkpoint.due):
        text = claimed.patiently(claimed.ledger.end_wait, claimed.run_id, claimed.token, field)
        checkpoint = _answered(execution, claimed, field, text)
    else:
        return _event(execution, key, checkpoint, cached=checkpoint.final)
    return _event(execution, key, checkpoint, cached=False)


def _answered(
    execution: Execution, claimed: ClaimedRun, field: str, text: str | None
) -> Checkpoint:
    if text is None:
        raise lost_run(execution, claimed)
    claimed.learn(field, text)
    return Checkpoint.loads(text)


def _event(
    execution: Execution, key: StepKey, checkpoint: Checkpoint, *, cached: bool
) -> Event | None:
    if not checkpoint.final:
        raise suspend(execution, checkpoint.due or 0.0, "event", key[0], field_of(key))
    announce_completed(execution, key, checkpoint, cached=cached)
    record: dict[str, Any] | None = checkpoint.value
    return None if record is None else from_attributes(record["a"], record["d"])
