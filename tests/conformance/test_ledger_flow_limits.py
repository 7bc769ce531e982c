"""Limits as people see and change them: gates, preview, tune; for every ledger."""

from __future__ import annotations

import dataclasses

import pytest

from celery_fanout.stores.limits import Flow, Gate, GateRecord, Holder, Preview, Tuned
from celery_fanout.stores.states import RunState
from tests.conformance.flows import (
    RATE,
    THROTTLE,
    WORK,
    batch,
    debounce,
    emit,
    finish,
    gate,
    once,
    one,
    place,
    rate,
    record,
    states,
    throttle,
    usage,
    waiting,
)
from tests.conformance.ledgers import RULES, Desk

S = RunState
ONE = Flow((place(1),))


# --- gates ---------------------------------------------------------------------------------------


def test_nothing_is_listed_at_first(desk: Desk) -> None:
    assert desk.ledger.gates() == []
    emit(desk, "e0", None)
    assert desk.ledger.gates() == []


def test_places_as_they_are_listed(desk: Desk) -> None:
    start = desk.clock.now
    flow = Flow((place(1, key="x"),))
    emit(desk, "e0", flow)
    desk.clock.advance(5)
    emit(desk, "e1", flow)
    desk.clock.advance(5)
    emit(desk, "e2", flow)
    assert desk.ledger.gates() == [
        GateRecord(
            Gate(WORK, "x"), "concurrency", 1, used=1, waiting=2, oldest=start + 5, next_at=None
        )
    ]
    desk.ledger.cancel(["e1-a"], "enough")
    found = gate(desk, WORK, "x")
    assert found is not None
    assert (found.waiting, found.oldest) == (1, start + 10)


def test_a_throttle_as_it_is_listed(desk: Desk) -> None:
    now = desk.clock.now
    flow = throttle(2, 10, burst=1)
    for n in range(3):
        emit(desk, f"e{n}", flow)
    assert desk.ledger.gates() == [
        GateRecord(
            Gate(THROTTLE), "throttle", 2, 10.0, used=2, waiting=1, oldest=now, next_at=now + 5
        )
    ]


def test_a_rate_limit_as_it_is_listed(desk: Desk) -> None:
    start = desk.clock.now
    emit(desk, "e0", rate(2, 10))
    expected = GateRecord(Gate(RATE), "rate_limit", 2, 10.0, used=1)
    assert desk.ledger.gates() == [expected]
    desk.clock.advance(4)
    emit(desk, "e1", rate(2, 10))
    emit(desk, "e2", rate(2, 10))
    assert desk.ledger.gates() == [dataclasses.replace(expected, used=2, next_at=start + 10)]
    desk.clock.advance(6)
    assert desk.ledger.gates() == [expected]


def test_a_singleton_as_it_is_listed(desk: Desk) -> None:
    emit(desk, "e0", one("queue", "k"))
    assert desk.ledger.gates() == [GateRecord(Gate("singleton work", "k"), "singleton", 1, used=1)]


def test_values_that_are_run_once_are_not_listed(desk: Desk) -> None:
    emit(desk, "e0", once("v", 10))
    assert desk.ledger.gates() == []


def test_where_most_wait_is_first(desk: Desk) -> None:
    for key, count in (("x", 2), ("y", 4), ("z", 3)):
        for n in range(count):
            emit(desk, f"{key}{n}", Flow((place(1, key=key),)))
    emit(desk, "o0", Flow((place(1, "concurrency other"),)))
    found = [(record.gate.key, record.waiting) for record in desk.ledger.gates()]
    assert found == [("y", 3), ("z", 2), ("x", 1), ("", 0)]
    assert [record.gate.key for record in desk.ledger.gates(most=2)] == ["y", "z"]
    assert [r.gate.limit for r in desk.ledger.gates(limit="concurrency other")] == [
        "concurrency other",
    ]
    assert desk.ledger.gates(limit="concurrency none") == []


def test_runs_that_wait_have_the_number_of_their_emit(desk: Desk) -> None:
    for n in range(5):
        emit(desk, f"e{n}", Flow((place(2),)))
    assert emit(desk, "e5", Flow((place(1),))) == "gated"  # the code is another now
    assert (finish(desk, "e0"), finish(desk, "e1")) == (["e2-a"], ["e3-a"])
    desk.ledger.tune(WORK, 1)
    assert (finish(desk, "e2"), finish(desk, "e3")) == ([], ["e4-a"])
    desk.ledger.tune(WORK, None)
    assert finish(desk, "e4") == ["e5-a"]


def test_who_has_a_place(desk: Desk) -> None:
    start = desk.clock.now
    for name, key in [("e1", "x"), ("e2", "y"), ("e3", "x"), ("e4", "x")]:
        emit(desk, name, Flow((place(2, key=key),)))
        desk.clock.advance(1)
    x, y = Gate(WORK, "x"), Gate(WORK, "y")

    both = [Holder(x, "e1-a", start), Holder(x, "e3-a", start + 2)]
    assert desk.ledger.holders([x]) == both
    assert desk.ledger.holders([y, x]) == [both[0], Holder(y, "e2-a", start + 1), both[1]]
    assert desk.ledger.holders([y, x], most=2) == [both[0], Holder(y, "e2-a", start + 1)]
    assert desk.ledger.holders([Gate(WORK, "z")]) == desk.ledger.holders([]) == []

    finish(desk, "e1")  # whose place is that of the fourth now
    assert desk.ledger.holders([x]) == [both[1], Holder(x, "e4-a", start + 4)]


def test_gates_that_nobody_uses_are_forgotten(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    emit(desk, "e1", throttle(1, 10))
    emit(desk, "e2", rate(1, 7200))
    emit(desk, "e3", debounce(7200))
    finish(desk, "e1")
    desk.clock.advance(3601)
    desk.ledger.sweep()
    assert {record.gate.limit for record in desk.ledger.gates()} == {WORK, RATE, "debounce work"}
    finish(desk, "e0")
    desk.clock.advance(3500)
    desk.ledger.sweep()
    assert {record.gate.limit for record in desk.ledger.gates()} == {RATE, WORK, "debounce work"}
    # Less than the day for which a gate is kept that no sweep has looked at. In Redis that is a
    # day of its own clock, which no test moves; in memory it is one of the ledger's clock.
    desk.clock.advance(80_000)
    desk.ledger.sweep()
    assert {record.gate.limit for record in desk.ledger.gates()} == {"debounce work"}


# --- tune ----------------------------------------------------------------------------------------


def test_a_limit_is_raised(desk: Desk) -> None:
    for n in range(4):
        emit(desk, f"e{n}", ONE)
    desk.ledger.tune(WORK, 3)
    assert desk.ledger.tuned() == [Tuned(WORK, 3)]
    assert (desk.ledger.take([]).next_due or 0.0) <= desk.clock.now
    assert desk.taken() == ["e1-a", "e2-a"]
    found = gate(desk)
    assert found is not None
    assert (found.at_most, found.tuned, found.used, found.waiting) == (3, True, 3, 1)


def test_a_limit_is_lowered_and_nobody_is_thrown_out(desk: Desk) -> None:
    flow = Flow((place(3),))
    for n in range(5):
        emit(desk, f"e{n}", flow)
    desk.ledger.tune(WORK, 1)
    assert desk.taken() == []
    assert usage(desk) == (3, 2)
    assert finish(desk, "e0") == []
    assert finish(desk, "e1") == []
    assert finish(desk, "e2") == ["e3-a"]


def test_no_run_starts_with_a_limit_of_zero(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    desk.ledger.tune(WORK, 0)
    emit(desk, "e1", ONE)
    assert finish(desk, "e0") == []
    assert (desk.taken(), usage(desk)) == ([], (0, 1))
    assert emit(desk, "e2", ONE) == "gated"
    desk.ledger.tune(WORK, None)
    assert desk.ledger.tuned() == []
    assert desk.taken() == ["e1-a"]
    assert usage(desk) == (1, 1)


def test_it_holds_for_all_gates_of_the_limit(desk: Desk) -> None:
    for n in range(4):
        emit(desk, f"e{n}", Flow((place(1, key=str(n % 2)),)))
    desk.ledger.tune(WORK, 2)
    assert sorted(desk.taken()) == ["e2-a", "e3-a"]
    assert emit(desk, "e4", Flow((place(1, key="new"),))) == "pending"
    assert emit(desk, "e5", Flow((place(1, key="new"),))) == "pending"


def test_it_holds_for_no_other_limit(desk: Desk) -> None:
    desk.ledger.tune(WORK + " by x", 5)
    emit(desk, "e0", ONE)
    assert emit(desk, "e1", ONE) == "gated"


def test_several_limits_are_listed_by_name(desk: Desk) -> None:
    desk.ledger.tune(WORK, 5)
    desk.ledger.tune(RATE, 1, 2.5)
    desk.ledger.tune(WORK, 6)
    assert desk.ledger.tuned() == [Tuned(WORK, 6), Tuned(RATE, 1, 2.5)]


def test_a_rate_limit_is_changed(desk: Desk) -> None:
    for n in range(2):
        emit(desk, f"e{n}", rate(2, 10))
    desk.ledger.tune(RATE, 3)
    assert emit(desk, "e2", rate(2, 10)) == "pending"
    assert emit(desk, "e3", rate(2, 10)) == "cancelled"
    desk.ledger.tune(RATE, 3, 5.0)
    desk.clock.advance(5)
    assert emit(desk, "e4", rate(2, 10)) == "pending"
    desk.ledger.tune(RATE, 0)
    desk.clock.advance(100)
    assert emit(desk, "e5", rate(2, 10)) == "cancelled"


def test_a_longer_period_remembers_what_still_counts(desk: Desk) -> None:
    emit(desk, "e0", rate(1, 10))
    desk.ledger.tune(RATE, 1, 100.0)
    desk.clock.advance(50)
    assert emit(desk, "e1", rate(1, 10)) == "cancelled"
    desk.clock.advance(50)
    assert emit(desk, "e2", rate(1, 10)) == "pending"


def test_a_singleton_of_two(desk: Desk) -> None:
    flow = one("skip")
    desk.ledger.tune("singleton work", 2)
    assert [emit(desk, f"e{n}", flow) for n in range(3)] == ["pending", "pending", "cancelled"]


# --- preview -------------------------------------------------------------------------------------


def test_what_would_just_start(desk: Desk) -> None:
    assert desk.ledger.preview(Flow()) == Preview("start")
    assert desk.ledger.preview(ONE) == Preview("start")
    assert desk.ledger.preview(throttle(1, 10)) == Preview("start")
    assert desk.ledger.preview(rate(1, 10)) == Preview("start")
    assert desk.ledger.preview(once("v", 10)) == Preview("start")
    assert desk.ledger.preview(one("skip")) == Preview("start")
    assert desk.ledger.preview(one("cancel")) == Preview("start")
    assert desk.ledger.gates() == []


def test_what_would_wait(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    assert desk.ledger.preview(ONE) == Preview("wait", Gate(WORK), 1, 1, 0)
    emit(desk, "e1", ONE)
    assert desk.ledger.preview(ONE) == Preview("wait", Gate(WORK), 1, 1, 1)
    assert desk.ledger.preview(Flow((place(1, key="x"),))) == Preview("start")
    desk.ledger.tune(WORK, 3)
    assert desk.ledger.preview(ONE) == Preview("wait", Gate(WORK), 3, 1, 1)  # behind the other
    desk.ledger.take()
    assert desk.ledger.preview(ONE) == Preview("start")


def test_what_would_wait_for_its_time(desk: Desk) -> None:
    now, flow = desk.clock.now, throttle(1, 10)
    emit(desk, "e0", flow)
    assert desk.ledger.preview(flow) == Preview("wait", Gate(THROTTLE), 1, 1, 0, now + 10)
    emit(desk, "e1", flow)
    assert desk.ledger.preview(flow) == Preview("wait", Gate(THROTTLE), 1, 1, 1, now + 20)


def test_what_would_be_dropped(desk: Desk) -> None:
    now = desk.clock.now
    emit(desk, "e0", rate(1, 10))
    assert desk.ledger.preview(rate(1, 10)) == Preview("drop", Gate(RATE), 1, 1, 0, now + 10)
    emit(desk, "e1", once("v", 10))
    found = desk.ledger.preview(once("v", 10))
    assert (found.verdict, found.gate, found.at) == (
        *("drop", Gate("idempotency work", "v"), now + 10),
    )
    emit(desk, "e2", one("skip"))
    assert desk.ledger.preview(one("skip")) == Preview("drop", Gate("singleton work"), 1, 1, 0)


def test_what_would_cancel(desk: Desk) -> None:
    emit(desk, "e0", one("cancel"))
    assert desk.ledger.preview(one("cancel")) == Preview("cancel", Gate("singleton work"), 1, 1)
    assert states(desk, "e0") == ["pending"]


@pytest.mark.parametrize(
    ("flow", "limit", "most"), [(debounce(10), "debounce work", 0), (batch(3, 10), "batch work", 3)]
)
def test_what_would_be_collected(desk: Desk, flow: Flow, limit: str, most: int) -> None:
    now = desk.clock.now
    assert desk.ledger.preview(flow) == Preview("collect", Gate(limit), most, 0, 0, now + 10)
    emit(desk, "e0", flow)
    assert desk.ledger.preview(flow) == Preview("join", Gate(limit), most, 1, 0, now + 10)


def test_the_first_reason_is_given(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    emit(desk, "e1", throttle(1, 10))
    both = dataclasses.replace(throttle(1, 10), places=(place(1),))
    assert desk.ledger.preview(both).gate == Gate(WORK)
    finish(desk, "e0")
    assert desk.ledger.preview(both).gate == Gate(THROTTLE)


def test_looking_changes_nothing(desk: Desk) -> None:
    flow = Flow(one("cancel").places, rate_limit=rate(9, 10).rate_limit, once=once("v", 9).once)
    emit(desk, "e0", flow)
    emit(desk, "e1", ONE)
    emit(desk, "e2", ONE)
    before = desk.ledger.gates()
    for each in (flow, ONE, debounce(5), throttle(1, 10)):
        desk.ledger.preview(each)
    assert desk.ledger.gates() == before
    assert waiting(desk, "e2") == [WORK]
    assert record(desk, "e3", [("a", one("cancel"))]).runs[0][1] is S.PENDING


def test_a_sweep_of_gates_goes_on_while_there_are_more(desk: Desk) -> None:
    """Or gates of a limit by user would be left over faster than they go."""
    for n in range(5):
        emit(desk, f"e{n}", rate(1, 60, str(n)))
        finish(desk, f"e{n}")
    desk.clock.advance(RULES.success_retention + 1)
    assert desk.ledger.sweep() == 5
    desk.clock.advance(3601 - RULES.success_retention)
    while desk.ledger.sweep(limit=2) >= 2:
        pass
    assert desk.ledger.gates() == []
