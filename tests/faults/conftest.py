"""What the fault tests share: an app, its workers, and the oracle."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_fanout import Emission, emit, get_fanout
from celery_fanout.exceptions import EmitError
from celery_fanout.model.ids import event_key
from celery_fanout.stores.ledger import Ledger
from celery_fanout.stores.records import RunRecord
from celery_fanout.stores.states import RunState
from tests.faults.invariants import check_invariants
from tests.faults.jobs import make_app
from tests.processes import wait_until
from tests.servers import Oracle, RabbitServer, RedisServer, Worker

SEED = int(os.environ.get("FAULT_SEED") or random.randrange(10**6))
os.environ["FAULT_SEED"] = str(SEED)  # the same in all processes that run the tests


def pytest_report_header() -> str:
    """Say how to repeat a run."""
    return f"faults: FAULT_SEED={SEED}"


@pytest.fixture
def chance() -> random.Random:
    """What decides what breaks when."""
    return random.Random(SEED)


class Jobs:
    """The app of ``jobs.py``, its servers, its workers, and what they wrote down."""

    def __init__(
        self, store: RedisServer, broker: str, oracle: Oracle, path: Path, start: Any
    ) -> None:
        self.store = store
        self.broker = broker
        self.oracle = oracle
        self.path = path
        self.conf: dict[str, Any] = {}
        self.emissions: list[Emission] = []
        self.refused: set[str] = set()  # keys of events whose emit() raised
        self.workers: list[Worker] = []
        self.revived = 0
        self._start = start
        self._app: Any = None

    @property
    def app(self) -> Any:
        """The app in this process."""
        if self._app is None:
            self._app = make_app(self.broker, self.store.url(), **self.conf)
        return self._app

    @property
    def ledger(self) -> Ledger:
        """Its ledger."""
        return get_fanout(self.app).ledger

    def environment(self, **more: str) -> dict[str, str]:
        """Return what tells a process of this app."""
        return {
            **self.oracle.environment,
            "JOBS_BROKER": self.broker,
            "JOBS_STORE": self.store.url(),
            "JOBS_CONF": json.dumps(self.conf),
            "CELERY_FANOUT_FAILPOINT_DIR": str(self.path),
            **more,
        }

    def worker(
        self,
        *,
        app: str = "tests.faults.jobs",
        pool: str = "prefork",
        concurrency: int = 2,
        fast: bool = False,
        queues: str = "celery",
        **env: str,
    ) -> Worker:
        """Start a worker, which ``JOBS_BROKER`` and ``JOBS_STORE`` may lead through a proxy."""
        queued = [] if fast or queues == "celery" else ["--queues", queues]
        found: Worker = self._start(
            app,
            fast=fast,
            pool=pool,
            concurrency=concurrency,
            args=queued,
            env=self.environment(**env),
        )
        self.workers.append(found)
        return found

    def revive(self) -> None:
        """Start workers again that have ended by themselves.

        Celery's do that when Redis restarts at the wrong moment (kombu 5.7: AttributeError in
        ``Channel._connparams`` of a connection that was closed already).
        """
        for worker in self.workers:
            if worker._process is not None and not worker.alive:
                worker.kill()
                worker.start()
                self.revived += 1

    def emit(self, name: str, data: Any = None, *, app: Any = None, **options: Any) -> Emission:
        """Emit an event, and remember what became of it."""
        try:
            emission = emit(name, data, app=app or self.app, **options)
        except EmitError as exc:
            self.refused.add(event_key(name, exc.event_id))
            raise
        self.emissions.append(emission)
        return emission

    def counts(self, run: str | None = None) -> dict[str, int]:
        """Return how often what was begun."""
        found = Counter(r["what"] for r in self.oracle.read() if run in (None, r.get("run")))
        return dict(found)

    def wait_for(self, what: str) -> None:
        """Wait until something has begun."""
        wait_until(lambda: what in self.counts())

    def wait_until_stored(self, run_id: str) -> None:
        """Wait until the first step of a run is stored."""
        wait_until(lambda: self.run(run_id).detail["checkpoints"])

    def check(self, **options: Any) -> dict[RunState, int]:
        """Wait until nothing is under way, and check the invariants; see there."""
        return check_invariants(self, **options)

    def run(self, run_id: str) -> RunRecord:
        """Return a run."""
        found = self.ledger.run(run_id)
        assert found is not None, run_id
        return found


class FastWorker(Worker):
    """A worker without the broker's acknowledgements."""

    def command(self) -> Any:
        command = [str(word) for word in super().command()]
        at = command.index("worker")
        command[at : at + 1] = ["fanout", "worker"]
        for option in ("--pool", "--concurrency"):
            del command[command.index(option) : command.index(option) + 2]
        # which it says itself
        return [word for word in command if word not in ("--without-mingle", "--without-gossip")]


@pytest.fixture
def start_any() -> Iterator[Callable[..., Worker]]:
    """A function that starts workers, which are killed after the test."""
    workers: list[Worker] = []

    def start(app: str, *, fast: bool, **options: Any) -> Worker:
        worker = (FastWorker if fast else Worker)(app, **options)
        workers.append(worker)
        return worker.start()

    yield start
    for worker in workers:
        worker.kill()
        print(f"--- {worker.hostname} ---\n{worker.log[-8000:]}")  # noqa: T201 - pytest shows it if the test failed
        worker.close()


@pytest.fixture(params=["redis"])
def jobs(
    request: pytest.FixtureRequest, oracle: Oracle, tmp_path: Path, start_any: Any
) -> Iterator[Jobs]:
    """The app, on Redis alone, on RabbitMQ with a ledger in Redis, or with fast workers."""
    with RedisServer(appendonly=True) as store:
        broker = store.url(1)
        if request.param == "rabbit":
            server: RabbitServer = request.getfixturevalue("rabbit_server")
            broker = server.url(server.add_vhost())
        found = Jobs(store, broker, oracle, tmp_path, start_any)
        if request.param == "fast":
            found.conf["fanout_queue"] = "fanout"
        yield found
        found.app.close()
