"""The events that a run has collected: for it, the items of its ``step.parallel``, and its tail."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from celery_fanout.stores.records import recorded_event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_fanout.model.events import Event
    from celery_fanout.stores.ledger import Ledger
    from celery_fanout.stores.records import RunRecord
    from celery_fanout.subscribing.registry import Subscription


def collected_events(
    ledger: Ledger, subscription: Subscription | None, run: RunRecord | None
) -> tuple[Sequence[str], Event] | None:
    """Return the keys of the events that a run belongs to, and the event that its subscriber gets.

    ``None`` if its subscription collects none. It asks the ledger for each event of a batch, so it
    is for what happens rarely; the run that has collected is taken with its list.
    """
    limits = None if subscription is None else subscription.limits
    if limits is None or not limits.collects:
        return None
    while run is not None and run.kind in ("then", "parallel") and run.parent:
        run = ledger.run(run.parent)
    if run is None or run.kind != "event":
        return None
    keys: Sequence[str] = run.detail.get("events") or [run.event]
    wanted = keys[-1:] if limits.batch is None else keys
    records = [record for record in map(ledger.event, wanted) if record is not None]
    if not records:
        return None
    last = recorded_event(records[-1])
    if limits.batch is None:
        return keys, last
    return keys, replace(last, data=[json.loads(record.data) for record in records])
