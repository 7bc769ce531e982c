"""Limits, as a ledger is told of them and answers: it only counts.

They are declared in ``subscribing/limits.py``. What they come to for one event, with the values of
keys and priorities, is a :class:`Flow`, made by ``subscribing/admission.py``. They are counted by
``redis/scripts/limits.lua``, and shown and changed by ``operating/limits.py``.

Times are POSIX seconds of the *store's* clock, periods are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha1
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Gate:
    """What runs share: one counter of a limit, that of one value of its key.

    Attributes:
        limit: the limit's name, as people read it and ``Ledger.tune`` takes it, such as
            ``"concurrency docs.tasks.summarize@document/uploaded by tenant"``.
        key: the key's value as text; ``""`` without a key.
    """

    limit: str
    key: str = ""

    @property
    def kind(self) -> str:
        """What kind of limit it is of: the first word of its name."""
        return self.limit.partition(" ")[0]

    @cached_property
    def id(self) -> str:
        """What stores call it."""
        text = f"{len(self.limit)}:{self.limit}{self.key}"
        return sha1(text.encode(), usedforsecurity=False).hexdigest()[:16]


@dataclass(frozen=True)
class Place:
    """A run needs one of a number of places.

    Attributes:
        gate: who shares them.
        at_most: how many there are.
        kept: whether the run keeps its place until it has ended; otherwise it gives it back
            whenever it leaves its worker, and takes one again on the way back.
        full: what happens if there is none when the run is recorded: it waits, it is dropped, or
            the runs that have the places are cancelled.
    """

    gate: Gate
    at_most: int
    kept: bool = False
    full: Literal["wait", "drop", "cancel"] = "wait"


@dataclass(frozen=True)
class Rate:
    """So many starts, or runs, in a period.

    Attributes:
        gate: who shares them.
        at_most: how many.
        per: the period.
        burst: how many more may start at once, of a throttle.
    """

    gate: Gate
    at_most: int
    per: float
    burst: int = 0


@dataclass(frozen=True)
class Once:
    """One run at most: a later one is dropped.

    Attributes:
        gate: one for each value.
        ttl: for how long.
    """

    gate: Gate
    ttl: float


@dataclass(frozen=True)
class Collect:
    """Several events make one run.

    Attributes:
        gate: whose events.
        kind: a debounce has the last of them, a batch all.
        period: for a debounce how long it must have been quiet; for a batch how long it collects.
        timeout: after which a debounced run starts though it is not quiet; ``None``: never.
        max_size: with how many events a batch starts at once; 0 for a debounce.
    """

    gate: Gate
    kind: Literal["debounce", "batch"]
    period: float
    timeout: float | None = None
    max_size: int = 0


@dataclass(frozen=True)
class Flow:
    """What has to be so before a run may start.

    Decided in this order when it is recorded: ``once``, ``rate_limit``, places that drop or
    cancel, ``collect``; then, and for a run that collects when that is over, the run waits until
    it has all its ``places`` and its turn of the ``throttle``.

    Attributes:
        places: that it needs, at most 4; what few runs share, as those with a key, comes before
            what many share.
        throttle: how often runs start.
        rate_limit: how many runs there are; what is more is dropped.
        once: one run at most.
        collect: what it is made of.
        lane: runs that wait for the same and have the same lane start in their order; lanes take
            turns.
        priority: within a lane, the higher first; from -255 to 255.
        start_timeout: after which a run that has not started is cancelled.
        finish_timeout: after which one that has started and not ended is cancelled.
    """

    places: tuple[Place, ...] = ()
    throttle: Rate | None = None
    rate_limit: Rate | None = None
    once: Once | None = None
    collect: Collect | None = None
    lane: str = ""
    priority: int = 0
    start_timeout: float | None = None
    finish_timeout: float | None = None


@dataclass(frozen=True)
class Tuned:
    """A limit as it was changed while the code stayed as it is.

    Attributes:
        limit: its name.
        at_most: in place of that of the code.
        per: likewise; ``None``: as in the code.
    """

    limit: str
    at_most: int
    per: float | None = None


@dataclass(frozen=True)
class GateRecord:
    """A gate, as it is listed.

    Attributes:
        gate: which.
        kind: ``"concurrency"``, ``"throttle"``, ``"rate_limit"``, ``"singleton"``, ``"debounce"``,
            ``"batch"`` or ``"idempotency"``: the first word of its limit's name.
        at_most: how many, as it is in force; 0 where there is no number.
        per: the period; 0.0 without one.
        tuned: whether it was changed.
        used: runs that have a place; starts within the period, for a rate limit; events that are
            collected.
        waiting: runs that wait here.
        oldest: since when the first of them has waited.
        next_at: when the next may start, where that is known.
    """

    gate: Gate
    kind: str
    at_most: int
    per: float = 0.0
    tuned: bool = False
    used: int = 0
    waiting: int = 0
    oldest: float | None = None
    next_at: float | None = None


@dataclass(frozen=True)
class Holder:
    """A run that has a place.

    Attributes:
        gate: where.
        run: its id.
        since: since when.
    """

    gate: Gate
    run: str
    since: float


@dataclass(frozen=True)
class Preview:
    """What would happen to a run with this flow now.

    Attributes:
        verdict: it would ``"start"``, ``"wait"``, be ``"drop"``-ped, ``"join"`` a run that
            collects, begin to ``"collect"``, or ``"cancel"`` another and start.
        gate: because of which; ``None`` if it would just start.
        at_most: of that gate.
        used: of that gate.
        waiting: of that gate.
        at: when it could start, where that is known.
    """

    verdict: Literal["start", "wait", "drop", "join", "collect", "cancel"]
    gate: Gate | None = None
    at_most: int = 0
    used: int = 0
    waiting: int = 0
    at: float | None = None


class LedgerLimits(Protocol):
    """The part of :class:`~celery_fanout.stores.ledger.Ledger` that looks at limits.

    Attributes:
        supports_flow: whether runs may have a flow.
    """

    supports_flow: bool

    def gates(self, *, limit: str | None = None, most: int = 100) -> list[GateRecord]:
        """Return gates that were used of late, those where most runs wait first.

        Args:
            limit: only those of the limit with this name.
            most: how many at most.
        """
        ...

    def holders(self, gates: Sequence[Gate], *, most: int = 100) -> list[Holder]:
        """Return who has a place at gates of places, those that have it for longest first.

        Args:
            gates: where.
            most: how many at most.
        """
        ...

    def preview(self, flow: Flow) -> Preview:
        """Return what would happen to a run with this flow now; nothing is changed."""
        ...

    def tune(self, limit: str, at_most: int | None, per: float | None = None) -> None:
        """Change a limit for all its gates at once, or with ``None`` make it the code's again.

        Runs that may start because of it do so with the next :meth:`take`.
        """
        ...

    def tuned(self) -> list[Tuned]:
        """Return the limits that were changed."""
        ...
