"""Timers by the million: added and drained through the operations of the ledger alone.

No broker and no worker: this process does what an emitter, a worker and a keeper would tell the
ledger. The time is the benchmark's own, so nobody waits.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from celery_fanout.keeping.keeper import BATCH
from celery_fanout.model.jsondata import encode
from celery_fanout.stores.records import LedgerRules, NewEvent, NewRun
from celery_fanout.stores.redis.ledger import RedisLedger
from celery_fanout.stores.states import RunState
from tests.benchmarks.documents import DATA
from tests.benchmarks.measure import cpu_of, table
from tests.servers import RedisServer

#: How many runs an event has.
RUNS = 100

#: How long they sleep, in seconds.
SLEEP = 3600.0

ATTRIBUTES = encode({"type": "document/uploaded", "source": "benchmarks", "specversion": "1.0"})


class Timers:
    """A ledger, and the runs that have timers in it.

    Args:
        redis: its server.
        count: how many.
    """

    def __init__(self, redis: RedisServer, count: int) -> None:
        self.now = time.time()
        self._ledger = RedisLedger(redis.url(), LedgerRules(), clock=lambda: self.now)
        self._ids = [str(uuid.uuid4()) for _ in range(count)]
        self._tokens: dict[str, int] = {}

    def record(self) -> None:
        """Record runs that start in an hour."""
        for start in range(0, len(self._ids), RUNS * 100):
            part = self._ids[start : start + RUNS * 100]
            self._ledger.record(
                [self._event(part[n : n + RUNS]) for n in range(0, len(part), RUNS)]
            )

    def _event(self, run_ids: Sequence[str]) -> NewEvent:
        return NewEvent(
            key=uuid.uuid4().hex,
            name="document/uploaded",
            attributes=ATTRIBUTES,
            data=encode(DATA),
            runs=[
                NewRun(run_id, f"documents.subscriber_{number}@document/uploaded")
                for number, run_id in enumerate(run_ids)
            ],
            resume_at=self.now + SLEEP,
        )

    def drain(self) -> None:
        """Let the time come, and take all of them, as a keeper does."""
        self.now += SLEEP + 1
        left = len(self._ids)
        while left:
            taken = self._ledger.take(limit=BATCH)
            assert taken.wakeups, f"{left:,} timers are not due"
            self._ledger.mark_published([wakeup.run_id for wakeup in taken.wakeups])
            left -= len(taken.wakeups)

    def claim(self) -> None:
        """Claim them, as a worker does."""
        for run_id in self._ids:
            self._tokens[run_id] = self._ledger.claim(run_id, "boot", run_id[:8]).token

    def suspend(self) -> None:
        """Have them sleep for an hour, as a worker does."""
        step = {"s:rest:0": encode({"v": 1, "s": "sleeping", "due": self.now + SLEEP})}
        for run_id in self._ids:
            settled = self._ledger.settle(
                run_id,
                self._tokens[run_id],
                RunState.SUSPENDED,
                reason="sleep",
                due=self.now + SLEEP,
                checkpoints=step,
            )
            assert settled.ok, run_id


class Table:
    """One row for each operation.

    Args:
        redis: the server of the ledger.
        client: a client of it.
    """

    def __init__(self, redis: RedisServer, client: Any) -> None:
        self.rows: list[list[str]] = []
        self._redis = redis
        self._client = client

    def measure(self, what: str, timers: int, work: Callable[[], None]) -> None:
        """Do something to so many timers."""
        its, spent, began = cpu_of([self._redis.pid]), time.process_time(), time.perf_counter()
        work()
        wall = time.perf_counter() - began
        spent, its = time.process_time() - spent, cpu_of([self._redis.pid]) - its
        used = self._client.info("memory")["used_memory"] / timers
        each = [f"{seconds / timers * 1e6:.1f}" for seconds in (spent, its, wall)]
        self.rows.append([what, f"{timers:,}", *each, f"{timers / wall:,.0f}", f"{used:,.0f}"])


def main(size: int = 1_000_000) -> None:
    """Print one table: a row for each operation.

    Args:
        size: how many timers; a tenth of it for what is done to one run at a time.
    """
    few = size // 10
    with RedisServer() as redis, redis.client() as client:
        found = Table(redis, client)
        timers = Timers(redis, size)
        found.measure("record, to start in an hour", size, timers.record)
        found.measure("take and mark as published", size, timers.drain)
        redis.flush()
        timers = Timers(redis, few)
        timers.record()
        timers.drain()
        found.measure("claim", few, timers.claim)
        found.measure("settle: suspended for an hour", few, timers.suspend)
        found.measure("take and mark as published", few, timers.drain)
    head = ["what", "timers", "client CPU us", "Redis CPU us", "wall us", "timers/s"]
    table(f"Timers, {RUNS} runs an event", [*head, "Redis bytes each"], found.rows)
