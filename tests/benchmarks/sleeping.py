"""Runs that sleep: what they take while they do, and how they all wake at once.

Two fast workers, and a keeper in a process of its own, so that its CPU time can be seen. Each event
has one subscriber, which is the dearest case. It is suspended by a worker, as everybody's is.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

from celery_fanout import emit_many
from tests.benchmarks.documents import DATA
from tests.benchmarks.measure import cpu_of, memory_of, table
from tests.benchmarks.runs import events
from tests.benchmarks.stage import KeeperProcess, Stage
from tests.processes import wait_until

#: The most that a suspended run may take in Redis beyond its data, in bytes.
BUDGET = 1024

#: The most that an idle keeper may take: per cent of a core, and commands a second.
IDLE_CPU, IDLE_COMMANDS = 1.0, 2.0

EVENT = "document/sleeping"

#: The kinds of keys, and what they are for.
KEYS = {"r": "its record", "d": "its checkpoint", "e": "its event", "t": "what that says"}


class Sleepers:
    """Runs of one stage that sleep until a time.

    Args:
        stage: the stage.
        keeper: its keeper.
        count: how many.
    """

    def __init__(self, stage: Stage, keeper: KeeperProcess, count: int) -> None:
        self.stage = stage
        self.keeper = keeper
        self.count = count
        self.until = 0.0
        self._others = 0

    def suspended(self) -> int:
        """Return how many sleep."""
        return int(self.stage.client.zcard("{fanout}:s:suspended"))

    def used(self) -> int:
        """Return the memory that Redis has in use, in bytes."""
        return int(self.stage.client.info("memory")["used_memory"])

    def emit(self, count: int, until: float) -> None:
        """Emit events whose subscribers sleep."""
        for start in range(0, count, 100):
            few = min(100, count - start)
            emit_many([(EVENT, {**DATA, "until": until})] * few, app=self.stage.app)

    def fall_asleep(self, idle: float) -> int:
        """Have the runs suspended; return what Redis needs for each, in bytes.

        All have to be due at one time, so that has to be known before the first is emitted. It is
        guessed from a few that sleep on when the others wake.
        """
        self._others = min(self.count, 500)
        began = time.time()
        self.emit(self._others, began + 86_400)
        wait_until(lambda: self.suspended() >= self._others, 120)
        each = (time.time() - began) / self._others
        self.until = time.time() + 2 * each * self.count + idle + 6
        before = self.used()
        self.emit(self.count, self.until)

        def late() -> bool:
            return time.time() > self.until - idle

        wait_until(
            lambda: late() or self.suspended() >= self._others + self.count,
            self.until - time.time() + 10,
        )
        assert not late(), "The first woke before the last slept: the machine has other work to do"
        return (self.used() - before) // self.count

    def idle(self, seconds: float) -> tuple[float, float]:
        """Return what the keeper uses while there is nothing to do.

        Args:
            seconds: how long to look.

        Returns:
            The share of a core, and the commands a second; the workers stand still meanwhile.
        """
        for worker in self.stage.workers:
            worker.pause()
        with self.stage.redis.client() as client:
            connection: Any = client.connection
            connection.send_command("MONITOR")
            connection.read_response()
            began, cpu = time.monotonic(), cpu_of([self.keeper.pid])
            wait_until(lambda: time.monotonic() - began >= seconds, seconds + 10)
            spent, took = cpu_of([self.keeper.pid]) - cpu, time.monotonic() - began
            sent = 0
            while connection.can_read(timeout=0):
                sent += b" lua] " not in connection.read_response()  # what scripts do is not sent
        for worker in self.stage.workers:
            worker.resume()
        return spent / took, sent / took

    def sizes(self) -> dict[str, int]:
        """Return the bytes of one key of each kind."""
        client, found = self.stage.client, {}
        for kind in KEYS:
            keys = client.scan_iter(f"{{fanout}}:{kind}:*", count=100)
            sample = [key for key, _ in zip(keys, range(600), strict=False)]
            found[kind] = int(statistics.median(client.memory_usage(key) or 0 for key in sample))
        return found

    def wake(self) -> dict[str, float]:
        """Wait until all have woken and are done; return what that took, in seconds."""
        stage = self.stage
        goal = stage.done() + self.count
        wait_until(lambda: time.time() >= self.until, self.until - time.time() + 10)
        before = self._cpu()
        wait_until(lambda: self.suspended() <= self._others, 60 + self.count / 100)
        published = time.time() - self.until
        wait_until(lambda: stage.done() >= goal, 60 + self.count / 50)
        done = time.time() - self.until
        spent = {name: cpu - before[name] for name, cpu in self._cpu().items()}
        return {"published": published, "done": done, **spent}

    def _cpu(self) -> dict[str, float]:
        return {
            "keeper": cpu_of([self.keeper.pid]),
            "worker": cpu_of(self.stage.pids()),
            "redis": cpu_of([self.stage.redis.pid]),
        }


def main(size: int = 100_000, idle: float = 20.0) -> None:
    """Print two tables.

    Args:
        size: how many runs sleep.
        idle: how long the idle keeper is looked at, in seconds.
    """
    conf = {"fanout_keeper": False}
    with Stage("fast", workers=2, conf=conf) as stage:
        keeper = KeeperProcess("tests.benchmarks.documents", env=stage.environment)
        with keeper:
            fresh = max(100, size // 20 // 100 * 100)
            publish = events("document/plain", fresh)
            stage.turn(publish, fresh)
            rate = fresh / stage.turn(publish, fresh)["wall"]
            memory = memory_of(stage.pids())
            sleepers = Sleepers(stage, keeper, size)
            each = sleepers.fall_asleep(idle)
            asleep = memory_of(stage.pids())
            sizes = sleepers.sizes()
            cpu, commands = sleepers.idle(idle)
            woken = sleepers.wake()
    data = len(json.dumps({**DATA, "until": sleepers.until}, separators=(",", ":")))
    rows: list[list[Any]] = [
        ["Redis, bytes each", f"{each:,}", ""],
        ["of them the event's data", f"{data:,}", ""],
        ["beyond its data", f"{each - data:,}", f"{BUDGET:,}"],
        *([f"key of {what}", f"{sizes[kind]:,}", ""] for kind, what in KEYS.items()),
        ["all its entries in indexes", f"{each - sum(sizes.values()):,}", ""],
        ["two workers, MiB before", f"{memory:.0f}", ""],
        ["two workers, MiB while they sleep", f"{asleep:.0f}", "the same"],
        ["idle keeper, % of a core", f"{cpu * 100:.2f}", f"{IDLE_CPU:.2f}"],
        ["idle keeper, commands/s", f"{commands:.1f}", f"{IDLE_COMMANDS:.1f}"],
    ]
    table(f"{size:,} suspended runs", ["what", "measured", "budget"], rows)
    rows = [
        ["all published after, s", f"{woken['published']:.1f}"],
        ["published/s", f"{size / woken['published']:,.0f}"],
        ["all done after, s", f"{woken['done']:.1f}"],
        ["done/s", f"{size / woken['done']:,.0f}"],
        ["fresh runs that wait in the queue, done/s", f"{rate:,.0f}"],
        *(
            [f"CPU us each, {name}", f"{woken[name] / size * 1e6:,.0f}"]
            for name in ("keeper", "worker", "redis")
        ),
    ]
    table(f"{size:,} runs that wake at the same time", ["what", "measured"], rows)
