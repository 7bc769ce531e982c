"""Limits of the ledger in Redis: how they are listed, looked ahead at, and changed."""

from __future__ import annotations

import json
from math import ceil, inf
from typing import TYPE_CHECKING, NamedTuple

from celery_fanout.stores.limits import Gate, GateRecord, Holder, Preview, Tuned
from celery_fanout.stores.redis import calls
from celery_fanout.stores.redis.packing import dumps, flow_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from celery_fanout.stores.limits import Flow
    from celery_fanout.stores.redis.keys import Keys
    from celery_fanout.stores.redis.scripting import Scripts

#: How many gates are looked through for a list, those that were used last.
LOOK_THROUGH = 10_000

#: How many are read at a time.
PAGE = 1000

#: In how many lanes of a gate the oldest is looked for.
LANES = 100

#: What times may differ by; as in ``limits.lua``.
TINY = 1e-6


class _Counts(NamedTuple):
    """What is counted at a gate.

    Attributes:
        waiting: how many runs wait.
        tat: when a throttle would be idle.
        holders: how many runs have a place.
        passed: when a rate limit has let runs through.
        collected: how many events the run has that collects, and when it starts.
        oldest: since when the first of those has waited that wait.
    """

    waiting: int
    tat: float
    holders: int
    passed: Sequence[float]
    collected: tuple[int, float] | None
    oldest: float | None


class RedisLimits:
    """The part of the ledger in Redis where people look at limits, and change them.

    Args:
        scripts: the connection.
        keys: the keys.
    """

    def __init__(self, scripts: Scripts, keys: Keys) -> None:
        self._scripts = scripts
        self._keys = keys

    def gates(self, *, limit: str | None = None, most: int = 100) -> list[GateRecord]:
        """Return gates that were used of late, those where most runs wait first."""
        gates = [
            (gate, fields)
            for gate, fields in self._gates(None if limit is None else Gate(limit).id)
            if fields["n"] == limit or (limit is None and not fields["n"].startswith("idempotency"))
        ]
        gates.sort(key=lambda pair: int(pair[1].get("w", 0)), reverse=True)
        tuned = {each.limit: each for each in self.tuned()}
        now = self._scripts.time()
        gates = gates[:most]
        pages = [gates[at : at + PAGE] for at in range(0, len(gates), PAGE)]
        counted = [counts for page in pages for counts in self._count(page)]
        return [
            _record(fields, counts, tuned.get(fields["n"]), now)
            for (_, fields), counts in zip(gates, counted, strict=True)
        ]

    def _gates(self, first: str | None) -> Iterator[tuple[str, dict[str, str]]]:
        """Read gates; if there are very many, ``first`` must not be missed: it has no key."""
        if first is not None:
            fields, used = self._scripts.many(
                [("hgetall", self._keys.gate(first)), ("zscore", self._keys.limits, first)]
            )
            if "n" in fields and used is not None:
                yield first, fields
        for start in range(0, LOOK_THROUGH, PAGE):
            last = start + PAGE - 1
            ids: list[str] = self._scripts.ask(
                self._scripts.client.zrevrange, self._keys.limits, start, last
            )
            hashes = self._scripts.many([("hgetall", self._keys.gate(gate)) for gate in ids])
            pairs = zip(ids, hashes, strict=True)
            yield from (pair for pair in pairs if "n" in pair[1] and pair[0] != first)
            if len(ids) < PAGE:
                return

    def _count(self, page: Sequence[tuple[str, Mapping[str, str]]]) -> list[_Counts]:
        """Read what is counted at gates, in few round trips for all of them."""
        gates = [gate for gate, _ in page]
        # at once, or somebody would seem to wait for what is free
        both = self._scripts.many(
            [
                command
                for gate in gates
                for command in (
                    ("hmget", self._keys.gate(gate), "w", "tat"),
                    ("zcard", self._keys.holders(gate)),
                )
            ],
            at_once=True,
        )
        waits = [int(waiting or 0) for waiting, _ in both[::2]]
        free = [float(tat or 0) for _, tat in both[::2]]
        holders = both[1::2]
        passed = self._scripts.many([("lrange", self._keys.passed(gate), 0, -1) for gate in gates])
        collects = self._scripts.many([("get", self._keys.collects(gate)) for gate in gates])
        runs = [run for run in collects if run is not None]
        sizes = self._scripts.many([("llen", self._keys.collected(run)) for run in runs])
        times = self._scripts.many([("zscore", self._keys.due, run) for run in runs])
        collected = dict(zip(runs, zip(sizes, times, strict=True), strict=True))
        oldest = self._oldest([gate for gate, many in zip(gates, waits, strict=True) if many])
        facts = zip(gates, waits, free, holders, passed, collects, strict=True)
        return [
            _Counts(many, tat, held, list(map(float, let)), collected.get(run), oldest.get(gate))
            for gate, many, tat, held, let, run in facts
        ]

    def _oldest(self, gates: Sequence[str]) -> dict[str, float]:
        """Return since when the first of each lane has waited, the earliest of each gate."""
        lanes = self._scripts.many(
            [("zrange", self._keys.lanes(gate), 0, LANES - 1) for gate in gates]
        )
        pairs = [(gate, lane) for gate, some in zip(gates, lanes, strict=True) for lane in some]
        heads = self._scripts.many([("zrange", self._keys.lane(lane), 0, 0) for _, lane in pairs])
        runs = [(gate, run) for (gate, _), some in zip(pairs, heads, strict=True) for run in some]
        times = self._scripts.many([("hget", self._keys.run(run), "m") for _, run in runs])
        oldest: dict[str, float] = {}
        for (gate, _), since in zip(runs, times, strict=True):
            if since is not None:
                oldest[gate] = min(oldest.get(gate, inf), float(since))
        return oldest

    def holders(self, gates: Sequence[Gate], *, most: int = 100) -> list[Holder]:
        """Return who has a place at gates, those that have it for longest first."""
        holders: list[Holder] = []
        for start in range(0, len(gates), PAGE):
            page = gates[start : start + PAGE]
            held = self._scripts.many(
                # forwards, with scores
                [("zrange", self._keys.holders(gate.id), 0, most - 1, False, True) for gate in page]
            )
            for gate, pairs in zip(page, held, strict=True):
                holders += [Holder(gate, run, float(since)) for run, since in pairs]
            holders.sort(key=lambda holder: holder.since)
            del holders[most:]
        return holders

    def preview(self, flow: Flow) -> Preview:
        """Return what would happen to a run with this flow now."""
        answer = self._scripts.run(calls.preview(flow_json=flow_json(flow)))
        verdict, gate, at_most, used, waiting, at = answer
        return Preview(
            verdict,
            _gates_of(flow).get(gate),
            at_most,
            used,
            waiting,
            None if at is None else float(at),
        )

    def tune(self, limit: str, at_most: int | None, per: float | None = None) -> None:
        """Change a limit, or make it the code's again."""
        numbers = {"at_most": at_most} if per is None else {"at_most": at_most, "per": per}
        text = "" if at_most is None else dumps(numbers)
        self._scripts.run(calls.tune(limit=limit, numbers=text))

    def tuned(self) -> list[Tuned]:
        """Return the limits that were changed."""
        numbers: dict[str, str] = self._scripts.ask(self._scripts.client.hgetall, self._keys.tuned)
        return [Tuned(limit, **json.loads(text)) for limit, text in sorted(numbers.items())]


def _record(
    fields: Mapping[str, str], counts: _Counts, tuned: Tuned | None, now: float
) -> GateRecord:
    gate = Gate(fields["n"], fields["k"])
    kind = gate.kind
    at_most, per, burst = (float(number) for number in fields["at"].split())
    if tuned is not None:
        at_most, per = tuned.at_most, per if tuned.per is None else tuned.per
    used, next_at = counts.holders, None
    if kind == "throttle":
        used = 0
        if at_most:
            ahead = counts.tat - now
            step = per / at_most
            used = max(0, ceil((ahead - TINY) / step))
            next_at = now + max(0.0, ahead - burst * step)
    elif kind == "rate_limit":
        within = [at for at in counts.passed if at > now - per + TINY]
        used = len(within)
        if 0 < at_most <= used:
            next_at = within[-int(at_most)] + per
    elif counts.collected is not None:
        used, next_at = counts.collected
    return GateRecord(
        gate,
        kind,
        int(at_most),
        per,
        tuned is not None,
        used,
        counts.waiting,
        counts.oldest,
        next_at,
    )


def _gates_of(flow: Flow) -> dict[str, Gate]:
    limits = (*flow.places, flow.throttle, flow.rate_limit, flow.once, flow.collect)
    return {limit.gate.id: limit.gate for limit in limits if limit is not None}
