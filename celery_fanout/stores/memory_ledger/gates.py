"""The gates of the ledger in memory: who holds a place, who waits, and who is let in next.

Each function here has its twin in ``stores/redis/scripts/flow.lua``.
"""

from __future__ import annotations

from bisect import insort
from typing import TYPE_CHECKING

from celery_fanout.stores.flow import Place, Rate
from celery_fanout.stores.memory_ledger.counters import TINY, Counters
from celery_fanout.stores.states import RunState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery_fanout.stores.flow import Flow
    from celery_fanout.stores.memory_ledger.counters import Counter
    from celery_fanout.stores.memory_ledger.rows import Event, Row
    from celery_fanout.stores.records import LedgerRules

__all__ = ["Gates"]

#: How many runs one change lets in at a gate; the next take goes on.
TRIES = 50

#: How late a throttle's timer may be at least without costing throughput, in seconds.
LATE = 0.1

#: How long a gate that nobody uses is listed, at least, in seconds.
IDLE = 3600.0


class Gates(Counters):
    """What the book knows of gates.

    Args:
        rules: the settings that decisions follow.
        clock: the time.
    """

    def __init__(self, rules: LedgerRules, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.rules = rules
        self.clock = clock
        self.rows: dict[str, Row] = {}
        self.events: dict[str, Event] = {}
        self.paused: dict[str, float] = {}
        self.woken: list[str] = []
        self.orders = 0

    def enter(self, row: Row, to: RunState, due: float | None) -> None:
        """Change a run's state, and set its timer."""
        leased = to in (RunState.RUNNING, RunState.COMPLETING)
        if due is not None and row.deadline is not None and not leased:
            due = min(due, row.deadline)
        row.state, row.due, row.updated = to, due, self.now

    # -- admission ------------------------------------------------------------------------------

    def admit(self, row: Row) -> bool:
        """Let a run start, or have it wait at the gate that refuses it."""
        if self._is_held_back(row):
            return False
        refused = self.refusal(row.flow, row)
        if refused is None:
            self._let_in(row, self.now)
            return True
        self._wait(row, refused)
        if isinstance(refused, Place) and not self.is_full(refused):
            # who was first there waits elsewhere: this one may need less
            self.counters[refused.gate.id].timer = self.now
        return False

    def _is_held_back(self, row: Row) -> bool:
        """Whether its subscription is paused; then it waits for that, and at no gate."""
        if row.subscription not in self.paused:
            return False
        self._give_up(row)
        row.reason = ""
        self.enter(row, RunState.GATED, row.timeout)
        return True

    def refusal(
        self, flow: Flow, row: Row | None = None, *, first: bool = False
    ) -> Place | Rate | None:
        """Return the first limit that does not let a run start; nobody is overtaken.

        Args:
            flow: of the run.
            row: the run; ``None`` for one that is only thought of.
            first: it is the next one at a gate, and may pass by those who wait.
        """
        for place in flow.places:
            counter = self.peek(place.gate)
            if row is not None and row.id in counter.holders:
                continue
            if self.is_full(place) or (counter.lanes and not first):
                return place
        throttle = flow.throttle
        if throttle is None or (row is not None and row.charged):
            return None
        start = self.next_start(throttle)
        queue = self.peek(throttle.gate).lanes and not first
        return throttle if start is None or start > self.now + TINY or queue else None

    def _let_in(self, row: Row, earliest: float) -> None:
        """Take all that a run needs, at once; a throttle counts from ``earliest``."""
        for place in row.flow.places:
            self.counter(place).holders.setdefault(row.id, self.now)
        throttle = row.flow.throttle
        if throttle is not None and not row.charged:
            self.keep_up(throttle)
            counter = self.counter(throttle)
            counter.tat = max(counter.tat, earliest) + (self.interval(throttle) or 0.0)
            row.charged = True
        row.admitted = True

    def _wait(self, row: Row, at: Place | Rate) -> None:
        """Have a run wait at a gate, in its lane and by its number."""
        moves = bool(row.gate)
        self._leave(row)
        counter = self.counter(at)
        row.lane = " ".join([row.flow.lane, *(limit.gate.id for limit in self._needs(row))])
        insort(counter.lanes.setdefault(row.lane, []), row.rank)
        row.gate, row.reason = at.gate.id, at.gate.limit
        if counter.timer is None and isinstance(at, Rate):
            self._set_timer(counter, at)
        if not moves:  # else it has waited as long as it had
            self.enter(row, RunState.GATED, row.timeout)

    def _needs(self, row: Row) -> Iterator[Place | Rate]:
        """Yield what a run that waits does not have yet."""
        for limit in row.limits:
            has = (
                row.charged if isinstance(limit, Rate) else row.id in self.peek(limit.gate).holders
            )
            if not has:
                yield limit

    def _set_timer(self, counter: Counter, throttle: Rate, earliest: float = 0.0) -> None:
        self.keep_up(throttle)
        start = self.next_start(throttle)
        counter.timer = None if start is None else max(start, self.now, earliest)

    def _leave(self, row: Row) -> None:
        """Take a run out of its lane."""
        if not row.gate:
            return
        counter = self.counters[row.gate]
        row.gate = ""
        counter.lanes[row.lane].remove(row.rank)
        if not counter.lanes[row.lane]:
            del counter.lanes[row.lane]
        if not counter.lanes:
            counter.timer = None

    def _give_up(self, row: Row) -> None:
        """Take a run out of its lane that does not start.

        Those behind it may have left it room at gates that it did not get to: these look again.
        """
        if not row.gate:
            return
        self._leave(row)
        for limit in row.limits:
            counter = self.counters.get(limit.gate.id)
            if counter is not None and counter.lanes:
                counter.timer = self.now

    def pump(self, counter: Counter) -> None:
        """Let in who waits at a gate, while there is room.

        At other gates they take what is free though somebody waits there: who waits at a gate that
        has room waits for something else. Those whom another gate refuses go and wait there, but
        of a lane no more than there is room for here: they have the same needs, and a long lane
        would wander from gate to gate otherwise.
        """
        counter.timer = None
        moved: dict[str, int] = {}
        passed = 0
        for _ in range(TRIES):
            if not counter.lanes:
                return
            lane = next(iter(counter.lanes))
            row = self.rows[counter.lanes[lane][0][2]]
            here = next(limit for limit in row.limits if limit.gate.id == counter.gate.id)
            if lane in moved and moved[lane] >= self._room(here):
                self._rotate(counter, lane)
                passed += 1
                if passed >= len(counter.lanes):
                    if isinstance(here, Rate):
                        self._set_timer(counter, here, self.now + (self.interval(here) or 0.0))
                    return
            elif not self._is_held_back(row):
                passed = 0
                refused = self.refusal(row.flow, row, first=True)
                if refused is here:
                    if isinstance(here, Rate):
                        self._set_timer(counter, here)
                    return
                self._go_on(row, counter, refused)
                moved[lane] = moved.get(lane, 0) + (refused is not None)
                self._rotate(counter, lane)
        if counter.lanes:
            counter.timer = self.now

    def _room(self, limit: Place | Rate) -> int:
        """Return how many may start at once at a gate."""
        if isinstance(limit, Rate):
            return limit.burst + 1
        return self.at_most(limit) - len(self.peek(limit.gate).holders)

    def _rotate(self, counter: Counter, lane: str) -> None:
        """Give a lane its turn last."""
        if lane in counter.lanes:
            counter.lanes[lane] = counter.lanes.pop(lane)

    def _go_on(self, row: Row, counter: Counter, refused: Place | Rate | None) -> None:
        """Let in the first of a lane, or have it wait where it is refused."""
        if refused is not None:
            self._wait(row, refused)
            return
        self._leave(row)
        earliest = self.now
        throttle = row.flow.throttle
        if throttle is not None and throttle.gate.id == counter.gate.id:
            # a timer that is late by a little costs no throughput: the next is not later for it
            earliest -= max(self.interval(throttle) or 0.0, LATE)
        self._let_in(row, earliest)
        row.reason = ""
        self.enter(row, RunState.PENDING, self.now)
        self.woken.append(row.id)

    # -- giving back ----------------------------------------------------------------------------

    def give_back(self, row: Row, *, kept: bool = False) -> None:
        """Give back the places of a run that leaves its worker, and let in who waits for them.

        Args:
            row: the run.
            kept: also those that a run keeps until it ends.
        """
        row.admitted = False
        freed: list[Counter] = []
        for place in row.flow.places:
            counter = self.counters.get(place.gate.id)
            if counter is None or row.id not in counter.holders or (place.kept and not kept):
                continue
            del counter.holders[row.id]
            counter.used = self.now
            freed.append(counter)
        for counter in reversed(freed):  # what many share first: who waits there got that far
            self.pump(counter)

    def withdraw(self, row: Row) -> None:
        """Take a run that ends out of all gates."""
        self._give_up(row)
        self.stop_collecting(row)
        self.give_back(row, kept=True)

    def stop_collecting(self, row: Row) -> None:
        """Take no more events into a run."""
        if row.flush is not None and row.flow.collect is not None:
            row.flush = None
            self.counter(row.flow.collect).collects = ""

    # -- time -----------------------------------------------------------------------------------

    def pump_due(self) -> None:
        """Let in who waited for the time."""
        for counter in list(self.counters.values()):
            if counter.timer is not None and counter.timer <= self.now + TINY:
                self.pump(counter)

    def timers(self) -> Iterator[float]:
        """When a gate is due."""
        return (c.timer for c in self.counters.values() if c.timer is not None)

    def forget_gates(self) -> None:
        """Drop gates that have nothing to count any more."""
        for gate_id, counter in list(self.counters.items()):
            tuned = self.tuned.get(counter.gate.limit)
            per = max(counter.per, (tuned and tuned.per) or 0.0, IDLE)
            busy = counter.holders or counter.lanes or counter.collects
            until = max(counter.used + per, counter.tat, counter.until)
            if not busy and until < self.now:
                del self.counters[gate_id]
