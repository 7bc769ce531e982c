"""Every kind of pool, and an app that emitted before its worker forked."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from celery_fanout.stores.states import RunState
from tests.faults.conftest import Jobs
from tests.processes import wait_until

S = RunState

POOLS = ["prefork", "solo", "threads", "gevent"]
if find_spec("eventlet") is not None:
    # not in the test group: Sentry's SDK imports it where it is, and it warns that it is deprecated
    POOLS.append("eventlet")

everywhere = pytest.mark.parametrize("jobs", ["redis", "rabbit"], indirect=True)


@everywhere
@pytest.mark.parametrize("pool", POOLS)
def test_what_was_emitted_before_the_fork(jobs: Jobs, pool: str, bounded: bool) -> None:
    """A child shares no connection with its parent: else they would read each other's replies."""
    # Celery takes ten messages a second from RabbitMQ in greenlets, with or without this library
    number = 20 if bounded else 150 if pool == "gevent" else 500
    worker = jobs.worker(pool=pool, concurrency=4, JOBS_EMIT="worker_init")
    wait_until(jobs.ledger.runs)  # the parent's
    for _ in range(number):
        jobs.emit("job/chatty", {})  # each emits too
    assert jobs.check() == {S.SUCCEEDED: 2 * number + 1}
    counts = jobs.counts()
    assert (counts["body"], counts["a"]) == (2 * number + 1, 2 * number + 1)
    assert worker.alive
    assert "Traceback" not in worker.log, worker.log[-3000:]


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_of_any_kind_is_killed(jobs: Jobs, tmp_path: Path, pool: str) -> None:
    """Its runs go on elsewhere, and a step that was stored does not begin again."""
    gate = tmp_path / "gate"
    first = jobs.worker(pool=pool, concurrency=4)
    number = 1 if pool == "solo" else 4
    for _ in range(number):
        jobs.emit("job/split", {"gate": str(gate)})
    wait_until(lambda: jobs.counts().get("a") == number)
    wait_until(lambda: all(r.detail["checkpoints"] for r in map(jobs.run, ids(jobs))))
    first.kill()
    gate.touch()
    jobs.worker(pool=pool, concurrency=4)
    assert jobs.check() == {S.SUCCEEDED: number}
    assert [run.crashes for run in jobs.ledger.runs()] == [1] * number
    assert jobs.counts() == {"body": 2 * number, "a": number, "b": number, "c": number}


def ids(jobs: Jobs) -> list[str]:
    """Return the ids of all runs."""
    return [run.id for run in jobs.ledger.runs()]


@pytest.mark.parametrize("pool", POOLS)
def test_a_lease_is_renewed_while_a_body_waits(jobs: Jobs, tmp_path: Path, pool: str) -> None:
    """Nobody else takes the run: the heartbeat goes on beside the body."""
    gate = tmp_path / "gate"
    jobs.worker(pool=pool, concurrency=2)
    run_id = jobs.emit("job/split", {"gate": str(gate)}).runs[0].id
    jobs.wait_for("a")
    token = jobs.run(run_id).token
    with jobs.store.client() as client:

        def lease() -> float:
            return float(client.zscore("{fanout}:due", run_id) or 0)

        first = lease()
        wait_until(lambda: lease() > first + 3)  # more than one lease and a half
    assert jobs.run(run_id).token == token
    gate.touch()
    assert jobs.check() == {S.SUCCEEDED: 1}
    assert jobs.run(run_id).crashes == 0
