"""Ids that are the same whenever and wherever they are computed.

They are UUIDs of version 5. Where a ledger has more than one shard, the ids of runs are of version
8 (RFC 9562: the digits mean what the application says), and their first two digits say where the
run lies: one of 64 *places*, see ``stores/redis/shards/places.py``. So a run's id is enough to
find it, also after ``fanout_shards`` was changed.
"""

from __future__ import annotations

import uuid
from functools import lru_cache
from hashlib import sha1
from zlib import crc32

from celery_fanout.model.jsondata import encode

#: How many places there are: the most shards that a ledger can have.
PLACES = 64

_NAMESPACE = uuid.UUID("8ad6a4a5-ff0c-5b1f-9a0e-0b1c5a5d1f3e").bytes

_text = lru_cache(maxsize=4096)(encode)


def run_id(
    event_name: str,
    event_id: str,
    subscription_id: str,
    generation: int = 0,
    place: int | None = None,
) -> str:
    """Return the id of a run: the same whenever and wherever it is computed."""
    # the JSON of a list of them, in half the time
    name = f"[{_text(event_name)},{_text(event_id)},{_text(subscription_id)},{generation}]"
    return _uuid(_NAMESPACE, name, place)


def event_key(event_name: str, event_id: str) -> str:
    """Return what the ledger calls an event: its id is unique per name only."""
    return _uuid(_NAMESPACE, encode([event_name, event_id]), None)


def child_id(parent: str, *path: str | int, place: int | None = None) -> str:
    """Return the id of something that belongs to a run: a tail's link, a checkpoint.

    It lies where the run lies; ``place`` says where if the parent is an event.
    """
    if place is None:
        place = place_in(parent)
    return _uuid(uuid.UUID(parent).bytes, encode(path), place)


def place_of(event: str, shards: int) -> int | None:
    """Return where an event with this key lies, and its runs; ``None`` if there is one shard."""
    return None if shards == 1 else crc32(event.encode()) % shards * PLACES // shards


def place_in(id: str) -> int | None:
    """Return where a run with this id lies, if the id says it."""
    if id[14:15] != "8" or len(id) != 36:  # noqa: PLR2004 - of a UUID
        return None
    try:
        place = int(id[:2], 16)
    except ValueError:
        return None
    return place if place < PLACES else None


def _uuid(namespace: bytes, name: str, place: int | None) -> str:
    """Return ``str(uuid.uuid5(namespace, name))`` in a third of its time, or one with a place."""
    digest = bytearray(sha1(namespace + name.encode(), usedforsecurity=False).digest()[:16])
    if place is None:
        digest[6] = digest[6] & 0x0F | 0x50  # version 5
    else:
        digest[0] = place
        digest[6] = digest[6] & 0x0F | 0x80  # version 8
    digest[8] = digest[8] & 0x3F | 0x80  # variant of RFC 9562
    text = digest.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
