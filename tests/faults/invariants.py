"""What must hold whatever broke: section by section what ``docs/explanation`` promises.

Held against the oracle, a file outside of the system to which the tasks append and sync.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from celery_fanout.model.ids import event_key
from celery_fanout.stores.states import FINAL, RunState
from tests.leaks import check_ledger
from tests.processes import wait_until

if TYPE_CHECKING:
    from celery_fanout.stores.records import RunRecord
    from tests.faults.conftest import Jobs

__all__ = ["at_rest", "check_invariants"]

EVERYTHING = 1_000_000

#: Steps in the order in which a body calls them.
STEPS = ("a", "b", "c")


def check_invariants(
    jobs: Jobs,
    *,
    timeout: float = 60,
    attempts: int = 20,
    known: bool = True,
    revive: bool = False,
) -> dict[RunState, int]:
    """Wait until nothing is under way, and check what then holds.

    Args:
        jobs: the app.
        timeout: how long that may take, in seconds.
        attempts: how often a run may have been executed at most.
        known: whether all that was emitted is in the ledger still: not if a test has it lost.
        revive: see :func:`at_rest`.

    Returns:
        How many runs are in which state.
    """
    counts = at_rest(jobs, timeout, revive=revive)  # nothing is stuck
    runs = {run.id: run for run in jobs.ledger.runs(limit=EVERYTHING)}
    records = jobs.oracle.read()
    if known:
        _delivered(jobs, runs, records)
    _accounted(runs, counts)
    _bounded(runs, attempts)
    _once(runs)
    check_steps(records)
    with jobs.store.client() as client:
        check_ledger(client)  # no key without an expiry, and no index that contradicts a record
    return counts


def at_rest(jobs: Jobs, timeout: float = 60, *, revive: bool = False) -> dict[RunState, int]:
    """Wait until every run is final, and return how many are in which state.

    Args:
        jobs: the app.
        timeout: how long that may take, in seconds.
        revive: whether to start workers again that have ended by themselves, as whatever watches
            over them does.
    """

    def found() -> dict[RunState, int] | None:
        if revive:
            jobs.revive()
        counts = {state: count for state, count in jobs.ledger.counts().items() if count}
        return counts if set(counts) <= FINAL else None

    return wait_until(found, timeout, lambda: f"not at rest: {jobs.ledger.counts()}") or {}


def _delivered(jobs: Jobs, runs: dict[str, RunRecord], records: list[dict[str, Any]]) -> None:
    """Every event that was accepted has one run per subscriber, and each of them was executed.

    One whose ``emit()`` raised has all of its runs or none.
    """
    accepted = {
        event_key(emission.event.name, emission.event.id): {run.id for run in emission.runs}
        for emission in jobs.emissions
    }
    accepted |= {r["event"]: set(r["runs"]) for r in records if r["what"] == "emitted"}
    for key, expected in accepted.items():
        event = jobs.ledger.event(key)
        assert event is not None, f"event {key} is lost"
        assert set(event.runs) == expected, key
        assert expected <= runs.keys(), f"event {key} has lost runs"
    refused = {r["event"] for r in records if r["what"] == "refused"} | jobs.refused
    for key in refused - accepted.keys():
        event = jobs.ledger.event(key)
        assert event is None or set(event.runs) <= runs.keys(), key
    executed = {r["run"] for r in records if "run" in r}
    for run in runs.values():
        if run.state is RunState.SUCCEEDED:
            assert run.id in executed, f"{run.id} has succeeded, and nobody has executed it"


def _accounted(runs: dict[str, RunRecord], counts: dict[RunState, int]) -> None:
    """The sums are right, and a dead letter says why it is one."""
    assert Counter(run.state for run in runs.values()) == counts
    for run in runs.values():
        if run.state is RunState.FAILED:
            assert run.reason, run


def _bounded(runs: dict[str, RunRecord], attempts: int) -> None:
    for run in runs.values():
        assert run.token <= attempts, f"{run.id} was executed {run.token} times"


def _once(runs: dict[str, RunRecord]) -> None:
    """A run of one generation reaches a final state once."""
    for run in runs.values():
        assert not run.reopened, run
        assert run.finished is not None, run
        assert run.worker == "", f"{run.id} has ended, and a worker holds it"


def check_steps(records: list[dict[str, Any]]) -> None:
    """A step whose result was stored never began again.

    The next step begins only after the result of the one before was stored. So by the order in
    which the steps of a run began, none may come after a later one.
    """
    reached: dict[str, str] = {}
    for record in records:
        if record["what"] in STEPS:
            assert record["what"] >= reached.get(record["run"], "a"), record
            reached[record["run"]] = record["what"]
