"""One run as text: what it did, when, and what became of it."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any

from celery_fanout.stores import Checkpoint, key_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery_fanout.stores.ledger import EventRecord, RunRecord

__all__ = ["age", "moment", "timeline"]

#: How much of a value is shown, in characters.
MAX_VALUE = 100

MINUTE, HOUR, DAY = 60, 3600, 86_400


def age(seconds: float) -> str:
    """Return a duration in its two largest units."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < MINUTE:
        return f"{seconds:.1f} s"
    if seconds < HOUR:
        return f"{int(seconds // MINUTE)} min {int(seconds % MINUTE)} s"
    if seconds < DAY:
        return f"{int(seconds // HOUR)} h {int(seconds % HOUR // MINUTE)} min"
    return f"{int(seconds // DAY)} d {int(seconds % DAY // HOUR)} h"


def moment(timestamp: float | None) -> str:
    """Return a POSIX time as text, in UTC; ``""`` for none."""
    if timestamp is None:
        return ""
    return dt.datetime.fromtimestamp(timestamp, dt.timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 1] + "\u2026"


def _step_name(field: str) -> str:
    key = key_of(field)
    name = key[0] if key[1] == 1 else f"{key[0]} ({key[1]})"
    return f"{name} [{key[2]}]" if len(key) > 2 else name  # noqa: PLR2004 - an item of parallel


def _steps(run: RunRecord) -> list[tuple[float, str]]:
    rows: list[tuple[float, str]] = []
    checkpoints: Mapping[str, str] = run.detail["checkpoints"]
    waits: Mapping[str, Any] = run.detail["waits"]
    for field, text in checkpoints.items():
        found = Checkpoint.loads(text)
        name = f"step {_step_name(field)!r}"
        at = found.stored or run.created
        if found.status == "done":
            rows.append((at, f"{name}  {_brief(found.value)}"))
        elif found.status == "failed":
            error = found.error or {}
            rows.append((at, f"{name}  failed: {error.get('type')}: {error.get('message')}"))
        elif found.status == "retrying":
            rows.append((at, f"{name}  tried {found.attempts} time(s), again {moment(found.due)}"))
        elif field in waits:
            rows.append((at, f"{name}  waits for {waits[field]['name']} until {moment(found.due)}"))
        else:
            rows.append((at, f"{name}  until {moment(found.due)}"))
    return rows


def _head(run: RunRecord, event: EventRecord | None, now: float | None) -> list[str]:
    lines = [f"run           {run.id}", f"subscription  {run.subscription or '-'}"]
    if run.kind != "event":
        lines.append(f"kind          {run.kind}" + (f" of {run.parent}" if run.parent else ""))
    if event is not None:
        event_id = json.loads(event.attributes)["id"]
        lines.append(f"event         {event.name}  {event_id}")
    state = str(run.state)
    if run.reason:
        state += f" ({run.reason})"
    lines.append(f"state         {state}")
    if run.due is not None and run.state.value in ("suspended", "retrying", "pending"):
        left = "" if now is None or run.due < now else f", in {age(run.due - now)}"
        lines.append(f"due           {moment(run.due)}{left}")
    counts = [f"{run.token} execution(s)", f"{run.retries} retries", f"{run.crashes} crash(es)"]
    if run.reopened:
        counts.append(f"retried by hand {run.reopened} time(s)")
    return [*lines, f"counts        {', '.join(counts)}"]


def timeline(
    run: RunRecord,
    event: EventRecord | None,
    children: Sequence[RunRecord] = (),
    *,
    traceback: bool = False,
    now: float | None = None,
) -> str:
    """Return a run as text.

    Args:
        run: the run, with its detail.
        event: its event, if the ledger still has it.
        children: the runs that it asked for.
        traceback: whether to add the traceback of a dead letter.
        now: the POSIX time, for what is still to come.
    """
    lines = [*_head(run, event, now), ""]
    rows: list[tuple[float, str]] = [(run.created, "recorded")]
    for attempt in run.detail["attempts"]:
        error = f"  {attempt['error']}" if attempt["error"] else ""
        rows.append((attempt["started"], f"execution {attempt['number']} began"))
        rows.append(
            (attempt["ended"], f"execution {attempt['number']} ended: {attempt['outcome']}{error}")
        )
    numbers = {attempt["number"] for attempt in run.detail["attempts"]}
    if run.started is not None and 1 not in numbers:
        rows.append((run.started, "execution 1 began"))
    rows += _steps(run)
    rows += [(child.created, f"{child.kind} {child.id}  {child.state}") for child in children]
    if run.finished is not None:
        rows.append((run.finished, str(run.state)))
    rows.sort(key=lambda row: row[0])
    width = max(len(age(max(0.0, at - run.created))) for at, _ in rows)
    lines.append(f"{moment(run.created)} UTC")
    lines += [f"  +{age(max(0.0, at - run.created)):<{width}}  {text}" for at, text in rows]
    result, error = run.detail["result"], run.detail["error"]
    if result is not None:
        lines += ["", f"result        {_brief(json.loads(result))}"]
    if error is not None:
        lines += ["", f"error         {error.get('type')}: {error.get('message')}"]
        if traceback:
            lines.append(str(error.get("traceback", "")).rstrip())
    return "\n".join(lines)
