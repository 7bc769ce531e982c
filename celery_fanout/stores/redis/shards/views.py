"""Finding and reading what lies in several shards: what lists and pages show."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from celery_fanout.exceptions import StoreUnsupported
from celery_fanout.model.ids import PLACES, place_in, place_of
from celery_fanout.stores.redis.shards.places import places, tag
from celery_fanout.stores.redis.shards.shard import Shard
from celery_fanout.stores.states import RunState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from celery_fanout.stores.flow import Flow, Gate, GateRecord, Holder, Preview, Tuned
    from celery_fanout.stores.ledger import EventRecord, LedgerRules, RunOutcome, RunRecord

__all__ = ["ShardedViews"]


class ShardedViews:
    """The reading half of :class:`~celery_fanout.stores.redis.shards.ledger.ShardedLedger`."""

    def __init__(
        self,
        url: str,
        rules: LedgerRules,
        shards: int,
        *,
        prefix: str = "fanout",
        clock: Callable[[], float] | None = None,
        options: Mapping[str, Any] | None = None,
        timeout: float = 5.0,
    ) -> None:
        self.url = url
        self.clock = clock
        self.shards = shards
        more: dict[str, Any] = {"clock": clock, "options": options, "timeout": timeout}
        first = Shard(url, rules, prefix=prefix, **more)

        def other(place: int) -> Shard:
            prefixed = tag(prefix, place)
            return Shard(url, rules, prefix=prefixed, link=first.link, **more)

        self._first = first
        # all that an id can name: the number of shards may have been another one
        self._at = [first, *map(other, range(1, PLACES))]
        #: Those that are in use.
        self.parts = [self._at[place] for place in places(shards)]

    @property
    def client(self) -> Any:
        """The Redis client of this process."""
        return self._first.client

    def close(self) -> None:
        """Close its connections; the next call opens new ones."""
        self._first.close()

    def time(self) -> float:
        """Return the server's time."""
        return self._first.time()

    # -- limits, which several shards cannot hold together --------------------------------------

    supports_flow = False

    def gates(self, *, limit: str | None = None, most: int = 100) -> list[GateRecord]:  # noqa: ARG002 - the protocol's
        """Refuse to list limits."""
        raise self._refusal

    def holders(self, gates: Sequence[Gate], *, most: int = 100) -> list[Holder]:  # noqa: ARG002 - the protocol's
        """Refuse to look at limits."""
        raise self._refusal

    def preview(self, flow: Flow) -> Preview:  # noqa: ARG002 - the protocol's
        """Refuse to look at limits."""
        raise self._refusal

    def tune(self, limit: str, at_most: int | None, per: float | None = None) -> None:  # noqa: ARG002 - the protocol's
        """Refuse to change a limit."""
        raise self._refusal

    def tuned(self) -> list[Tuned]:
        """Refuse to list limits."""
        raise self._refusal

    @property
    def _refusal(self) -> StoreUnsupported:
        return StoreUnsupported(
            f"A ledger with {self.shards} shards", "limits", "Set fanout_shards to 1 for them."
        )

    # -- where things are -----------------------------------------------------------------------

    def _home(self, key: str) -> Shard:
        """Return the shard that an event is recorded in."""
        return self._at[place_of(key, self.shards) or 0]

    def _of(self, run_id: str, default: Shard | None = None) -> Shard:
        """Return the shard that a run lies in."""
        place = place_in(run_id)
        if place is not None:
            return self._at[place]
        return self._look_up([run_id]).get(run_id, default or self._first)

    def _look_up(self, run_ids: Sequence[str]) -> dict[str, Shard]:
        """Find runs whose ids do not say where they are: of a time with one shard."""
        pairs = [(run_id, shard) for run_id in run_ids for shard in self.parts]
        answers = self._first.many(
            [("hexists", shard.key_of_run(run_id), "s") for run_id, shard in pairs]
        )
        return {
            run_id: shard
            for (run_id, shard), there in zip(reversed(pairs), reversed(answers), strict=True)
            if there
        }

    def _grouped(self, run_ids: Sequence[str]) -> list[tuple[Shard, list[str]]]:
        """Return runs by their shard."""
        unclear = [run_id for run_id in run_ids if place_in(run_id) is None]
        found = self._look_up(unclear) if unclear else {}
        groups: dict[Shard, list[str]] = {}
        for run_id in run_ids:
            place = place_in(run_id)
            shard = found.get(run_id, self._first) if place is None else self._at[place]
            groups.setdefault(shard, []).append(run_id)
        return list(groups.items())

    def _where(self, key: str) -> Shard:
        """Return the shard that an event lies in: another one if their number was changed."""
        answers = self._first.many(
            [("hexists", shard.key_of_event(key), "nm") for shard in self.parts]
        )
        there = [shard for shard, found in zip(self.parts, answers, strict=True) if found]
        home = self._home(key)
        return home if home in there or not there else there[0]

    # -- reading --------------------------------------------------------------------------------

    def run(self, run_id: str) -> RunRecord | None:
        """Return a run with its detail."""
        return self._of(run_id).run(run_id)

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
        parts = self.parts if event is None else [self._where(event)]
        found = chain.from_iterable(
            shard.runs(
                state=state, subscription=subscription, event=event, limit=limit, before=before
            )
            for shard in parts
        )
        return sorted(found, key=lambda run: run.updated, reverse=True)[:limit]

    def event(self, key: str) -> EventRecord | None:
        """Return an event."""
        return self._home(key).event(key) or self._where(key).event(key)

    def events(
        self, *, name: str | None = None, limit: int = 100, before: float | None = None
    ) -> list[EventRecord]:
        """Return events, the latest first."""
        found = chain.from_iterable(
            shard.events(name=name, limit=limit, before=before) for shard in self.parts
        )
        return sorted(found, key=lambda event: event.created, reverse=True)[:limit]

    def outcomes(self, run_ids: Sequence[str]) -> list[RunOutcome]:
        """Return how runs ended, or where they are."""
        found = {
            outcome.run_id: outcome
            for shard, ids in self._grouped(run_ids)
            for outcome in shard.outcomes(ids)
        }
        return [found[run_id] for run_id in run_ids]

    def counts(self) -> dict[RunState, int]:
        """Return how many runs are in each state."""
        counts = [shard.counts() for shard in self.parts]
        return {state: sum(count[state] for count in counts) for state in RunState}

    def paused(self) -> dict[str, float]:
        """Return the paused subscriptions, and since when."""
        found: dict[str, float] = {}
        for shard in self.parts:
            for sub, since in shard.paused().items():
                found[sub] = min(since, found.get(sub, since))
        return found
