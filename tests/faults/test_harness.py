"""That the harness works where nothing goes wrong, and sees what does."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.harness import Faults
from tests.faults.invariants import History


@pytest.mark.parametrize("faults", ["one", "redis", "rabbit"], indirect=True)
def test_nothing_goes_wrong(faults: Faults) -> None:
    faults.worker()
    faults.emit("one", {})
    faults.emit("late", {"fails": 2})
    faults.emit("three", {"sleeps": 0.1})
    faults.emit("tail", {})
    faults.emit("spread", {})
    faults.emit("wait", {"id": 1})
    faults.wait_for("read", sub="wait@fault/wait")
    faults.emit("answer", {"id": 1})
    producer = faults.producer("one", 3)
    assert producer.wait(60) == 0
    faults.check_succeeded()
    # one, late, three, tail with two links, spread with three items and a call, wait, the producer
    assert faults.states() == {"succeeded": 1 + 1 + 3 + 3 + 5 + 1 + 3}
    assert len(faults.records("failed")) == 2


def test_the_oracle_sees_what_is_wrong(faults: Faults) -> None:
    faults.worker(pool="solo")
    run = faults.emit("one", {}).runs[0].id
    history = faults.check_succeeded()
    records = list(history.records)

    def after(*more: dict[str, Any]) -> list[str]:
        return list(History([*records, *more], faults.ledger).violations())

    step: dict[str, Any] = {"run": run, "step": "s0"}
    assert after() == []
    assert after({"what": "step", **step}) == [f"3: step s0 of run {run} began again"]
    assert after({"what": "read", **step, "value": "other"}) == [
        f"3: step s0 of run {run} has two values"
    ]
    assert after({"what": "begin", "run": run}) == [f"7: run {run} began 2 times, with 1 claims"]
    assert after({"what": "end", "run": "phantom"}) == [
        "2: run phantom began, and the ledger does not know it"
    ]
    assert after({"what": "emitted", "name": "fault/one", "event": "lost", "runs": ["gone"]}) == [
        "1: the event lost was accepted, and is gone",
        "1: run gone of an accepted event is gone",
    ]
