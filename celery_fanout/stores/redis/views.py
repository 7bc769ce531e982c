"""Reading the ledger in Redis: what lists and pages show. No script needed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from celery_fanout.stores.ledger import RunOutcome
from celery_fanout.stores.redis.reading import detail_of, event_record, run_record
from celery_fanout.stores.states import RunState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from celery_fanout.stores.ledger import EventRecord, LedgerRules, RunRecord
    from celery_fanout.stores.redis.client import Scripts
    from celery_fanout.stores.redis.keys import Keys

__all__ = ["RedisViews"]

#: How many entries of an index are read at a time.
PAGE = 200


class RedisViews:
    """The reading half of :class:`~celery_fanout.stores.redis.RedisLedger`.

    Args:
        scripts: the connection.
        keys: the keys.
    """

    rules: LedgerRules
    clock: Callable[[], float] | None = None

    def __init__(self, scripts: Scripts, keys: Keys) -> None:
        self._scripts = scripts
        self._keys = keys

    @property
    def client(self) -> Any:
        """The Redis client of this process."""
        return self._scripts.client

    def time(self) -> float:
        """Return the server's time."""
        if self.clock is not None:
            return self.clock()
        answer: Any = self._scripts.ask(self.client.time)
        return float(answer[0]) + float(answer[1]) / 1e6

    def _many(self, commands: Sequence[tuple[Any, ...]], *, at_once: bool = False) -> list[Any]:
        """Run several reading commands, in one round trip where that is possible.

        Args:
            commands: the name of each, and its arguments.
            at_once: whether nothing may change in between.
        """
        if not commands:
            return []

        def ask() -> list[Any]:
            pipe = self.client.pipeline(transaction=at_once)
            for name, *args in commands:
                getattr(pipe, name)(*args)
            return list(pipe.execute())

        found: list[Any] = self._scripts.ask(ask)
        return found

    def run(self, run_id: str) -> RunRecord | None:
        """Return a run with its detail."""
        fields, data, due = self._many(
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
        where = self._many([("hget", self._keys.where, fields["lw"]) for fields in waiting])
        gates = [*zip(waiting, where, strict=True)]
        gates += [(fields, fields["co"]) for fields in runs if "co" in fields]
        names = self._many([("hget", self._keys.gate(gate or ""), "n") for _, gate in gates])
        for (fields, _), name in zip(gates, names, strict=True):
            fields["z"] = name or ""

    def _records(self, run_ids: Sequence[str]) -> list[RunRecord]:
        commands: list[tuple[Any, ...]] = []
        for run_id in run_ids:
            commands.append(("hgetall", self._keys.run(run_id)))
            commands.append(("zscore", self._keys.due, run_id))
        answers = self._many(commands)
        rows = list(zip(run_ids, answers[::2], answers[1::2], strict=True))
        found = [(run_id, fields, due) for run_id, fields, due in rows if fields]
        hashes = list({fields["u"] for _, fields, _ in found})
        names: list[str | None] = (
            self._scripts.ask(self.client.hmget, self._keys.subscriptions, hashes) if hashes else []
        )
        subs: dict[str, str | None] = dict(zip(hashes, names, strict=True))
        self._add_reasons([fields for _, fields, _ in found])
        return [run_record(i, fields, subs[fields["u"]] or "", due) for i, fields, due in found]

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
        found: list[RunRecord] = []
        for page in pages:
            for run in self._records(page):
                wanted = (
                    (state is None or run.state is state)
                    and (subscription is None or run.subscription == subscription)
                    and (before is None or run.updated < before)
                )
                if wanted:
                    found.append(run)
            # by subscription, the index is in another order: all of it has to be seen
            if len(found) >= limit and subscription is None:
                break
        found.sort(key=lambda run: run.updated, reverse=True)
        return found[:limit]

    def _belonging(self, event: str) -> list[str]:
        """Return the ids of the runs of an event, and of all that these asked for."""
        key = self._keys.event(event)
        fields, text = self._many([("hgetall", key), ("get", self._keys.text(event))])
        known = event_record(event, fields, text)
        if known is None:
            return []
        left = [*known.runs, *known.replayed, *([fields["ti"]] if "ti" in fields else ())]
        found: dict[str, None] = {}
        while left:
            found.update(dict.fromkeys(left))
            answers = self._many([("hkeys", self._keys.data(run_id)) for run_id in left])
            children = [name[1:] for names in answers for name in names if name[0] == "c"]
            left = [run_id for run_id in dict.fromkeys(children) if run_id not in found]
        return list(found)

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
        answers = self._many(
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
        answers = self._many(commands)
        hashes, texts = answers[: len(keys)], answers[len(keys) :]
        return [event_record(*each) for each in zip(keys, hashes, texts, strict=True)]

    def events(
        self, *, name: str | None = None, limit: int = 100, before: float | None = None
    ) -> list[EventRecord]:
        """Return events, the latest first."""
        top = "+inf" if before is None else f"({before:.6f}"
        oldest = f"{self.local_time() - self.rules.event_retention:.6f}"
        ids: list[str] = self._scripts.ask(
            self.client.zrevrangebyscore, self._keys.events(name), top, oldest, 0, limit
        )
        return [event for event in self._events(ids) if event is not None]

    def outcomes(self, run_ids: Sequence[str]) -> list[RunOutcome]:
        """Return how runs ended, or where they are."""
        import json

        found: list[RunOutcome] = []
        for start in range(0, len(run_ids), PAGE):
            page = run_ids[start : start + PAGE]
            for run_id, state, result, error, reason in self._scripts.run("outcomes", *page):
                found.append(
                    RunOutcome(
                        run_id,
                        RunState(state) if state else None,
                        result,
                        json.loads(error) if error else None,
                        reason,
                    )
                )
        return found

    def counts(self) -> dict[RunState, int]:
        """Return how many runs are in each state."""
        answers = self._many([("zcard", self._keys.state(state)) for state in RunState])
        return dict(zip(RunState, answers, strict=True))

    def paused(self) -> dict[str, float]:
        """Return the paused subscriptions, and since when."""
        found: dict[str, str] = self._scripts.ask(self.client.hgetall, self._keys.paused)
        return {sub: float(since) for sub, since in found.items()}

    def stored_shards(self) -> int:
        """Return in how many shards the ledger was kept so far."""
        return int(self._scripts.ask(self.client.get, self._keys.shards) or 1)

    def local_time(self) -> float:
        """Return this machine's time, for what needs no more."""
        return time.time() if self.clock is None else self.clock()
