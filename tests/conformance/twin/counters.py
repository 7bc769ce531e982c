"""What the gates of the twin count, and what their limits allow now."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

from celery_fanout.stores.limits import Collect, Gate, Once, Rate
from tests.conformance.twin.rows import Lane

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_fanout.stores.limits import Place, Tuned

__all__ = ["TINY", "Counter", "Counters"]

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
        lanes: that wait here; the first has its turn next.
        tat: of a throttle: when it would be idle ("theoretical arrival time").
        started: the same for starts themselves.
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
    lanes: dict[str, Lane] = dataclasses.field(default_factory=dict[str, Lane])
    tat: float = 0.0
    started: float = 0.0
    timer: float | None = None
    times: list[float] = dataclasses.field(default_factory=list[float])
    until: float = 0.0
    collects: str = ""

    @property
    def waiting(self) -> list[str]:
        """The runs that wait, lane by lane."""
        return [run_id for lane in self.lanes.values() for _, _, run_id in lane.runs]


class Counters:
    """All gates, and the limits that were changed.

    Args:
        clock: the time.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.now = clock()
        self.counters: dict[str, Counter] = {}
        self.tuned: dict[str, Tuned] = {}

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

    def keep_up(self, throttle: Rate) -> None:
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

    def starts(self, throttle: Rate) -> int:
        """Return how many starts of a throttle are used now."""
        interval = self.interval(throttle)
        ahead = self._tat(throttle, interval or 0.0) - self.now - TINY
        return max(0, ceil(ahead / interval)) if interval else 0
