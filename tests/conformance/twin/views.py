"""Reading the twin, and control."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_fanout.stores.records import EventRecord, RunOutcome, RunRecord
from celery_fanout.stores.states import FINAL, RunState
from tests.conformance.twin.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.conformance.twin.rows import Event, Row

__all__ = ["Views"]


def _record(row: Row, detail: dict[str, Any] | None = None) -> RunRecord:
    return RunRecord(
        row.id,
        row.kind,
        row.subscription,
        row.event,
        row.state,
        row.generation,
        row.token,
        row.retries,
        row.crashes,
        row.created,
        row.updated,
        row.started,
        row.finished,
        row.due,
        row.reason if row.lane is None else row.lane.gate.limit,
        row.boot,
        row.parent,
        row.reopened,
        detail or {},
    )


def _event(event: Event) -> EventRecord:
    return EventRecord(
        event.key,
        event.name,
        event.attributes,
        event.data,
        event.created,
        event.generation,
        list(event.runs),
        list(event.replayed),
        max(0, event.open),
    )


class Views(Limits):
    """The reading half of the twin, and what people do to it."""

    def run(self, run_id: str) -> RunRecord | None:
        """Return a run with its detail."""
        with self.lock:
            self.book.begin()
            row = self.book.row(run_id)
            if row is None:
                return None
            waits = {
                key: {"name": wait.name, "paths": sorted(wait.match)}
                for key, wait in row.waits.items()
            }
            return _record(
                row,
                {
                    "checkpoints": dict(row.checkpoints),
                    "attempts": list(row.attempts),
                    "children": dict(row.children),
                    "waits": waits,
                    "result": row.result,
                    "error": row.error,
                    "message": row.message,
                    "events": list(row.events) if row.flow.collect else [],
                },
            )

    def runs(
        self,
        *,
        state: RunState | None = None,
        subscription: str | None = None,
        event: str | None = None,
        limit: int = 100,
        before: float | None = None,
    ) -> list[RunRecord]:
        """Return runs, those whose state changed last first."""
        with self.lock:
            self.book.begin()
            self.book.forget()
            ids = None if event is None else self._belonging(event)
            found = [
                _record(row)
                for row in self.book.rows.values()
                if (state is None or row.state is state)
                and (subscription is None or row.subscription == subscription)
                and (ids is None or row.id in ids)
                and (before is None or row.updated < before)
            ]
        found.sort(key=lambda run: run.updated, reverse=True)
        return found[:limit]

    def _belonging(self, event: str) -> set[str]:
        """Return the ids of the runs of an event, and of all that these asked for."""
        known = self.book.event(event)
        left = [] if known is None else [*known.runs, *known.replayed, known.then_id]
        found: set[str] = set()
        while left:
            row = self.book.row(left.pop())
            if row is not None and row.id not in found:
                found.add(row.id)
                left += row.children
        return found

    def event(self, key: str) -> EventRecord | None:
        """Return an event."""
        with self.lock:
            self.book.begin()
            found = self.book.event(key)
            return None if found is None else _event(found)

    def events(
        self, *, name: str | None = None, limit: int = 100, before: float | None = None
    ) -> list[EventRecord]:
        """Return events, the latest first."""
        with self.lock:
            self.book.begin()
            self.book.forget()
            oldest = self.book.now - self.book.rules.event_retention
            found = [
                _event(event)
                for event in self.book.events.values()
                if (name is None or event.name == name)
                and (before is None or event.created < before)
                and event.created >= oldest
            ]
        found.sort(key=lambda event: event.created, reverse=True)
        return found[:limit]

    def outcomes(self, run_ids: Sequence[str]) -> list[RunOutcome]:
        """Return how runs ended, or where they are."""
        with self.lock:
            self.book.begin()
            return [self._outcome(run_id) for run_id in run_ids]

    def _outcome(self, run_id: str) -> RunOutcome:
        row = self.book.row(run_id)
        passed = (RunState.SUCCEEDED, RunState.COMPLETING)
        while row is not None and row.link and row.state in passed:
            row = self.book.row(row.link)
        if row is None:
            return RunOutcome(run_id, None)
        return RunOutcome(run_id, row.state, row.result, row.error, row.reason)

    def counts(self) -> dict[RunState, int]:
        """Return how many runs are in each state."""
        with self.lock:
            self.book.begin()
            self.book.forget()
            found = dict.fromkeys(RunState, 0)
            for row in self.book.rows.values():
                found[row.state] += 1
            return found

    # -- control --------------------------------------------------------------------------------

    def cancel(self, run_ids: Sequence[str], reason: str) -> tuple[list[str], list[str]]:
        """Cancel runs that are not final, and the runs that they invoked."""
        with self.lock:
            self.book.begin()
            done: list[str] = []
            for run_id in run_ids:
                self.book.cancel(run_id, reason, done)
            return done, self.book.woken

    def reopen(self, run_id: str, reason: str) -> bool:
        """Run a failed or cancelled run again."""
        with self.lock:
            book = self.book
            book.begin()
            row = book.row(run_id)
            if row is None or row.state not in FINAL or row.state is RunState.SUCCEEDED:
                return False
            book.reopen(row, reason)
            return True

    def pause(self, subscription: str) -> bool:
        """Hold back the runs of a subscription."""
        with self.lock:
            self.book.begin()
            new = subscription not in self.book.paused
            self.book.paused.setdefault(subscription, self.book.now)
            return new

    def resume(
        self, subscription: str, *, limit: int = 1000, go_on: bool = False
    ) -> tuple[int, bool]:
        """Let them go."""
        with self.lock:
            book = self.book
            book.begin()
            if go_on and subscription in book.paused:
                return 0, False
            book.paused.pop(subscription, None)
            return self._let_go(subscription, limit)

    def _let_go(self, subscription: str, limit: int) -> tuple[int, bool]:
        """Let runs go that are held back; return how many, and whether any are left."""
        book = self.book
        gated = [
            row for row in book.rows.values() if row.held_back and row.subscription == subscription
        ]
        gated.sort(key=lambda row: (row.updated, row.id))
        for row in gated[:limit]:
            resume = row.resume if row.resume is not None else book.now
            due = book.now if resume == float("inf") else max(resume, book.now)
            book.enter(row, RunState.PENDING, due)
        return len(gated[:limit]), len(gated) > limit

    def paused(self) -> dict[str, float]:
        """Return the paused subscriptions, and since when."""
        with self.lock:
            return dict(self.book.paused)
