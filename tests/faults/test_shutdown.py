"""Workers that are asked to end: warm, soft and cold. What they had goes on, and is no crash."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from celery_fanout.stores.states import RunState
from tests.faults.conftest import Jobs
from tests.faults.ending import ended, ended_or_killed
from tests.processes import wait_until
from tests.servers import Worker

S = RunState

everywhere = pytest.mark.parametrize("jobs", ["redis", "rabbit"], indirect=True)


def send(worker: Worker, number: signal.Signals) -> None:
    """Send a signal to the worker's main process."""
    os.kill(worker.pid, number)


def held_run(jobs: Jobs, tmp_path: Path) -> tuple[str, Path]:
    """Emit an event whose run waits for a file, and return both."""
    gate = tmp_path / "gate"
    return jobs.emit("job/split", {"gate": str(gate)}).runs[0].id, gate


@everywhere
def test_cold_shutdowns_are_no_crashes(jobs: Jobs, tmp_path: Path) -> None:
    """Three of them: as many crashes would make a dead letter."""
    run_id, gate = held_run(jobs, tmp_path)
    worker = jobs.worker(concurrency=1)
    for number in (1, 2, 3):
        wait_until(lambda number=number: jobs.counts(run_id).get("body") == number)
        jobs.wait_until_stored(run_id)
        send(worker, signal.SIGQUIT)
        ended(worker)
        assert jobs.run(run_id).state is not S.FAILED
        assert jobs.run(run_id).crashes == 0
        worker.start()
    gate.touch()
    assert jobs.check() == {S.SUCCEEDED: 1}
    run = jobs.run(run_id)
    assert run.crashes == 0
    counts = jobs.counts()
    assert (counts["a"], counts["b"], counts["c"]) == (1, 1, 1)


def test_a_pool_that_cannot_end_its_task(jobs: Jobs, tmp_path: Path) -> None:
    """Celery calls it from a signal handler, inside the body, which its error would end."""
    run_id, gate = held_run(jobs, tmp_path)
    worker = jobs.worker(pool="solo", concurrency=1)
    jobs.wait_until_stored(run_id)
    send(worker, signal.SIGQUIT)
    worker.wait_for_log("its pool cannot end it")
    gate.touch()
    ended(worker)
    worker.start()
    assert jobs.check() == {S.SUCCEEDED: 1}
    assert jobs.run(run_id).crashes == 0


def test_a_second_sigterm_is_no_crash(jobs: Jobs, tmp_path: Path) -> None:
    """People press Ctrl-C until it is over."""
    run_id, gate = held_run(jobs, tmp_path)
    worker = jobs.worker(concurrency=1)
    jobs.wait_until_stored(run_id)
    send(worker, signal.SIGINT)
    worker.wait_for_log("Warm shutdown")
    send(worker, signal.SIGINT)
    ended(worker)
    worker.start()
    gate.touch()
    assert jobs.check() == {S.SUCCEEDED: 1}
    assert jobs.run(run_id).crashes == 0
    assert jobs.counts()["a"] == 1


@everywhere
@pytest.mark.parametrize("in_time", [True, False])
def test_a_soft_shutdown(jobs: Jobs, tmp_path: Path, in_time: bool, bounded: bool) -> None:
    """It waits for a while. What has not ended by then goes on elsewhere."""
    enough = 4 if bounded else 6  # Celery waits all of it
    jobs.conf["worker_soft_shutdown_timeout"] = enough if in_time else 1
    run_id, gate = held_run(jobs, tmp_path)
    worker = jobs.worker(concurrency=1)
    jobs.wait_until_stored(run_id)
    waiting = jobs.emit("job/steps", {}).runs[0].id  # prefetched
    wait_until(lambda: jobs.run(waiting).worker)
    send(worker, signal.SIGQUIT)
    worker.wait_for_log("Initiating Soft Shutdown")
    if in_time:
        gate.touch()
        ended(worker)
        assert jobs.run(run_id).state is S.SUCCEEDED
    else:
        ended(worker)
        gate.touch()
    jobs.worker(concurrency=1)
    assert jobs.check() == {S.SUCCEEDED: 2}
    assert (jobs.run(run_id).token, jobs.run(run_id).crashes) == (1 if in_time else 2, 0)
    counts = jobs.counts(run_id)
    assert (counts["a"], counts["b"], counts["c"]) == (1, 1, 1)
    assert jobs.run(waiting).crashes == 0


@everywhere
def test_a_warm_shutdown_gives_back_what_has_not_begun(jobs: Jobs, tmp_path: Path) -> None:
    run_id, gate = held_run(jobs, tmp_path)
    worker = jobs.worker(concurrency=1)
    jobs.wait_until_stored(run_id)
    waiting = [jobs.emit("job/steps", {}).runs[0].id for _ in range(3)]
    wait_until(lambda: all(jobs.run(found).worker for found in waiting))
    send(worker, signal.SIGTERM)
    worker.wait_for_log("Warm shutdown")
    gate.touch()
    ended(worker)
    assert jobs.run(run_id).state is S.SUCCEEDED
    jobs.worker(concurrency=1)
    assert jobs.check() == {S.SUCCEEDED: 4}
    assert [run.token for run in jobs.ledger.runs()] == [1] * 4
    assert jobs.counts() == {"body": 4, "a": 4, "b": 4, "c": 4}


def test_a_cold_shutdown_that_never_ends(jobs: Jobs, tmp_path: Path) -> None:
    """Celery's, if the signal comes while a run is handed to a process: a supervisor kills it.

    What was executed was let go of before, and what was only received is published again.
    """
    run_id, gate = held_run(jobs, tmp_path)
    worker = jobs.worker(app="tests.faults.halfway")
    jobs.wait_until_stored(run_id)
    for _ in range(5):
        jobs.emit("job/steps", {})
    wait_until(lambda: jobs.run(run_id).state is not S.RUNNING)
    gate.touch()
    ended_or_killed(worker, 5)
    jobs.worker()
    assert jobs.check() == {S.SUCCEEDED: 6}
    assert [run.crashes for run in jobs.ledger.runs()] == [0] * 6
    assert jobs.counts(run_id) == {"body": 2, "a": 1, "b": 1, "c": 1}


@pytest.mark.timeout(1000)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_ending_between_steps_over_and_over(
    jobs: Jobs, bounded: bool, number: signal.Signals
) -> None:
    """A rolling deploy under load: nothing is counted as a crash, and nothing is lost."""
    runs = 100 if bounded else 1_000
    workers = [jobs.worker() for _ in range(2)]
    for _ in range(runs):
        jobs.emit("job/steps", {})
    for turn in range(2 if bounded else 10):
        worker = workers[turn % 2]
        send(worker, number)
        if number == signal.SIGQUIT:
            ended_or_killed(worker)
        else:
            ended(worker)
        worker.start()
    assert jobs.check() == {S.SUCCEEDED: runs}
    assert sum(run.crashes for run in jobs.ledger.runs(limit=runs)) == 0
