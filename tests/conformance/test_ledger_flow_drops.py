"""What is dropped, and what cancels another: rate limits, once, singletons; for every ledger."""

from __future__ import annotations

import dataclasses

import pytest

from celery_fanout.stores.limits import Flow
from celery_fanout.stores.records import NewRun
from celery_fanout.stores.states import RunState
from tests.conformance.flows import (
    RATE,
    WORK,
    begin,
    emit,
    finish,
    once,
    one,
    place,
    rate,
    record,
    states,
    usage,
    waiting,
)
from tests.conformance.ledgers import RULES, Desk

S = RunState
SINGLE = "singleton work"
TWO_EACH_TEN = rate(2, 10)


def reason(desk: Desk, run_id: str) -> str:
    run = desk.ledger.run(run_id)
    assert run is not None
    return run.reason


# --- rate limits ---------------------------------------------------------------------------------


def test_what_is_beyond_the_rate_is_dropped(desk: Desk) -> None:
    found = [emit(desk, f"e{n}", TWO_EACH_TEN) for n in range(3)]
    assert found == ["pending", "pending", "cancelled"]
    run = desk.ledger.run("e2-a")
    assert run is not None
    assert (run.reason, run.finished, run.due) == (f"dropped: {RATE}", desk.clock.now, None)
    assert (run.started, run.token, run.detail["attempts"]) == (None, 0, [])
    assert desk.claim("e2-a").status == "finished"
    event = desk.ledger.event("e2")
    assert event is not None
    assert event.open == 0


def test_the_window_slides(desk: Desk) -> None:
    emit(desk, "e0", TWO_EACH_TEN)
    desk.clock.advance(6)
    emit(desk, "e1", TWO_EACH_TEN)
    desk.clock.advance(3.999)
    assert emit(desk, "e2", TWO_EACH_TEN) == "cancelled"
    desk.clock.advance(0.001)  # the first has left it
    assert emit(desk, "e3", TWO_EACH_TEN) == "pending"
    assert emit(desk, "e4", TWO_EACH_TEN) == "cancelled"
    desk.clock.advance(6)  # the second
    assert emit(desk, "e5", TWO_EACH_TEN) == "pending"
    assert emit(desk, "e6", TWO_EACH_TEN) == "cancelled"


def test_what_was_dropped_is_not_counted(desk: Desk) -> None:
    flow = rate(1, 10)
    emit(desk, "e0", flow)
    desk.clock.advance(9)
    assert emit(desk, "e1", flow) == "cancelled"
    desk.clock.advance(1)
    assert emit(desk, "e2", flow) == "pending"


def test_each_key_has_its_own_rate(desk: Desk) -> None:
    found = [emit(desk, f"e{n}", rate(1, 10, key)) for n, key in enumerate("xyx")]
    assert found == ["pending", "pending", "cancelled"]


def test_a_run_that_ended_counts_on(desk: Desk) -> None:
    emit(desk, "e0", rate(1, 10))
    finish(desk, "e0")
    assert emit(desk, "e1", rate(1, 10)) == "cancelled"


def test_a_delayed_run_is_counted_when_it_is_recorded(desk: Desk) -> None:
    assert emit(desk, "e0", rate(1, 10), resume_at=desk.clock.now + 50) == "pending"
    assert emit(desk, "e1", rate(1, 10)) == "cancelled"
    desk.clock.advance(50)
    assert desk.taken() == ["e0-a"]


def test_a_flood_of_what_is_dropped_is_told_to_nobody(desk: Desk) -> None:
    for n in range(3):
        emit(desk, f"e{n}", rate(1, 10))
    assert desk.ledger.awaiting_follow_up(older_than=0) == []
    assert desk.ledger.counts()[S.CANCELLED] == 2
    assert [run.id for run in desk.ledger.runs(subscription="a@doc/up", state=S.PENDING)] == [
        "e0-a",
    ]
    assert {run.id for run in desk.ledger.runs(event="e1")} == {"e1-a"}


def test_what_was_dropped_is_forgotten_in_time(desk: Desk) -> None:
    emit(desk, "e0", rate(1, 10))
    emit(desk, "e1", rate(1, 10))
    desk.clock.advance(RULES.success_retention - 1)
    desk.ledger.sweep()
    assert desk.state("e1-a") == "cancelled"
    desk.clock.advance(2)
    assert desk.ledger.sweep() == 1
    assert desk.ledger.run("e1-a") is None
    assert desk.ledger.event("e1") is not None


def test_what_was_dropped_can_be_run_all_the_same(desk: Desk) -> None:
    emit(desk, "e0", rate(1, 10))
    emit(desk, "e1", rate(1, 10))
    assert desk.ledger.reopen("e1-a", "it matters")
    event = desk.ledger.event("e1")
    assert event is not None
    assert event.open == 1
    assert desk.taken() == ["e1-a"]
    finish(desk, "e1")
    event = desk.ledger.event("e1")
    assert event is not None
    assert event.open == 0


def test_a_repeat_says_what_was_dropped(desk: Desk) -> None:
    emit(desk, "e0", rate(1, 10))
    emit(desk, "e1", rate(1, 10))
    desk.clock.advance(20)
    found = record(desk, "e1", [("a", rate(1, 10))])
    assert (found.status, list(found.runs)) == ("repeat", [("e1-a", S.CANCELLED)])


def test_a_replay_is_not_dropped(desk: Desk) -> None:
    emit(desk, "e0", rate(1, 10))
    emit(desk, "e1", rate(1, 10))
    found = record(desk, "e1", [("a", rate(1, 10))], replay=True, generation=1, nonce="n")
    assert list(found.runs) == [("e1-a-1", S.PENDING)]
    assert usage(desk, RATE) == (1, 0)


# --- events whose runs are dropped ---------------------------------------------------------------


def test_the_others_of_an_event_go_on(desk: Desk) -> None:
    emit(desk, "e0", rate(1, 10))
    found = record(
        desk, "e1", [("a", rate(1, 10)), ("b", None)], then_id="e1-then", then_message="{}"
    )
    assert list(found.runs) == [("e1-a", S.CANCELLED), ("e1-b", S.PENDING)]
    assert list(found.woken) == []
    assert desk.ledger.run("e1-then") is None
    desk.ledger.settle("e1-b", desk.begin("e1-b"), S.SUCCEEDED)
    assert desk.state("e1-then") == "pending"


def test_the_fan_in_of_an_event_all_of_whose_runs_are_dropped(desk: Desk) -> None:
    emit(desk, "e0", rate(1, 10))
    runs = [("a", rate(1, 10)), ("b", rate(1, 10))]
    found = record(desk, "e1", runs, then_id="e1-then", then_message="{}")
    assert [state for _, state in found.runs] == [S.CANCELLED] * 2
    assert list(found.woken) == ["e1-then"]
    assert desk.taken("e1-then") == ["e1-then"]
    event = desk.ledger.event("e1")
    assert event is not None
    assert event.open == 1


# --- once ----------------------------------------------------------------------------------------


def test_a_value_is_run_once_within_its_time(desk: Desk) -> None:
    flow = once("v", 10)
    assert [emit(desk, f"e{n}", flow) for n in range(2)] == ["pending", "cancelled"]
    assert reason(desk, "e1-a") == "dropped: idempotency work"
    assert emit(desk, "e2", once("w", 10)) == "pending"
    desk.clock.advance(9.999)
    assert emit(desk, "e3", flow) == "cancelled"
    desk.clock.advance(0.001)
    assert emit(desk, "e4", flow) == "pending"


def test_it_is_once_even_if_it_failed(desk: Desk) -> None:
    emit(desk, "e0", once("v", 10))
    finish(desk, "e0", S.FAILED)
    assert emit(desk, "e1", once("v", 10)) == "cancelled"


def test_what_the_rate_drops_has_not_been_there(desk: Desk) -> None:
    """Nor does what was there already count for the rate."""
    both = dataclasses.replace(once("v", 100), rate_limit=rate(1, 10).rate_limit)
    emit(desk, "e0", rate(1, 10))
    assert emit(desk, "e1", both) == "cancelled"
    assert reason(desk, "e1-a") == f"dropped: {RATE}"
    desk.clock.advance(10)
    assert emit(desk, "e2", both) == "pending"
    desk.clock.advance(10)
    assert emit(desk, "e3", both) == "cancelled"
    assert reason(desk, "e3-a") == "dropped: idempotency work"
    assert emit(desk, "e4", rate(1, 10)) == "pending"


def test_all_drops_are_decided_before_anything_is_noted(desk: Desk) -> None:
    all_ = Flow(one("skip").places, rate_limit=rate(1, 10).rate_limit, once=once("v", 100).once)
    emit(desk, "e0", one("skip"))
    assert emit(desk, "e1", all_) == "cancelled"
    assert reason(desk, "e1-a") == f"dropped: {SINGLE}"
    finish(desk, "e0")
    assert emit(desk, "e2", all_) == "pending"


# --- singletons ----------------------------------------------------------------------------------


def test_a_second_one_is_skipped(desk: Desk) -> None:
    flow = one("skip")
    assert [emit(desk, f"e{n}", flow) for n in range(2)] == ["pending", "cancelled"]
    assert reason(desk, "e1-a") == f"dropped: {SINGLE}"
    assert emit(desk, "e2", one("skip", "other")) == "pending"
    desk.ledger.settle("e0-a", begin(desk, "e0"), S.SUSPENDED, due=desk.clock.now + 5)
    assert emit(desk, "e3", flow) == "cancelled"
    desk.clock.advance(5)
    desk.ledger.take()
    finish(desk, "e0")
    assert emit(desk, "e4", flow) == "pending"


def test_one_that_waits_elsewhere_is_the_one(desk: Desk) -> None:
    flow = dataclasses.replace(one("skip"), places=(*one("skip").places, place(1)))
    emit(desk, "e0", Flow((place(1),)))
    assert emit(desk, "e1", flow) == "gated"
    assert (waiting(desk, "e1"), usage(desk, SINGLE)) == ([WORK], (1, 0))
    assert emit(desk, "e2", flow) == "cancelled"
    assert desk.ledger.cancel(["e1-a"], "enough")[0] == ["e1-a"]
    assert usage(desk, SINGLE) == (0, 0)
    assert emit(desk, "e3", flow) == "gated"


def test_a_delayed_one_is_the_one(desk: Desk) -> None:
    assert emit(desk, "e0", one("skip"), resume_at=desk.clock.now + 5) == "pending"
    assert emit(desk, "e1", one("skip")) == "cancelled"
    desk.clock.advance(5)
    assert desk.taken() == ["e0-a"]
    finish(desk, "e0")
    assert emit(desk, "e2", one("skip")) == "pending"


def test_one_of_two_is_skipped_in_one_event(desk: Desk) -> None:
    found = record(desk, "e0", [("a", one("skip")), ("b", one("skip"))])
    assert list(found.runs) == [("e0-a", S.PENDING), ("e0-b", S.CANCELLED)]


def test_a_replay_waits_for_the_one_that_runs(desk: Desk) -> None:
    for mode in ("skip", "cancel"):
        flow = one(mode, mode)  # type: ignore[arg-type]
        emit(desk, mode, flow)
        found = record(desk, mode, [("a", flow)], replay=True, generation=1, nonce="n")
        assert list(found.runs) == [(f"{mode}-a-1", S.GATED)]
        assert finish(desk, mode) == [f"{mode}-a-1"]


@pytest.mark.parametrize("running", [False, True])
def test_a_second_one_cancels_the_first(desk: Desk, running: bool) -> None:
    flow = one("cancel")
    emit(desk, "e0", flow)
    token = begin(desk, "e0") if running else 0
    assert emit(desk, "e1", flow) == "pending"
    assert states(desk, "e0", "e1") == ["cancelled", "pending"]
    assert reason(desk, "e0-a") == f"cancelled: {SINGLE}"
    assert usage(desk, SINGLE) == (1, 0)
    if running:
        assert not desk.ledger.settle("e0-a", token, S.SUCCEEDED).ok
        assert desk.ledger.store("e0-a", token, "s", "1", final=True) is None
    assert desk.ledger.awaiting_follow_up(older_than=0) == ["e0-a"]  # somebody may want to know


def test_it_cancels_what_the_first_has_invoked(desk: Desk) -> None:
    flow = one("cancel")
    emit(desk, "e0", flow)
    token = begin(desk, "e0")
    children = [NewRun("i1", "a@doc/up", "invoke", field="f1", group="g")]
    desk.ledger.spawn("e0-a", token, "g", children)
    desk.ledger.settle("e0-a", token, S.SUSPENDED, group="g")
    emit(desk, "e1", flow)
    assert (states(desk, "e0"), desk.state("i1")) == (["cancelled"], "cancelled")


def test_it_cancels_one_that_waits_elsewhere(desk: Desk) -> None:
    flow = dataclasses.replace(one("cancel"), places=(*one("cancel").places, place(1)))
    emit(desk, "e9", Flow((place(1),)))
    emit(desk, "e0", flow)
    assert emit(desk, "e1", flow) == "gated"
    assert states(desk, "e0", "e1") == ["cancelled", "gated"]
    assert (usage(desk, SINGLE), usage(desk)) == ((1, 0), (1, 1))
    assert finish(desk, "e9") == ["e1-a"]


def test_only_the_oldest_is_cancelled(desk: Desk) -> None:
    flow = Flow((place(2, SINGLE, kept=True, full="cancel"),))
    for key in ("e9", "e1", "e0"):
        emit(desk, key, flow)
        desk.clock.advance(1)
    assert states(desk, "e9", "e1", "e0") == ["cancelled", "pending", "pending"]
    desk.ledger.tune(SINGLE, 1)
    emit(desk, "e2", flow)
    assert states(desk, "e1", "e0", "e2") == ["cancelled", "cancelled", "pending"]


def test_whoever_the_cancelled_one_had_held_up_is_woken(desk: Desk) -> None:
    flow = dataclasses.replace(one("cancel"), places=(*one("cancel").places, place(1)))
    emit(desk, "e0", flow)
    emit(desk, "e1", Flow((place(1),)))
    found = record(desk, "e2", [("a", flow)])
    assert list(found.runs) == [("e2-a", S.GATED)]  # it arrived later
    assert list(found.woken) == ["e1-a"]
    assert desk.taken("e1-a") == ["e1-a"]


def test_a_fan_in_of_the_cancelled_one_is_recorded(desk: Desk) -> None:
    flow = one("cancel")
    record(desk, "e0", [("a", flow)], then_id="e0-then", then_message="{}")
    found = record(desk, "e1", [("a", flow)], then_id="e1-then", then_message="{}")
    assert list(found.woken) == ["e0-then"]
    assert desk.ledger.run("e1-then") is None


def test_one_whose_tail_is_dispatched_is_waited_for(desk: Desk) -> None:
    """It cannot be cancelled any more, and it is nearly over."""
    flow = one("cancel")
    emit(desk, "e0", flow)
    token = begin(desk, "e0")
    desk.ledger.settle("e0-a", token, S.COMPLETING, result="1")
    assert emit(desk, "e1", flow) == "gated"
    assert (states(desk, "e0"), waiting(desk, "e1")) == (["completing"], [SINGLE])
    assert desk.ledger.settle("e0-a", token, S.SUCCEEDED).woken == ["e1-a"]
    assert usage(desk, SINGLE) == (1, 0)


def test_one_at_a_time_in_their_order(desk: Desk) -> None:
    flow = one("queue")
    assert [emit(desk, f"e{n}", flow) for n in range(3)] == ["pending", "gated", "gated"]
    assert finish(desk, "e0") == ["e1-a"]
    assert finish(desk, "e1") == ["e2-a"]


def test_a_cancelled_singleton_that_is_retried_waits(desk: Desk) -> None:
    flow = one("cancel")
    emit(desk, "e0", flow)
    emit(desk, "e1", flow)
    assert desk.ledger.reopen("e0-a", "again")
    assert desk.taken() == []
    assert waiting(desk, "e0") == [SINGLE]
    assert finish(desk, "e1") == ["e0-a"]
