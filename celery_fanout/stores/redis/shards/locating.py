"""The shards of a ledger, and which of them an event or a run lies in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_fanout.exceptions import StoreUnavailable
from celery_fanout.model.ids import PLACES, place_in, place_of
from celery_fanout.stores.redis.shards.places import places, tag
from celery_fanout.stores.redis.shards.shard import Shard

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery_fanout.stores.records import LedgerRules


class Shards:
    """The shards of a ledger.

    Args:
        url: where they are.
        rules: the ledger's rules.
        number: how many.
        prefix: what all keys begin with.
        options: of :class:`~celery_fanout.stores.redis.RedisLedger`, for each of them.

    Attributes:
        first: the one of a ledger with one shard.
        parts: those that are in use.
    """

    def __init__(
        self, url: str, rules: LedgerRules, number: int, prefix: str, **options: Any
    ) -> None:
        self.number = number
        self.first = Shard(url, rules, prefix=prefix, **options)
        connection = self.first.connection
        # all that an id can name: the number of shards may have been another one
        self._at = [
            self.first,
            *(
                Shard(url, rules, prefix=tag(prefix, place), connection=connection, **options)
                for place in range(1, PLACES)
            ),
        ]
        self.parts = [self._at[place] for place in places(number)]

    def home(self, key: str) -> Shard:
        """Return the shard that an event is recorded in."""
        return self._at[place_of(key, self.number) or 0]

    def of(self, run_id: str, default: Shard | None = None) -> Shard:
        """Return the shard that a run lies in."""
        place = place_in(run_id)
        if place is not None:
            return self._at[place]
        return self._look_up([run_id]).get(run_id, default or self.first)

    def _look_up(self, run_ids: Sequence[str]) -> dict[str, Shard]:
        """Find runs whose ids do not say where they are: of a time with one shard."""
        pairs = [(run_id, shard) for run_id in run_ids for shard in self.parts]
        answers = self.first.many(
            [("hexists", shard.keys.run(run_id), "s") for run_id, shard in pairs]
        )
        return {
            run_id: shard
            for (run_id, shard), there in zip(reversed(pairs), reversed(answers), strict=True)
            if there
        }

    def grouped(self, run_ids: Sequence[str]) -> list[tuple[Shard, list[str]]]:
        """Return runs by their shard."""
        unclear = [run_id for run_id in run_ids if place_in(run_id) is None]
        located = self._look_up(unclear) if unclear else {}
        groups: dict[Shard, list[str]] = {}
        for run_id in run_ids:
            place = place_in(run_id)
            shard = located.get(run_id, self.first) if place is None else self._at[place]
            groups.setdefault(shard, []).append(run_id)
        return list(groups.items())

    def where(self, key: str) -> Shard:
        """Return the shard that an event lies in: another one if their number was changed."""
        answers = self.first.many(
            [("hexists", shard.keys.event(key), "nm") for shard in self.parts]
        )
        there = [shard for shard, exists in zip(self.parts, answers, strict=True) if exists]
        home = self.home(key)
        return home if home in there or not there else there[0]

    def call(self, calls: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]]) -> list[Any]:
        """Call one shard after the other; one that is away does not keep the rest from it.

        Raises:
            StoreUnavailable: in the end, if one of them did not answer.
        """
        answers: list[Any] = []
        missed: StoreUnavailable | None = None
        for call, args in calls:
            try:
                answers.append(call(*args))
            except StoreUnavailable as exc:  # noqa: PERF203 - each is a round trip
                missed = exc
        if missed is not None:
            raise missed
        return answers
