"""Runs that did not start, or end, in time, for every ledger."""

from __future__ import annotations

import dataclasses

import pytest

from celery_fanout.stores.limits import Flow
from celery_fanout.stores.records import NewRun
from celery_fanout.stores.states import RunState
from tests.conformance.flows import (
    WORK,
    begin,
    debounce,
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
from tests.conformance.ledgers import RULES, Desk

S = RunState
ONE = Flow((place(1),))
SOON = Flow((place(1),), start_timeout=10)
SHORT = Flow((place(1),), finish_timeout=60)


def reason(desk: Desk, key: str) -> tuple[str, str]:
    run = desk.ledger.run(f"{key}-a")
    assert run is not None
    return str(run.state), run.reason


# --- start_timeout -------------------------------------------------------------------------------


def test_a_gated_run_that_does_not_start_in_time(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    emit(desk, "e1", SOON)
    assert desk.due("e1-a") == 10
    assert desk.ledger.take([]).next_due == desk.clock.now + 10
    desk.clock.advance(9.999)
    assert list(desk.ledger.take().ended) == []
    desk.clock.advance(0.001)
    assert list(desk.ledger.take().ended) == ["e1-a"]
    assert reason(desk, "e1") == ("cancelled", "start_timeout")
    assert usage(desk) == (1, 0)
    assert desk.ledger.awaiting_follow_up(older_than=0) == ["e1-a"]
    assert finish(desk, "e0") == []


def test_a_message_that_comes_too_late(desk: Desk) -> None:
    emit(desk, "e0", SOON)
    desk.ledger.mark_published(["e0-a"])
    desk.clock.advance(10)
    assert desk.claim("e0-a").status == "expired"
    assert reason(desk, "e0") == ("cancelled", "start_timeout")
    assert usage(desk) == (0, 0)


def test_a_message_of_a_gated_run_that_comes_too_late(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    emit(desk, "e1", SOON)
    desk.clock.advance(10)
    assert desk.claim("e1-a").status == "expired"
    assert reason(desk, "e1") == ("cancelled", "start_timeout")


def test_one_that_was_let_in_has_no_more_time(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    emit(desk, "e1", SOON)
    emit(desk, "e2", ONE)
    desk.clock.advance(9)
    assert finish(desk, "e0") == ["e1-a"]
    desk.clock.advance(1)
    assert list(desk.ledger.take().ended) == ["e1-a"]
    assert reason(desk, "e1") == ("cancelled", "start_timeout")
    assert desk.taken() == ["e2-a"]


def test_one_that_has_started_may_take_its_time(desk: Desk) -> None:
    emit(desk, "e0", SOON)
    token = begin(desk, "e0")
    desk.clock.advance(11)
    desk.ledger.settle("e0-a", token, S.SUSPENDED, due=desk.clock.now + 5)
    emit(desk, "e1", ONE)
    desk.clock.advance(5)
    assert desk.taken() == []
    assert (waiting(desk, "e0"), desk.due("e0-a")) == ([WORK], None)
    assert finish(desk, "e1") == ["e0-a"]
    assert finish(desk, "e0") == []


@pytest.mark.parametrize(("expires", "why"), [(5, "expired"), (15, "start_timeout")])
def test_the_earlier_one_is_the_reason(desk: Desk, expires: float, why: str) -> None:
    emit(desk, "e0", ONE)
    emit(desk, "e1", SOON, expires_at=desk.clock.now + expires)
    assert desk.due("e1-a") == min(expires, 10)
    desk.clock.advance(min(expires, 10))
    assert list(desk.ledger.take().ended) == ["e1-a"]
    assert reason(desk, "e1") == ("cancelled", why)


def test_a_gated_run_expires_too(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    emit(desk, "e1", ONE, expires_at=desk.clock.now + 5)
    desk.clock.advance(5)
    assert list(desk.ledger.take().ended) == ["e1-a"]
    assert usage(desk) == (1, 0)


def test_the_time_of_a_delayed_run_begins_when_it_is_due(desk: Desk) -> None:
    emit(desk, "e0", SOON, resume_at=desk.clock.now + 50)
    desk.clock.advance(59)
    assert desk.taken() == ["e0-a"]
    begin(desk, "e0")


def test_one_that_is_retried_by_hand_has_no_time_out(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    emit(desk, "e1", SOON)
    desk.clock.advance(10)
    desk.ledger.take()
    desk.ledger.reopen("e1-a", "again")
    assert desk.taken() == []
    assert (waiting(desk, "e1"), desk.due("e1-a")) == ([WORK], None)
    desk.clock.advance(5)
    assert finish(desk, "e0") == ["e1-a"]
    assert finish(desk, "e1") == []


def test_one_that_collects_and_expires(desk: Desk) -> None:
    emit(desk, "e0", debounce(10), expires_at=desk.clock.now + 5)
    assert desk.due("e0-a") == 5
    desk.clock.advance(5)
    assert list(desk.ledger.take().ended) == ["e0-a"]
    assert emit(desk, "e1", debounce(10)) == "gated"


def test_it_counts_from_the_event_while_a_run_collects(desk: Desk) -> None:
    flow = debounce(10, places=(place(1),), start_timeout=15)
    emit(desk, "e9", ONE)
    emit(desk, "e0", flow)
    desk.clock.advance(10)
    desk.ledger.take()
    assert (waiting(desk, "e0"), desk.due("e0-a")) == ([WORK], 5)
    desk.clock.advance(5)
    assert list(desk.ledger.take().ended) == ["e0-a"]


def test_it_gives_back_a_place_that_is_kept(desk: Desk) -> None:
    skip = one("skip")
    flow = dataclasses.replace(skip, places=(*skip.places, place(1)), start_timeout=10)
    emit(desk, "e9", ONE)
    emit(desk, "e0", flow)
    assert usage(desk, "singleton work") == (1, 0)
    desk.clock.advance(10)
    desk.ledger.take()
    assert usage(desk, "singleton work") == (0, 0)


def test_a_paused_run_has_its_time_too(desk: Desk) -> None:
    desk.ledger.pause("a@doc/up")
    emit(desk, "e0", SOON)
    assert desk.due("e0-a") == 10
    desk.clock.advance(10)
    assert list(desk.ledger.take().ended) == ["e0-a"]
    assert desk.ledger.resume("a@doc/up") == (0, False)


# --- finish_timeout ------------------------------------------------------------------------------


def test_a_run_that_runs_too_long(desk: Desk) -> None:
    emit(desk, "e0", SHORT)
    emit(desk, "e1", ONE)
    token = begin(desk, "e0")
    for _ in range(3):
        desk.clock.advance(19)
        desk.ledger.renew("w1", ["e0-a"])
        assert desk.due("e0-a") == RULES.lease
    desk.clock.advance(3)
    desk.ledger.renew("w1", ["e0-a"])
    assert reason(desk, "e0") == ("cancelled", "finish_timeout")
    assert not desk.ledger.settle("e0-a", token, S.SUCCEEDED).ok
    assert desk.ledger.store("e0-a", token, "s", "1", final=True) is None
    assert desk.taken() == ["e1-a"]
    assert desk.ledger.awaiting_follow_up(older_than=0) == ["e0-a"]


def test_another_boot_does_not_end_it(desk: Desk) -> None:
    emit(desk, "e0", SHORT)
    begin(desk, "e0")
    desk.clock.advance(25)
    desk.ledger.renew("w1", ["e0-a"])
    desk.clock.advance(25)
    desk.ledger.renew("w1", ["e0-a"])
    desk.clock.advance(20)
    desk.ledger.renew("w2", ["e0-a"])
    assert states(desk, "e0") == ["running"]


def test_it_counts_from_the_first_claim(desk: Desk) -> None:
    emit(desk, "e0", SHORT)
    desk.clock.advance(100)
    token = begin(desk, "e0")
    desk.clock.advance(20)
    desk.ledger.settle("e0-a", token, S.RETRYING, due=desk.clock.now + 10, retries=1)
    desk.clock.advance(10)
    assert desk.taken() == ["e0-a"]
    assert desk.due("e0-a") == RULES.grace
    token = desk.begin("e0-a", retries=1)
    assert desk.due("e0-a") == RULES.lease
    desk.clock.advance(25)
    desk.ledger.settle("e0-a", token, S.SUSPENDED, due=desk.clock.now + 1000)
    assert desk.due("e0-a") == 5
    desk.clock.advance(5)
    assert list(desk.ledger.take().ended) == ["e0-a"]
    assert reason(desk, "e0") == ("cancelled", "finish_timeout")


def test_one_that_waits_for_its_children_and_nothing_else(desk: Desk) -> None:
    emit(desk, "e0", SHORT)
    token = begin(desk, "e0")
    children = [NewRun("i1", "a@doc/up", "invoke", field="f1", group="g")]
    desk.ledger.spawn("e0-a", token, "g", children)
    desk.ledger.settle("e0-a", token, S.SUSPENDED, group="g")
    assert desk.due("e0-a") == 60
    desk.clock.advance(60)
    assert sorted(desk.ledger.take().ended) == ["e0-a", "i1"]
    assert desk.state("i1") == "cancelled"


def test_one_that_waits_at_a_gate_again(desk: Desk) -> None:
    emit(desk, "e0", SHORT)
    desk.ledger.settle("e0-a", begin(desk, "e0"), S.SUSPENDED, due=desk.clock.now + 10)
    emit(desk, "e1", ONE)
    desk.clock.advance(10)
    desk.ledger.take()
    assert (waiting(desk, "e0"), desk.due("e0-a")) == ([WORK], 50)
    desk.clock.advance(50)
    assert list(desk.ledger.take().ended) == ["e0-a"]
    assert usage(desk) == (1, 0)


def test_one_whose_worker_died(desk: Desk) -> None:
    emit(desk, "e0", Flow((place(1),), finish_timeout=20))
    begin(desk, "e0")
    desk.clock.advance(RULES.lease)
    found = desk.ledger.take()
    assert (list(found.wakeups), list(found.ended)) == ([], ["e0-a"])
    assert reason(desk, "e0") == ("cancelled", "finish_timeout")


def test_a_message_that_comes_after_it(desk: Desk) -> None:
    emit(desk, "e0", Flow((place(1),), finish_timeout=20))
    begin(desk, "e0")
    desk.ledger.abandon("e0-a", "w1", {"type": "X", "message": ""}, final=False)
    desk.clock.advance(20)
    assert desk.claim("e0-a").status == "expired"
    assert reason(desk, "e0") == ("cancelled", "finish_timeout")
    assert usage(desk) == (0, 0)


def test_its_timers_are_never_later(desk: Desk) -> None:
    emit(desk, "e0", Flow((place(1),), finish_timeout=40))
    token = begin(desk, "e0")
    desk.clock.advance(25)
    desk.ledger.settle("e0-a", token, S.PENDING)
    desk.ledger.take()
    assert desk.due("e0-a") == 15
    desk.ledger.mark_published(["e0-a"])
    assert desk.due("e0-a") == 15
    desk.ledger.renew("w1", ["e0-a"])
    assert desk.due("e0-a") == 15
    desk.ledger.unregistered("e0-a", 100)
    assert desk.due("e0-a") == 15


def test_what_completes_is_not_cancelled(desk: Desk) -> None:
    emit(desk, "e0", Flow(finish_timeout=20))
    token = begin(desk, "e0")
    desk.clock.advance(15)
    link = NewRun("e0-a-2", "a@doc/up", "then", message="{}")
    desk.ledger.settle("e0-a", token, S.COMPLETING, result="1", child=link)
    assert desk.due("e0-a") == RULES.lease
    desk.clock.advance(15)
    desk.ledger.renew("w1", ["e0-a"])
    assert desk.claim("e0-a").status == "completing"
    desk.clock.advance(RULES.lease)
    desk.ledger.take()
    assert states(desk, "e0") == ["succeeded"]


def test_one_that_is_retried_by_hand_has_the_whole_time_again(desk: Desk) -> None:
    emit(desk, "e0", SHORT)
    finish(desk, "e0", S.FAILED)
    desk.clock.advance(100)
    desk.ledger.reopen("e0-a", "again")
    assert desk.taken() == ["e0-a"]
    token = begin(desk, "e0")
    desk.clock.advance(20)
    desk.ledger.settle("e0-a", token, S.SUSPENDED, due=desk.clock.now + 1000)
    assert desk.due("e0-a") == 40


def test_time_outs_alone_hold_nothing_back(desk: Desk) -> None:
    flow = Flow(start_timeout=10, finish_timeout=20)
    assert emit(desk, "e0", flow) == "pending"
    assert desk.ledger.gates() == []
    token = begin(desk, "e0")
    desk.ledger.settle("e0-a", token, S.SUSPENDED, due=desk.clock.now + 5)
    desk.clock.advance(5)
    assert desk.taken() == ["e0-a"]


def test_both_together_with_a_throttle(desk: Desk) -> None:
    flow = dataclasses.replace(throttle(1, 10), start_timeout=15, finish_timeout=20)
    found = [record(desk, f"e{n}", [("a", flow)]).runs[0][1] for n in range(3)]
    assert found == [S.PENDING, S.GATED, S.GATED]
    finish(desk, "e0")
    desk.clock.advance(10)
    assert desk.taken() == ["e1-a"]
    desk.clock.advance(5)
    assert sorted(desk.ledger.take().ended) == ["e1-a", "e2-a"]
    for key in ("e1", "e2"):
        assert reason(desk, key) == ("cancelled", "start_timeout")
    assert desk.claim("e1-a").status == "finished"  # its message was there already


def test_one_whose_message_nobody_meets_is_cancelled_in_time(desk: Desk) -> None:
    """It has a place, which others wait for; its message is in a queue that no worker reads."""
    flow = dataclasses.replace(ONE, start_timeout=15)
    record(desk, "e0", [("a", flow)])
    desk.ledger.mark_published(["e0-a"])
    record(desk, "e1", [("a", ONE)])
    assert desk.due("e0-a") == 15
    desk.ledger.renew("boot", ["e0-a"])
    assert desk.due("e0-a") == 15
    desk.clock.advance(15)
    assert list(desk.ledger.take().ended) == ["e0-a"]
    assert desk.taken() == ["e1-a"]
