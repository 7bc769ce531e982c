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

from celery_fanout.stores.flow import GateRecord
from celery_fanout.stores.states import RunState
from tests.faults.intervals import ahead, by_key, most_at_once, spans
from tests.faults.invariants import at_rest
from tests.faults.limiting import ALL, Limits, open_limits
from tests.faults.limits import KILLED_AT_ONCE, KILLED_STARTS, LEASE, PER_KEY
from tests.processes import wait_until

S = RunState


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("fast", [False, True], ids=["stock", "fast"])
def test_workers_are_killed_and_limits_hold(
    tmp_path: Path, chance: random.Random, bounded: bool, fast: bool
) -> None:
    """Every two seconds one of four workers, parent and children, under a backlog."""
    rounds, kills = (60, 3) if bounded else (200, 15)  # events of each name, for each kill
    with open_limits(tmp_path, appendonly=True) as limits:
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
            limits.kill(victim)
            victim.start()
            wait_until(lambda begun=begun: look(limits, seen) and time.monotonic() - begun > 2)
        last = time.monotonic()
        at_rest(limits, timeout=600, revive=True)
        waited = time.monotonic() - last
        assert limits.check(attempts=4 * kills) == {S.SUCCEEDED: 3 * rounds * kills}
        check_limits(limits, since)
        assert any(record.waiting for record in seen), "there was no backlog"
        for record in seen:
            assert record.kind == "throttle" or record.used <= record.at_most, record
        found = limits.executions()
        killed = sum(execution.killed for execution in found)
        assert killed, "nothing was killed"
        print(  # noqa: T201 - make test-faults ARGS=-s shows it
            f"{3 * rounds * kills} runs, {kills} kills: {len(found)} executions, {killed} of them "
            f"killed, at rest {waited:.1f} s after the last ({waited / LEASE:.1f} leases)"
        )


def emit_some(limits: Limits, numbers: range) -> None:
    """Emit events for each of the three subscribers."""
    for name, keys in (
        ("killed/keyed", "abcde"),
        ("killed/queue", "vwxyz"),
        ("killed/throttle", "-"),
    ):
        limits.emit_many(
            name, ({"n": n, "key": keys[n // 12 % len(keys)], "seconds": 0.01} for n in numbers)
        )


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
