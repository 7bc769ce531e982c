"""Workers, pool processes and Redis are killed while runs are under way."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest

from celery_fanout.stores.states import RunState
from tests.faults.conftest import Jobs
from tests.faults.invariants import at_rest
from tests.faults.jobs import LEASE
from tests.processes import wait_until

S = RunState
WEBHOOKS = Path(__file__).parents[3] / "shared/data/github_webhooks.json"

everywhere = pytest.mark.parametrize("jobs", ["redis", "rabbit", "fast"], indirect=True)


def payloads(count: int) -> list[object]:
    """Return real payloads, over and over, where they are at hand."""
    if WEBHOOKS.exists():
        found = [entry["data"] for entry in json.loads(WEBHOOKS.read_text())]
    else:
        found = [{"n": number} for number in range(100)]
    return [found[number % len(found)] for number in range(count)]


@everywhere
@pytest.mark.timeout(600)
def test_workers_are_killed_again_and_again(
    jobs: Jobs, chance: random.Random, bounded: bool, request: pytest.FixtureRequest
) -> None:
    """The kill test: parents and children, every two seconds; Redis restarts once."""
    fast = request.node.callspec.params["jobs"] == "fast"
    runs, kills = (900, 3) if bounded else (5_000, 15)
    jobs.conf["fanout_max_crashes"] = 50  # what is killed at random is no poison
    workers = [jobs.worker(fast=fast) for _ in range(4)]
    waiting = payloads(runs)
    for kill in range(kills):
        begun = time.monotonic()
        # some at a time, or all would have ended before the first worker is killed
        for data in waiting[kill::kills]:
            jobs.emit("job/steps", data)
        victim = chance.choice(workers)
        victim.kill()
        victim.start()
        if kill == kills // 2:
            jobs.store.restart()
        wait_until(lambda begun=begun: time.monotonic() - begun > 2)
    last = time.monotonic()
    at_rest(jobs, timeout=300, revive=True)
    waited = time.monotonic() - last
    assert jobs.check(attempts=kills * 4) == {S.SUCCEEDED: runs}
    steps = {(r["run"], r["what"]) for r in jobs.oracle.read() if r["what"] in ("a", "b", "c")}
    assert len(steps) == 3 * runs
    crashes = sum(run.crashes for run in jobs.ledger.runs(limit=runs))
    begun_twice = sum(r["what"] in ("a", "b", "c") for r in jobs.oracle.read()) - 3 * runs
    print(  # noqa: T201 - make test-faults ARGS=-s shows it
        f"{runs} runs, {kills} kills: at rest {waited:.1f} s after the last ({waited / LEASE:.1f} "
        f"leases), {crashes} crashes, {begun_twice} steps begun again before they were stored"
    )


@pytest.mark.parametrize(
    ("point", "a", "body"),
    [
        ("claim.after", 1, 1),
        ("step.before_store", 2, 2),
        ("step.after_store", 1, 2),
        ("settle.before", 1, 2),
        ("settle.after", 1, 1),
    ],
)
def test_a_pool_process_is_killed(jobs: Jobs, point: str, a: int, body: int) -> None:
    jobs.worker(concurrency=1, CELERY_FANOUT_FAILPOINTS=f"{point}=kill@1")
    run = jobs.emit("job/steps", {}).runs[0]
    assert run.get(timeout=30) == ["a", "b", "c"]
    counts = jobs.counts(run.id)
    assert (counts["a"], counts["b"], counts["c"], counts["body"]) == (a, 1, 1, body)
    jobs.check()


@pytest.mark.parametrize("point", ["settle.before", "tail.before_dispatch"])
def test_a_tail_survives_its_worker(jobs: Jobs, point: str) -> None:
    jobs.worker(concurrency=1, CELERY_FANOUT_FAILPOINTS=f"{point}=kill@1")
    run = jobs.emit("job/tail", {}).runs[0]
    assert run.get(timeout=30) == "a"
    counts = jobs.counts()
    assert (counts["a"], counts["saved"]) == (1, 1)
    assert jobs.check() == {S.SUCCEEDED: 2}


def test_poison_ends(jobs: Jobs) -> None:
    jobs.worker(concurrency=1)
    poison, fine = jobs.emit("job/poison", {}), jobs.emit("job/steps", {})
    assert fine.runs[0].get(timeout=30) == ["a", "b", "c"]
    assert jobs.check() == {S.SUCCEEDED: 1, S.FAILED: 1}
    run = jobs.ledger.run(poison.runs[0].id)
    assert run is not None
    assert (run.reason, run.crashes, run.detail["error"]["type"]) == ("crashed", 3, "WorkerCrashed")
    assert jobs.counts(run.id) == {"body": 3}


def test_what_a_dead_worker_had_received_goes_out_again(jobs: Jobs, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    first = jobs.worker(concurrency=1)
    held = jobs.emit("job/held", {"gate": str(gate)})
    jobs.wait_for("body")
    waiting = [jobs.emit("job/steps", {}) for _ in range(3)]  # prefetched
    received = [emission.runs[0].id for emission in waiting]

    def noted() -> bool:
        runs = [jobs.ledger.run(run_id) for run_id in received]
        return all(run is not None and run.worker for run in runs)

    wait_until(noted)
    first.kill()
    gate.touch()
    jobs.worker(concurrency=1)
    assert jobs.check() == {S.SUCCEEDED: 4}
    run = jobs.ledger.run(held.runs[0].id)
    assert run is not None
    assert run.crashes == 1


def test_a_worker_that_stops_finishes_what_it_has(jobs: Jobs, tmp_path: Path) -> None:
    """Longer than a lease: its heartbeat goes on until the pool has stopped."""
    gate = tmp_path / "gate"
    first = jobs.worker(concurrency=1)
    other = jobs.worker(concurrency=1)
    held = [jobs.emit("job/held", {"gate": str(gate)}) for _ in range(2)]
    wait_until(lambda: jobs.counts().get("body") == 2)
    for worker in (first, other):
        worker._process.send_signal(signal.SIGTERM)  # type: ignore[union-attr]
    begun = time.monotonic()
    wait_until(lambda: time.monotonic() - begun > 2 * LEASE)
    jobs.worker(concurrency=2)
    gate.touch()
    assert jobs.check() == {S.SUCCEEDED: 2}
    crashes = [jobs.ledger.run(emission.runs[0].id) for emission in held]
    assert [run.crashes for run in crashes if run] == [0, 0]
    assert jobs.counts()["body"] == 2


def test_a_revoked_run_is_cancelled(jobs: Jobs, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    jobs.worker(concurrency=1)
    jobs.emit("job/held", {"gate": str(gate)})
    jobs.wait_for("body")
    run = jobs.emit("job/steps", {}).runs[0]
    wait_until(lambda: jobs.ledger.run(run.id).worker)  # type: ignore[union-attr]
    replies = jobs.app.control.revoke(run.id, reply=True, timeout=10, limit=1)
    assert replies
    gate.touch()
    assert jobs.check() == {S.SUCCEEDED: 1, S.CANCELLED: 1}
    found = jobs.ledger.run(run.id)
    assert found is not None
    assert found.reason == "revoked"
    assert "a" not in jobs.counts(run.id)


def test_a_tail_that_cannot_be_dispatched_is_published_by_the_keeper(jobs: Jobs) -> None:
    """The run has returned: its body is not executed again."""
    jobs.worker(concurrency=1, CELERY_FANOUT_FAILPOINTS="tail.before_dispatch=kill@1")
    run = jobs.emit("job/tail", {}).runs[0]
    assert run.get(timeout=30) == "a"
    found = jobs.ledger.run(run.id)
    assert found is not None
    assert (found.token, found.crashes) == (1, 0)
    jobs.check()


def test_redis_restarts_while_a_run_is_under_way(jobs: Jobs, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    jobs.worker(concurrency=1)
    run = jobs.emit("job/held", {"gate": str(gate)}).runs[0]
    jobs.wait_for("body")
    jobs.store.restart()
    gate.touch()
    assert run.get(timeout=30) == "a"
    assert jobs.counts()["a"] == 1
    jobs.check()
