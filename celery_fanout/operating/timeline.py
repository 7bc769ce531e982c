"""One run as text: what it did, when, and what became of it."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

from celery_fanout.operating.texts import age, moment
from celery_fanout.stores.checkpoints import Checkpoint, key_of
from celery_fanout.stores.states import FINAL, RunState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery_fanout.stores.records import EventRecord, RunRecord

#: How much of a value is shown, in characters.
MAX_VALUE = 100

#: How many children of a kind are shown one by one.
MAX_CHILDREN = 20

#: Kinds of limits whose runs collect events.
COLLECTING = ("debounce", "batch")

#: Kinds of limits for which runs wait.
LIMITING = ("concurrency", "singleton", "throttle")

# what stands first of what happened at the same time
RECORDED, BEGAN, INSIDE, ENDED, FINISHED = range(5)
Row = tuple[float, int, str]


def describe_event(event: EventRecord) -> str:
    """Return an event as text."""
    attributes: dict[str, Any] = json.loads(event.attributes)
    lines = [_line("event", event.name), _line("id", attributes["id"]), _line("key", event.key)]
    shown = ("source", "subject", "time", "correlationid", "causationid")
    lines += [_line(name, attributes[name]) for name in shown if attributes.get(name)]
    lines.append(_line("recorded", f"{moment(event.created)} UTC"))
    lines.append(_line("data", _brief(json.loads(event.data))))
    count = f"{len(event.runs)}, {event.open} open"
    if event.replayed:
        count += f"; {len(event.replayed)} by replay and rerun"
    return "\n".join([*lines, _line("runs", count)])


def gated(run: RunRecord, now: float | None) -> str:
    """Return what a gated run waits for, and since when."""
    held = "" if now is None else f", for {age(max(0.0, now - run.updated))}"
    since = f"since {moment(run.updated)}{held}"
    if run.reason.partition(" ")[0] in COLLECTING:
        until = f", {_until(run.due, now)}" if run.due else ""
        return f"{run.reason} collects events{until}"
    if run.reason.partition(" ")[0] not in LIMITING:
        return f"for its subscription to be resumed, {since}"
    return f"for {run.reason}, {since}"


def timeline(
    run: RunRecord,
    event: EventRecord | None,
    children: Sequence[RunRecord] = (),
    events: Sequence[EventRecord] = (),
    *,
    traceback: bool = False,
    now: float | None = None,
) -> str:
    """Return a run as text.

    Args:
        run: the run, with its detail.
        event: its event, if the ledger still has it.
        children: the runs that it asked for.
        events: those of the events that it collected that are shown one by one.
        traceback: whether to add the traceback of a dead letter.
        now: the POSIX time, for what is still to come.
    """
    rows = happenings(run, children, events, now=now)
    width = max(len(offset) for offset, _ in rows)
    lines = [*_head(run, event, now), "", f"{moment(run.created)} UTC"]
    lines += [f"  {offset:<{width}}  {text}" for offset, text in rows]
    return "\n".join([*lines, *_end(run, traceback=traceback)])


def happenings(
    run: RunRecord,
    children: Sequence[RunRecord] = (),
    events: Sequence[EventRecord] = (),
    *,
    now: float | None = None,
) -> list[tuple[str, str]]:
    """Return what a run did, in the order of time: how long after its beginning, and what.

    What happened inside of an execution is indented. The arguments are those of :func:`timeline`.
    """
    rows = [
        (run.created, RECORDED, "recorded"),
        *_collected(run, events),
        *_executions(run),
        *_steps(run, now),
        *_children(children),
    ]
    if run.finished is not None:
        why = f" ({run.reason})" if run.reason and run.state is not RunState.SUCCEEDED else ""
        rows.append((run.finished, FINISHED, f"{run.state}{why}"))
    rows.sort(key=lambda row: row[:2])
    return [(_offset(at - run.created), text) for at, _, text in rows]


def _offset(seconds: float) -> str:
    """Return how long after its beginning something happened, finely at first."""
    return f"+{seconds:.2f} s" if 1 <= seconds < 10 else f"+{age(seconds)}"  # noqa: PLR2004


def _line(name: str, value: str) -> str:
    return f"{name:<15}{value}"


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 1] + "\u2026"


def _until(due: float | None, now: float | None) -> str:
    """Return a time that is to come, and how far away it is."""
    if due is None:
        return ""
    left = f", in {age(due - now)}" if now is not None and due > now else ""
    return f"until {moment(due)}{left}"


def _head(run: RunRecord, event: EventRecord | None, now: float | None) -> list[str]:
    lines = [_line("run", run.id), _line("subscription", run.subscription or "-")]
    if run.kind != "event":
        lines.append(_line("kind", run.kind + (f" of {run.parent}" if run.parent else "")))
    if event is not None:
        lines.append(_line("event", f"{event.name}  {json.loads(event.attributes)['id']}"))
    if run.generation:
        lines.append(_line("generation", str(run.generation)))
    lines.append(_line("state", f"{run.state} ({run.reason})" if run.reason else str(run.state)))
    waiting = (RunState.SUSPENDED, RunState.RETRYING)
    if run.state is RunState.SUSPENDED and run.reason in ("invoke", "parallel"):
        lines.append(_line("waits", "for its child runs"))
    elif run.state is RunState.GATED:
        lines.append(_line("waits", gated(run, now)))
    elif run.state in waiting or (run.state is RunState.PENDING and now and (run.due or 0) > now):
        lines.append(_line("waits", _until(run.due, now)))
    if run.worker and run.state not in FINAL:
        lines.append(_line("worker", run.worker))
    counts = [
        _many(run.token, "execution"),
        _many(run.retries, "retry", "retries"),
        _many(run.crashes, "crash", "crashes"),
    ]
    if run.reopened:
        counts.append(f"retried by hand {_many(run.reopened, 'time')}")
    return [*lines, _line("counts", ", ".join(counts))]


def _many(count: int, one: str, several: str = "") -> str:
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def _collected(run: RunRecord, events: Sequence[EventRecord]) -> list[Row]:
    """Return the events of a run that collects them, and how many more it has."""
    rows = [
        (event.created, RECORDED, f"  event  {event.name}  {json.loads(event.attributes)['id']}")
        for event in events
    ]
    more = len(run.detail.get("events", ())) - len(events)
    if rows and more:
        rows.append((events[-1].created, RECORDED, f"  and {_many(more, 'event')} more"))
    return rows


def _executions(run: RunRecord) -> list[Row]:
    rows: list[Row] = []
    attempts: Sequence[Mapping[str, Any]] = run.detail["attempts"]
    for attempt in attempts:
        number, outcome = attempt["number"], attempt["outcome"]
        error = f"  {attempt['error']}" if attempt["error"] else ""
        rows.append((attempt["started"], BEGAN, f"execution {number} began"))
        rows.append((attempt["ended"], ENDED, f"execution {number} ended: {outcome}{error}"))
        if "retried" in attempt:
            why = attempt["retried"]
            rows.append((attempt["reopened"], FINISHED, f"retried by hand: {why}"))
    numbers = {attempt["number"] for attempt in attempts}
    if run.started is not None and 1 not in numbers:  # one that succeeds at once is not noted
        rows.append((run.started, BEGAN, "execution 1 began"))
    if run.state is RunState.RUNNING and run.token > 1 and run.token not in numbers:
        rows.append((run.updated, BEGAN, f"execution {run.token} began"))
    return rows


def step_name(field: str) -> str:
    """Return what a step is called, by the field of its checkpoint."""
    key = key_of(field)
    name = key[0] if key[1] == 1 else f"{key[0]} ({key[1]})"
    return f"{name} [{key[2]}]" if len(key) > 2 else name  # noqa: PLR2004 - an item of parallel


def _steps(run: RunRecord, now: float | None) -> list[Row]:
    rows: list[Row] = []
    checkpoints: Mapping[str, str] = run.detail["checkpoints"]
    waits: Mapping[str, Any] = run.detail["waits"]
    for field, text in checkpoints.items():
        checkpoint = Checkpoint.loads(text)
        at = checkpoint.stored or run.created
        words = [f"  step {step_name(field)!r}", _step(checkpoint, waits.get(field), now)]
        if run.generation and at < run.created:  # a rerun begins with what another run has stored
            words.append("(of an earlier run)")
        row = "  ".join(word for word in words if word)
        rows.append((max(at, run.created), INSIDE, row))
    return rows


def _step(checkpoint: Checkpoint, wait: Mapping[str, Any] | None, now: float | None) -> str:
    error = checkpoint.error or {}
    problem = f"{error.get('type')}: {error.get('message')}"
    tries = f"  ({checkpoint.attempts} tries)" if checkpoint.attempts > 1 else ""
    if checkpoint.status == "done":
        return _value(checkpoint.value) + tries
    if checkpoint.status == "failed":
        return f"failed: {problem}{tries}"
    if checkpoint.status == "retrying":
        return f"{problem}{tries}; waits {_until(checkpoint.due, now)}"
    if wait is not None:
        match = f" ({', '.join(wait['paths'])})" if wait.get("paths") else ""
        return f"waits for {wait['name']}{match} {_until(checkpoint.due, now)}"
    return f"sleeps {_until(checkpoint.due, now)}"


def _value(value: Any) -> str:
    """Return what a step returned; an event that it waited for by its name."""
    if isinstance(value, dict) and value.keys() == {"a", "d"}:
        attributes: Any = cast("Any", value)["a"]
        if isinstance(attributes, dict) and "type" in attributes:
            return f"{attributes['type']}  {_brief(value['d'])}"
    return "" if value is None else _brief(value)


def _children(children: Sequence[RunRecord]) -> list[Row]:
    rows: list[Row] = []
    by_kind: dict[str, list[RunRecord]] = {}
    for child in children:
        by_kind.setdefault(child.kind, []).append(child)
    for kind, some in by_kind.items():
        if len(some) > MAX_CHILDREN:
            counts = Counter(str(child.state) for child in some)
            by_state = ", ".join(f"{count:,} {state}" for state, count in counts.most_common())
            first = min(child.created for child in some)
            rows.append((first, INSIDE, f"  {kind}  {len(some):,} runs: {by_state}"))
            continue
        for child in some:
            words = [f"  {kind}", task_of(child), child.id, str(child.state)]
            rows.append((child.created, INSIDE, "  ".join(word for word in words if word)))
    return rows


def task_of(run: RunRecord) -> str:
    """Return the name of a run's task, if it is no subscriber: its subscription names that."""
    message: str = run.detail.get("message", "")
    signature: dict[str, Any] = json.loads(message).get("signature", {}) if message else {}
    return str(signature.get("task", ""))


def _end(run: RunRecord, *, traceback: bool) -> list[str]:
    lines: list[str] = []
    result, error = run.detail["result"], run.detail["error"]
    if result is not None:
        lines += ["", _line("result", _brief(json.loads(result)))]
    if error is not None:
        lines += ["", _line("error", f"{error.get('type')}: {error.get('message')}")]
        if traceback and error.get("traceback"):
            lines += ["", str(error["traceback"]).rstrip()]
    return lines
