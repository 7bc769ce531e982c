"""One key with a great many waiting runs, and many keys with few: the few do not wait for the many.

How long somebody waits is measured in runs that were let go before. That is exact, and the same on
every machine.
"""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from celery_fanout.stores.states import RunState
from tests.faults.intervals import by_key
from tests.faults.limiting import Limits, open_limits

S = RunState

#: What the median wait of the small ones may become because of the big one.
TWICE = 2.0

#: How many have few.
KEYS = 99


def few(keys: int, each: int) -> list[dict[str, Any]]:
    """Return the data of the small ones' events, in turns."""
    return [{"key": f"small-{n % keys}"} for n in range(keys * each)]


def many(limits: Limits, name: str, number: int) -> None:
    """Emit the big one's events."""
    for first in range(0, number, 1_000):
        limits.emit_many(name, [{"key": "big"}] * min(number - first, 1_000))


def let_go(limits: Limits, wanted: set[str]) -> list[str]:
    """Execute what the ledger lets go, in place of workers, until all that is wanted has been.

    Returns:
        The ids of the runs in the order in which they were let go.
    """
    ledger = limits.ledger
    free = [*ledger.runs(state=S.PENDING, limit=100), *ledger.runs(state=S.PUBLISHED, limit=100)]
    order = [run.id for run in sorted(free, key=lambda run: run.created)]
    waiting, left = deque(order), wanted - set(order)
    while left:
        run_id = waiting.popleft()
        claim = ledger.claim(run_id, "boot", run_id)
        assert claim.status == "claimed", (run_id, claim)
        woken = ledger.settle(run_id, claim.token, S.SUCCEEDED, result="null").woken
        taken = [wakeup.run_id for wakeup in ledger.take(woken).wakeups] if woken else []
        ledger.mark_published(taken)
        order += taken
        waiting += taken
        left -= set(taken)
    return order


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["fair/tenant", "lanes/tenant"])
def test_keys_take_turns(tmp_path: Path, bounded: bool, name: str) -> None:
    """Where each key has a limit of its own as well, and where all wait for the one they share."""
    each, most = (5, 5_000) if bounded else (10, 50_000)
    waits: dict[str, float] = {}
    with open_limits(tmp_path) as limits:
        for case, big in (("alone", 0), ("beside the big one", most)):
            limits.store.flush()
            many(limits, name, big)
            begun = time.monotonic()
            emissions = limits.emit_many(name, few(KEYS, each))
            small = {emission.runs[0].id for emission in emissions}
            order = let_go(limits, small)
            waits[case] = median(n for n, run_id in enumerate(order) if run_id in small)
            seconds = time.monotonic() - begun
            print(  # noqa: T201 - make test-faults ARGS=-s shows it
                f"{name}, {case}: median wait of {len(small)} runs {waits[case]} starts; the last "
                f"after {len(order)}; {1000 * seconds / len(order):.2f} ms each"
            )
    assert waits["beside the big one"] <= TWICE * waits["alone"], waits


def test_keys_take_turns_with_workers(tmp_path: Path, bounded: bool) -> None:
    """The same with real workers, by the order in which the tasks began."""
    keys, each, big = (9, 5, 150) if bounded else (49, 10, 5_000)
    waits: dict[str, float] = {}
    with open_limits(tmp_path) as limits:
        limits.start_workers()
        for case, number in (("alone", 0), ("beside the big one", big)):
            if number:
                many(limits, "fair/tenant", number)
            since = time.monotonic()
            emissions = limits.emit_many("fair/tenant", few(keys, each))
            limits.watch()
            small = {emission.runs[0].id for emission in emissions}
            later = [run for run in limits.executions("fair") if run.begun >= since]
            waits[case] = median(n for n, run in enumerate(later) if run.run in small)
            print(f"{case}: median wait of {len(small)} runs {waits[case]} starts")  # noqa: T201 - ARGS=-s shows it
        assert len(by_key(limits.executions("fair"))) == keys + 1
        assert limits.check() == {S.SUCCEEDED: 2 * keys * each + big}
    assert waits["beside the big one"] <= TWICE * waits["alone"], waits
