"""Limits of the ledger in Redis: how they are listed, looked ahead at, and changed."""

from __future__ import annotations

import json
from math import ceil
from typing import TYPE_CHECKING, Any

from celery_fanout.stores.flow import Gate, GateRecord, Preview, Tuned
from celery_fanout.stores.redis.packing import dumps, flow_values
from celery_fanout.stores.redis.views import RedisViews

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from celery_fanout.stores.flow import Flow

__all__ = ["RedisLimits"]

#: How many gates are looked through for a list, those that were used last.
LOOK_THROUGH = 10_000

#: How many are read at a time.
PAGE = 1000

#: In how many lanes of a gate the oldest is looked for.
LANES = 100

#: What times may differ by; as in ``flow.lua``.
TINY = 1e-6


class RedisLimits(RedisViews):
    """What people see of limits, and do to them."""

    def gates(self, *, limit: str | None = None, most: int = 100) -> list[GateRecord]:
        """Return gates that were used of late, those where most runs wait first."""
        found = [
            (gate, fields)
            for gate, fields in self._gates()
            if fields["n"] == limit or (limit is None and not fields["n"].startswith("idempotency"))
        ]
        found.sort(key=lambda pair: int(pair[1].get("w", 0)), reverse=True)
        tuned = {each.limit: each for each in self.tuned()}
        now = self.time()
        return [self._gate(*each, tuned.get(each[1]["n"]), now) for each in found[:most]]

    def _gates(self) -> Iterator[tuple[str, dict[str, str]]]:
        for start in range(0, LOOK_THROUGH, PAGE):
            last = start + PAGE - 1
            ids: list[str] = self._scripts.ask(
                self.client.zrevrange, self._keys.limits, start, last
            )
            hashes = self._many([("hgetall", self._keys.gate(gate)) for gate in ids])
            yield from (pair for pair in zip(ids, hashes, strict=True) if "n" in pair[1])
            if len(ids) < PAGE:
                return

    def _gate(
        self, gate: str, fields: Mapping[str, str], tuned: Tuned | None, now: float
    ) -> GateRecord:
        kind = fields["n"].partition(" ")[0]
        at_most, per, burst = (float(number) for number in fields["at"].split())
        if tuned is not None:
            at_most, per = tuned.at_most, per if tuned.per is None else tuned.per
        used, next_at = 0, None
        holders, times, collects = self._many(
            [
                ("zcard", self._keys.holders(gate)),
                ("lrange", self._keys.passed(gate), 0, -1),
                ("get", self._keys.collects(gate)),
            ]
        )
        if kind == "throttle":
            if at_most:
                ahead = float(fields.get("tat", 0)) - now
                step = per / at_most
                used = max(0, ceil((ahead - TINY) / step))
                next_at = now + max(0.0, ahead - burst * step)
        elif kind == "rate_limit":
            counted = [float(at) for at in times if float(at) > now - per + TINY]
            used = len(counted)
            if 0 < at_most <= used:
                next_at = counted[-int(at_most)] + per
        elif collects is not None:
            used, next_at = self._many(
                [("llen", self._keys.collected(collects)), ("zscore", self._keys.due, collects)]
            )
        else:
            used = holders
        waiting = int(fields.get("w", 0))
        return GateRecord(
            Gate(fields["n"], fields["k"]),
            kind,
            int(at_most),
            per,
            tuned is not None,
            used,
            waiting,
            self._oldest(gate) if waiting else None,
            next_at,
        )

    def _oldest(self, gate: str) -> float | None:
        """Return since when the first of each lane has waited, the earliest of them."""
        lanes: list[str] = self._scripts.ask(
            self.client.zrange, self._keys.lanes(gate), 0, LANES - 1
        )
        heads = self._many([("zrange", self._keys.lane(gate, lane), 0, 0) for lane in lanes])
        runs = [("hget", self._keys.run(run_id), "m") for head in heads for run_id in head]
        return min((float(since) for since in self._many(runs) if since), default=None)

    def preview(self, flow: Flow) -> Preview:
        """Return what would happen to a run with this flow now."""
        answer: Any = self._scripts.run("preview", dumps(flow_values(flow)))
        verdict, gate, at_most, used, waiting, at = answer
        return Preview(
            verdict,
            _gates_of(flow).get(gate),
            int(at_most),
            int(used),
            int(waiting),
            None if at is None else float(at),
        )

    def tune(self, limit: str, at_most: int | None, per: float | None = None) -> None:
        """Change a limit, or make it the code's again."""
        numbers = {"at_most": at_most} if per is None else {"at_most": at_most, "per": per}
        self._scripts.run("tune", limit, "" if at_most is None else dumps(numbers))

    def tuned(self) -> list[Tuned]:
        """Return the limits that were changed."""
        found: dict[str, str] = self._scripts.ask(self.client.hgetall, self._keys.tuned)
        return [Tuned(limit, **json.loads(text)) for limit, text in sorted(found.items())]


def _gates_of(flow: Flow) -> dict[str, Gate]:
    limits = (*flow.places, flow.throttle, flow.rate_limit, flow.once, flow.collect)
    return {limit.gate.id: limit.gate for limit in limits if limit is not None}
