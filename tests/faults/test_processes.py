"""Processes that die: in a step, after it, at the end of a run, alone and all together."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from celery_fanout.stores.states import RunState
from tests.faults.harness import LEASE, Faults
from tests.processes import wait_until
from tests.servers import Worker

all_brokers = pytest.mark.parametrize("faults", ["one", "redis", "rabbit"], indirect=True)

#: Where a process can die, and how often each of three steps is executed then: once more only if
#: its result was not stored.
PLACES = {
    "claim.after@1": {"s0": 1, "s1": 1, "s2": 1},
    "step.before_store@1": {"s0": 2, "s1": 1, "s2": 1},
    "step.after_store@1": {"s0": 1, "s1": 1, "s2": 1},
    "step.before_store@2": {"s0": 1, "s1": 2, "s2": 1},
    "step.after_store@3": {"s0": 1, "s1": 1, "s2": 1},
    "settle.before@1": {"s0": 1, "s1": 1, "s2": 1},
    "settle.after@1": {"s0": 1, "s1": 1, "s2": 1},
}


def failpoint(place: str, action: str) -> str:
    name, _, number = place.partition("@")
    return f"{name}={action}@{number}"


# --- F1, F2, F3: one process -----------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_a_child_is_killed(faults: Faults, place: str) -> None:
    """F1, F2, F3. Its main process tells the ledger, so nobody waits for the lease."""
    faults.conf["fanout_lease"] = 60
    faults.worker(failpoints=failpoint(place, "kill"))
    run = faults.emit("one").runs[0].id
    faults.check_succeeded(20)
    assert faults.passed(place.partition("@")[0]) >= 1
    assert faults.counts() == PLACES[place]
    assert faults.run(run).crashes == (0 if place == "settle.after@1" else 1)


@pytest.mark.parametrize("action", ["exit", "raise"])
@pytest.mark.parametrize("place", ["step.before_store@2", "step.after_store@2"])
def test_a_child_ends_or_loses_its_connection(faults: Faults, place: str, action: str) -> None:
    faults.worker(failpoints=failpoint(place, action), conf={"task_acks_late": True})
    faults.emit("one")
    history = faults.check()
    if action == "exit":
        assert set(faults.states()) == {"succeeded"}
    else:  # the step has raised, and nobody retries it
        (run,) = history.runs.values()
        assert run.state is RunState.FAILED
        assert faults.run(run.id).detail["error"]["type"] == "ConnectionError"


@all_brokers
@pytest.mark.parametrize("place", ["step.before_store@2", "settle.before@1", "settle.after@1"])
@pytest.mark.parametrize("pool", ["solo", "threads", "gevent", "prefork"])
def test_a_whole_worker_is_killed(faults: Faults, pool: str, place: str) -> None:
    """Another worker takes over when the lease is over, without any help of the broker."""
    first = faults.worker(pool, failpoints=failpoint(place, "killworker"))
    faults.emit("one")
    wait_until(lambda: not first.alive)
    faults.worker(pool)
    faults.check_succeeded(10 * LEASE)
    assert faults.counts() == PLACES[place]


@all_brokers
def test_only_the_main_process_is_killed(faults: Faults) -> None:
    """Its children go on with what they have, and lose it if that takes longer than the lease."""
    first = faults.worker(concurrency=1)
    emission = faults.emit("one", {"hold": "s1"})
    faults.wait_for("step", step="s1")
    os.kill(first.pid, signal.SIGKILL)
    faults.worker(concurrency=1)
    faults.wait_for("step", 2, step="s1")
    faults.open("s1")
    faults.check_succeeded(zombies=True)
    assert faults.run(emission.runs[0].id).crashes == 1
    assert faults.counts()["s2"] <= 2


@pytest.mark.parametrize("place", ["tail.before_dispatch@1", "tail.before_dispatch@2"])
@pytest.mark.parametrize("action", ["kill", "killworker"])
def test_it_dies_before_the_tail_is_dispatched(faults: Faults, place: str, action: str) -> None:
    """F3. Each link of a tail is executed once all the same."""
    first = faults.worker(failpoints=failpoint(place, action))
    faults.emit("tail")
    if action == "killworker":
        wait_until(lambda: not first.alive)
        faults.worker()
    faults.check_succeeded()
    assert faults.states() == {"succeeded": 3}
    assert faults.counts() == {"s0": 1, "s1": 1, "s2": 1, "link": 2}


# --- F4: many workers, killed at random ------------------------------------------------------------


@all_brokers
def test_workers_are_killed_at_random(faults: Faults, bounded: bool) -> None:
    """F4. Two of three are killed at a time, again and again, while runs come in."""
    rounds, batch = (4, 15) if bounded else (20, 50)
    faults.conf.update({"fanout_max_crashes": 100, "worker_prefetch_multiplier": 4})
    workers = [faults.worker(concurrency=1) for _ in range(3)]
    for _ in range(rounds):
        for _ in range(batch):
            faults.emit("three", {"fails": faults.rng.choice([0, 0, 0, 1]), "takes": 0.01})
        goal = time.monotonic() + faults.rng.uniform(0, 1.5)
        wait_until(lambda goal=goal: time.monotonic() > goal)  # type: ignore[misc]
        dying = faults.rng.sample(range(3), 2)
        for index in dying:
            workers[index].kill()
        for index in dying:
            workers[index].start()
    faults.check_succeeded(120)
    assert faults.states() == {"succeeded": rounds * batch * 3}


# --- F5: workers that are asked to end -------------------------------------------------------------


@all_brokers
@pytest.mark.parametrize(
    ("number", "conf"),
    [
        (signal.SIGTERM, {}),
        (signal.SIGQUIT, {}),
        (signal.SIGQUIT, {"worker_soft_shutdown_timeout": 2}),
    ],
    ids=["warm", "cold", "soft"],
)
def test_a_worker_is_stopped(faults: Faults, number: int, conf: dict[str, Any]) -> None:
    """F5. What it executes ends, or goes on elsewhere; what it only has received, at once."""
    faults.conf.update({"worker_prefetch_multiplier": 4, "fanout_lease": 4, **conf})
    first = faults.worker(concurrency=1)
    for _ in range(4):
        faults.emit("one", {"takes": 0.3})
    faults.wait_for("step", step="s1")
    os.kill(first.pid, number)
    wait_until(lambda: not first.alive)
    faults.worker(concurrency=1)
    history = faults.check_succeeded()
    assert max(run.crashes for run in history.runs.values()) == 0
    if number == signal.SIGTERM:
        assert faults.counts() == {"s0": 4, "s1": 4, "s2": 4}


def test_a_worker_that_is_stopped_lets_go_at_once(faults: Faults) -> None:
    """F5. Nobody waits for the leases of what it had received and not begun."""
    faults.conf.update({"worker_prefetch_multiplier": 8, "fanout_lease": 60})
    first = faults.worker(concurrency=1)
    for _ in range(4):
        faults.emit("one", {"hold": "s0"})
    faults.wait_for("step")
    os.kill(first.pid, signal.SIGTERM)
    first.wait_for_log("Warm shutdown")
    faults.open("s0")
    wait_until(lambda: not first.alive)
    faults.worker()
    faults.check_succeeded(20)


# --- F18: runs that kill who executes them ---------------------------------------------------------


@pytest.mark.parametrize("how", ["kill", "exit", "segv"])
@pytest.mark.parametrize("name", ["one", "late"])
def test_a_poisoned_run_becomes_a_dead_letter(faults: Faults, how: str, name: str) -> None:
    """F18. After three deaths, with its steps, and others are not disturbed."""
    faults.worker()
    poisoned = faults.emit(name, {"dies": 100, "how": how}).runs[0].id
    others = [faults.emit("one").runs[0].id for _ in range(5)]
    faults.check()
    run = faults.run(poisoned)
    assert (run.state, run.reason, run.crashes) == (RunState.FAILED, "crashed", 3)
    assert run.detail["error"]["type"] == "WorkerCrashed"
    assert len(faults.records("died")) == 3
    assert len(faults.records("step", run=poisoned, step="s0")) == 1
    assert {faults.run(other).state for other in others} == {RunState.SUCCEEDED}


def test_a_dead_letter_is_told_of_and_can_be_retried(faults: Faults) -> None:
    faults.worker()
    run_id = faults.emit("dead", {"dies": 3}).runs[0].id
    faults.check()
    faults.wait_for("told")
    (told,) = faults.records("told")
    assert (told["failed"], told["error"]["type"]) == (run_id, "WorkerCrashed")
    from celery_fanout import get_fanout

    get_fanout(faults.app).runs.retry(run_id)
    faults.check()
    run = faults.run(run_id)
    assert (run.state, run.reopened, run.crashes) == (RunState.SUCCEEDED, 1, 0)
    assert faults.counts() == {"s0": 1, "s1": 4, "s2": 1}


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_a_run_that_kills_whole_workers(faults: Faults, pool: str) -> None:
    """F18. There a death is that of the worker; a supervisor starts it again."""
    worker: Worker = faults.worker(pool)
    run_id = faults.emit("one", {"dies": 100}).runs[0].id
    for count in (1, 2, 3):
        wait_until(lambda: not worker.alive)
        worker.kill()
        worker.start()
        wait_until(lambda count=count: faults.run(run_id).crashes == count)  # type: ignore[misc]
    faults.check()
    assert faults.run(run_id).reason == "crashed"
