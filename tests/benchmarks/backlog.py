"""What it takes to let the next run start, with few or many that wait for it.

The operations of the ledger alone, as an emitter and a worker ask for them. Ledgers of different
sizes stand in one Redis, each under a prefix of its own, and take turns: what is measured is
whether a longer queue makes anything dearer.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from celery_fanout.model.jsondata import encode
from celery_fanout.stores.limits import Flow, Gate, Place
from celery_fanout.stores.records import LedgerRules, NewEvent, NewRun, Settled, Taken
from celery_fanout.stores.redis.ledger import RedisLedger
from celery_fanout.stores.states import RunState
from tests.benchmarks.limited import document
from tests.benchmarks.measure import commands_of, cpu_of_redis, microseconds, table, take_turns
from tests.servers import RedisServer

#: How long the backlogs are that are compared, as parts of the longest.
PARTS = (1000, 10, 1)

#: How many lines of equal rank the runs stand in.
LANES = (1, 1000)

#: How often each backlog has its turn, and how many runs end in one.
ROUNDS, RUNS = 20, 100

#: How many events are recorded in one round trip.
AT_ONCE = 200

GATE = Gate("concurrency limits.subscriber@document/uploaded")
SUBSCRIPTION = "limits.subscriber@document/uploaded"
ATTRIBUTES = encode({"type": "document/uploaded", "source": "benchmarks", "specversion": "1.0"})


class Backlog:
    """Runs that wait for one place, and one that has it.

    Args:
        redis: where.
        prefix: of the keys.
        length: how many wait.
        lanes: in how many lanes.
    """

    def __init__(self, redis: RedisServer, prefix: str, length: int, lanes: int) -> None:
        self.length = length
        self._lanes = lanes
        self._client = redis.client()
        self._ledger = RedisLedger(redis.url(), LedgerRules(), prefix=prefix)
        self._number = 0
        self._token = 0
        self._running = ""

    def fill(self) -> None:
        """Record the runs: one that starts, and those that wait."""
        self._add(self.length + 1)

    def _add(self, count: int) -> None:
        for start in range(0, count, AT_ONCE):
            few = min(AT_ONCE, count - start)
            recorded = self._ledger.record([self._event() for _ in range(few)])
            if not self._running:  # the first of all
                ((self._running, state),) = recorded[0].runs
                assert state is RunState.PENDING, state
                self._ledger.mark_published([self._running])
                self._claim()

    def _event(self) -> NewEvent:
        self._number += 1
        flow = Flow(places=(Place(GATE, 1),), lane=f"lane {self._number % self._lanes}")
        return NewEvent(
            key=uuid.uuid4().hex,
            name="document/uploaded",
            attributes=ATTRIBUTES,
            data=encode(document(self._number)),
            runs=[NewRun(str(uuid.uuid4()), SUBSCRIPTION, queue="celery", flow=flow)],
        )

    def _claim(self) -> None:
        found = self._ledger.claim(self._running, "boot", self._running[:8])
        assert found.status == "claimed", found.status
        self._token = found.token

    def _spent(self) -> tuple[float, float]:
        return time.process_time(), cpu_of_redis(self._client)

    def _timed(self, work: Callable[[], Any], found: dict[str, float], what: str) -> Any:
        """Do something, and add what it took of this process and of Redis."""
        nothing, before = self._spent(), self._spent()
        answer = work()
        after = self._spent()
        for name, at in (("client", 0), (what, 1)):  # without what it takes to look
            spent = after[at] - before[at] - (before[at] - nothing[at])
            found[name] = found.get(name, 0.0) + spent
        return answer

    def step(self, found: dict[str, float]) -> None:
        """End the run that has the place, and start the next as a worker does.

        Args:
            found: what it took by the name of the operation is added here, in seconds.
        """
        ledger = self._ledger

        def settle() -> Settled:
            return ledger.settle(self._running, self._token, RunState.SUCCEEDED, result="null")

        woken: Sequence[str] = self._timed(settle, found, "settle").woken
        (self._running,) = woken
        taken: Taken = self._timed(lambda: ledger.take(woken), found, "take")
        assert [wakeup.run_id for wakeup in taken.wakeups] == woken
        queues = {self._running: "celery"}
        self._timed(lambda: ledger.mark_published(woken, queues), found, "mark")
        self._timed(self._claim, found, "claim")

    def turn(self, runs: int) -> dict[str, float]:
        """End so many runs, each when the one before has; as many come again."""
        found: dict[str, float] = {}
        for _ in range(runs):
            self.step(found)
        found["next"] = found["settle"] + found["take"] + found["mark"]
        before = cpu_of_redis(self._client)
        self._add(runs)
        found["arrive"] = cpu_of_redis(self._client) - before
        return found

    def commands(self) -> int:
        """Return how many commands that is for one run, its claim included."""
        return commands_of(self._client, lambda: self.step({}), but="INFO")


def sizes_of(size: int) -> list[int]:
    """Return how long the backlogs are, the longest last."""
    return sorted({max(1, size // part) for part in PARTS})


def main(size: int = 100_000, rounds: int = ROUNDS, runs: int = RUNS) -> None:
    """Print two tables for each number of lanes.

    Args:
        size: how many runs wait in the longest backlog.
        rounds: how often each backlog has its turn.
        runs: how many runs end in a turn.
    """
    weights, costs = [], []
    lengths = sizes_of(size)
    runs = min(runs, lengths[0])
    for lanes in LANES:
        with RedisServer() as redis, redis.client() as client:
            found: dict[int, Backlog] = {}
            for length in lengths:
                found[length] = Backlog(redis, f"fanout{length}", length, lanes)
                weights.append([f"{lanes:,}", f"{length:,}", *weigh(client, found[length])])
            measured = take_turns(
                {
                    f"{length:,}": lambda backlog=backlog: backlog.turn(runs)
                    for length, backlog in found.items()
                },
                rounds=rounds,
            )
            for backlog, (length, figures) in zip(found.values(), measured.items(), strict=True):
                names = ("arrive", "settle", "take", "mark", "next", "claim", "client")
                each = [microseconds(figures[name], runs) for name in names]
                costs.append([f"{lanes:,}", length, str(backlog.commands()), *each])
    head = ["lanes", "waiting", "bytes each", "recorded/s", "client CPU us", "Redis CPU us"]
    table("Runs that wait, each with an event of its own", head, weights)
    head = ["lanes", "waiting", "commands", "one more arrives", "settle", "take", "mark"]
    table(
        "The next run starts: Redis CPU us",
        [*head, "together", "claim", "client CPU us"],
        costs,
    )


def weigh(client: Any, backlog: Backlog) -> list[str]:
    """Fill a backlog; return bytes, runs a second, and CPU time of this process and of Redis."""
    memory, redis = client.info("memory")["used_memory"], cpu_of_redis(client)
    cpu, wall = time.process_time(), time.perf_counter()
    backlog.fill()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    redis = cpu_of_redis(client) - redis
    memory = client.info("memory")["used_memory"] - memory
    each = backlog.length + 1
    return [
        f"{memory / each:,.0f}",
        f"{each / wall:,.0f}",
        microseconds([cpu], each),
        microseconds([redis], each),
    ]
