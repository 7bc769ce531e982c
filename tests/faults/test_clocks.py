"""Workers whose clocks are wrong, or jump: only the clock of the ledger's server counts."""

from __future__ import annotations

import glob
import time
from pathlib import Path

import pytest

from celery_fanout.stores.states import RunState
from tests.faults.conftest import Jobs
from tests.faults.jobs import LEASE
from tests.processes import wait_until

S = RunState

HOUR = 3600


def libfaketime() -> str | None:
    """Return the library that gives a process another clock, where it is installed."""
    found = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")  # noqa: PTH207 - an absolute pattern
    return found[0] if found else None


def shifted(seconds: float, file: Path | None = None) -> dict[str, str]:
    """Return the environment of a process whose clock is wrong by so much.

    Without libfaketime (Debian: faketime) only ``time.time`` is wrong in it.
    """
    library = libfaketime()
    if library is None:
        where = {} if file is None else {"JOBS_CLOCK_FILE": str(file)}
        return {"JOBS_CLOCK": str(seconds), **where}
    env = {"LD_PRELOAD": library, "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_NO_CACHE": "1"}
    if file is None:
        return {**env, "FAKETIME": f"{seconds:+.0f}s"}
    return {**env, "FAKETIME_TIMESTAMP_FILE": str(file)}


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_the_clock_of_one_worker_is_wrong(jobs: Jobs, tmp_path: Path, seconds: int) -> None:
    """Leases, sleeps, waits and retries are neither early nor late for it."""
    gate = tmp_path / "gate"
    jobs.worker(concurrency=1, JOBS_NAME="wrong", **shifted(seconds))
    jobs.worker(concurrency=1, JOBS_NAME="right")
    naps = [jobs.emit("job/nap", {"seconds": 1}).runs[0] for _ in range(4)]
    flaky = [jobs.emit("job/flaky", {"gate": str(gate)}).runs[0] for _ in range(4)]
    waits = [jobs.emit("job/waits", {}).runs[0] for _ in range(4)]
    for run in [*naps, *waits]:
        assert run.get(timeout=30)
    gate.touch()
    for run in flaky:
        assert run.get(timeout=30) == "a"
    begun = {r["run"]: r["t"] for r in jobs.oracle.read() if r["what"] == "woken"}
    for run in waits:
        assert jobs.run(run.id).finished
        assert run.id in begun
    off = {r["worker"]: abs(r["t"] - time.time()) > HOUR / 2 for r in jobs.oracle.read()}
    assert off == {"wrong": True, "right": False}
    assert jobs.check() == {S.SUCCEEDED: 12}
    assert [run.crashes for run in jobs.ledger.runs()] == [0] * 12
    for run in naps:
        record = jobs.run(run.id)
        assert record.finished is not None
        assert record.finished - record.created > 1


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_the_clock_jumps_while_a_run_is_executed(jobs: Jobs, tmp_path: Path, seconds: int) -> None:
    """Forwards and backwards: the lease is renewed all the same."""
    gate, clock = tmp_path / "gate", tmp_path / "clock"
    clock.write_text("+0s")
    jobs.worker(concurrency=1, JOBS_NAME="A", **shifted(0, clock))
    held = jobs.emit("job/split", {"gate": str(gate)}).runs[0]
    jobs.wait_for("a")
    jobs.worker(concurrency=1, JOBS_NAME="B")
    clock.write_text(f"{seconds:+d}s")
    with jobs.store.client() as client:

        def lease() -> float:
            return float(client.zscore("{fanout}:due", held.id) or 0)

        first = lease()
        wait_until(lambda: lease() > first + 1.5 * LEASE)
    for name in ("A", "B"):
        Path(f"{gate}{name}").touch()
    assert held.get(timeout=30) == ["A", "A", "A"]
    last = jobs.oracle.read()[-1]
    assert abs(last["t"] - time.time()) > HOUR / 2  # its clock has jumped
    assert (jobs.run(held.id).token, jobs.run(held.id).crashes) == (1, 0)
    assert jobs.check() == {S.SUCCEEDED: 1}
