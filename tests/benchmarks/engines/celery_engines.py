"""Our runs on each kind of worker, and plain Celery."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from celery_fanout import emit
from tests.benchmarks.engines.celery_app import CONF, chains, make_app
from tests.benchmarks.engines.engine import Engine, document, need
from tests.benchmarks.engines.records import SUBSCRIBERS
from tests.benchmarks.stage import FAST_QUEUE, LEVEL_1, FastWorker
from tests.servers import RedisServer, Worker


class CeleryEngine(Engine):
    """Celery on one Redis, which appends what it changes to a file, as ``check`` asks for."""

    pool: ClassVar[str] = "prefork"
    kind: ClassVar[type[Worker]] = Worker
    count: ClassVar[int] = 1
    conf: ClassVar[dict[str, Any]] = {}

    def __init__(self, records: Path) -> None:
        super().__init__(records)
        redis = RedisServer(appendonly=True)
        settings = {"broker_url": redis.url(), "result_backend": redis.url(), **self.conf}
        self.app = make_app(**settings)
        self.servers = [redis]
        self.workers = [
            self.kind(
                "tests.benchmarks.engines.celery_app",
                pool=self.pool,
                concurrency=2 if self.pool == "prefork" else 1,
                args=["--without-mingle"],
                env={CONF: json.dumps(settings), **self.environment},
            )
            for _ in range(self.count)
        ]

    @classmethod
    def versions(cls) -> str:
        return need("celery", "kombu", "redis")

    def connect(self) -> Callable[[], object]:
        return self.app.close


class Runs(CeleryEngine):
    """A run per subscriber."""

    def emit(self, steps: int, number: int) -> None:
        emit(f"document/{steps}", document(number), app=self.app)


class Prefork(Runs):
    """A stock worker."""

    name = "celery_fanout, prefork -c 2"


class Solo(Runs):
    """Stock workers of one process each."""

    name = "celery_fanout, 2 solo workers"
    pool = "solo"
    count = 2


class Fast(Runs):
    """Fast workers."""

    name = "celery_fanout, 2 fast workers"
    pool = "solo"
    kind = FastWorker
    count = 2
    conf: ClassVar = {"fanout_queue": FAST_QUEUE}


class Plain(CeleryEngine):
    """A plain task per subscriber, or a plain chain. Neither is durable."""

    name = "plain Celery, prefork -c 2"
    conf: ClassVar = LEVEL_1

    def emit(self, steps: int, number: int) -> None:
        data = document(number)
        if steps:
            for chain in chains(self.app, data):
                chain.apply_async()
        else:
            for subscriber in range(SUBSCRIBERS):
                self.app.tasks[f"tasks.plain_{subscriber}"].apply_async((data,))


class PlainSolo(Plain):
    """The same in workers of one process each."""

    name = "plain Celery, 2 solo workers"
    pool = "solo"
    count = 2
