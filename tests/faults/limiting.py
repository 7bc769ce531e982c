"""The app of ``limited.py`` for tests: its workers, what the ledger says meanwhile, and at rest."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from celery_fanout import Emission, emit_many
from celery_fanout.stores.limits import GateRecord
from celery_fanout.stores.records import RunRecord
from celery_fanout.stores.states import FINAL, RunState
from tests.faults.conftest import FastWorker, Jobs
from tests.faults.intervals import Execution, executions
from tests.processes import family_of, wait_until
from tests.servers import Oracle, RedisServer, Worker

__all__ = ["Limits", "check_full_while_waiting", "open_limits"]

#: More than any test makes.
ALL = 1_000_000

#: What a limit is made of in Redis while somebody has a place, waits or collects.
TRANSIENT = ("lp:*", "lr:*", "lq:*", "lc:*")

L = TypeVar("L", bound="Limits")


class Limits(Jobs):
    """The app of ``limited.py``, its servers, its workers, and what they wrote down."""

    @property
    def app(self) -> Any:
        # it has subscribers, which no other test should meet while it is collected
        if self._app is None:
            module = import_module("tests.faults.limited")
            self._app = module.make_app(self.broker, self.store.url(), **self.conf)
        return self._app

    def start_workers(self, number: int = 4, *, fast: bool = False) -> list[Worker]:
        """Start workers of two processes each, all at once.

        Each takes no more messages than it has processes: a run has its place while its message
        waits in a worker, and there is none left for a run that could be executed elsewhere.
        """
        self.conf.setdefault("worker_prefetch_multiplier", 1)

        def start(name: int) -> Worker:
            return self.worker(app="tests.faults.limited", fast=fast, JOBS_NAME=f"w{name}")

        with ThreadPoolExecutor(number) as pool:
            return list(pool.map(start, range(number)))

    def warm_up(self) -> None:
        """Have every process execute something: the first time it connects and imports."""
        self.emit_many("slow/beside", [{"seconds": 0.05}] * 8 * len(self.workers))
        self.watch()

    def kill(self, worker: Worker) -> None:
        """Kill a worker, parent and children, and write down that they are gone."""
        pids = sorted(family_of(worker.pid))
        worker.kill()
        self.oracle.write(what="killed", pids=pids, m=time.monotonic())

    def emit_many(self, name: str, data: Iterable[dict[str, Any]]) -> list[Emission]:
        """Emit events of one name in one batch; their data are numbered in ``n``."""
        found = emit_many(
            [(name, {"n": number, **each}) for number, each in enumerate(data)], app=self.app
        )
        self.emissions += found
        return found

    def executions(self, *kinds: str) -> list[Execution]:
        """Return the executions of these subscribers."""
        return executions(self.oracle.read(), *kinds)

    def runs_of(self, task: str, event: str) -> list[RunRecord]:
        """Return the runs of a subscription, those that were recorded first first."""
        found = self.ledger.runs(subscription=f"limited.{task}@{event}", limit=ALL)
        return sorted(found, key=lambda run: run.created)

    def watch(self, *limits: str, timeout: float = 120) -> list[GateRecord]:
        """Look at the gates of limits until nothing is under way; return all that was seen."""
        seen: list[GateRecord] = []

        def over() -> bool:
            for limit in limits:
                seen.extend(self.ledger.gates(limit=limit, most=ALL))
            return all(state in FINAL for state, count in self.ledger.counts().items() if count)

        wait_until(over, timeout, lambda: f"not at rest: {self.ledger.counts()}")
        return seen

    def cancel_the_rest(self) -> None:
        """Cancel what is under way."""
        for state in set(RunState) - FINAL:
            left = [run.id for run in self.ledger.runs(state=state, limit=ALL)]
            if left:
                self.ledger.cancel(left, "the test is over")

    def check(self, **options: Any) -> dict[RunState, int]:
        """Check the invariants, and that nobody has a place, waits or is collected any more."""
        found = super().check(**options)
        for record in self.ledger.gates(most=ALL):
            assert not record.waiting, f"somebody waits for ever: {record}"
            if record.kind in ("concurrency", "singleton", "debounce", "batch"):
                assert not record.used, f"a place has leaked: {record}"
        with self.store.client() as client:
            root = "{fanout}"
            left = [key for kind in TRANSIENT for key in client.scan_iter(f"{root}:{kind}")]
            assert not left, f"left behind: {left[:20]}"
            # a throttle's timer may be set still, for nobody; the next keeper takes it
            wait_until(lambda: not client.exists(f"{root}:gates"), 10, "a gate keeps its timer")
        return found


def check_full_while_waiting(seen: Iterable[GateRecord], at_most: int) -> None:
    """Whoever waited did so while all places were taken, by what the ledger said meanwhile.

    This is the exact form of "it was used fully": it does not depend on how fast the machine is.
    """
    watched = [record for record in seen if record.at_most]
    assert any(record.waiting for record in watched), "there was no backlog"
    for record in watched:
        assert record.at_most == at_most, record
        assert record.used <= at_most, record
        assert record.used == at_most or not record.waiting, f"somebody waits for nothing: {record}"


@contextmanager
def open_limits(
    path: Path, *, broker: str = "", appendonly: bool = False, kind: type[L] = Limits
) -> Iterator[L]:
    """The app on a Redis server of its own; its workers are killed in the end."""
    workers: list[Worker] = []

    def start(app: str, *, fast: bool, **options: Any) -> Worker:
        worker = (FastWorker if fast else Worker)(app, **options)
        workers.append(worker)
        return worker.start()

    with RedisServer(appendonly=appendonly) as store:
        oracle = Oracle(path / "oracle.jsonl")
        found = kind(store, broker or store.url(1), oracle, path, start)
        try:
            yield found
        finally:
            _end(workers)
            found.app.close()


def _end(workers: Sequence[Worker]) -> None:
    for worker in workers:
        worker.kill()
        print(f"--- {worker.hostname} ---\n{worker.log[-8000:]}")  # noqa: T201 - pytest shows it if the test failed
        worker.close()
