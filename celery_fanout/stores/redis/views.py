"""Reading the ledger in Redis: what lists and pages show. No script needed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from celery_fanout.stores.redis import calls
from celery_fanout.stores.redis.unpacking import detail_of, event_record, run_record
from celery_fanout.stores.states import RunState

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from celery_fanout.stores.records import EventRecord, LedgerRules, RunOutcome, RunRecord
    from celery_fanout.stores.redis.keys import Keys
    from celery_fanout.stores.redis.scripting import Scripts

#: How many entries of an index are read at a time.
PAGE = 200


class RedisViews:
    """The part of the ledger in Redis that only reads.

    Args:
        scripts: the connection.
        keys: the keys.
        rules: the ledger's rules.
    """

    def __init__(self, scripts: Scripts, keys: Keys, rules: LedgerRules) -> None:
        self.rules = rules
        self._scripts = scripts
        self._keys = keys

    @property
    def client(self) -> Any:
        """The Redis client of this process."""
        return self._scripts.client

    def time(self) -> float:
        """Return the server's time."""
        return self._scripts.time()

    def run(self, run_id: str) -> RunRecord | None:
        """Return a run with its detail."""
        fields, data, due = self._scripts.many(
            [
                ("hgetall", self._keys.run(run_id)),
                ("hgetall", self._keys.data(run_id)),
                ("zscore", self._keys.due, run_id),
            ]
        )
        if not fields:
            return None
        sub = self._scripts.ask(self.client.hget, self._keys.subscriptions, fields["u"]) or ""
        self._add_reasons([fields])
        detail = detail_of(data)
        if "cl" in fields and fields["k"] == "event":
            key = self._keys.collected(run_id)
            detail["events"] = self._scripts.ask(self.client.lrange, key, 0, -1)
        return run_record(run_id, fields, sub, due, detail)

    def _add_reasons(self, runs: Sequence[dict[str, str]]) -> None:
        """Say of runs that wait at a gate, or collect, which limit that is."""
        waiting = [fields for fields in runs if "lw" in fields]
        where = self._scripts.many([("hget", self._keys.where, fields["lw"]) for fields in waiting])
        gates = [*zip(waiting, where, strict=True)]
        gates += [(fields, fields["co"]) for fields in runs if "co" in fields]
        names = self._scripts.many(
            [("hget", self._keys.gate(gate or ""), "n") for _, gate in gates]
        )
        for (fields, _), name in zip(gates, names, strict=True):
            fields["z"] = name or ""

    def _records(self, run_ids: Sequence[str]) -> list[RunRecord]:
        commands: list[tuple[Any, ...]] = []
        for run_id in run_ids:
            commands.append(("hgetall", self._keys.run(run_id)))
            commands.append(("zscore", self._keys.due, run_id))
        answers = self._scripts.many(commands)
        rows = list(zip(run_ids, answers[::2], answers[1::2], strict=True))
        existing = [(run_id, fields, due) for run_id, fields, due in rows if fields]
        hashes = list({fields["u"] for _, fields, _ in existing})
        names: list[str | None] = (
            self._scripts.ask(self.client.hmget, self._keys.subscriptions, hashes) if hashes else []
        )
        subs: dict[str, str | None] = dict(zip(hashes, names, strict=True))
        self._add_reasons([fields for _, fields, _ in existing])
        return [run_record(i, fields, subs[fields["u"]] or "", due) for i, fields, due in existing]

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
        if event is not None:
            pages = iter([self._belonging(event)])
        elif subscription is not None:
            pages = self._pages(self._keys.subscription(subscription), None)
        elif state is not None:
            pages = self._pages(self._keys.state(state), before)
        else:
            pages = iter([self._latest(limit, before)])
        runs: list[RunRecord] = []
        for page in pages:
            for run in self._records(page):
                wanted = (
                    (state is None or run.state is state)
                    and (subscription is None or run.subscription == subscription)
                    and (before is None or run.updated < before)
                )
                if wanted:
                    runs.append(run)
            # by subscription, the index is in another order: all of it has to be seen
            if len(runs) >= limit and subscription is None:
                break
        runs.sort(key=lambda run: run.updated, reverse=True)
        return runs[:limit]

    def _belonging(self, event: str) -> list[str]:
        """Return the ids of the runs of an event, and of all that these asked for."""
        key = self._keys.event(event)
        fields, text = self._scripts.many([("hgetall", key), ("get", self._keys.text(event))])
        record = event_record(event, fields, text)
        if record is None:
            return []
        left = [*record.runs, *record.replayed, *([fields["ti"]] if "ti" in fields else ())]
        ids: dict[str, None] = {}
        while left:
            ids.update(dict.fromkeys(left))
            answers = self._scripts.many([("hkeys", self._keys.data(run_id)) for run_id in left])
            children = [name[1:] for names in answers for name in names if name[0] == "c"]
            left = [run_id for run_id in dict.fromkeys(children) if run_id not in ids]
        return list(ids)

    def _pages(self, index: str, before: float | None) -> Iterator[list[str]]:
        start = 0
        top = "+inf" if before is None else f"({before:.6f}"
        while True:
            page: list[str] = self._scripts.ask(
                self.client.zrevrangebyscore, index, top, "-inf", start, PAGE
            )
            if page:
                yield page
            if len(page) < PAGE:
                return
            start += PAGE

    def _latest(self, limit: int, before: float | None) -> list[str]:
        top = "+inf" if before is None else f"({before:.6f}"
        answers = self._scripts.many(
            [
                ("zrevrangebyscore", self._keys.state(state), top, "-inf", 0, limit, True)
                for state in RunState
            ]
        )
        scored: list[tuple[str, float]] = [pair for answer in answers for pair in answer]
        scored.sort(key=lambda pair: pair[1], reverse=True)
        return [run_id for run_id, _ in scored[:limit]]

    def event(self, key: str) -> EventRecord | None:
        """Return an event."""
        return self._events([key])[0]

    def _events(self, keys: Sequence[str]) -> list[EventRecord | None]:
        commands = [("hgetall", self._keys.event(key)) for key in keys]
        commands += [("get", self._keys.text(key)) for key in keys]
        answers = self._scripts.many(commands)
        hashes, texts = answers[: len(keys)], answers[len(keys) :]
        return [event_record(*each) for each in zip(keys, hashes, texts, strict=True)]

    def events(
        self, *, name: str | None = None, limit: int = 100, before: float | None = None
    ) -> list[EventRecord]:
        """Return events, the latest first."""
        top = "+inf" if before is None else f"({before:.6f}"
        now = (self._scripts.clock or time.time)()  # of this machine: no round trip for a bound
        oldest = f"{now - self.rules.event_retention:.6f}"
        ids: list[str] = self._scripts.ask(
            self.client.zrevrangebyscore, self._keys.events(name), top, oldest, 0, limit
        )
        return [event for event in self._events(ids) if event is not None]

    def outcomes(self, run_ids: Sequence[str]) -> list[RunOutcome]:
        """Return how runs ended, or where they are."""
        found: list[RunOutcome] = []
        for start in range(0, len(run_ids), PAGE):
            outcomes = self._scripts.run(calls.outcomes(ids=run_ids[start : start + PAGE]))
            found += outcomes
        return found

    def counts(self) -> dict[RunState, int]:
        """Return how many runs are in each state."""
        answers = self._scripts.many([("zcard", self._keys.state(state)) for state in RunState])
        return dict(zip(RunState, answers, strict=True))

    def paused(self) -> dict[str, float]:
        """Return the paused subscriptions, and since when."""
        times: dict[str, str] = self._scripts.ask(self.client.hgetall, self._keys.paused)
        return {sub: float(since) for sub, since in times.items()}

    def stored_shards(self) -> int:
        """Return in how many shards the ledger was kept so far."""
        return int(self._scripts.ask(self.client.get, self._keys.shards) or 1)
