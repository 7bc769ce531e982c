"""The places of a ledger with more than one shard: which there are, and in which slots they lie.

A place is one of 64 points of a circle: the slots of Redis Cluster, beginning with that of the
ledger's prefix. Neighbours are 256 slots apart, so any number of places at equal distances is
shared equally by nodes that each have a range of slots. ``fanout_shards`` says how many are in use:
places of 3 shards are among those of 6, so that a ledger can grow by a multiple.

The first place is the one of a ledger with one shard.
"""

from __future__ import annotations

from functools import cache
from itertools import count

from redis.crc import key_slot

from celery_fanout.model.ids import PLACES

SLOTS = 16_384


def places(shards: int) -> list[int]:
    """Return the places of so many shards."""
    return [number * PLACES // shards for number in range(shards)]


@cache
def tag(prefix: str, place: int) -> str:
    """Return the prefix of the keys at a place: another text whose slot lies there."""
    if place == 0:
        return prefix
    width = SLOTS // PLACES
    first = _slot(prefix) + place * width
    for number in count():  # 64 attempts on average, 20 microseconds
        candidate = f"{prefix}#{place}.{number}"  # no prefix of users has a #
        if (_slot(candidate) - first) % SLOTS < width:
            return candidate
    raise AssertionError


def _slot(text: str) -> int:
    return key_slot(f"{{{text}}}".encode())
