"""What the ledger in memory holds, and the changes that several operations share.

Each function here has its twin in ``stores/redis/scripts/lib.lua``; the conformance suite holds
both to the same behaviour.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

from celery_fanout.stores.memory_ledger.matching import matches
from celery_fanout.stores.records import NewRun
from celery_fanout.stores.states import FINAL, RunState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from celery_fanout.stores.records import Kind, LedgerRules

__all__ = ["Book", "Event", "Row", "is_final_text"]

#: How many attempts of a run are remembered.
MAX_ATTEMPTS = 100

_dumps = json.JSONEncoder(separators=(",", ":")).encode


def is_final_text(text: str | None) -> bool:
    """Whether a checkpoint's text is one that will not change any more."""
    return text is not None and json.loads(text)["s"] in ("done", "failed")


@dataclass
class Wait:
    """A wait for an event, or what cancels a run."""

    name: str
    match: dict[str, Any]


@dataclass
class Row:
    """A run, with all that belongs to it."""

    id: str
    kind: Kind
    subscription: str
    event: str
    state: RunState
    generation: int
    created: float
    updated: float
    due: float | None = None
    resume: float | None = None
    expires: float | None = None
    token: int = 0
    nonce: str = ""
    boot: str = ""
    retries: int = 0
    crashes: int = 0
    started: float | None = None
    began: float | None = None
    finished: float | None = None
    reason: str = ""
    queue: str = ""
    published: int = 0
    parent: str = ""
    field: str = ""
    group: str = ""
    waits_for: str = ""
    link: str = ""
    released: bool = False
    reopened: int = 0
    unregistered: float | None = None
    gone_at: float = inf
    message: str = ""
    trace: str = ""
    result: str | None = None
    error: dict[str, Any] | None = None
    checkpoints: dict[str, str] = dataclasses.field(default_factory=dict[str, str])
    outstanding: dict[str, int] = dataclasses.field(default_factory=dict[str, int])
    seen: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict[str, dict[str, str]])
    waits: dict[str, Wait] = dataclasses.field(default_factory=dict[str, Wait])
    children: dict[str, str] = dataclasses.field(default_factory=dict[str, str])
    attempts: list[dict[str, Any]] = dataclasses.field(default_factory=list[dict[str, Any]])

    def before(self, group: str) -> dict[str, str]:
        """Return what the items of a group replay the body with: not one another's results."""
        theirs = group[:-1] + ","
        return {k: text for k, text in self.checkpoints.items() if not k.startswith(theirs)}

    @property
    def final(self) -> bool:
        """Whether it has ended."""
        return self.state in FINAL

    def holds(self, token: int) -> bool:
        """Whether a token is that of its holder."""
        return self.state is RunState.RUNNING and self.token == token


@dataclass
class Event:
    """An event, with the ids of its runs."""

    key: str
    name: str
    attributes: str
    data: str
    created: float
    generation: int
    emitted: int
    runs: list[str]
    replayed: list[str] = dataclasses.field(default_factory=list[str])
    open: int = 0
    open_chains: int = 0
    then_id: str = ""
    then_message: str = ""
    then_done: int = -1
    trace: str = ""
    nonce: str = ""
    gone_at: float = inf


class Book:
    """All events and runs.

    Args:
        rules: the settings that decisions follow.
        clock: the time.
    """

    def __init__(self, rules: LedgerRules, clock: Callable[[], float]) -> None:
        self.rules = rules
        self.clock = clock
        self.now = clock()
        self.rows: dict[str, Row] = {}
        self.events: dict[str, Event] = {}
        self.untold: dict[str, float] = {}
        self.paused: dict[str, float] = {}
        self.woken: list[str] = []

    def begin(self) -> None:
        """Begin an operation: read the clock, and forget what has expired."""
        self.now = self.clock()
        self.woken = []

    def forget(self, limit: int | None = None) -> int:
        """Drop what has outlived its retention; return how many runs."""
        gone = [row.id for row in self.rows.values() if row.gone_at < self.now][:limit]
        for run_id in gone:
            del self.rows[run_id]
            self.untold.pop(run_id, None)
        for key in [e.key for e in self.events.values() if e.gone_at < self.now]:
            del self.events[key]
        return len(gone)

    def row(self, run_id: str) -> Row | None:
        """Return a run that has not expired."""
        row = self.rows.get(run_id)
        return None if row is None or row.gone_at < self.now else row

    def event(self, key: str) -> Event | None:
        """Return an event that has not expired."""
        event = self.events.get(key)
        return None if event is None or event.gone_at < self.now else event

    # -- changes that several operations share --------------------------------------------------

    def enter(self, row: Row, to: RunState, due: float | None) -> None:
        """Change a run's state, and set its timer."""
        row.state, row.due, row.updated = to, due, self.now

    def wake(self, row: Row) -> None:
        """Make a suspended run due now."""
        row.waits_for = ""
        row.resume = row.due = self.now
        self.woken.append(row.id)

    def log(self, row: Row, outcome: str, error: str = "") -> None:
        """Note how an attempt ended."""
        began = row.began or row.started or self.now
        row.attempts.append(
            {
                "number": row.token,
                "started": began,
                "ended": self.now,
                "outcome": outcome,
                "error": error,
            }
        )
        del row.attempts[:-MAX_ATTEMPTS]

    def add(
        self,
        new: NewRun,
        event: str,
        due: float,
        generation: int,
        *,
        parent: str = "",
        resume: float | None = None,
        expires: float | None = None,
    ) -> bool:
        """Write a new pending run; nothing if it exists."""
        if self.row(new.id) is not None:
            return False
        paused = new.subscription in self.paused
        row = Row(
            new.id,
            new.kind,
            new.subscription,
            event,
            RunState.GATED if paused else RunState.PENDING,
            generation,
            self.now,
            self.now,
            None if paused else due,
            resume,
            expires,
            queue=new.queue,
            parent=parent,
            field=new.field,
            group=new.group,
            message=new.message,
            checkpoints=dict(new.checkpoints),
        )
        for number, (name, match) in enumerate(new.cancel_on, start=1):
            row.waits[f"!{number}"] = Wait(name, json.loads(match))
        self.rows[new.id] = row
        self._open_event(row)
        return True

    def _open_event(self, row: Row) -> None:
        event = self.event(row.event)
        if event is None:
            return
        event.open += 1
        event.gone_at = inf
        if row.kind in ("event", "then"):
            event.open_chains += 1

    def fan_in(self, event: Event) -> None:
        """Record the fan-in of an event, once its last run is final."""
        if not event.then_id or event.then_done == event.generation:
            return
        event.then_done = event.generation
        new = NewRun(event.then_id, "", "fan-in", message=event.then_message)
        if self.add(new, event.key, self.now, event.generation):
            self.woken.append(new.id)

    def _close_event(self, row: Row) -> None:
        event = self.event(row.event)
        if event is None:
            return
        if row.kind in ("event", "then"):
            event.open_chains -= 1
            if event.open_chains <= 0:
                self.fan_in(event)
        event.open -= 1
        if event.open <= 0:
            # never shorter than its runs, each of which may be reopened or replayed
            rules = self.rules
            kept = (rules.event_retention, rules.failure_retention, rules.success_retention)
            event.gone_at = self.now + max(kept)

    def _deliver(self, row: Row, reason: str = "") -> None:
        parent = self.row(row.parent) if row.parent and row.field else None
        if parent is None or parent.final:
            return
        record: dict[str, Any]
        if row.state is RunState.SUCCEEDED:
            value = None if row.result is None else json.loads(row.result)
            record = {"v": 1, "s": "done", "n": 1, "r": value, "t": self.now}
        else:
            error = {"type": "RunCancelled", "message": reason}
            if row.state is RunState.FAILED and row.error is not None:
                error = {key: str(row.error.get(key, "?")) for key in ("type", "message")}
            record = {"v": 1, "s": "failed", "n": row.token, "e": error, "t": self.now}
        # A child that was reopened ends again: its parent has an outcome, and counts each child
        # once. A parent that was reopened has no count until it asks for the child again.
        first = row.field not in parent.checkpoints
        parent.checkpoints.setdefault(row.field, _dumps(record))
        if not first or row.group not in parent.outstanding:
            return
        left = parent.outstanding[row.group] = parent.outstanding[row.group] - 1
        if left > 0:
            return
        parent.seen.pop(row.group, None)
        if parent.state is RunState.SUSPENDED and parent.waits_for == row.group:
            self.wake(parent)

    def finalise(self, row: Row, to: RunState, reason: str = "") -> None:
        """End a run."""
        row.waits.clear()
        self.enter(row, to, None)
        row.finished, row.reason = self.now, reason
        row.boot = row.waits_for = row.nonce = ""
        row.resume, row.released = None, False
        rules = self.rules
        keep = rules.failure_retention if to is RunState.FAILED else rules.success_retention
        row.gone_at = self.now + keep
        if to is not RunState.SUCCEEDED and row.kind not in ("on_failure", "parallel"):
            self.untold[row.id] = self.now + rules.grace
        self._deliver(row, reason)
        self._close_event(row)

    def fail(self, row: Row, error: Mapping[str, Any], reason: str) -> None:
        """Make a run a dead letter."""
        row.error = dict(error)
        self.finalise(row, RunState.FAILED, reason)

    def crash(self, row: Row, message: str) -> bool:
        """Note that a worker has died with a run; return whether that was its last crash."""
        row.crashes += 1
        self.log(row, "crashed", message)
        row.boot = row.nonce = ""
        if row.crashes < self.rules.max_crashes:
            return False
        text = f"The worker died {row.crashes} times while it executed this run. {message}"
        self.fail(row, {"type": "WorkerCrashed", "message": text, "traceback": ""}, "crashed")
        return True

    def reopen(self, row: Row, reason: str) -> None:
        """Run a dead letter or a cancelled run again."""
        row.checkpoints = {k: t for k, t in row.checkpoints.items() if '"s":"done"' in t[:24]}
        row.outstanding.clear()
        row.error = row.finished = row.expires = row.unregistered = None
        row.retries = row.crashes = row.published = 0
        row.gone_at = inf
        row.reason, row.reopened = reason, row.reopened + 1
        for last in row.attempts[-1:]:
            last.update(retried=reason, reopened=self.now)
        self.untold.pop(row.id, None)
        self.enter(row, RunState.PENDING, self.now)
        self._open_event(row)

    def spawn(self, row: Row, group: str, children: Sequence[NewRun]) -> None:
        """Record the children of a group, and count those that are outstanding."""
        row.seen[group] = row.before(group)
        open_: list[NewRun] = []
        for new in children:
            # One that is there already is of an earlier life of a parent that was reopened: what it
            # did succeed in counts, what had failed runs again. Else nothing would wake the parent.
            child = self.row(new.id)
            if child is not None and child.state is RunState.SUCCEEDED:
                self._deliver(child)
            if new.field in row.checkpoints:
                continue  # it has ended, and is not counted again; its own record may be gone
            if child is not None and child.final:
                self.reopen(child, "retried with its run")
            open_.append(new)
        self.adopt(row, open_, self.now)
        row.outstanding[group] = len(open_)

    def cancel(self, run_id: str, reason: str, done: list[str]) -> None:
        """Cancel a run, and the runs that it invoked."""
        row = self.row(run_id)
        if row is None or row.final or row.state is RunState.COMPLETING:
            return
        if row.state is RunState.RUNNING:
            self.log(row, "cancelled", reason)
            row.token += 1
        self.finalise(row, RunState.CANCELLED, reason)
        done.append(run_id)
        for child, kind in row.children.items():
            if kind in ("invoke", "parallel"):
                self.cancel(child, reason, done)

    def announce(self, name: str, attributes: str, data: str) -> None:
        """Tell the runs that wait for an event, and cancel those that it cancels."""
        decoded: Any = json.loads(data)
        found: list[tuple[Row, str]] = []
        for row in self.rows.values():
            for key, wait in row.waits.items():
                if wait.name == name and matches(wait.match, decoded):
                    found.append((row, key))
        for row, key in found:
            if key.startswith("!"):
                self.cancel(row.id, f"cancel_on {name}", [])
            elif key in row.waits:
                del row.waits[key]
                value = {"a": json.loads(attributes), "d": decoded}
                record = {"v": 1, "s": "done", "n": 1, "r": value, "t": self.now}
                row.checkpoints[key] = _dumps(record)
                row.outstanding[key] = 0
                if row.state is RunState.SUSPENDED and row.waits_for == key:
                    self.wake(row)

    def adopt(self, parent: Row, children: Sequence[NewRun], due: float) -> int:
        """Record children of a run; return how many are new."""
        new = 0
        for child in children:
            new += self.add(child, parent.event, due, parent.generation, parent=parent.id)
            parent.children[child.id] = child.kind
        return new
