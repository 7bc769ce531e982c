"""One shard of a ledger: a whole ledger, and what it does for the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from celery_fanout.stores.redis import calls
from celery_fanout.stores.redis.ledger import LOOK_BACK, RedisLedger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_fanout.stores.redis.calls import PastEvent
    from celery_fanout.stores.redis.client import RedisConnection
    from celery_fanout.stores.redis.keys import Keys

#: After any time.
ALWAYS = 1e308


class News(NamedTuple):
    """An event that the other shards are to be told of.

    Attributes:
        home: where it is recorded.
        key: its key.
        name: its name.
        attributes: JSON of its attributes.
        data: JSON of its data.
        at: which runs it concerns: those that were recorded by then.
    """

    home: Shard
    key: str
    name: str
    attributes: str
    data: str
    at: float = ALWAYS


class Shard(RedisLedger):
    """A part of :class:`~celery_fanout.stores.redis.shards.ledger.ShardedLedger`."""

    supports_flow = False
    _tells_others = True

    @property
    def connection(self) -> RedisConnection:
        """The way to Redis, which all shards share."""
        return self._scripts.connection

    @property
    def keys(self) -> Keys:
        """Its keys."""
        return self._keys

    def many(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run several commands on keys of whatever shard, in one round trip where possible."""
        return self._scripts.many(commands)

    # -- events of its own, and those of others -------------------------------------------------

    def announce(self, news: News) -> list[str]:
        """Tell the runs here that wait for an event of another shard; return whom it woke."""
        return self._scripts.run(
            calls.announce(
                key=news.key,
                name=news.name,
                attributes=news.attributes,
                data=news.data,
                at=f"{news.at:.6f}",
            )
        )

    def store_shards(self, number: int) -> None:
        """Note in how many shards the ledger is kept."""
        self._scripts.ask(self.client.set, self._keys.shards, number)

    # -- waits ----------------------------------------------------------------------------------

    def file_wait(
        self, run_id: str, token: int, field: str, name: str, match: str
    ) -> tuple[str, str] | None:
        """Let events find a wait, before its checkpoint says that it waits.

        Returns:
            The text of the checkpoint, if there is one, and the key of the run's event; ``None``
            if the token is stale.
        """
        call = calls.file_wait(id=run_id, token=token, field=field, name=name, match=match)
        filed: tuple[str, str] | None = self._scripts.run(call)
        return filed

    def look_back(self, name: str, match: str, since: float, own_event: str) -> PastEvent | None:
        """Return the first event since a time that fits, but for one."""
        answer: PastEvent | int | None = 0
        while isinstance(answer, int):
            call = calls.look_back(
                name=name,
                match=match,
                since=f"{since:.6f}",
                own_event=own_event,
                chunk=LOOK_BACK,
                start=answer,
            )
            answer = self._scripts.run(call)
        return answer

    def answer_wait(self, run_id: str, token: int, field: str, event: PastEvent) -> str | None:
        """End a wait with an event, unless it has ended; return the checkpoint's text."""
        value = f'{{"a":{event.attributes},"d":{event.data}}}'
        call = calls.end_wait(id=run_id, token=token, field=field, event=value)
        return self._scripts.run(call)
