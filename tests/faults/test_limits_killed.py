"""Workers are killed while limited runs are executed, leave, fail and wait.

The rule: a run has its place until the ledger knows better. The place of one whose worker is dead
returns with its lease, and until then nobody else has it: the run itself is begun again in it. So
an execution that was killed counts until its kill, and never are more at once than the limit says.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from celery_fanout.stores.limits import GateRecord
from celery_fanout.stores.states import RunState
from tests.faults.intervals import ahead, by_key, most_at_once, spans
from tests.faults.invariants import at_rest
from tests.faults.limiting import ALL, Limits, open_limits
from tests.faults.limits import KILLED_AT_ONCE, KILLED_STARTS, LEASE, PER_KEY
from tests.processes import family_of, wait_until
from tests.servers import Worker

S = RunState


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("where", ["redis", "rabbit", "fast"])
def test_workers_are_killed_and_limits_hold(
    tmp_path: Path,
    chance: random.Random,
    request: pytest.FixtureRequest,
    bounded: bool,
    where: str,
) -> None:
    """Every two seconds one of four workers, parent and children, under a backlog."""
    fast = where == "fast"
    broker = request.getfixturevalue("rabbit_url") if where == "rabbit" else ""
    rounds, kills = (16, 3) if bounded else (30, 30)  # events of each name, for each kill
    with open_limits(tmp_path, broker=broker, appendonly=True) as limits:
        limits.conf["fanout_max_crashes"] = 50  # what is killed at random is no poison
        if fast:
            limits.conf["fanout_queue"] = "fanout"
        workers = limits.start_workers(fast=fast)
        since = time.monotonic()
        seen: list[GateRecord] = []
        for kill in range(kills):
            begun = time.monotonic()
            emit_some(limits, range(kill * rounds, (kill + 1) * rounds))
            victim = chance.choice(workers)
            wait_until(lambda victim=victim: is_busy(limits, victim))
            limits.kill(victim)
            victim.start()
            wait_until(lambda begun=begun: look(limits, seen) and time.monotonic() - begun > 2)
        last = time.monotonic()
        at_rest(limits, timeout=600, revive=True)
        waited = time.monotonic() - last
        assert limits.check(attempts=4 * kills) == {S.SUCCEEDED: len(limits.emissions)}
        check_limits(limits, since)
        assert any(record.waiting for record in seen), "there was no backlog"
        for record in seen:
            assert record.kind == "throttle" or record.used <= record.at_most, record
        found = limits.executions()
        killed = sum(execution.killed for execution in found)
        assert killed, "nothing was killed"
        print(  # noqa: T201 - make test-faults ARGS=-s shows it
            f"{len(limits.emissions)} runs, {kills} kills: {len(found)} executions, {killed} of "
            f"them killed, at rest {waited:.1f} s after the last ({waited / LEASE:.1f} leases)"
        )


def emit_some(limits: Limits, numbers: range) -> None:
    """Emit events for each of the three subscribers."""
    for name, keys, some in (
        ("killed/keyed", "abcde", numbers),
        ("killed/throttle", "-", numbers),
        ("killed/queue", "vwxyz", numbers[::2]),  # one after the other: they take longest
    ):
        limits.emit_many(
            name, ({"n": n, "key": keys[n // 12 % len(keys)], "seconds": 0.1} for n in some)
        )


def is_busy(limits: Limits, worker: Worker) -> bool:
    """Say whether a worker executes something now."""
    pids, ended = family_of(worker.pid), set()
    for record in reversed(limits.oracle.read()):
        if record["what"] == "end":
            ended.add(record["x"])
        elif record["what"] == "begin" and record["pid"] in pids and record["x"] not in ended:
            return True
    return False


def look(limits: Limits, seen: list[GateRecord]) -> bool:
    """Note what the ledger says about all gates."""
    seen.extend(limits.ledger.gates(most=ALL))
    return True


def check_limits(limits: Limits, since: float) -> None:
    """No limit was exceeded, by what the tasks wrote down."""
    for key, each in by_key(limits.executions("killed.keyed")).items():
        assert most_at_once(each) <= PER_KEY, key
    shared = limits.executions("killed.keyed", "killed.throttle")
    assert most_at_once(shared) == KILLED_AT_ONCE
    for key, each in by_key(limits.executions("killed.queue")).items():
        # its place is the run's own while it is suspended, retrying, or waits for its lease to end
        assert most_at_once(spans(each)) == 1, key
    starts = [run.begun for run in spans(limits.executions("killed.throttle"))]
    assert ahead(starts, since, KILLED_STARTS, 1) <= 0
