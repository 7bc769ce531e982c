"""What flow control would do with the runs of an event, if it were emitted now."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from celery_fanout.exceptions import InvalidEvent, StoreUnavailable
from celery_fanout.operating.texts import outlook
from celery_fanout.subscribing.admission import flow_of

if TYPE_CHECKING:
    from celery_fanout.app.ledger_parts import Level2
    from celery_fanout.model.events import Event
    from celery_fanout.stores.ledger import Ledger
    from celery_fanout.subscribing.registry import Explanation, Registry

__all__ = ["foretell"]


def foretell(registry: Registry, event: Event, level2: Level2 | None) -> list[Explanation]:
    """Return whom an event would reach, and what would happen there now; nothing is changed.

    Args:
        registry: the app's subscriptions.
        event: the event.
        level2: the app's ledger and what works with it, or ``None`` on level 1.
    """
    ledger = None if level2 is None else level2.ledger
    return [
        replace(item, flow=_outlook(item, event, ledger)) if item.matches else item
        for item in registry.explain(event)
    ]


def _outlook(item: Explanation, event: Event, ledger: Ledger | None) -> str:
    if item.subscription.flow is None:
        return ""
    if ledger is None:
        return "emit would refuse it: flow control needs level 2"
    if not ledger.supports_flow:
        return "emit would refuse it: flow control needs fanout_shards = 1"
    try:
        return _from(ledger, item, event)
    except InvalidEvent as exc:
        return f"emit would refuse it: {exc}"
    except StoreUnavailable as exc:
        return f"what would happen now is not known: {exc}"


def _from(ledger: Ledger, item: Explanation, event: Event) -> str:
    flow = flow_of(item.subscription, event)
    if flow is None:
        return ""
    preview = ledger.preview(flow)
    if preview.verdict in ("start", "wait") and item.subscription.id in ledger.paused():
        return "would wait: its subscription is paused"
    return outlook(preview, ledger.time())
