"""The ledgers that the conformance suite holds to one behaviour, on a clock that tests move."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from celery_fanout.stores.checkpoints import Checkpoint
from celery_fanout.stores.ledger import Ledger
from celery_fanout.stores.memory.database import COMMANDS, Database
from celery_fanout.stores.memory.ledger import MemoryLedger
from celery_fanout.stores.records import Claim, LedgerRules, NewEvent, NewRun, Recorded
from celery_fanout.stores.redis import RedisLedger
from celery_fanout.stores.redis.shards.ledger import ShardedLedger
from tests.conformance.twin import Twin

__all__ = ["RULES", "Clock", "Desk", "make_ledger"]

RULES = LedgerRules(
    lease=30,
    dedup_window=1000,
    success_retention=2000,
    failure_retention=5000,
    event_retention=5000,
    max_crashes=3,
    grace=20,
    republish=100,
    unregistered=500,
)


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Move it forward."""
        self.now += seconds


def make_ledger(kind: str, url: Callable[[], str], clock: Clock) -> Ledger:
    """Return an empty ledger."""
    if kind == "twin":
        return Twin(RULES, clock)
    if kind == "memory":
        return MemoryLedger(RULES, clock)
    if kind == "shards":
        return ShardedLedger(url(), RULES, 3, clock=clock)
    return RedisLedger(url(), RULES, clock=clock)


# --- what only the tests ask of a ledger in memory -----------------------------------------------


def _keys(database: Database, pattern: bytes) -> list[bytes]:
    there = [key for key in list(database._values) if database.exists(key)]
    return [key for key in there if fnmatchcase(key.decode(), pattern.decode())]


def _flush(database: Database) -> bytes:
    database._values.clear()
    database._expiries.clear()
    return b"OK"


COMMANDS[b"KEYS"] = _keys
COMMANDS[b"SCAN"] = lambda database, _, __, pattern, *___: [0, _keys(database, pattern)]
COMMANDS[b"FLUSHDB"] = _flush


# --- short words ---------------------------------------------------------------------------------

_nonces = itertools.count(1)


def done(value: Any, at: float = 1_800_000_000.0) -> str:
    """Return the text of a checkpoint with a value."""
    return Checkpoint("done", value, attempts=1, stored=at).dumps()


class Desk:
    """Short words for what the tests do with a ledger."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self.ledger = ledger
        self.clock = clock

    def emit(self, key: str = "e1", *subs: str, name: str = "doc/up", **more: Any) -> Recorded:
        """Record an event with one run for each subscription, called ``{key}-{subscription}``."""
        data = json.dumps(more.pop("data", {"id": key}))
        generation = more.get("generation", 0)
        mark = f"-{generation}" if generation else ""
        runs = more.pop("runs", None) or [
            NewRun(f"{key}-{sub}{mark}", f"{sub}@{name}", queue="celery") for sub in subs
        ]
        new = NewEvent(key, name, json.dumps({"id": key, "type": name}), data, runs, **more)
        (found,) = self.ledger.record([new])
        return found

    def claim(self, run_id: str, boot: str = "w1", **more: Any) -> Claim:
        """Claim a run with a new delivery."""
        return self.ledger.claim(run_id, boot, f"nonce-{next(_nonces)}", **more)

    def begin(self, run_id: str, boot: str = "w1", **more: Any) -> int:
        """Claim a run, and return the token."""
        found = self.claim(run_id, boot, **more)
        assert found.status == "claimed", found
        return found.token

    def state(self, run_id: str) -> str:
        """Return a run's state."""
        run = self.ledger.run(run_id)
        assert run is not None
        return str(run.state)

    def due(self, run_id: str) -> float | None:
        """Return in how many seconds a run is due."""
        run = self.ledger.run(run_id)
        assert run is not None
        return None if run.due is None else round(run.due - self.clock.now, 3)

    def checkpoint(self, run_id: str, field: str) -> dict[str, Any]:
        """Return a checkpoint as data."""
        run = self.ledger.run(run_id)
        assert run is not None
        found: dict[str, Any] = json.loads(run.detail["checkpoints"][field])
        return found

    def taken(self, *run_ids: str, **more: Any) -> list[str]:
        """Take these runs, or all that are due, and return the ids of the wakeups."""
        return [w.run_id for w in self.ledger.take(list(run_ids) or None, **more).wakeups]
