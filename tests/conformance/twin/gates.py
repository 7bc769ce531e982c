"""The gates of the twin: who holds a place, who waits, and who is let in next.

Each function here has its twin in ``stores/redis/scripts/limits.lua``.
"""

from __future__ import annotations

from bisect import insort
from operator import itemgetter
from typing import TYPE_CHECKING

from celery_fanout.stores.limits import Rate
from celery_fanout.stores.states import RunState
from tests.conformance.twin.counters import TINY, Counters
from tests.conformance.twin.rows import Lane

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery_fanout.stores.limits import Flow, Place
    from celery_fanout.stores.records import LedgerRules
    from tests.conformance.twin.counters import Counter
    from tests.conformance.twin.rows import Event, Row

__all__ = ["Gates"]

#: How many runs one change lets in at a gate; the next take goes on.
TRIES = 50

#: How late a throttle's timer may be at least without costing throughput, in seconds.
LATE = 0.1

#: For how long keepers look more often after a throttle has let in a run, in seconds.
BUSY = 2.0

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
        self.lanes: dict[str, Lane] = {}
        self.orders = 0
        self.busy_until = 0.0

    def enter(self, row: Row, to: RunState, due: float | None) -> None:
        """Change a run's state, and set its timer."""
        leased = to in (RunState.RUNNING, RunState.COMPLETING)
        if due is not None and row.timeout is not None and not leased:
            due = min(due, row.timeout)
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
        return False

    def _is_held_back(self, row: Row) -> bool:
        """Whether its subscription is paused; then it waits for that, and at no gate."""
        if row.subscription not in self.paused:
            return False
        self._leave(row)
        row.reason = ""
        self.enter(row, RunState.GATED, row.timeout)
        return True

    def refusal(self, flow: Flow, row: Row | None = None, pumped: str = "") -> Place | Rate | None:
        """Return the first limit that does not let a run start.

        An arrival overtakes nobody. The next run of a lane takes what is free at other gates,
        though others wait there: a gate that has room, and at which somebody waits, has it since
        this change began, and is pumped in it too. But it takes nobody's turn of a throttle, which
        may have been free for longer.

        Args:
            flow: of the run.
            row: the run; ``None`` for one that is only thought of.
            pumped: id of the gate at which the run is the next.
        """
        for limit in self._needs(flow, row):
            others = bool(self.peek(limit.gate).lanes) and limit.gate.id != pumped
            if isinstance(limit, Rate):
                start = self.next_start(limit)
                if start is None or start > self.now + TINY or others:
                    return limit
            elif self.is_full(limit) or (others and not pumped):
                return limit
        return None

    def _needs(self, flow: Flow, row: Row | None) -> list[Place | Rate]:
        """Return the limits that a run has still to pass, in their order."""
        places = [
            place
            for place in flow.places
            if row is None or row.id not in self.peek(place.gate).holders
        ]
        if flow.throttle is None or (row is not None and row.charged):
            return [*places]
        return [*places, flow.throttle]

    def _let_in(self, row: Row, earliest: float) -> None:
        """Take all that a run needs, at once; a throttle counts from ``earliest``."""
        for place in row.flow.places:
            self.counter(place).holders.setdefault(row.id, self.now)
        throttle = row.flow.throttle
        if throttle is not None and not row.charged:
            self.keep_up(throttle)
            counter = self.counter(throttle)
            interval = self.interval(throttle) or 0.0
            counter.tat = max(counter.tat, earliest) + interval
            row.charged = True
            if interval < 1:
                # a run that leaves another limit may wait for this one: keepers look more often
                self.busy_until = self.now + BUSY
        row.admitted = True

    def too_soon(self, row: Row) -> float | None:
        """Return when a run may start that is too soon for the schedule of starts.

        Messages that were let in one by one may start together, where workers were busy or away.
        What is too soon by more than the interval has a time for itself.
        """
        throttle = row.flow.throttle
        if throttle is None or row.started is not None or row.has_slot:
            return None
        interval = self.interval(throttle)
        if interval is None:
            return None
        counter = self.counter(throttle)
        at = counter.started - throttle.burst * interval
        counter.started = max(counter.started, self.now) + interval
        if at <= self.now + max(interval, LATE) + TINY:
            return None
        row.has_slot = True
        return at

    def _wait(self, row: Row, at: Place | Rate) -> None:
        """Have a run wait in its lane: at a gate, or where those before it wait already."""
        needs = [limit.gate.id for limit in self._needs(row.flow, row)]
        key = " ".join([*needs, row.flow.lane])
        if key not in self.lanes:
            self.lanes[key] = Lane(key, at.gate)
            self._park(self.lanes[key], at)
        row.lane = self.lanes[key]
        insort(row.lane.runs, row.rank)
        self.enter(row, RunState.GATED, row.timeout)

    def _park(self, lane: Lane, at: Place | Rate) -> None:
        """Have a lane wait at a gate, where it is the last of the round."""
        lane.gate = at.gate
        counter = self.counter(at)
        counter.lanes[lane.key] = lane
        if counter.timer is None and isinstance(at, Rate):
            self._set_timer(counter, at)

    def _set_timer(self, counter: Counter, throttle: Rate) -> None:
        self.keep_up(throttle)
        start = self.next_start(throttle)
        counter.timer = None if start is None else max(start, self.now)

    def _leave(self, row: Row) -> None:
        """Take a run out of its lane."""
        if row.lane is None:
            return
        lane, row.lane = row.lane, None
        lane.runs.remove(row.rank)
        if not lane.runs:
            self._unpark(lane)
            del self.lanes[lane.key]

    def _unpark(self, lane: Lane) -> None:
        """Have a lane wait no more at its gate."""
        counter = self.counters[lane.gate.id]
        del counter.lanes[lane.key]
        if not counter.lanes:
            counter.timer = None

    def pump(self, counter: Counter) -> None:
        """Let in who waits at a gate, while there is room.

        All runs of a lane need the same, so what another gate refuses the first of them it refuses
        them all: the lane waits there from now on.
        """
        counter.timer = None
        for _ in range(TRIES):
            if not counter.lanes:
                return
            lane = next(iter(counter.lanes.values()))
            row = self.rows[lane.runs[0][2]]
            if self._is_held_back(row):
                continue
            refused = self.refusal(row.flow, row, counter.gate.id)
            if refused is None:
                self._start_waiting(row, counter, lane)
            elif refused.gate.id != counter.gate.id:
                self._unpark(lane)
                self._park(lane, refused)
            else:
                if isinstance(refused, Rate):
                    self._set_timer(counter, refused)
                return
        if counter.lanes:
            counter.timer = self.now

    def _start_waiting(self, row: Row, counter: Counter, lane: Lane) -> None:
        """Let in the first of those that wait; its lane has its turn last then."""
        self._leave(row)
        if lane.key in counter.lanes:
            counter.lanes[lane.key] = counter.lanes.pop(lane.key)
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
        self._leave(row)
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
        timers = [(c.timer, c) for c in self.counters.values() if c.timer is not None]
        for timer, counter in sorted(timers, key=itemgetter(0)):
            if timer <= self.now + TINY:
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
