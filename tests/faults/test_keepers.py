"""Keepers: several at once, and one that dies between taking runs and publishing them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from celery_fanout.stores.states import RunState
from tests.faults.conftest import Jobs
from tests.processes import Process, wait_until
from tests.servers import ROOT

S = RunState


class KeeperProcess(Process):
    """``celery -A tests.faults.jobs fanout keeper``."""

    name = "keeper"

    def __init__(self, environment: dict[str, str]) -> None:
        super().__init__()
        self._environment = {**environment, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "celery", "--app", "tests.faults.jobs", "fanout", "keeper"]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), **self._environment}

    def is_ready(self) -> bool:
        return "keeper ready." in self.log_since_start


@pytest.fixture
def keeper(jobs: Jobs) -> Iterator[Callable[..., KeeperProcess]]:
    """A function that starts keepers; workers only beat."""
    jobs.conf["fanout_keeper"] = False
    with ExitStack() as stack:

        def start(**env: Any) -> KeeperProcess:
            return stack.enter_context(KeeperProcess(jobs.environment(**env)))

        yield start


def nap(jobs: Jobs, number: int, seconds: float) -> None:
    """Emit events whose runs sleep, and wait until all do."""
    for _ in range(number):
        jobs.emit("job/nap", {"seconds": seconds})
    wait_until(lambda: not jobs.ledger.counts()[S.PUBLISHED] + jobs.ledger.counts()[S.RUNNING])


@pytest.mark.parametrize("jobs", ["redis", "rabbit"], indirect=True)
def test_three_keepers_at_once(
    jobs: Jobs, keeper: Callable[..., KeeperProcess], bounded: bool
) -> None:
    """What is due at once goes out once: each run is taken by one of them."""
    number = 100 if bounded else 2_000
    jobs.worker(concurrency=2)
    nap(jobs, number, 2.0)
    for _ in range(3):
        keeper()
    assert jobs.check(timeout=120) == {S.SUCCEEDED: number}
    assert [run.token for run in jobs.ledger.runs(limit=number)] == [2] * number
    assert jobs.counts() == {"a": number}


@pytest.mark.parametrize("with_runs", [True, False])
def test_a_keeper_that_is_killed(
    jobs: Jobs, keeper: Callable[..., KeeperProcess], with_runs: bool
) -> None:
    """What it had taken is taken again, by another."""
    jobs.worker(concurrency=2)
    nap(jobs, 20, 1.0)
    if with_runs:
        first = keeper(CELERY_FANOUT_FAILPOINTS="keeper.after_take=kill@2")
        wait_until(lambda: not first.alive)
    else:
        keeper().kill()  # wherever it is
    keeper()
    assert jobs.check() == {S.SUCCEEDED: 20}
    assert jobs.counts() == {"a": 20}
    assert sum(run.crashes for run in jobs.ledger.runs()) == 0


def test_without_any_keeper_nothing_is_lost(
    jobs: Jobs, keeper: Callable[..., KeeperProcess]
) -> None:
    """What sleeps goes on sleeping until there is one."""
    worker = jobs.worker(concurrency=1)
    nap(jobs, 3, 0.1)
    assert jobs.emit("job/steps", {}).runs[0].get(timeout=30) == ["a", "b", "c"]
    assert jobs.ledger.counts()[S.SUSPENDED] == 3
    worker.kill()
    worker.start()
    keeper()
    assert jobs.check() == {S.SUCCEEDED: 4}
