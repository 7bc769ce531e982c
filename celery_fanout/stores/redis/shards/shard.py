"""One shard of a ledger: a whole ledger, and what it does for the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from celery_fanout.stores.redis.ledger import LOOK_BACK, RedisLedger
from celery_fanout.stores.redis.packing import event_args

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_fanout.stores.ledger import NewEvent
    from celery_fanout.stores.redis.client import Link

__all__ = ["ALWAYS", "Found", "News", "Shard"]

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


class Found(NamedTuple):
    """An event that fits a wait.

    Attributes:
        when: when it was recorded.
        attributes: JSON of its attributes.
        data: JSON of its data.
    """

    when: float
    attributes: str
    data: str


class Shard(RedisLedger):
    """A part of :class:`~celery_fanout.stores.redis.shards.ledger.ShardedLedger`."""

    supports_flow = False

    @property
    def link(self) -> Link:
        """The way to Redis, which all shards share."""
        return self._scripts.link

    def many(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run several commands on keys of whatever shard, in one round trip where possible."""
        return self._many(commands)

    # -- its keys -------------------------------------------------------------------------------

    @property
    def news(self) -> str:
        """The key of the events that other shards are still to be told of."""
        return self._keys.news

    def key_of_run(self, run_id: str) -> str:
        """Return the key of a run."""
        return self._keys.run(run_id)

    def key_of_event(self, key: str) -> str:
        """Return the key of an event."""
        return self._keys.event(key)

    def key_of_text(self, key: str) -> str:
        """Return the key of what an event says."""
        return self._keys.text(key)

    def key_of_events(self, name: str) -> str:
        """Return the key of the events of a name."""
        return self._keys.events(name)

    def key_of_waits(self, name: str) -> str:
        """Return the key that exists while anybody waits for an event."""
        return self._keys.waits(name)

    # -- events of its own, and those of others -------------------------------------------------

    def _record_args(self, event: NewEvent) -> list[Any]:
        return event_args(event, news=True)  # the other shards are to be told

    def announce(self, news: News) -> list[str]:
        """Tell the runs here that wait for an event of another shard; return whom it woke."""
        args = (news.key, news.name, news.attributes, news.data, f"{news.at:.6f}")
        return list(self._scripts.run("announce", *args))

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
        answer: Any = self._scripts.run("file_wait", run_id, token, field, name, match)
        return None if answer is None else (answer[0], answer[1])

    def look_back(self, name: str, match: str, since: float, own: str) -> Found | None:
        """Return the first event since a time that fits, but for one."""
        start = 0
        while True:
            args = (name, match, f"{since:.6f}", own, LOOK_BACK, start)
            answer: Any = self._scripts.run("look_back", *args)
            if not isinstance(answer, int):
                return None if answer is None else Found(float(answer[0]), *answer[1:])
            start = answer

    def answer_wait(self, run_id: str, token: int, field: str, found: Found) -> str | None:
        """End a wait with an event, unless it has ended; return the checkpoint's text."""
        value = f'{{"a":{found.attributes},"d":{found.data}}}'
        text: str | None = self._scripts.run("end_wait", run_id, token, field, value)
        return text
