"""A new generation of an event: the same event again, in new runs."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from celery_fanout.exceptions import UnknownStep
from celery_fanout.model.ids import place_of, run_id
from celery_fanout.stores.checkpoints import Checkpoint, key_of
from celery_fanout.stores.generations import record_generation
from celery_fanout.stores.records import NewEvent, NewRun, recorded_event
from celery_fanout.subscribing.admission import flow_of, require_limits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery_fanout.stores.ledger import Ledger
    from celery_fanout.stores.records import EventRecord, RunRecord
    from celery_fanout.subscribing.registry import Subscription


def begin_again(
    ledger: Ledger,
    event: EventRecord,
    subscriptions: Sequence[Subscription],
    checkpoints: Mapping[str, str],
) -> Sequence[str]:
    """Record new runs of an event, due now. Returns their ids.

    Args:
        ledger: the ledger.
        event: the event.
        subscriptions: whose runs.
        checkpoints: what each of them begins with.

    Raises:
        InvalidEvent: if a key or priority of flow control cannot be worked out for it.
        ReplayContended: if others replay the same event again and again.
        StoreUnsupported: if one of them has options that the ledger does not support.
    """
    if not subscriptions:
        return []
    whole = recorded_event(event)
    for sub in subscriptions:
        if sub.limits is not None:
            require_limits(sub, ledger)
    flows = [flow_of(sub, whole) for sub in subscriptions]
    nonce, place = uuid.uuid4().hex, place_of(event.key, ledger.shards)

    def of_generation(generation: int) -> NewEvent:
        runs = [
            NewRun(
                run_id(event.name, whole.id, sub.id, generation, place),
                sub.id,
                cancel_on=sub.cancels(whole),
                checkpoints=checkpoints,
                flow=flow,
            )
            for sub, flow in zip(subscriptions, flows, strict=True)
        ]
        return NewEvent(
            event.key,
            event.name,
            event.attributes,
            event.data,
            runs,
            generation,
            replay=True,
            nonce=nonce,
            resume_at=ledger.time(),  # so that they are due now
        )

    new, _ = record_generation(ledger, of_generation, event.generation + 1)
    return [run.id for run in new.runs]


def checkpoints_before(run: RunRecord, step: str) -> dict[str, str]:
    """Return the checkpoints that were stored before the first one of an id: values and failures.

    The body went on from each of those failures, so it has to meet it again.

    Raises:
        UnknownStep: if the run has none with this id.
    """
    stored: Mapping[str, str] = run.detail["checkpoints"]
    read = {field: Checkpoint.loads(text) for field, text in stored.items()}
    times = {field: checkpoint.stored or 0.0 for field, checkpoint in read.items()}
    firsts = [time for field, time in times.items() if key_of(field)[0] == step]
    if not firsts:
        ids = dict.fromkeys(key_of(field)[0] for field in sorted(times, key=times.__getitem__))
        raise UnknownStep(run.id, step, [*ids])
    return {
        field: text
        for field, text in stored.items()
        if times[field] < min(firsts) and read[field].final
    }
