"""A Redis of dicts: the commands that the ledger and its scripts use, and no others.

Keys, fields, members and values are bytes, as in Redis. A reply is what Redis would send: bytes, a
number, a list of these, or ``None``.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from math import inf, nextafter
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

#: After how many expiries that were set all keys are looked through for those that have expired.
PURGE_EVERY = 1000

#: What a key without an expiry, and one that is not there, have as their time to live.
NO_EXPIRY, NO_KEY = -1, -2

Reply = bytes | int | list[Any] | None
Command = TypeVar("Command", bound="Callable[..., Reply]")

COMMANDS: dict[bytes, Callable[..., Reply]] = {}


def command(method: Command) -> Command:
    """Make a method of :class:`Database` the command of the same name."""
    COMMANDS[method.__name__.rstrip("_").upper().encode()] = method
    return method


def to_bytes(value: Any) -> bytes:
    """Return an argument as Redis receives it, and a number of Lua's as Redis writes it."""
    if isinstance(value, bytes):
        return value
    return b"%.17g" % value if isinstance(value, float) else str(value).encode()


class SortedSet:
    """Members with a score each.

    Attributes:
        scores: by member.
        order: pairs of score and member, sorted.
    """

    __slots__ = ("order", "scores")

    def __init__(self) -> None:
        self.scores: dict[bytes, float] = {}
        self.order: list[tuple[float, bytes]] = []

    def __bool__(self) -> bool:
        return bool(self.scores)

    def add(self, member: bytes, score: float) -> bool:
        """Set a member's score; return whether the member is new."""
        is_new = not self.remove(member)
        self.scores[member] = score
        insort(self.order, (score, member))
        return is_new

    def remove(self, member: bytes) -> bool:
        """Remove a member; return whether it was there."""
        score = self.scores.pop(member, None)
        if score is None:
            return False
        del self.order[bisect_left(self.order, (score, member))]
        return True

    def between(self, least: bytes, most: bytes) -> list[tuple[float, bytes]]:
        """Return the pairs between two scores; one that begins with ``(`` is not among them."""
        start = self._position(least, before=not least.startswith(b"("))
        return self.order[start : self._position(most, before=most.startswith(b"("))]

    def _position(self, bound: bytes, *, before: bool) -> int:
        score = float(bound.lstrip(b"("))
        if not before:
            if score == inf:
                return len(self.order)
            score = nextafter(score, inf)
        return bisect_left(self.order, (score, b""))


class Database:
    """Keys and their values, which expire by a clock of the caller's.

    What every method with the name of a command does, Redis' documentation says.

    Args:
        clock: the time, by which keys expire.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._values: dict[bytes, Any] = {}
        self._expiries: dict[bytes, float] = {}
        self._until_purge = PURGE_EVERY
        self._now = 0.0

    def tick(self) -> None:
        """Read the clock: time stands still while a script runs."""
        self._now = self._clock()

    def _find(self, key: bytes) -> Any:
        """Return the value of a key; ``None`` if there is none, or it has expired."""
        if self._expiries.get(key, inf) < self._now:
            self._remove(key)
        return self._values.get(key)

    def _find_or_add(self, key: bytes, make: Callable[[], Any]) -> Any:
        value = self._find(key)
        if value is None:
            value = self._values[key] = make()
        return value

    def _remove(self, key: bytes) -> None:
        self._values.pop(key, None)
        self._expiries.pop(key, None)

    def _remove_if_empty(self, key: bytes, value: Any) -> None:
        if not value:
            self._remove(key)

    # -- keys -----------------------------------------------------------------------------------

    @command
    def exists(self, *keys: bytes) -> int:
        return sum(self._find(key) is not None for key in keys)

    @command
    def del_(self, *keys: bytes) -> int:
        there = self.exists(*keys)
        for key in keys:
            self._remove(key)
        return there

    @command
    def expire(self, key: bytes, seconds: bytes) -> int:
        if self._find(key) is None:
            return 0
        self._expiries[key] = self._now + int(seconds)
        self._until_purge -= 1
        if not self._until_purge:
            self._until_purge = PURGE_EVERY
            for each in [each for each, at in self._expiries.items() if at < self._now]:
                self._remove(each)
        return 1

    @command
    def persist(self, key: bytes) -> int:
        return int(self._find(key) is not None and self._expiries.pop(key, None) is not None)

    @command
    def ttl(self, key: bytes) -> int:
        if self._find(key) is None:
            return NO_KEY
        at = self._expiries.get(key)
        return NO_EXPIRY if at is None else round(at - self._now)

    @command
    def time(self) -> list[bytes]:
        return [b"%d" % self._now, b"%d" % (self._now % 1 * 1e6)]

    # -- strings --------------------------------------------------------------------------------

    @command
    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._find(key)
        return value

    @command
    def set(self, key: bytes, value: bytes, *expiry: bytes) -> bytes:
        self._remove(key)
        self._values[key] = value
        if expiry:
            _, seconds = expiry  # EX
            self.expire(key, seconds)
        return b"OK"

    @command
    def incr(self, key: bytes) -> int:
        number = int(self._find(key) or 0) + 1
        self._values[key] = b"%d" % number
        return number

    # -- hashes ---------------------------------------------------------------------------------

    @command
    def hset(self, key: bytes, *pairs: bytes) -> int:
        fields: dict[bytes, bytes] = self._find_or_add(key, dict)
        size = len(fields)
        fields.update(zip(pairs[::2], pairs[1::2], strict=True))
        return len(fields) - size

    @command
    def hsetnx(self, key: bytes, field: bytes, value: bytes) -> int:
        return 0 if self.hexists(key, field) else self.hset(key, field, value)

    @command
    def hincrby(self, key: bytes, field: bytes, number: bytes) -> int:
        total = int(self.hget(key, field) or 0) + int(number)
        self.hset(key, field, b"%d" % total)
        return total

    @command
    def hdel(self, key: bytes, *fields: bytes) -> int:
        known: dict[bytes, bytes] = self._find(key) or {}
        size = len(known)
        for field in fields:
            known.pop(field, None)
        self._remove_if_empty(key, known)
        return size - len(known)

    @command
    def hget(self, key: bytes, field: bytes) -> bytes | None:
        return self.hmget(key, field)[0]

    @command
    def hmget(self, key: bytes, *fields: bytes) -> list[bytes | None]:
        known: dict[bytes, bytes] = self._find(key) or {}
        return [known.get(field) for field in fields]

    @command
    def hexists(self, key: bytes, field: bytes) -> int:
        return int(field in (self._find(key) or ()))

    @command
    def hkeys(self, key: bytes) -> list[bytes]:
        return list(self._find(key) or ())

    @command
    def hgetall(self, key: bytes) -> list[bytes]:
        known: dict[bytes, bytes] = self._find(key) or {}
        return [text for pair in known.items() for text in pair]

    # -- lists ----------------------------------------------------------------------------------

    @command
    def lpush(self, key: bytes, *values: bytes) -> int:
        items: list[bytes] = self._find_or_add(key, list)
        items[:0] = reversed(values)
        return len(items)

    @command
    def rpush(self, key: bytes, *values: bytes) -> int:
        items: list[bytes] = self._find_or_add(key, list)
        items.extend(values)
        return len(items)

    @command
    def lrange(self, key: bytes, start: bytes, stop: bytes) -> list[bytes]:
        return _part(self._find(key) or [], start, stop)

    @command
    def ltrim(self, key: bytes, start: bytes, stop: bytes) -> bytes:
        items: list[bytes] = self._find(key) or []
        items[:] = _part(items, start, stop)
        self._remove_if_empty(key, items)
        return b"OK"

    @command
    def lindex(self, key: bytes, index: bytes) -> bytes | None:
        return next(iter(self.lrange(key, index, index)), None)

    @command
    def llen(self, key: bytes) -> int:
        return len(self._find(key) or ())

    # -- sets -----------------------------------------------------------------------------------

    @command
    def sadd(self, key: bytes, *members: bytes) -> int:
        known: dict[bytes, None] = self._find_or_add(key, dict)  # a set would have no order
        size = len(known)
        known.update(dict.fromkeys(members))
        return len(known) - size

    @command
    def srem(self, key: bytes, *members: bytes) -> int:
        return self.hdel(key, *members)

    @command
    def scard(self, key: bytes) -> int:
        return len(self._find(key) or ())

    @command
    def smembers(self, key: bytes) -> list[bytes]:
        return list(self._find(key) or ())

    # -- sorted sets ----------------------------------------------------------------------------

    def _sorted(self, key: bytes) -> SortedSet:
        return self._find(key) or SortedSet()

    @command
    def zadd(self, key: bytes, *pairs: bytes) -> int:
        condition = pairs[0] if pairs[0] in (b"NX", b"XX") else None
        known: SortedSet = self._find_or_add(key, SortedSet)
        added = 0
        texts = iter(pairs if condition is None else pairs[1:])
        for score, member in zip(texts, texts, strict=True):
            if condition is None or (member in known.scores) == (condition == b"XX"):
                added += known.add(member, float(score))
        self._remove_if_empty(key, known)
        return added

    @command
    def zrem(self, key: bytes, *members: bytes) -> int:
        known = self._sorted(key)
        removed = sum(known.remove(member) for member in members)
        self._remove_if_empty(key, known)
        return removed

    @command
    def zscore(self, key: bytes, member: bytes) -> bytes | None:
        score = self._sorted(key).scores.get(member)
        return None if score is None else to_bytes(score)

    @command
    def zcard(self, key: bytes) -> int:
        return len(self._sorted(key).scores)

    @command
    def zrange(self, key: bytes, start: bytes, stop: bytes, *options: bytes) -> list[bytes]:
        return _members(_part(self._sorted(key).order, start, stop), options)

    @command
    def zrevrange(self, key: bytes, start: bytes, stop: bytes, *options: bytes) -> list[bytes]:
        return _members(_part(self._sorted(key).order[::-1], start, stop), options)

    @command
    def zrangebyscore(self, key: bytes, least: bytes, most: bytes, *options: bytes) -> list[bytes]:
        return _members(self._sorted(key).between(least, most), options)

    @command
    def zrevrangebyscore(
        self, key: bytes, most: bytes, least: bytes, *options: bytes
    ) -> list[bytes]:
        return _members(self._sorted(key).between(least, most)[::-1], options)

    @command
    def zremrangebyscore(self, key: bytes, least: bytes, most: bytes) -> int:
        return self.zrem(key, *(member for _, member in self._sorted(key).between(least, most)))


def _part(items: list[Any], start: bytes, stop: bytes) -> list[Any]:
    """Return items from one to another, both included; negative numbers count from the end."""
    first, last = (max(0, int(n) + len(items) if int(n) < 0 else int(n)) for n in (start, stop))
    return [] if int(stop) < -len(items) else items[first : last + 1]


def _members(pairs: list[tuple[float, bytes]], options: tuple[bytes, ...]) -> list[bytes]:
    """Return the members, and as the options say the scores, of some of the pairs."""
    if b"LIMIT" in options:
        at = options.index(b"LIMIT")
        offset, count = int(options[at + 1]), int(options[at + 2])
        pairs = pairs[offset:] if count < 0 else pairs[offset : offset + count]
    if b"WITHSCORES" in options:
        return [text for score, member in pairs for text in (member, to_bytes(score))]
    return [member for _, member in pairs]
