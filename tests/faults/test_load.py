"""Herds and storms: many events at once, and a dependency that is down for all of them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from celery_fanout import emit_many, get_fanout
from celery_fanout.app.checks import findings
from celery_fanout.stores.states import RunState
from tests.faults.conftest import Jobs
from tests.faults.invariants import at_rest
from tests.leaks import check_ledger
from tests.processes import family_of, wait_until
from tests.servers import RabbitServer

S = RunState


def memory(pids: set[int]) -> float:
    """Return the memory of processes, in MiB."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1])
    return total / 1024


@pytest.mark.timeout(3000)
def test_a_thundering_herd(jobs: Jobs, tmp_path: Path, bounded: bool) -> None:
    """100,000 events with three subscribers each, at once: each of them is executed once."""
    number, batch = (1_000, 250) if bounded else (100_000, 1_000)
    workers = [jobs.worker(concurrency=1) for _ in range(2 if bounded else 8)]
    begun = time.monotonic()
    before = sum(memory(family_of(worker.pid)) for worker in workers)
    for _ in range(0, number, batch):
        emit_many([("job/herd", {"tally": str(tmp_path)}) for _ in range(batch)], app=jobs.app)
    emitted = time.monotonic() - begun
    assert at_rest(jobs, timeout=2400).keys() == {S.SUCCEEDED}
    took = time.monotonic() - begun
    for name in ("one", "two", "three"):
        assert (tmp_path / name).stat().st_size == number, name
    after = sum(memory(family_of(worker.pid)) for worker in workers)
    assert after < 2 * before, f"{before:.0f} MiB before, {after:.0f} after"
    with jobs.store.client() as client:
        check_ledger(client)
    print(  # noqa: T201 - make test-faults ARGS=-s shows it
        f"{number} events x 3: emitted in {emitted:.0f} s, done after {took:.0f} s, "
        f"{3 * number / took:.0f} runs/s; workers {before:.0f} -> {after:.0f} MiB"
    )


@pytest.mark.parametrize("jobs", ["redis", "rabbit"], indirect=True)
def test_a_retry_storm(jobs: Jobs, tmp_path: Path, bounded: bool) -> None:
    """A dependency of all runs is down, and comes back. The retries are spread, and all succeed."""
    number, down = (60, 4.0) if bounded else (300, 60.0)
    gate = tmp_path / "gate"
    jobs.worker(concurrency=4)
    others = [jobs.emit("job/steps", {}) for _ in range(10)]
    for _ in range(number):
        jobs.emit("job/storm", {"gate": str(gate)})
    begun = time.monotonic()
    wait_until(lambda: jobs.ledger.counts()[S.RETRYING] > number // 2)
    due = [run.due for run in jobs.ledger.runs(state=S.RETRYING, limit=number) if run.due]
    assert len({round(when, 2) for when in due}) > len(due) // 4  # with jitter
    others += [jobs.emit("job/steps", {}) for _ in range(10)]
    for emission in others:  # who does not need it is not held up
        assert emission.get(timeout=30)[0].ok
    wait_until(lambda: time.monotonic() - begun > down, timeout=down + 60)
    gate.touch()
    assert jobs.check(timeout=120, attempts=21) == {S.SUCCEEDED: number + 20}
    assert sum(run.crashes for run in jobs.ledger.runs(limit=number + 20)) == 0


# --- RabbitMQ is out of disk ----------------------------------------------------------------------


@pytest.mark.parametrize("confirms", [True, False])
def test_rabbitmq_is_out_of_disk(jobs: Jobs, confirms: bool) -> None:
    """With confirmations an event is known to be unpublished; in both cases its runs are executed.

    Without, a message may be lost if its publisher ends meanwhile, and ``check`` says so.
    """
    with RabbitServer() as rabbit:
        jobs.broker = rabbit.url()
        jobs.conf.update(fanout_publish_timeout=2, transport={"confirm_publish": confirms})
        warned = {finding.id for finding in findings(get_fanout(jobs.app))}
        assert ("fanout.W005" in warned) is not confirms
        worker = jobs.worker()
        jobs.emit("job/steps", {}).get(timeout=30)
        rabbit.control("set_disk_free_limit", "1000000GB")
        wait_until(lambda: "disk" in rabbit.control("eval", "rabbit_alarm:get_alarms()."))
        emissions = [jobs.emit("job/steps", {}) for _ in range(3)]
        if confirms:
            assert jobs.ledger.counts()[S.PENDING] == 3
        rabbit.control("set_disk_free_limit", "1MB")
        for emission in emissions:
            assert emission.get(timeout=60)[0].ok
        assert jobs.check() == {S.SUCCEEDED: 4}
        assert jobs.counts() == {"body": 4, "a": 4, "b": 4, "c": 4}
        assert worker.alive
        worker.kill()
        jobs.app.close()
