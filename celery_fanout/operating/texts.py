"""Flow control in words: the number of a limit, and what would happen to a run now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_fanout.operating.timeline import age

if TYPE_CHECKING:
    from celery_fanout.stores.flow import Gate, Preview

__all__ = ["number_of", "outlook", "period_of"]

MINUTE, HOUR, DAY = 60, 3600, 86_400


def period_of(seconds: float) -> str:
    """Return a period as somebody wrote it: in the largest unit in which it is a whole number."""
    for unit, name in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min")):
        if seconds >= unit and seconds % unit == 0:
            return f"{seconds / unit:,.0f} {name}"
    return f"{seconds:,.10g} s"


def number_of(kind: str, at_most: int, per: float) -> str:
    """Return what a limit of a kind allows."""
    if kind in ("throttle", "rate_limit"):
        return f"{at_most:,} per {period_of(per)}" if per else f"{at_most:,}"
    if kind == "batch":
        return f"{at_most:,} or {period_of(per)}"
    if kind == "debounce":
        return f"quiet for {period_of(per)}"
    if kind == "idempotency":
        return f"1 per {period_of(per)}"
    return f"{at_most:,}"


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
