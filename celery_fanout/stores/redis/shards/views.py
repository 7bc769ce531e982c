"""What lists and pages show of what lies in several shards."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from celery_fanout.stores.states import RunState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_fanout.stores.records import EventRecord, RunOutcome, RunRecord
    from celery_fanout.stores.redis.shards.locating import Shards


class ShardedViews:
    """The part of the sharded ledger that only reads.

    Args:
        shards: the shards.
    """

    def __init__(self, shards: Shards) -> None:
        self._shards = shards

    @property
    def client(self) -> Any:
        """The Redis client of this process."""
        return self._shards.first.client

    def time(self) -> float:
        """Return the server's time."""
        return self._shards.first.time()

    def run(self, run_id: str) -> RunRecord | None:
        """Return a run with its detail."""
        return self._shards.of(run_id).run(run_id)

    def runs(
        self, *, event: str | None = None, limit: int = 100, **filters: Any
    ) -> list[RunRecord]:
        """Return runs, those whose state changed last first."""
        parts = self._shards.parts if event is None else [self._shards.where(event)]
        runs = chain.from_iterable(
            shard.runs(event=event, limit=limit, **filters) for shard in parts
        )
        return sorted(runs, key=lambda run: run.updated, reverse=True)[:limit]

    def event(self, key: str) -> EventRecord | None:
        """Return an event."""
        return self._shards.home(key).event(key) or self._shards.where(key).event(key)

    def events(
        self, *, name: str | None = None, limit: int = 100, before: float | None = None
    ) -> list[EventRecord]:
        """Return events, the latest first."""
        events = chain.from_iterable(
            shard.events(name=name, limit=limit, before=before) for shard in self._shards.parts
        )
        return sorted(events, key=lambda event: event.created, reverse=True)[:limit]

    def outcomes(self, run_ids: Sequence[str]) -> list[RunOutcome]:
        """Return how runs ended, or where they are."""
        outcomes = {
            outcome.run_id: outcome
            for shard, ids in self._shards.grouped(run_ids)
            for outcome in shard.outcomes(ids)
        }
        return [outcomes[run_id] for run_id in run_ids]

    def counts(self) -> dict[RunState, int]:
        """Return how many runs are in each state."""
        counts = [shard.counts() for shard in self._shards.parts]
        return {state: sum(count[state] for count in counts) for state in RunState}

    def paused(self) -> dict[str, float]:
        """Return the paused subscriptions, and since when."""
        earliest: dict[str, float] = {}
        for shard in self._shards.parts:
            for sub, since in shard.paused().items():
                earliest[sub] = min(since, earliest.get(sub, since))
        return earliest
