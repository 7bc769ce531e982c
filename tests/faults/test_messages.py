"""Messages that are lost, come twice, or meet a worker that does not know them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import redis

from celery_fanout import get_fanout
from celery_fanout.stores.states import RunState
from tests.faults.conftest import Jobs
from tests.processes import wait_until
from tests.servers import ROOT, RabbitServer

S = RunState


def broker_of(jobs: Jobs) -> redis.Redis:
    """Return a client of the database that the broker is."""
    return jobs.store.client(1)


def test_a_message_that_comes_ten_times(jobs: Jobs) -> None:
    emission = jobs.emit("job/steps", {})
    with broker_of(jobs) as client:
        (message,) = client.lrange("celery", 0, -1)
        client.lpush("celery", *[message] * 9)
    jobs.worker(concurrency=4)
    assert emission.runs[0].get(timeout=30) == ["a", "b", "c"]
    with broker_of(jobs) as client:
        wait_until(lambda: not client.llen("celery") and not client.hlen("unacked"))
    assert jobs.counts() == {"body": 1, "a": 1, "b": 1, "c": 1}
    jobs.check()


def test_a_short_visibility_timeout(jobs: Jobs, bounded: bool) -> None:
    """Redis gives the message to others while the first is still at work: nothing runs twice."""
    jobs.conf["transport"] = {"visibility_timeout": 3, "unacked_restore_interval": 1}
    jobs.conf["fanout_lease"] = 4
    for _ in range(2):
        jobs.worker(concurrency=2)
    run = jobs.emit("job/slow", {"seconds": 3 if bounded else 12}).runs[0]
    assert run.get(timeout=60) == ["a", "b"]
    assert jobs.counts() == {"a": 1, "b": 1}
    assert jobs.check() == {S.SUCCEEDED: 1}


def test_a_message_that_is_lost(jobs: Jobs) -> None:
    lost = jobs.emit("job/steps", {}).runs[0]
    with broker_of(jobs) as client:
        client.delete("celery")
    jobs.worker()
    assert lost.get(timeout=30) == ["a", "b", "c"]
    assert jobs.counts()["body"] == 1
    jobs.check()


def test_an_emitter_that_dies_before_it_has_published(jobs: Jobs) -> None:
    code = (
        "from tests.faults.jobs import app; from celery_fanout import emit; "
        "emit('job/steps', {}, id='e-1', app=app)"
    )
    env = jobs.environment(CELERY_FANOUT_FAILPOINTS="emit.after_record=exit@1")
    process = subprocess.run(
        [sys.executable, "-c", code], env={**env, "PYTHONPATH": str(ROOT)}, check=False, timeout=60
    )
    assert process.returncode == 1
    assert jobs.ledger.counts()[S.PENDING] == 1
    jobs.worker()
    assert jobs.check() == {S.SUCCEEDED: 1}
    repeated = jobs.emit("job/steps", {}, id="e-1")
    assert repeated.runs[0].get(timeout=5) == ["a", "b", "c"]
    assert jobs.counts()["body"] == 1


def test_a_worker_without_the_code_puts_the_run_back(jobs: Jobs, bounded: bool) -> None:
    old = jobs.worker(JOBS_VERSION="old")
    run = jobs.emit("job/new", {}).runs[0]
    old.wait_for_log("is put back: this worker does not know its task")
    if bounded:
        old.stop()  # or it may get it again, and again
    jobs.worker()
    assert run.get(timeout=60) == "new"
    assert jobs.counts() == {"body": 1}
    jobs.check()


def test_the_broker_is_down_while_events_are_emitted(jobs: Jobs) -> None:
    with RabbitServer() as rabbit:
        jobs.broker = rabbit.url()
        jobs.conf["fanout_publish_timeout"] = 2
        worker = jobs.worker()
        rabbit.kill()
        begun = time.monotonic()
        runs = [jobs.emit("job/steps", {}).runs[0] for _ in range(3)]  # the ledger has them
        assert time.monotonic() - begun < 15
        rabbit.start()
        assert [run.get(timeout=60) for run in runs] == [["a", "b", "c"]] * 3
        assert jobs.counts()["body"] == 3
        jobs.check()
        worker.kill()
        jobs.app.close()


@pytest.mark.parametrize("jobs", ["redis", "rabbit"], indirect=True)
def test_sleeping_runs_hold_no_worker(jobs: Jobs) -> None:
    jobs.worker(concurrency=1)
    naps = [jobs.emit("job/nap", {"seconds": 3}).runs[0] for _ in range(20)]
    wait_until(lambda: jobs.ledger.counts()[S.SUSPENDED] == 20)
    assert jobs.emit("job/steps", {}).runs[0].get(timeout=10) == ["a", "b", "c"]
    assert [run.get(timeout=30) for run in naps] == ["a"] * 20
    jobs.check()


def test_cancelling_races_with_working(jobs: Jobs, bounded: bool) -> None:
    from celery_fanout import get_fanout
    from celery_fanout.exceptions import WrongState

    jobs.worker(concurrency=2)
    control = get_fanout(jobs.app).runs
    number = 100 if bounded else 1000
    runs = [jobs.emit("job/steps", {}).runs[0].id for _ in range(number)]
    cancelled = 0
    for run_id in runs:
        with suppress(WrongState):
            control.cancel(run_id, "race")
            cancelled += 1
    found = jobs.check()
    assert found.get(S.CANCELLED, 0) == cancelled
    assert sum(found.values()) == number


def test_a_producer_without_the_subscribers_module(jobs: Jobs) -> None:
    """Who subscribes is what the process that emits has imported. One that knows nobody says so."""
    code = (
        "import logging; from celery import Celery; from celery_fanout import emit; "
        "logging.basicConfig(level=logging.INFO); "
        f"app = Celery('bare', broker={jobs.broker!r}, backend={jobs.store.url()!r}); "
        "emission = emit('job/steps', {}, id='e-1', app=app); print(len(emission.runs), 'runs')"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    bare = subprocess.run(
        [sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True
    )
    assert bare.stdout == "0 runs\n"
    assert "Event job/steps[e-1] has no subscriber" in bare.stderr
    found = subprocess.run(
        [sys.executable, "-m", "celery", "-b", jobs.broker, "--result-backend", jobs.store.url(),
         *("fanout", "check", "--fail-on", "warning")],
        env=env, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode == 1
    assert "fanout.W001  No task of this app subscribes to an event." in found.stdout
    # the event is kept, so a process that knows the subscriber can deliver it
    jobs.worker()
    (run,) = get_fanout(jobs.app).runs.replay("e-1", name="job/steps")
    assert jobs.check() == {S.SUCCEEDED: 1}
    assert jobs.counts(run) == {"body": 1, "a": 1, "b": 1, "c": 1}
