"""dramatiq and huey: task queues of the fast worker's league. They have no steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.engines.engine import Engine, Program, document, need
from tests.servers import RedisServer


class Dramatiq(Engine):
    """Two processes of eight threads, dramatiq's default number of threads."""

    name = "dramatiq -p 2"
    steps = (0,)

    def __init__(self, records: Path) -> None:
        super().__init__(records)
        redis = RedisServer(appendonly=True)
        self._url = redis.url()
        self._actors: list[Any] = []
        module = "tests.benchmarks.engines.dramatiq_app"
        self.servers = [redis]
        self.workers = [
            Program(
                ["-m", "dramatiq", module, "-p", "2"],
                "Worker process is ready",
                {"BENCHMARK_DRAMATIQ_URL": redis.url(), **self.environment},
                times=2,
            )
        ]

    @classmethod
    def versions(cls) -> str:
        return need("dramatiq")

    def connect(self) -> Callable[[], object]:
        from dramatiq.brokers.redis import RedisBroker

        from tests.benchmarks.engines.dramatiq_app import ACTORS

        broker = RedisBroker(url=self._url)
        for actor in ACTORS:
            actor.broker = broker
            broker.declare_actor(actor)
        self._actors = ACTORS
        return broker.close

    def emit(self, steps: int, number: int) -> None:
        data = document(number)
        for actor in self._actors:
            actor.send(data)


class Huey(Engine):
    """Two processes. A message is gone once a worker has it."""

    name = "huey, 2 processes"
    steps = (0,)

    def __init__(self, records: Path) -> None:
        super().__init__(records)
        redis = RedisServer(appendonly=True)
        self._url = redis.url()
        self._tasks: list[Any] = []
        consumer = ["-m", "huey.bin.huey_consumer", "tests.benchmarks.engines.huey_app.huey"]
        self.servers = [redis]
        self.workers = [
            Program(
                [*consumer, "-w", "2", "-k", "process"],
                "The following commands are available",
                {"BENCHMARK_HUEY_URL": redis.url(), **self.environment},
            )
        ]

    @classmethod
    def versions(cls) -> str:
        return need("huey")

    def connect(self) -> Callable[[], object]:
        from huey.storage import RedisStorage

        from tests.benchmarks.engines.huey_app import TASKS, huey

        huey.storage = RedisStorage("engines", url=self._url)
        self._tasks = TASKS
        return huey.storage.close

    def emit(self, steps: int, number: int) -> None:
        data = document(number)
        for task in self._tasks:
            task(data)
