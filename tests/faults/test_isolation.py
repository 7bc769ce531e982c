"""A subscriber that is slow, fails, kills its worker or is held back, and what the others notice.

Latencies are compared with those of the same events in the same minute, without the neighbour. A
machine that others use is noisy, so the best of some rounds counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest

from celery_fanout import emit_many, get_fanout
from celery_fanout.stores.states import RunState
from tests.faults.conftest import Jobs
from tests.faults.jobs import LIMIT
from tests.faults.limiting import Limits, open_limits
from tests.processes import wait_until

S = RunState

PROBES, ROUNDS = 10, 5

#: What the latency may become in the worst case.
TWICE = 2.0


def latency(jobs: Jobs) -> float:
    """Emit an event, and return how long it takes until its last step has begun."""
    begun = time.time()
    run = jobs.emit("job/steps", {}).runs[0]
    run.get(timeout=60)
    return max(r["t"] for r in jobs.oracle.read() if r.get("run") == run.id) - begun


def ratios(jobs: Jobs, disturb: Callable[[int], object], probes: int, rounds: int) -> list[float]:
    """Return how much longer it takes with a neighbour, until a round shows no more than twice."""
    found: list[float] = []
    for _ in range(rounds):
        quiet, noisy = [], []
        for probe in range(probes):
            quiet.append(latency(jobs))
            disturb(probe)
            noisy.append(latency(jobs))
            wait_until(lambda: not jobs.ledger.counts()[S.RUNNING], 60)
        found.append(median(noisy) / median(quiet))
        if found[-1] <= TWICE:
            break
    return found


def test_slow_failing_and_poisoned_neighbours(jobs: Jobs, bounded: bool) -> None:
    """Where there are processes left for the others, they hardly notice."""
    jobs.worker(concurrency=4)

    def disturb(probe: int) -> None:
        jobs.emit("job/slow", {"seconds": 0.2})
        jobs.emit("job/bad", {"what": "two arguments"})
        if probe % 5 == 0:
            jobs.emit("job/poison", {})

    latency(jobs)
    probes, rounds = (5, 1) if bounded else (PROBES, ROUNDS)
    found = ratios(jobs, disturb, probes, rounds)
    assert bounded or found[-1] <= TWICE, found  # whoever shares a machine's cores shares latency
    counts = jobs.check(timeout=120)
    assert counts == {S.SUCCEEDED: len(found) * 3 * probes + 1, S.FAILED: counts[S.FAILED]}
    assert counts[S.FAILED] == len(found) * (probes + probes // 5)
    ids = [e.runs[0].id for e in jobs.emissions if e.event.name == "job/steps"]
    assert {jobs.run(run).crashes for run in ids} == {0}


def cancel_the_rest(jobs: Jobs, number: int) -> int:
    """Cancel the limited runs that are left, and return how many were."""
    control = get_fanout(jobs.app).runs
    left = control.select(state=[S.PENDING, S.PUBLISHED], name="job/limited", limit=number)
    bulk = control.cancel_many([run.id for run in left], "enough", limit=number)
    return len(bulk.changed)


def limited(jobs: Jobs) -> list[float]:
    """Return when limited runs began."""
    return sorted(r["t"] for r in jobs.oracle.read() if r["what"] == "limited")


def test_a_limited_subscriber_with_a_queue_of_its_own(jobs: Jobs, bounded: bool) -> None:
    """Its backlog goes at Celery's rate limit, and the others do not notice."""
    backlog = 2_000 if bounded else 10_000
    jobs.conf["task_routes"] = {"jobs.limited": {"queue": "limited"}}
    jobs.worker(concurrency=2)
    jobs.worker(concurrency=4, queues="limited")
    quiet = [latency(jobs) for _ in range(PROBES)]
    jobs.emissions += emit_many([("job/limited", {})] * backlog, app=jobs.app)
    wait_until(lambda: len(limited(jobs)) >= LIMIT)
    found = [median(latency(jobs) for _ in range(PROBES)) / median(quiet)]
    while not bounded and found[-1] > TWICE and len(found) < ROUNDS:
        found.append(median(latency(jobs) for _ in range(PROBES)) / median(quiet))
    assert bounded or found[-1] <= TWICE, found  # whoever shares a machine's cores shares latency
    wait_until(lambda: len(limited(jobs)) >= 4 * LIMIT)
    cancelled = cancel_the_rest(jobs, backlog)
    times = limited(jobs)
    # without the limit all that it had prefetched would have begun at once
    assert len(times) <= LIMIT * (times[-1] - times[0] + 1)
    counts = jobs.check(timeout=60)
    probes = PROBES * (1 + len(found))
    assert counts == {S.CANCELLED: cancelled, S.SUCCEEDED: backlog - cancelled + probes}


def test_a_limited_subscriber_on_the_queue_of_others(jobs: Jobs) -> None:
    """They wait for it: Celery's limit holds the messages, and a worker takes only so many.

    Nothing is lost by that. The remedy is a queue of its own, with a worker of its own.
    """
    backlog = 200
    jobs.worker(concurrency=2)
    jobs.emissions += emit_many([("job/limited", {})] * backlog, app=jobs.app)
    fast = [jobs.emit("job/steps", {}) for _ in range(5)]
    wait_until(lambda: len(limited(jobs)) >= 2 * LIMIT)
    assert "body" not in jobs.counts()
    cancel_the_rest(jobs, backlog)
    with jobs.store.client(1) as broker:
        broker.delete("celery")  # the keeper misses those that are not cancelled
    for emission in fast:
        assert emission.get(timeout=60)[0].ok
    counts = jobs.check(timeout=60)
    assert sum(counts.values()) == backlog + 5
    assert jobs.counts()["body"] == 5


# --- flow control ---------------------------------------------------------------------------------

#: By how much a throttled subscriber's backlog may change latency and throughput of the others.
TENTH = 1.1

#: How many runs there are in a measurement of throughput.
RUNS = 200


def wait_and_rate(limits: Limits) -> tuple[float, float]:
    """Return the latency of a run in seconds, the median, and how many are executed in a second."""
    waits = []
    for n in range(2 * PROBES):
        begun = time.monotonic()
        run = limits.emit("slow/beside", {"n": n}).runs[0]
        waits.append(run.get(timeout=60) - begun)
    begun = time.monotonic()
    emissions = limits.emit_many("slow/beside", [{}] * RUNS)
    last = max(emission.runs[0].get(timeout=60) for emission in emissions)
    return median(waits), RUNS / (last - begun)


def beside_a_backlog(limits: Limits, backlog: int) -> tuple[float, float]:
    """Return the same while another subscriber, with one start in a second, has a backlog."""
    waiting = [emission.runs[0].id for emission in limits.emit_many("slow/one", [{}] * backlog)]
    found = wait_and_rate(limits)
    with limits.store.client(1) as broker:
        assert broker.llen("celery") <= 2, "a run that waits has a message"
    assert limits.ledger.counts()[S.GATED] > backlog // 2
    for first in range(0, backlog, 1_000):
        limits.ledger.cancel(waiting[first : first + 1_000], "enough")
    return found


@pytest.mark.timeout(1800)
def test_a_throttled_subscriber_on_the_queue_of_others(tmp_path: Path, bounded: bool) -> None:
    """They do not notice: what waits is in the ledger, not in the broker and not in a worker.

    Measured in pairs, with its backlog and without, in turns.
    """
    backlog, pairs = (1_000, 1) if bounded else (10_000, 6)
    found: list[tuple[float, float]] = []
    with open_limits(tmp_path) as limits:
        limits.start_workers(2)
        wait_and_rate(limits)
        for _ in range(1 if bounded else ROUNDS):
            quiet, noisy = [], []
            for pair in range(pairs):
                for beside in (pair % 2 == 0, pair % 2 == 1):
                    if beside:
                        noisy.append(beside_a_backlog(limits, backlog))
                    else:
                        quiet.append(wait_and_rate(limits))
            found.append(
                (
                    median(wait for wait, _ in noisy) / median(wait for wait, _ in quiet),
                    median(rate for _, rate in quiet) / median(rate for _, rate in noisy),
                )
            )
            print(  # noqa: T201 - make test-faults ARGS=-s shows it
                f"beside a backlog of {backlog}: latency x {found[-1][0]:.2f}, "
                f"throughput / {found[-1][1]:.2f}"
            )
            if max(found[-1]) <= TENTH:
                break
        begun = sorted(run.begun for run in limits.executions("slow"))
        assert len(begun) <= 1 + begun[-1] - begun[0] + 1
        counts = limits.check(timeout=120)
        assert sum(counts.values()) == len(limits.emissions)
        assert counts[S.SUCCEEDED] == len(limits.emissions) - counts[S.CANCELLED]
    assert bounded or max(found[-1]) <= TENTH, (
        found
    )  # whoever shares a machine's cores shares latency
