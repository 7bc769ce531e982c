"""Code changes while runs are under way: the new code meets what the old code has stored.

The rule, see docs/explanation/living-with-code-changes.md: what is stored is found by the id of the
step, wherever that is called now.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from celery_fanout import emit
from celery_fanout.stores.states import RunState
from tests.faults import deploys
from tests.faults.conftest import Jobs
from tests.processes import wait_until

S = RunState

APP = "tests.faults.deploys"


@pytest.fixture
def deployed(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    """The jobs, emitting as the app of ``deploys.py`` does."""
    monkeypatch.setenv("JOBS_BROKER", jobs.broker)
    monkeypatch.setenv("JOBS_STORE", jobs.store.url())
    jobs._app = deploys.make_app()
    return jobs


def suspended_run(jobs: Jobs) -> Any:
    """Return the handle of a run of version A that has stored two steps, and waits."""
    old = jobs.worker(app=APP, concurrency=1, DEPLOYED="A")
    run = jobs.emit("deploy/began", {}).runs[0]
    wait_until(lambda: jobs.run(run.id).state is S.SUSPENDED)
    old.stop()
    return run


@pytest.mark.parametrize(
    ("version", "returns", "began"),
    [
        ("renamed", ["a", "b2", "c"], {"a": 1, "b": 1, "b2": 1, "c": 1}),
        ("inserted", ["a", "x", "b", "c"], {"a": 1, "b": 1, "x": 1, "c": 1}),
        ("removed", ["a", "c"], {"a": 1, "b": 1, "c": 1}),
        ("reordered", ["b", "a", "c"], {"a": 1, "b": 1, "c": 1}),
        # events since the run began count: the new wait finds the one that the old waited for
        ("another wait", ["a", "b", "c"], {"a": 1, "b": 1, "c": 1}),
        ("no wait", ["a", "b", "c"], {"a": 1, "b": 1, "c": 1}),
        ("typed", ["a", "b", "c"], {"a": 1, "b": 1, "c": 1}),
    ],
)
def test_a_deploy_while_a_run_waits(
    deployed: Jobs, version: str, returns: list[str], began: dict[str, int]
) -> None:
    run = suspended_run(deployed)
    new = deployed.worker(app=APP, concurrency=1, DEPLOYED=version)
    emit("deploy/done", {}, app=deployed.app)
    assert run.get(timeout=30) == returns
    counts = deployed.counts(run.id)
    del counts["body"]
    assert counts == began
    assert deployed.run(run.id).crashes == 0
    assert deployed.run(run.id).retries == 0
    assert deployed.check(attempts=3) == {S.SUCCEEDED: 1}
    if version == "typed":
        assert "StepValueWarning" in new.log
    assert new.alive


def test_a_step_becomes_a_wait_and_a_wait_a_step(deployed: Jobs) -> None:
    """Whatever that gives, it ends, and the worker lives."""
    run = suspended_run(deployed)
    new = deployed.worker(app=APP, concurrency=1, DEPLOYED="another kind")
    emit("deploy/done", {}, app=deployed.app)
    counts = deployed.check(attempts=3)
    assert set(counts) <= {S.SUCCEEDED, S.FAILED}
    assert deployed.run(run.id).crashes == 0
    assert new.alive


def test_old_and_new_code_side_by_side(deployed: Jobs, bounded: bool) -> None:
    """A rolling deploy: a run may meet either, in any order."""
    number = 20 if bounded else 200
    workers = [
        deployed.worker(app=APP, concurrency=1, DEPLOYED=version)
        for version in ("A", "inserted", "reordered")
    ]
    runs = [deployed.emit("deploy/began", {}).runs[0] for _ in range(number)]
    wait_until(lambda: deployed.ledger.counts()[S.SUSPENDED] == number)
    emit("deploy/done", {}, app=deployed.app)
    for run in runs:
        assert sorted(run.get(timeout=60)) in (["a", "b", "c"], ["a", "b", "c", "x"])
        counts = deployed.counts(run.id)
        assert (counts["a"], counts["b"], counts["c"], counts.get("x", 0)) in (
            (1, 1, 1, 0),
            (1, 1, 1, 1),
        )
    assert all(worker.alive for worker in workers)
