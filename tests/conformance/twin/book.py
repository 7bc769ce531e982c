"""What the twin holds, and the changes that several operations share.

Each function here has its twin in ``stores/redis/scripts/lib.lua``; the conformance suite holds
both to the same behaviour.
"""

from __future__ import annotations

import json
from math import inf
from typing import TYPE_CHECKING, Any

from celery_fanout.stores.records import NewRun
from celery_fanout.stores.states import RunState
from tests.conformance.twin.gates import Gates
from tests.conformance.twin.matching import matches
from tests.conformance.twin.rows import NO_FLOW, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from celery_fanout.stores.records import LedgerRules
    from tests.conformance.twin.rows import Event

__all__ = ["Book"]

#: How many attempts of a run are remembered.
MAX_ATTEMPTS = 100

_dumps = json.JSONEncoder(separators=(",", ":")).encode


class Book(Gates):
    """All events and runs.

    Args:
        rules: the settings that decisions follow.
        clock: the time.
    """

    def __init__(self, rules: LedgerRules, clock: Callable[[], float]) -> None:
        super().__init__(rules, clock)
        self.untold: dict[str, float] = {}

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
        events: Sequence[str] = (),
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
            expires if paused else due,
            resume,
            expires,
            queue=new.queue,
            parent=parent,
            field=new.field,
            group=new.group,
            message=new.message,
            checkpoints=dict(new.checkpoints),
            flow=new.flow or NO_FLOW,
            events=list(events),
            cancel_on=new.cancel_on,
        )
        row.file_cancels()
        self.rows[new.id] = row
        self._open_events(row)
        return True

    def _open_events(self, row: Row) -> None:
        for key in row.concerns:
            self.open_event(row, key)

    def open_event(self, row: Row, key: str) -> None:
        """An event has one more run that is not final."""
        event = self.event(key)
        if event is None:
            return
        event.open += 1
        event.gone_at = inf
        if row.kind in ("event", "then"):
            event.open_chains += 1

    def fan_in(self, event: Event) -> None:
        """Record the fan-in of an event, once its last run is final; not again after a replay."""
        if not event.then_id or event.then_done == event.emitted:
            return
        event.then_done = event.emitted
        new = NewRun(event.then_id, "", "fan-in", message=event.then_message)
        if self.add(new, event.key, self.now, event.emitted):
            self.woken.append(new.id)

    def _close_event(self, row: Row, key: str) -> None:
        event = self.event(key)
        if event is None:
            return
        if row.kind in ("event", "then"):
            event.open_chains -= 1
            if event.open_chains <= 0:
                self.fan_in(event)
        event.open -= 1
        if event.open <= 0:
            self.expire(event)

    def expire(self, event: Event) -> None:
        """Keep an event that has ended, never shorter than its runs and than its id is known."""
        rules = self.rules
        kept = (
            rules.event_retention,
            rules.failure_retention,
            rules.success_retention,
            rules.dedup_window,
        )
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
        if to is not RunState.SUCCEEDED and row.kind != "parallel":
            self.untold[row.id] = self.now + rules.grace
        self._deliver(row, reason)
        for key in row.concerns:
            self._close_event(row, key)
        self.withdraw(row)

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
        row.error = row.finished = row.expires = row.deadline = row.unregistered = None
        row.retries = row.crashes = row.published = 0
        row.gone_at = inf
        row.reason, row.reopened = reason, row.reopened + 1
        row.impatient = row.charged = row.has_slot = False
        for last in row.attempts[-1:]:
            last.update(retried=reason, reopened=self.now)
        row.file_cancels()
        self.untold.pop(row.id, None)
        self.enter(row, RunState.PENDING, self.now)
        self._open_events(row)

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
        if any(new.kind == "parallel" for new in children):
            row.together.add(group)

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
        """Record children of a run; return how many are new.

        The links of its tail are open runs of all the events that it collected; fan-ins do not wait
        for the others.
        """
        new = 0
        for child in children:
            new += self.add(
                child,
                parent.event,
                due,
                parent.generation,
                parent=parent.id,
                events=parent.events if child.kind == "then" else (),
            )
            parent.children[child.id] = child.kind
        return new
