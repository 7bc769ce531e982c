"""The gates of the ledger in memory: who holds a place, who waits, and who is let in next.

Each function here has its twin in ``stores/redis/scripts/flow.lua``.
"""

from __future__ import annotations

import dataclasses
from bisect import insort
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

from celery_fanout.stores.flow import Collect, Gate, Once, Rate
from celery_fanout.stores.states import RunState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery_fanout.stores.flow import Flow, Place, Tuned
    from celery_fanout.stores.memory_ledger.rows import Event, Row
    from celery_fanout.stores.records import LedgerRules

__all__ = ["Counter", "Gates"]

#: How many runs one change lets in at a gate; the next take goes on.
TRIES = 50

#: How late a throttle's timer may be at least without costing throughput, in seconds.
LATE = 0.1

#: How long a gate that nobody uses is listed, at least, in seconds.
IDLE = 3600.0

#: What times may differ by; as in ``take``.
TINY = 1e-6


@dataclass
class Counter:
    """A gate with all that is counted there.

    Attributes:
        gate: which.
        at_most: as in the code of who used it last, not as it was tuned.
        per: likewise.
        burst: likewise.
        used: when it was last used.
        holders: runs that have a place, and since when.
        lanes: runs that wait, those of each lane in their order; the first lane has its turn next.
        tat: of a throttle: when it would be idle ("theoretical arrival time").
        timer: when to let in who waits.
        times: of what a rate limit has let through.
        until: how long the run of an idempotency counts.
        collects: id of the run that collects events.
    """

    gate: Gate
    at_most: int = 0
    per: float = 0.0
    burst: int = 0
    used: float = 0.0
    holders: dict[str, float] = dataclasses.field(default_factory=dict[str, float])
    lanes: dict[str, list[tuple[int, int, str]]] = dataclasses.field(
        default_factory=dict[str, list[tuple[int, int, str]]]
    )
    tat: float = 0.0
    timer: float | None = None
    times: list[float] = dataclasses.field(default_factory=list[float])
    until: float = 0.0
    collects: str = ""

    @property
    def waiting(self) -> list[str]:
        """The runs that wait, lane by lane."""
        return [run_id for lane in self.lanes.values() for _, _, run_id in lane]


class Gates:
    """What the book knows of gates.

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
        self.paused: dict[str, float] = {}
        self.woken: list[str] = []
        self.counters: dict[str, Counter] = {}
        self.tuned: dict[str, Tuned] = {}
        self.orders = 0

    def enter(self, row: Row, to: RunState, due: float | None) -> None:
        """Change a run's state, and set its timer."""
        leased = to in (RunState.RUNNING, RunState.COMPLETING)
        if due is not None and row.deadline is not None and not leased:
            due = min(due, row.deadline)
        row.state, row.due, row.updated = to, due, self.now

    # -- what a gate allows ---------------------------------------------------------------------

    def counter(self, limit: Place | Rate | Once | Collect) -> Counter:
        """Return the counter of a limit, which is used now."""
        found = self.counters.setdefault(limit.gate.id, Counter(limit.gate))
        found.used = self.now
        vars(found).update(self.numbers(limit))
        return found

    def numbers(self, limit: Place | Rate | Once | Collect) -> dict[str, Any]:
        """Return the numbers of a limit, as the code has them."""
        if isinstance(limit, Rate):
            return {"at_most": limit.at_most, "per": limit.per, "burst": limit.burst}
        if isinstance(limit, Collect):
            return {"at_most": limit.max_size, "per": limit.period}
        if isinstance(limit, Once):
            return {"at_most": 1, "per": limit.ttl}
        return {"at_most": limit.at_most}

    def peek(self, gate: Gate) -> Counter:
        """Return the counter of a gate, or one that is new; nothing is changed."""
        return self.counters.get(gate.id) or Counter(gate)

    def at_most(self, limit: Place | Rate) -> int:
        """Return how many are allowed now."""
        tuned = self.tuned.get(limit.gate.limit)
        return limit.at_most if tuned is None else tuned.at_most

    def per(self, rate: Rate) -> float:
        """Return the period that is in force."""
        tuned = self.tuned.get(rate.gate.limit)
        return rate.per if tuned is None or tuned.per is None else tuned.per

    def interval(self, throttle: Rate) -> float | None:
        """Return the time between two starts; ``None`` if nothing may start."""
        most = self.at_most(throttle)
        return self.per(throttle) / most if most > 0 else None

    def next_start(self, throttle: Rate) -> float | None:
        """Return when the next run may start if nobody waits; ``None`` if that is never."""
        interval = self.interval(throttle)
        if interval is None:
            return None
        return self._tat(throttle, interval) - throttle.burst * interval

    def _tat(self, throttle: Rate, interval: float) -> float:
        """Return when a throttle would be idle; never later than its numbers of now can make it.

        It was made faster, otherwise: the next start would still be when the old numbers had it.
        """
        latest = self.now + (throttle.burst + 1) * interval
        return min(self.peek(throttle.gate).tat, latest)

    def _keep_up(self, throttle: Rate) -> None:
        """Make what a change of the limit has done to the time of the next start last."""
        interval = self.interval(throttle)
        if interval is not None:
            counter = self.counter(throttle)
            counter.tat = self._tat(throttle, interval)

    def within(self, rate: Rate) -> list[float]:
        """Return when a rate limit has let through what still counts."""
        since = self.now - self.per(rate) + TINY
        return [at for at in self.peek(rate.gate).times if at > since]

    def is_full(self, place: Place) -> bool:
        """Whether all places of a gate are taken."""
        return len(self.peek(place.gate).holders) >= self.at_most(place)

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
        return False

    def _is_held_back(self, row: Row) -> bool:
        """Whether its subscription is paused; then it waits for that, and at no gate."""
        if row.subscription not in self.paused:
            return False
        self.leave_gate(row)
        row.reason = ""
        self.enter(row, RunState.GATED, row.timeout)
        return True

    def refusal(self, flow: Flow, row: Row | None = None, pumped: str = "") -> Place | Rate | None:
        """Return the first limit that does not let a run start; nobody is overtaken.

        Args:
            flow: of the run.
            row: the run; ``None`` for one that is only thought of.
            pumped: id of the gate at which the run is the next.
        """
        for place in flow.places:
            counter = self.peek(place.gate)
            if row is not None and row.id in counter.holders:
                continue
            if self.is_full(place) or (counter.lanes and place.gate.id != pumped):
                return place
        throttle = flow.throttle
        if throttle is None or (row is not None and row.charged):
            return None
        start = self.next_start(throttle)
        queue = throttle.gate.id != pumped and self.peek(throttle.gate).lanes
        return throttle if start is None or start > self.now + TINY or queue else None

    def _let_in(self, row: Row, earliest: float) -> None:
        """Take all that a run needs, at once; a throttle counts from ``earliest``."""
        for place in row.flow.places:
            self.counter(place).holders.setdefault(row.id, self.now)
        throttle = row.flow.throttle
        if throttle is not None and not row.charged:
            self._keep_up(throttle)
            counter = self.counter(throttle)
            counter.tat = max(counter.tat, earliest) + (self.interval(throttle) or 0.0)
            row.charged = True
        row.admitted = True

    def _wait(self, row: Row, at: Place | Rate) -> None:
        """Have a run wait at a gate, in its lane and by its number."""
        moves = bool(row.gate)
        self.leave_gate(row)
        counter = self.counter(at)
        lane = counter.lanes.setdefault(row.flow.lane, [])
        insort(lane, (-row.flow.priority, row.order, row.id))
        row.gate, row.reason = at.gate.id, at.gate.limit
        if isinstance(at, Rate):
            self._set_timer(counter, at)
        if not moves:  # else it has waited as long as it had
            self.enter(row, RunState.GATED, row.timeout)

    def _set_timer(self, counter: Counter, throttle: Rate) -> None:
        self._keep_up(throttle)
        start = self.next_start(throttle)
        counter.timer = None if start is None else max(start, self.now)

    def leave_gate(self, row: Row) -> None:
        """Take a run out of its lane."""
        if not row.gate:
            return
        counter = self.counters[row.gate]
        row.gate = ""
        lane = counter.lanes[row.flow.lane]
        lane.remove((-row.flow.priority, row.order, row.id))
        if not lane:
            del counter.lanes[row.flow.lane]

    def pump(self, counter: Counter) -> None:
        """Let in who waits at a gate, while there is room."""
        counter.timer = None
        for _ in range(TRIES):
            if not counter.lanes:
                return
            lane = next(iter(counter.lanes))
            row = self.rows[counter.lanes[lane][0][2]]
            if self._is_held_back(row):
                continue
            refused = self.refusal(row.flow, row, counter.gate.id)
            if refused is None:
                self._start_waiting(row, counter, lane)
            elif refused.gate.id != counter.gate.id:
                self._wait(row, refused)
            else:
                if isinstance(refused, Rate):
                    self._set_timer(counter, refused)
                return
        if counter.lanes:
            counter.timer = self.now

    def _start_waiting(self, row: Row, counter: Counter, lane: str) -> None:
        """Let in the first of those that wait; its lane has its turn last then."""
        self.leave_gate(row)
        if lane in counter.lanes:
            counter.lanes[lane] = counter.lanes.pop(lane)
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
        for counter in freed:
            self.pump(counter)

    def withdraw(self, row: Row) -> None:
        """Take a run that ends out of all gates."""
        self.leave_gate(row)
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

    def starts(self, throttle: Rate) -> int:
        """Return how many starts of a throttle are used now."""
        interval = self.interval(throttle)
        if interval is None:
            return 0
        return max(0, ceil((self._tat(throttle, interval) - self.now - TINY) / interval))
