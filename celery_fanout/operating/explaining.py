"""What flow control would do with the runs of an event, if it were emitted now."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from celery_fanout.exceptions import InvalidEvent, StoreUnavailable
from celery_fanout.operating.redaction import redacted_key
from celery_fanout.operating.texts import age
from celery_fanout.subscribing.admission import flow_of

if TYPE_CHECKING:
    from celery_fanout.model.events import Event
    from celery_fanout.operating.redaction import Redact
    from celery_fanout.stores.ledger import Ledger
    from celery_fanout.stores.limits import Gate, Preview
    from celery_fanout.subscribing.registry import Explanation, Registry


def explain(
    registry: Registry, event: Event, ledger: Ledger | None, redact: Redact
) -> list[Explanation]:
    """Return whom an event would reach, and what would happen there now; nothing is changed.

    Args:
        registry: the app's subscriptions.
        event: the event.
        ledger: the app's ledger, or ``None`` on level 1.
        redact: what is done to the values of keys.
    """
    return [
        replace(item, flow=_outlook(item, event, ledger, redact)) if item.matches else item
        for item in registry.explain(event)
    ]


def _outlook(item: Explanation, event: Event, ledger: Ledger | None, redact: Redact) -> str:
    if item.subscription.limits is None:
        return ""
    if ledger is None:
        return "emit would refuse it: flow control needs level 2"
    if not ledger.supports_flow:
        return "emit would refuse it: flow control needs fanout_shards = 1"
    try:
        return _from(ledger, item, event, redact)
    except InvalidEvent as exc:
        return f"emit would refuse it: {exc}"
    except StoreUnavailable as exc:
        return f"what would happen now is not known: {exc}"


def _from(ledger: Ledger, item: Explanation, event: Event, redact: Redact) -> str:
    flow = flow_of(item.subscription, event)
    if flow is None:
        return ""
    preview = ledger.preview(flow)
    gate = preview.gate
    if gate is not None:
        shown = replace(gate, key=redacted_key(event.name, gate.limit, gate.key, redact))
        preview = replace(preview, gate=shown)
    if preview.verdict in ("start", "wait") and item.subscription.id in ledger.paused():
        return "would wait: its subscription is paused"
    return outlook(preview, ledger.time())


def outlook(preview: Preview, now: float) -> str:
    """Return what would happen to a run now, and because of what.

    Args:
        preview: what the ledger says.
        now: its time.
    """
    gate, verdict = preview.gate, preview.verdict
    if gate is None or verdict == "start":
        return "would start"
    name, kind = _name(gate), gate.kind
    used, at_most = f"{preview.used:,}", f"{preview.at_most:,}"
    when = "" if preview.at is None else f" in {age(max(0.0, preview.at - now))}"
    if verdict == "join":
        full = f" of {at_most}" if kind == "batch" else ""
        text = f"join the {used}{full} event(s) that {name} collects; they start{when}"
    elif verdict == "collect":
        text = f"be the first event that {name} collects; it starts{when}"
    elif verdict == "cancel":
        text = f"cancel the run that has {name}, and start"
    elif verdict == "drop":
        text = f"be dropped: {_drop(kind, name, used, at_most)}"
    elif kind == "throttle":
        after = f", after the {preview.waiting:,} that wait" if preview.waiting else ""
        text = f"wait: {name} lets it start{when or ' later'}{after}"
    else:
        text = f"wait: {name} has {used} of {at_most} in use, {preview.waiting:,} wait"
    return f"would {text}"


def _drop(kind: str, name: str, used: str, at_most: str) -> str:
    if kind == "rate_limit":
        return f"{name} has had {used} of {at_most}"
    if kind == "idempotency":
        return f"{name} has had its run"
    return f"{name} has its run"


def _name(gate: Gate) -> str:
    return f"{gate.limit} {gate.key!r}" if " by " in gate.limit else gate.limit
