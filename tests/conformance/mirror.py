"""A ledger whose scripts run on the embedded Lua, and again in Redis; a difference fails."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from hashlib import sha1
from typing import Any, ClassVar

from redis.exceptions import NoScriptError

from celery_fanout.stores.memory.database import Database, SortedSet
from celery_fanout.stores.memory.ledger import MemoryClient
from celery_fanout.stores.memory.lua import engine
from celery_fanout.stores.records import LedgerRules
from celery_fanout.stores.redis import RedisLedger
from celery_fanout.stores.redis.client import RedisConnection, connect

__all__ = ["Mirror"]

#: What the ledger changes without a script.
WRITES = ("SET", "ZREM")

#: How much the seconds until a key expires may differ: the two are asked one after the other.
LATE = 5


class Mirror(RedisLedger):
    """A ledger in memory that does all again in Redis, and compares, when it is asked to.

    Args:
        url: of the Redis, which is emptied.
        rules: as for any ledger.
        clock: as for any ledger. Keys expire by the real time, as in Redis.
    """

    def __init__(self, url: str, rules: LedgerRules, clock: Callable[[], float]) -> None:
        self.mirror = MirrorConnection(url)
        super().__init__(url, rules, clock=clock, connection=self.mirror)

    def compare(self) -> None:
        """Fail unless Redis answers the same to all that was done, and has the same then."""
        for command, reply, other in self.mirror.repeated():
            assert reply == other or _sorted(reply) == _sorted(other), (command, reply, other)
        left, right = _in_memory(self.mirror.database), _in_redis(self.mirror.real)
        assert left.keys() == right.keys(), left.keys() ^ right.keys()
        for key, (value, ttl) in left.items():
            other, other_ttl = right[key]
            assert _comparable(value) == _comparable(other), (key, value, other)
            assert (ttl < 0) == (other_ttl < 0), (key, ttl, other_ttl)
            assert abs(ttl - other_ttl) <= LATE, (key, ttl, other_ttl)


class MirrorConnection(RedisConnection):
    """The way to a database in memory, on which every change is noted."""

    #: Clients by their URL: a new one for each story would take longer than the story.
    clients: ClassVar[dict[str, Any]] = {}
    #: Scripts that Redis has, with its URL.
    known: ClassVar[set[tuple[str, str]]] = set()

    def __init__(self, url: str) -> None:
        self.url = url
        self.real = self.clients.get(url) or self.clients.setdefault(url, connect(url, {}, 5.0))
        self.real.flushdb()
        self.database = Database(time.time)
        self.noted: list[tuple[Sequence[Any], Any]] = []
        make: Any = MirrorClient
        client = make(self)
        super().__init__(lambda: client)

    def send(self, command: Sequence[Any]) -> Any:
        name, text, *_ = command
        sha = text if name == "EVALSHA" else sha1(text.encode(), usedforsecurity=False).hexdigest()
        if name == "EVALSHA" and (self.url, sha) not in self.known:
            raise NoScriptError
        self.known.add((self.url, sha))
        reply = engine().execute(self.database, command)
        self.noted.append((command, reply))
        return reply

    def repeated(self) -> list[tuple[Sequence[Any], Any, Any]]:
        """Do all in Redis that was noted, in one round trip; return both replies to it."""
        noted, self.noted = self.noted, []
        pipe = self.real.pipeline(transaction=False)
        for command, _ in noted:
            pipe.execute_command(*command)
        replies = pipe.execute(raise_on_error=False)
        return [(*pair, other) for pair, other in zip(noted, replies, strict=True)]

    def close(self) -> None:
        self.real.close()


class MirrorClient(MemoryClient):
    """Reads in memory, and notes what it changes."""

    def __init__(self, connection: MirrorConnection) -> None:
        super().__init__(connection.database)
        self._connection = connection

    def execute_command(self, *command: Any, **options: Any) -> Any:
        reply = super().execute_command(*command, **options)
        if command[0] in WRITES:
            self._connection.noted.append((command, reply))
        return reply


def _sorted(reply: Any) -> Any:
    """Return a reply without the order of its lists: that of Lua's pairs() is not the same."""
    return sorted(map(repr, map(_sorted, reply))) if isinstance(reply, list) else reply


def _comparable(value: Any) -> Any:
    """Return what a key has, without the order of what ``spawn.lua`` copied out of a hash."""
    if not isinstance(value, dict):
        return value
    copies = {
        field: sorted(json.loads(text))
        for field, text in value.items()
        if field.startswith("b") and str(text).startswith("[")
    }
    return {**value, **copies}


def _in_memory(database: Database) -> dict[str, tuple[Any, int]]:
    database.tick()
    return {
        key.decode(): (_plain(value), database.ttl(key))
        for key, value in list(database._values.items())
        if database.exists(key)
    }


def _plain(value: Any) -> Any:
    if isinstance(value, SortedSet):
        return {member.decode(): score for member, score in value.scores.items()}
    if isinstance(value, dict):
        return {
            field.decode(): None if text is None else text.decode() for field, text in value.items()
        }
    return [item.decode() for item in value] if isinstance(value, list) else value.decode()


READERS: dict[str, Callable[[Any, str], Any]] = {
    "string": lambda pipe, key: pipe.get(key),
    "hash": lambda pipe, key: pipe.hgetall(key),
    "list": lambda pipe, key: pipe.lrange(key, 0, -1),
    "set": lambda pipe, key: pipe.smembers(key),
    "zset": lambda pipe, key: pipe.zrange(key, 0, -1, withscores=True),
}
MAKERS: dict[str, Callable[[Any], Any]] = {"set": dict.fromkeys, "zset": dict}


def _in_redis(client: Any) -> dict[str, tuple[Any, int]]:
    keys: list[str] = client.keys("*")
    pipe = client.pipeline(transaction=False)
    for key in keys:
        pipe.type(key)
    kinds = pipe.execute()
    for kind, key in zip(kinds, keys, strict=True):
        READERS[kind](pipe, key)
        pipe.ttl(key)
    replies = pipe.execute()
    rows = zip(kinds, keys, replies[::2], replies[1::2], strict=True)
    return {key: (MAKERS.get(kind, _same)(value), ttl) for kind, key, value, ttl in rows}


def _same(value: Any) -> Any:
    return value
