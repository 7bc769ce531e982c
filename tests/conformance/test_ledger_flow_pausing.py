"""Pausing, resuming and cancelling together with limits, for every ledger."""

from __future__ import annotations

import dataclasses

from celery_fanout.stores.limits import Flow
from celery_fanout.stores.states import RunState
from tests.conformance.flows import (
    THROTTLE,
    WORK,
    begin,
    emit,
    finish,
    one,
    place,
    record,
    states,
    throttle,
    usage,
    waiting,
)
from tests.conformance.ledgers import Desk

S = RunState
ONE = Flow((place(1),))
SUB = "a@doc/up"


def other(desk: Desk, key: str, flow: Flow = ONE) -> str:
    """Record an event for a subscription that is not paused; return the state of its run."""
    ((_, state),) = record(desk, key, [("b", flow)]).runs
    return str(state)


def test_a_paused_run_takes_no_place_and_waits_at_no_gate(desk: Desk) -> None:
    desk.ledger.pause(SUB)
    assert emit(desk, "e0", ONE) == "gated"
    assert (waiting(desk, "e0"), usage(desk)) == ([""], (0, 0))
    assert desk.claim("e0-a").status == "paused"
    assert other(desk, "e1") == "pending"
    assert usage(desk) == (1, 0)


def test_when_it_is_let_go_it_asks_for_a_place(desk: Desk) -> None:
    desk.ledger.pause(SUB)
    emit(desk, "e0", ONE)
    other(desk, "e1")
    assert desk.ledger.resume(SUB) == (1, False)
    assert desk.taken() == []
    assert waiting(desk, "e0") == [WORK]
    found = desk.ledger.settle("e1-b", desk.begin("e1-b"), S.SUCCEEDED)
    assert list(found.woken) == ["e0-a"]


def test_a_message_met_while_it_is_let_go_asks_for_a_place(desk: Desk) -> None:
    desk.ledger.pause(SUB)
    emit(desk, "e0", ONE)
    emit(desk, "e1", ONE)
    assert desk.ledger.resume(SUB, limit=0) == (0, True)
    assert desk.claim("e1-a").status == "claimed"
    assert desk.claim("e0-a").status == "gated"
    assert waiting(desk, "e0") == [WORK]
    assert desk.ledger.resume(SUB) == (0, False)
    assert desk.ledger.settle("e1-a", 1, S.SUCCEEDED).woken == ["e0-a"]


def test_a_resume_lets_go_of_nobody_who_waits_at_a_gate(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    emit(desk, "e1", ONE)
    desk.ledger.pause(SUB)
    assert desk.ledger.resume(SUB) == (0, False)
    desk.ledger.sweep()
    assert (states(desk, "e1"), usage(desk)) == (["gated"], (1, 1))


def test_a_sweep_lets_go_of_those_that_a_resume_has_left(desk: Desk) -> None:
    desk.ledger.pause(SUB)
    emit(desk, "e0", ONE)
    emit(desk, "e1", ONE)
    assert desk.ledger.resume(SUB, limit=1) == (1, True)
    desk.ledger.sweep()
    assert desk.taken() == ["e0-a"]
    assert waiting(desk, "e1") == [WORK]


def test_who_has_a_place_gives_it_back_when_its_message_is_met(desk: Desk) -> None:
    """Or a subscription that is paused would hold up those that share its limit."""
    emit(desk, "e0", ONE)
    other(desk, "e1")
    desk.ledger.pause(SUB)
    found = desk.claim("e0-a")
    assert (found.status, list(found.woken)) == ("paused", ["e1-b"])
    assert (states(desk, "e0"), waiting(desk, "e0")) == (["gated"], [""])
    assert usage(desk) == (1, 0)
    desk.ledger.resume(SUB)
    assert desk.taken() == ["e1-b"]
    assert waiting(desk, "e0") == [WORK]


def test_a_running_one_goes_on(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    other(desk, "e1")
    token = begin(desk, "e0")
    desk.ledger.pause(SUB)
    assert usage(desk) == (1, 1)
    assert desk.ledger.settle("e0-a", token, S.SUCCEEDED).woken == ["e1-b"]


def test_who_waits_is_passed_over_while_it_is_paused(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    emit(desk, "e1", ONE)
    other(desk, "e2")
    desk.ledger.pause(SUB)
    found, woken = desk.ledger.cancel(["e0-a"], "enough")
    assert (found, woken) == (["e0-a"], ["e2-b"])
    assert (states(desk, "e1"), waiting(desk, "e1")) == (["gated"], [""])
    assert usage(desk) == (1, 0)
    assert desk.ledger.resume(SUB) == (1, False)
    desk.ledger.take()
    assert waiting(desk, "e1") == [WORK]


def test_one_that_is_resumed_has_kept_its_number(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    desk.ledger.pause(SUB)
    emit(desk, "e1", ONE)
    desk.ledger.resume(SUB, limit=0)
    emit(desk, "e2", ONE)
    assert waiting(desk, "e1", "e2") == ["", WORK]
    desk.ledger.resume(SUB)
    desk.ledger.take()
    assert finish(desk, "e0") == ["e1-a"]


def test_a_kept_place_is_kept_while_paused(desk: Desk) -> None:
    skip = one("skip")
    flow = dataclasses.replace(skip, places=(*skip.places, place(1)))
    desk.ledger.pause(SUB)
    assert emit(desk, "e0", flow) == "gated"
    assert (usage(desk, "singleton work"), usage(desk)) == ((1, 0), (0, 0))
    assert emit(desk, "e1", flow) == "cancelled"
    desk.ledger.cancel(["e0-a"], "enough")
    assert usage(desk, "singleton work") == (0, 0)


def test_a_throttle_passes_over_who_is_paused(desk: Desk) -> None:
    flow = throttle(1, 10)
    other(desk, "e0", flow)
    emit(desk, "e1", flow)
    other(desk, "e2", flow)
    desk.ledger.pause(SUB)
    desk.clock.advance(10)
    assert desk.taken() == ["e2-b"]
    assert waiting(desk, "e1") == [""]
    desk.ledger.resume(SUB)
    assert desk.taken() == []
    assert waiting(desk, "e1") == [THROTTLE]
    desk.clock.advance(10)
    assert "e1-a" in desk.taken()


def test_a_suspended_run_of_a_paused_subscription(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    desk.ledger.settle("e0-a", begin(desk, "e0"), S.SUSPENDED, due=desk.clock.now + 10)
    desk.ledger.pause(SUB)
    desk.clock.advance(10)
    desk.ledger.take()
    assert desk.claim("e0-a").status == "paused"
    assert usage(desk) == (0, 0)
    assert desk.ledger.resume(SUB) == (1, False)
    assert desk.taken() == ["e0-a"]
    assert usage(desk) == (1, 0)


def test_pausing_and_resuming_again_and_again_leaks_nothing(desk: Desk) -> None:
    for n in range(4):
        emit(desk, f"e{n}", ONE)
    for _ in range(3):
        desk.ledger.pause(SUB)
        for n in range(4):
            desk.claim(f"e{n}-a")
        assert usage(desk) == (0, 0)
        desk.ledger.resume(SUB)
        desk.ledger.take()
        assert usage(desk) == (1, 3)
    assert [finish(desk, f"e{n}") for n in range(4)] == [["e1-a"], ["e2-a"], ["e3-a"], []]


def test_a_replay_of_a_paused_subscription(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    desk.ledger.pause(SUB)
    found = record(desk, "e0", [("a", ONE)], replay=True, generation=1, nonce="n")
    assert list(found.runs) == [("e0-a-1", S.GATED)]
    assert usage(desk) == (1, 0)


def test_all_are_cancelled_at_once(desk: Desk) -> None:
    for n in range(4):
        emit(desk, f"e{n}", ONE)
    ids = [f"e{n}-a" for n in range(4)]
    cancelled, _ = desk.ledger.cancel(ids, "enough")
    assert cancelled == ids
    assert usage(desk) == (0, 0)
    assert desk.taken() == []
    assert desk.ledger.counts()[S.CANCELLED] == 4
    assert emit(desk, "e9", ONE) == "pending"


def test_all_are_retried_by_hand(desk: Desk) -> None:
    for n in range(3):
        emit(desk, f"e{n}", ONE)
    ids = [f"e{n}-a" for n in range(3)]
    desk.ledger.cancel(ids, "enough")
    for run_id in reversed(ids):
        assert desk.ledger.reopen(run_id, "again")
    (taken,) = desk.taken()
    assert sorted(waiting(desk, "e0", "e1", "e2")) == sorted([WORK, WORK, "pending"])
    found = [taken]
    for _ in range(2):
        (woken,) = finish(desk, found[-1].removesuffix("-a"))
        found.append(woken)
    assert sorted(found) == ids
    assert finish(desk, found[-1].removesuffix("-a")) == []


def test_an_event_that_cancels_those_that_wait(desk: Desk) -> None:
    more = {"a": {"cancel_on": (("doc/gone", "{}"),)}}
    emit(desk, "e0", ONE, **more)
    emit(desk, "e1", ONE, **more)
    found = desk.emit("gone", name="doc/gone")
    assert list(found.woken) in (["e1-a"], [])  # whichever was first
    assert states(desk, "e0", "e1") == ["cancelled", "cancelled"]
    assert usage(desk) == (0, 0)
