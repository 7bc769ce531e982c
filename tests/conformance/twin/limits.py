"""Limits of the twin: how they are listed, looked ahead at, and changed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from celery_fanout.stores.limits import Collect, GateRecord, Holder, Preview, Rate, Tuned
from tests.conformance.twin.arrivals import dropped_by
from tests.conformance.twin.operations import operation

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from celery_fanout.stores.limits import Flow, Gate, Once, Place
    from tests.conformance.twin.book import Book
    from tests.conformance.twin.counters import Counter

__all__ = ["Limits"]


class Limits:
    """What people see of limits.

    Attributes:
        book: what the ledger holds.
        lock: held by every operation.
    """

    book: Book
    lock: threading.RLock

    @operation
    def gates(self, *, limit: str | None = None, most: int = 100) -> list[GateRecord]:
        """Return gates that were used of late, those where most runs wait first."""
        found = [
            self._gate(counter)
            for counter in sorted(self.book.counters.values(), key=lambda c: c.used, reverse=True)
            if limit in (None, counter.gate.limit)
        ]
        found = [record for record in found if record.kind != "idempotency"]
        found.sort(key=lambda record: record.waiting, reverse=True)
        return found[:most]

    @operation
    def holders(self, gates: Sequence[Gate], *, most: int = 100) -> list[Holder]:
        """Return who has a place at gates, those that have it for longest first."""
        found = [
            Holder(gate, run_id, since)
            for gate in gates
            for run_id, since in self.book.peek(gate).holders.items()
        ]
        return sorted(found, key=lambda holder: holder.since)[:most]

    def _gate(self, counter: Counter) -> GateRecord:
        book = self.book
        kind = counter.gate.kind
        tuned = book.tuned.get(counter.gate.limit)
        rate = Rate(counter.gate, counter.at_most, counter.per, counter.burst)
        used: int = len(counter.holders)
        next_at: float | None = None
        if kind == "throttle":
            used, next_at = book.starts(rate), book.next_start(rate)
            next_at = None if next_at is None else max(next_at, book.now)
        elif kind == "rate_limit":
            times = book.within(rate)
            used = len(times)
            next_at = self._leaves(rate, times)
        elif kind == "idempotency":
            used, next_at = int(counter.until > book.now), counter.until
        elif counter.collects:
            row = book.rows[counter.collects]
            used, next_at = len(row.events), row.flush
        since = [book.rows[run_id].updated for run_id in counter.waiting]
        return GateRecord(
            counter.gate,
            kind,
            counter.at_most if tuned is None else tuned.at_most,
            book.per(rate),
            tuned is not None,
            used,
            len(since),
            min(since, default=None),
            next_at,
        )

    def _leaves(self, rate: Rate, times: list[float]) -> float | None:
        """Return when a full rate limit lets the next one through."""
        most = self.book.at_most(rate)
        if len(times) < most or most <= 0:
            return None
        return times[-most] + self.book.per(rate)

    @operation
    def preview(self, flow: Flow) -> Preview:
        """Return what would happen to a run with this flow now."""
        book = self.book
        dropped = dropped_by(book, flow)
        if dropped is not None:
            return self._preview("drop", dropped)
        if flow.collect is not None:
            collects = book.peek(flow.collect.gate).collects
            return self._preview("join" if collects else "collect", flow.collect)
        for place in flow.places:
            if place.full == "cancel" and book.is_full(place):
                return self._preview("cancel", place)
        refused = book.refusal(flow)
        return Preview("start") if refused is None else self._preview("wait", refused)

    def _preview(
        self,
        verdict: Literal["wait", "drop", "join", "collect", "cancel"],
        limit: Once | Rate | Place | Collect,
    ) -> Preview:
        book = self.book
        counter = dataclasses.replace(book.peek(limit.gate), **book.numbers(limit))
        gate = self._gate(counter)
        at = gate.next_at
        if verdict == "wait" and isinstance(limit, Rate) and at is not None:
            at += gate.waiting * (book.interval(limit) or 0.0)
        elif verdict == "collect" and isinstance(limit, Collect):
            at = book.now + limit.period
        return Preview(verdict, limit.gate, gate.at_most, gate.used, gate.waiting, at)

    @operation
    def tune(self, limit: str, at_most: int | None, per: float | None = None) -> None:
        """Change a limit, or make it the code's again."""
        book = self.book
        if at_most is None:
            book.tuned.pop(limit, None)
        else:
            book.tuned[limit] = Tuned(limit, at_most, per)
        for counter in book.counters.values():
            if counter.gate.limit == limit and counter.lanes:
                # first, or who waits elsewhere for the time took the new places from those here
                counter.timer = 0.0

    @operation
    def tuned(self) -> list[Tuned]:
        """Return the limits that were changed."""
        return sorted(self.book.tuned.values(), key=lambda tuned: tuned.limit)
