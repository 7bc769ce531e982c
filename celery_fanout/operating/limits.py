"""``get_fanout(app).limits``: the limits of flow control, how full they are, and their numbers."""

from __future__ import annotations

import datetime as dt
import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery_fanout.exceptions import LimitNotTuned, StoreUnsupported, UnknownLimit
from celery_fanout.exceptions.describing import nearest
from celery_fanout.operating.texts import number_of
from celery_fanout.subscribing.limits import (
    Batch,
    Concurrency,
    Debounce,
    Idempotency,
    RateLimit,
    Throttle,
    seconds_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from celery_fanout.stores.ledger import Ledger
    from celery_fanout.stores.limits import GateRecord, Holder, Tuned
    from celery_fanout.stores.records import RunRecord
    from celery_fanout.subscribing.limits import Limit
    from celery_fanout.subscribing.registry import Registry

#: How many gates are read: of a limit with more keys those where most runs wait.
MOST = 10_000

#: The largest number that a limit takes.
LARGEST = 1_000_000

#: Kinds of limits that have no number to change, and why.
NO_NUMBER = {
    "singleton": "is one run at a time",
    "debounce": "has no number",
    "batch": "has its size and time in the code",
    "idempotency": "has its time in the code",
}

#: Kinds of limits that have a period.
RATES = ("throttle", "rate_limit")

# that of control.py: people look for what was changed by hand in one place
logger = logging.getLogger("celery_fanout.control")


@dataclass(frozen=True)
class Declared:
    """A limit as the code has it.

    Attributes:
        name: its name.
        subscriptions: ids of those that have it; those that share it may differ in the rest.
        keyed: whether each value of a key has a counter of its own.
        numbers: pairs of number and period, as in :class:`LimitRecord`.
    """

    name: str
    subscriptions: tuple[str, ...]
    keyed: bool
    numbers: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class LimitRecord:
    """A limit, and how full it is.

    Attributes:
        name: its name.
        kind: ``"concurrency"``, ``"throttle"``, ``"rate_limit"``, ``"singleton"``, ``"debounce"``,
            ``"batch"`` or ``"idempotency"``.
        at_most: the number in force: of runs at once, of starts or runs in a period, of events of
            a batch; 0 where there is none.
        per: the period in seconds; the time that a debounce or a batch waits, and for which an
            idempotency holds; 0.0 without one.
        code: pairs of number and period as the code has them: one, unless subscriptions that share
            the limit differ; none if the code does not have it any more.
        tuned: whether it was changed at run time.
        keyed: whether each value of a key has a counter of its own.
        subscriptions: ids of the subscriptions that have it.
        used: how much of it is in use, of all keys below together.
        waiting: how many runs wait for it, of all keys below together.
        oldest: since when the first of them has waited, a POSIX time.
        next_at: when the next may start, where that is known.
        keys: one for each value of the key that was used of late, those where most runs wait
            first; without a key one at most. At most 10,000.
    """

    name: str
    kind: str
    at_most: int
    per: float
    code: Sequence[tuple[int, float]]
    tuned: bool
    keyed: bool
    subscriptions: Sequence[str]
    used: int
    waiting: int
    oldest: float | None
    next_at: float | None
    keys: Sequence[GateRecord]


def declared_limits(registry: Registry) -> dict[str, Declared]:
    """Return the limits that an app's code has, by name, in the order of the code."""
    limits: dict[str, Declared] = {}
    for sub in registry:
        for name, limit in sub.limits_by_name().items():
            before = limits.get(name, Declared(name, (), limit.key is not None, ()))
            limits[name] = Declared(
                name,
                (*before.subscriptions, sub.id),
                before.keyed,
                tuple(dict.fromkeys([*before.numbers, numbers_of(limit)])),
            )
    return limits


def numbers_of(limit: Limit) -> tuple[int, float]:
    """Return the number and the period of a limit, as in :class:`LimitRecord`."""
    if isinstance(limit, Concurrency):
        return limit.limit, 0.0
    if isinstance(limit, (Throttle, RateLimit)):
        return limit.limit, seconds_of(limit.per)
    if isinstance(limit, Batch):
        return limit.max_size, seconds_of(limit.timeout)
    if isinstance(limit, Debounce):
        return 0, seconds_of(limit.period)
    return 1, seconds_of(limit.ttl) if isinstance(limit, Idempotency) else 0.0


class LimitControl:
    """Lists limits, and changes their numbers; ``get_fanout(app).limits`` is one.

    Args:
        ledger: the ledger.
        registry: the app's subscriptions.
    """

    def __init__(self, ledger: Ledger, registry: Registry) -> None:
        self._ledger = ledger
        self._registry = registry

    def _require_flow(self) -> None:
        if not self._ledger.supports_flow:
            raise StoreUnsupported("The ledger", "limits", "They need fanout_shards = 1.")

    def list(self) -> Sequence[LimitRecord]:
        """Return all limits, and how full they are: those of the code, and others still in use.

        Raises:
            StoreUnsupported: if the ledger has several shards.
        """
        return self._select(None)

    def get(self, name: str) -> LimitRecord:
        """Return one limit, and how full it is.

        Args:
            name: its name.

        Raises:
            UnknownLimit: if there is none with this name.
            StoreUnsupported: if the ledger has several shards.
        """
        [record] = self._select(name)
        return record

    def _select(self, name: str | None) -> Sequence[LimitRecord]:
        self._require_flow()
        declared = declared_limits(self._registry)
        tuned = {item.limit: item for item in self._ledger.tuned()}
        gates = self._gates(name, declared)
        names = dict.fromkeys([*declared, *tuned, *gates])
        if name is not None and name not in names:
            raise _unknown(name, names)
        return [
            _record(each, declared.get(each), tuned.get(each), gates.get(each, []))
            for each in ([name] if name is not None else names)
        ]

    def _gates(
        self, name: str | None, declared: Mapping[str, Declared]
    ) -> Mapping[str, Sequence[GateRecord]]:
        """Return gates by the names of their limits."""
        gates = self._ledger.gates(limit=name, most=MOST)
        if name is None and len(gates) >= MOST:
            # the keys of some limits are so many that they may hide one that has none
            listed = {gate.gate.limit for gate in gates}
            for limit in declared.values():
                if not limit.keyed and limit.name not in listed:
                    gates += self._ledger.gates(limit=limit.name, most=1)
        by_limit: dict[str, list[GateRecord]] = {}
        for gate in gates:
            by_limit.setdefault(gate.gate.limit, []).append(gate)
        return by_limit

    def holders(
        self, name: str, key: str | None = None, limit: int = 100
    ) -> Sequence[tuple[Holder, RunRecord]]:
        """Return the runs that have a place of a limit, those that have it for longest first.

        Only concurrency and singletons have places.

        Args:
            name: the limit's name.
            key: only of this value of its key, as text.
            limit: how many at most.

        Raises:
            UnknownLimit: if there is none with this name.
            StoreUnsupported: if the ledger has several shards.
        """
        record = self.get(name)
        gates = [each.gate for each in record.keys if each.used and key in (None, each.gate.key)]
        holders = self._ledger.holders(gates, most=limit)
        pairs = ((holder, self._ledger.run(holder.run)) for holder in holders)
        return [(holder, run) for holder, run in pairs if run is not None]

    def tune(self, name: str, limit: int, per: float | dt.timedelta | None = None) -> None:
        """Change the number of a limit, for all workers at once and until :meth:`untune`.

        Runs that have a place keep it, also if the number is lower now. Runs that may start
        because it is higher do so within a second or two.

        Args:
            name: the limit's name.
            limit: how many; with 0 nothing starts.
            per: for a throttle or a rate limit the period, in seconds; that of the code by default.

        Raises:
            UnknownLimit: if the code has no limit with this name.
            LimitNotTuned: if it has no such number, or ``limit`` or ``per`` cannot be used.
            StoreUnsupported: if the ledger has several shards.
        """
        self._require_flow()
        declared = declared_limits(self._registry)
        if name not in declared:
            raise _unknown(name, declared)
        period = _checked(name, limit, per)
        self._ledger.tune(name, limit, period)
        text = number_of(_kind(name), limit, period or 0.0)
        logger.info("Limit %s set to %s", name, text, extra={"action": "limit_tuned"})

    def untune(self, name: str) -> bool:
        """Make a limit that of the code again.

        Args:
            name: the limit's name; one that the code no longer has will do, if it was changed.

        Returns:
            Whether it had been changed.

        Raises:
            UnknownLimit: if the code has none with this name, and none was changed.
            StoreUnsupported: if the ledger has several shards.
        """
        self._require_flow()
        changed = [item.limit for item in self._ledger.tuned()]
        declared = declared_limits(self._registry)
        if name not in changed and name not in declared:
            raise _unknown(name, dict.fromkeys([*declared, *changed]))
        self._ledger.tune(name, None)
        logger.info("Limit %s is that of the code", name, extra={"action": "limit_untuned"})
        return name in changed


def _kind(name: str) -> str:
    return name.partition(" ")[0]


def _unknown(name: str, names: Iterable[str]) -> UnknownLimit:
    return UnknownLimit(name, nearest(name, names))


def _checked(name: str, limit: Any, per: float | dt.timedelta | None) -> float | None:
    """Return the period that a limit gets, if it may get this and this number."""
    kind = _kind(name)
    if kind in NO_NUMBER:
        raise LimitNotTuned(name, f"it {NO_NUMBER[kind]}", "Change the code, and deploy it.")
    if isinstance(limit, bool) or not isinstance(limit, int) or not 0 <= limit <= LARGEST:
        numbers = f"Use a whole number from 0 to {LARGEST:,}; with 0 nothing starts."
        raise LimitNotTuned(name, f"{limit!r} is no number of runs", numbers)
    if per is None:
        return None
    if kind not in RATES:
        raise LimitNotTuned(
            name,
            "it is about how many run at once, and has no period",
            "Leave the period out.",
        )
    seconds: Any = per.total_seconds() if isinstance(per, dt.timedelta) else per
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not is_number or not 0 < seconds < math.inf:
        raise LimitNotTuned(name, f"{per!r} is no period", "Use seconds, more than 0.")
    return float(seconds)


def _record(
    name: str, declared: Declared | None, tuned: Tuned | None, gates: Sequence[GateRecord]
) -> LimitRecord:
    at_most, per = declared.numbers[0] if declared else (0, 0.0)
    if tuned is not None:
        at_most, per = tuned.at_most, per if tuned.per is None else tuned.per
    elif declared is None and gates:
        at_most, per = gates[0].at_most, gates[0].per
    oldest = [gate.oldest for gate in gates if gate.oldest is not None]
    starts = [gate.next_at for gate in gates if gate.next_at is not None]
    return LimitRecord(
        name=name,
        kind=_kind(name),
        at_most=at_most,
        per=per,
        code=declared.numbers if declared else (),
        tuned=tuned is not None,
        keyed=declared.keyed if declared else any(gate.gate.key for gate in gates),
        subscriptions=declared.subscriptions if declared else (),
        used=sum(gate.used for gate in gates),
        waiting=sum(gate.waiting for gate in gates),
        oldest=min(oldest, default=None),
        next_at=min(starts, default=None),
        keys=gates,
    )
