"""The batch that a run belongs to: as its run, as an item of ``step.parallel``, or in its tail."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from celery_fanout.events import HEADER_PREFIX, Event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_fanout.registry import Subscription
    from celery_fanout.stores.ledger import EventRecord, Ledger, RunRecord

__all__ = ["batch_of", "recorded_event"]


def batch_of(
    ledger: Ledger, subscription: Subscription | None, run: RunRecord | None
) -> tuple[Sequence[str], Event] | None:
    """Return the keys of the events of a batch, and the event that its subscriber gets.

    ``None`` if the run belongs to none. It asks the ledger for each event, so it is for what
    happens rarely; a batch's own run is taken with its list.
    """
    if subscription is None or subscription.flow is None or subscription.flow.batch is None:
        return None
    while run is not None and run.kind in ("then", "parallel") and run.parent:
        run = ledger.run(run.parent)
    if run is None or run.kind != "event":
        return None
    keys: Sequence[str] = run.detail.get("events") or [run.event]
    found = [record for record in map(ledger.event, keys) if record is not None]
    last = recorded_event(found[-1]) if found else None
    if last is None:
        return None
    return keys, replace(last, data=[json.loads(record.data) for record in found])


def recorded_event(record: EventRecord) -> Event | None:
    """Rebuild an event from what the ledger has of it."""
    attributes: dict[str, Any] = json.loads(record.attributes)
    headers = {HEADER_PREFIX + key: value for key, value in attributes.items()}
    return Event.from_headers(headers, json.loads(record.data))
