"""A worker with servers of its own, and an app that publishes to it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celery import Celery
from typing_extensions import Self

from tests.benchmarks import documents
from tests.benchmarks.documents import CONF, DONE
from tests.benchmarks.measure import cpu_of, memory_of
from tests.processes import Process, family_of
from tests.servers import RedisServer, Worker, wait_until

#: Where plain Celery runs: no ledger, and no keeper.
LEVEL_1: dict[str, Any] = {"fanout_store_url": "backend"}

#: Where the fast workers look.
FAST_QUEUE = "fast"


class FastWorker(Worker):
    """``celery -A APP fanout worker``."""

    def command(self) -> Sequence[str]:
        command = list(super().command())
        at = command.index("worker")
        mine = [word for word in command[at:] if word != "--without-mingle"]
        return [*command[:at], "fanout", *mine]


class KeeperProcess(Worker):
    """``celery -A APP fanout keeper``."""

    def command(self) -> Sequence[str]:
        command = list(super().command())
        return [*command[: command.index("worker")], "fanout", "keeper"]

    def is_ready(self) -> bool:
        return "keeper ready." in self.log_since_start


class Stage:
    """One or more workers on one Redis, which is the broker and has the results or the ledger.

    Args:
        pool: of the workers; ``"fast"`` for fast workers.
        workers: how many.
        concurrency: processes or threads of each.
        conf: settings of the app.
        site: the module of the app, which has a ``make_app``.

    Attributes:
        environment: what a process of the same app needs.
    """

    def __init__(
        self,
        pool: str,
        *,
        workers: int = 1,
        concurrency: int = 2,
        conf: Mapping[str, Any] | None = None,
        site: Any = documents,
    ) -> None:
        self.redis = RedisServer()
        self._stack = contextlib.ExitStack()
        settings = {
            "broker_url": self.redis.url(0),
            "result_backend": self.redis.url(0),
            **(conf or {}),
        }
        if pool == "fast":
            settings["fanout_queue"] = FAST_QUEUE
        self._queue = FAST_QUEUE if pool == "fast" else "celery"
        self.app: Celery = site.make_app(**settings)
        self._done = self.redis.directory / "done"
        self._done.touch()
        self.environment = {CONF: json.dumps(settings), DONE: str(self._done)}
        kind = FastWorker if pool == "fast" else Worker
        self.workers: list[Process] = [
            kind(
                site.__name__,
                pool="solo" if pool == "fast" else pool,
                concurrency=1 if pool in ("solo", "fast") else concurrency,
                args=["--without-mingle"],
                env=self.environment,
            )
            for _ in range(workers)
        ]

    def __enter__(self) -> Self:
        self._stack.enter_context(self.redis)
        for worker in self.workers:
            self._stack.enter_context(worker)
        self.client = self._stack.enter_context(self.redis.client())
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(None, None, None)

    def pids(self) -> list[int]:
        """Return the processes of the workers."""
        return [pid for worker in self.workers for pid in sorted(family_of(worker.pid))]

    def memory(self) -> dict[str, float]:
        """Return the memory of workers and Redis in MiB."""
        return {"worker": memory_of(self.pids()), "redis": memory_of([self.redis.pid])}

    def done(self) -> int:
        """Return how many bodies are done."""
        return self._done.stat().st_size

    def turn(self, publish: Callable[[Celery], object], bodies: int) -> dict[str, float]:
        """Fill the queue while the workers stand still, and let them empty it.

        Args:
            publish: publishes.
            bodies: how many bodies are done then.

        Returns:
            CPU seconds of the workers and of Redis, without publishing, and the time it took.
        """
        for worker in self.workers:
            worker.pause()
        goal = self.done() + bodies
        cpu = time.process_time()
        redis = cpu_of([self.redis.pid])
        publish(self.app)
        emit, publishing = time.process_time() - cpu, cpu_of([self.redis.pid]) - redis
        pids = self.pids()
        before, redis = cpu_of(pids), cpu_of([self.redis.pid])
        started = time.time()
        for worker in self.workers:
            worker.resume()
        wait_until(lambda: self.done() >= goal, 300, lambda: self._stuck(goal))
        wait_until(self._at_rest, 60, lambda: self._stuck(goal))
        assert self.done() == goal, "some bodies were executed twice"
        wall = self._done.stat().st_mtime - started
        worker_cpu, redis_cpu = cpu_of(pids) - before, cpu_of([self.redis.pid]) - redis
        return {
            "emit": emit,
            "emit-redis": publishing,
            "worker": worker_cpu,
            "redis": redis_cpu,
            "all": worker_cpu + redis_cpu,
            "wall": wall,
        }

    def _at_rest(self) -> bool:
        if self.client.llen(self._queue) or self.client.hlen("unacked"):
            return False
        open_ = [self.client.zcard(f"{{fanout}}:s:{state}") for state in ("published", "running")]
        return not any(open_)

    def _stuck(self, goal: int) -> str:
        logs = "\n".join(worker.log[-3000:] for worker in self.workers)
        return f"{self.done()} of {goal} are done\n{logs}"
