"""Throttles: starts that are spread over time, for every ledger."""

from __future__ import annotations

import dataclasses

import pytest

from celery_fanout.stores.limits import Flow
from celery_fanout.stores.states import RunState
from tests.conformance.flows import (
    THROTTLE,
    WORK,
    begin,
    emit,
    finish,
    gate,
    place,
    record,
    states,
    throttle,
    usage,
    waiting,
)
from tests.conformance.ledgers import Desk

S = RunState
EACH_TEN = throttle(1, 10)


def started(desk: Desk, until: float, step: float = 1) -> list[tuple[float, str]]:
    """Take what is due, again and again; return when runs were let in."""
    begun, found = desk.clock.now, {}
    while True:
        taken = desk.taken()
        desk.ledger.mark_published(taken)
        for run_id in taken:
            found.setdefault(run_id, round(desk.clock.now - begun, 3))
        if desk.clock.now - begun >= until:
            return [(at, run_id) for run_id, at in found.items()]
        desk.clock.advance(step)


def test_one_starts_and_the_others_wait_for_the_time(desk: Desk) -> None:
    assert [emit(desk, f"e{n}", EACH_TEN) for n in range(3)] == ["pending", "gated", "gated"]
    assert waiting(desk, "e1", "e2") == [THROTTLE] * 2
    assert desk.due("e1-a") is None
    assert desk.ledger.take([]).next_due == desk.clock.now + 10
    assert finish(desk, "e0") == []
    assert started(desk, 25) == [(10, "e1-a"), (20, "e2-a")]


def test_a_run_that_ends_lets_none_in(desk: Desk) -> None:
    emit(desk, "e0", EACH_TEN)
    emit(desk, "e1", EACH_TEN)
    assert finish(desk, "e0") == []
    assert states(desk, "e1") == ["gated"]


def test_starts_are_spread_evenly(desk: Desk) -> None:
    flow = throttle(5, 10)
    for n in range(6):
        emit(desk, f"e{n}", flow)
    finish(desk, "e0")
    found = started(desk, 10, step=0.5)
    assert found == [(2.0 * n, f"e{n}-a") for n in range(1, 6)]


def test_more_may_start_at_once_with_a_burst(desk: Desk) -> None:
    flow = throttle(1, 10, burst=2)
    assert [emit(desk, f"e{n}", flow) for n in range(4)] == ["pending"] * 3 + ["gated"]
    desk.clock.advance(10)
    assert "e3-a" in desk.taken()
    assert emit(desk, "e4", flow) == "gated"
    desk.clock.advance(35)  # three more may start by now: it is one, and two of a burst
    desk.ledger.take()
    assert [emit(desk, f"f{n}", flow) for n in range(4)] == ["pending"] * 2 + ["gated"] * 2


def test_an_idle_throttle_saves_nothing_up(desk: Desk) -> None:
    emit(desk, "e0", EACH_TEN)
    desk.clock.advance(1000)
    assert [emit(desk, f"f{n}", EACH_TEN) for n in range(2)] == ["pending", "gated"]
    record_ = gate(desk, THROTTLE)
    assert record_ is not None
    assert record_.next_at == desk.clock.now + 10


def test_an_arrival_waits_exactly_until_then(desk: Desk) -> None:
    emit(desk, "e0", EACH_TEN)
    desk.clock.advance(9.999)
    assert emit(desk, "e1", EACH_TEN) == "gated"
    assert desk.taken() == []
    desk.clock.advance(0.001)
    assert desk.taken() == ["e1-a"]


def test_an_arrival_may_start_once_it_is_time(desk: Desk) -> None:
    emit(desk, "e0", EACH_TEN)
    desk.clock.advance(10)
    assert emit(desk, "e1", EACH_TEN) == "pending"
    assert emit(desk, "e2", EACH_TEN) == "gated"
    desk.clock.advance(10)
    assert sorted(desk.taken()) == ["e0-a", "e2-a"]


def test_an_arrival_does_not_overtake_who_waits_for_the_time(desk: Desk) -> None:
    """Its time has come, but nobody has looked yet."""
    emit(desk, "e0", EACH_TEN)
    emit(desk, "e1", EACH_TEN)
    desk.clock.advance(11)
    assert emit(desk, "e2", EACH_TEN) == "gated"
    assert desk.taken() == ["e1-a"]


def test_a_late_tick_costs_no_throughput(desk: Desk) -> None:
    flow = throttle(1, 10)
    for n in range(4):
        emit(desk, f"e{n}", flow)
    finish(desk, "e0")
    desk.clock.advance(12)
    assert desk.taken() == ["e1-a"]
    desk.clock.advance(7.9)
    assert desk.taken() == []
    desk.clock.advance(0.1)  # 20 after the first
    assert desk.taken() == ["e2-a"]


def test_a_tick_that_is_very_late_makes_no_crowd(desk: Desk) -> None:
    """One more than one at most starts because of that."""
    flow = throttle(1, 10)
    for n in range(6):
        emit(desk, f"e{n}", flow)
    finish(desk, "e0")
    desk.clock.advance(45)
    assert desk.taken() == ["e1-a", "e2-a"]
    desk.clock.advance(9.9)
    assert desk.taken() == []
    desk.clock.advance(0.1)
    assert "e3-a" in desk.taken()


def test_a_fast_throttle_has_a_tenth_of_a_second_to_make_up_for(desk: Desk) -> None:
    flow = throttle(100, 1)
    for n in range(40):
        emit(desk, f"e{n:02}", flow)
    desk.clock.advance(0.1)
    assert desk.taken() == [f"e{n:02}-a" for n in range(1, 11)]
    desk.clock.advance(5)
    assert len(desk.taken()) == 11  # not 29


def test_each_key_has_its_own_time(desk: Desk) -> None:
    flows = [throttle(1, 10, key=key) for key in ("x", "y", "x")]
    assert [emit(desk, f"e{n}", flow) for n, flow in enumerate(flows)] == [
        *("pending", "pending", "gated"),
    ]


@pytest.mark.parametrize("to", [S.SUSPENDED, S.RETRYING])
def test_a_run_is_counted_once(desk: Desk, to: RunState) -> None:
    emit(desk, "e0", EACH_TEN)
    emit(desk, "e1", EACH_TEN)
    desk.ledger.settle("e0-a", begin(desk, "e0"), to, due=desk.clock.now + 3)
    desk.clock.advance(3)
    assert desk.taken() == ["e0-a"]  # it passes who waits: it was let in before
    desk.clock.advance(7)
    assert desk.taken() == ["e1-a"]


def test_a_run_that_is_retried_by_hand_is_counted_again(desk: Desk) -> None:
    """Else a thousand dead letters that are retried at once would start at once."""
    for n in range(3):
        emit(desk, f"e{n}", EACH_TEN)
    for n in range(2):
        finish(desk, f"e{n}", S.FAILED)
        desk.clock.advance(10)
        desk.taken()
    finish(desk, "e2", S.FAILED)
    for n in range(3):
        assert desk.ledger.reopen(f"e{n}-a", "again")
    assert desk.taken() == []
    for n in range(3):
        desk.clock.advance(10)
        assert desk.taken() == [f"e{n}-a"]
        finish(desk, f"e{n}")


def test_a_delayed_run_is_counted_when_it_is_due(desk: Desk) -> None:
    assert emit(desk, "e0", EACH_TEN, resume_at=desk.clock.now + 5) == "pending"
    assert emit(desk, "e1", EACH_TEN) == "pending"
    desk.clock.advance(5)
    assert desk.taken() == []
    assert waiting(desk, "e0") == [THROTTLE]
    desk.clock.advance(5)
    assert desk.taken() == ["e0-a"]


def test_who_is_cancelled_leaves_the_time_to_the_next(desk: Desk) -> None:
    for n in range(3):
        emit(desk, f"e{n}", EACH_TEN)
    desk.ledger.cancel(["e1-a"], "enough")
    assert usage(desk, THROTTLE) == (1, 1)
    desk.clock.advance(10)
    assert desk.taken() == ["e2-a"]


def test_when_all_that_waited_are_cancelled_nothing_is_due(desk: Desk) -> None:
    emit(desk, "e0", EACH_TEN)
    emit(desk, "e1", EACH_TEN)
    desk.ledger.cancel(["e0-a", "e1-a"], "enough")
    desk.clock.advance(10)
    found = desk.ledger.take()
    assert (list(found.wakeups), found.next_due) == ([], None)


# --- together with places ------------------------------------------------------------------------

BOTH = dataclasses.replace(EACH_TEN, places=(place(1),))


def test_it_asks_for_the_place_first(desk: Desk) -> None:
    assert [emit(desk, f"e{n}", BOTH) for n in range(3)] == ["pending", "gated", "gated"]
    assert waiting(desk, "e1", "e2") == [WORK, WORK]
    assert finish(desk, "e0") == []  # the place is free, and it is not time yet
    assert waiting(desk, "e1") == [THROTTLE]  # how many go there with it is the ledger's to decide
    assert usage(desk)[0] == 0
    desk.clock.advance(10)
    assert desk.taken() == ["e1-a"]
    assert (usage(desk), waiting(desk, "e2")) == ((1, 1), [WORK])  # the place is taken again
    desk.clock.advance(10)
    assert desk.taken() == []
    assert (waiting(desk, "e2"), usage(desk, THROTTLE)) == ([WORK], (0, 0))
    assert finish(desk, "e1") == ["e2-a"]


def test_no_start_is_counted_for_who_does_not_start(desk: Desk) -> None:
    emit(desk, "e0", Flow((place(1),)))
    assert emit(desk, "e1", BOTH) == "gated"
    assert emit(desk, "e2", EACH_TEN) == "pending"
    assert emit(desk, "e3", EACH_TEN) == "gated"


def test_who_moves_to_an_idle_throttle_is_not_late(desk: Desk) -> None:
    """It has not waited for the time: so the next one waits the whole of it."""
    emit(desk, "e9", EACH_TEN)
    emit(desk, "e0", Flow((place(2),)))
    emit(desk, "e1", Flow((place(2),)))
    emit(desk, "e2", dataclasses.replace(EACH_TEN, places=(place(2),)))
    emit(desk, "e3", dataclasses.replace(EACH_TEN, places=(place(2),)))
    desk.clock.advance(100)
    assert finish(desk, "e0") == ["e2-a"]
    assert finish(desk, "e1") == []
    assert waiting(desk, "e3") == [THROTTLE]
    assert desk.ledger.take([]).next_due is not None
    desk.clock.advance(9.9)
    assert "e3-a" not in desk.taken()
    desk.clock.advance(0.1)
    assert "e3-a" in desk.taken()


def test_two_subscriptions_of_one_event(desk: Desk) -> None:
    found = record(desk, "e0", [("a", EACH_TEN), ("b", EACH_TEN)])
    assert list(found.runs) == [("e0-a", S.PENDING), ("e0-b", S.GATED)]
    desk.clock.advance(10)
    assert desk.taken() == ["e0-b"]


def test_a_replay_waits_for_its_time(desk: Desk) -> None:
    emit(desk, "e0", EACH_TEN)
    found = record(desk, "e0", [("a", EACH_TEN)], replay=True, generation=1, nonce="n")
    assert list(found.runs) == [("e0-a-1", S.GATED)]


def test_more_than_a_pump_lets_in(desk: Desk) -> None:
    flow = throttle(1, 1)
    for n in range(61):
        emit(desk, f"e{n:02}", flow)
    finish(desk, "e00")
    desk.ledger.tune(THROTTLE, 1000)
    assert desk.taken() == []
    desk.clock.advance(5)
    found = desk.ledger.take(limit=1000)
    assert [wakeup.run_id for wakeup in found.wakeups] == [f"e{n:02}-a" for n in range(1, 51)]
    assert found.next_due == desk.clock.now
    assert desk.taken() == [f"e{n:02}-a" for n in range(51, 61)]


# --- when the numbers are changed ----------------------------------------------------------------


@pytest.mark.parametrize("burst", [0, 3])
def test_one_that_was_made_faster_is_so_at_once(desk: Desk, burst: int) -> None:
    flow = throttle(1, 3600, burst)
    for n in range(burst + 4):
        emit(desk, f"e{n}", flow)
    for n in range(burst + 1):
        finish(desk, f"e{n}")
    desk.ledger.tune(THROTTLE, 10, 10.0)
    found = started(desk, 3, step=0.5)
    assert found == [(float(n), f"e{burst + n}-a") for n in (1, 2, 3)]


def test_one_that_was_made_faster_while_nobody_waits(desk: Desk) -> None:
    flow = throttle(1, 3600)
    emit(desk, "e0", flow)
    finish(desk, "e0")
    desk.ledger.tune(THROTTLE, 1, 10.0)
    assert emit(desk, "e1", flow) == "gated"
    desk.clock.advance(10)
    assert desk.taken() == ["e1-a"]


def test_one_that_was_made_slower(desk: Desk) -> None:
    for n in range(3):
        emit(desk, f"e{n}", EACH_TEN)
    finish(desk, "e0")
    desk.ledger.tune(THROTTLE, 1, 50.0)
    assert started(desk, 65) == [(10, "e1-a"), (60, "e2-a")]


def test_one_that_lets_nobody_start(desk: Desk) -> None:
    desk.ledger.tune(THROTTLE, 0)
    assert emit(desk, "e0", EACH_TEN) == "gated"
    found = desk.ledger.take()
    assert (list(found.wakeups), found.next_due) == ([], None)
    desk.clock.advance(1000)
    assert desk.taken() == []
    desk.ledger.tune(THROTTLE, None)
    assert (desk.ledger.take([]).next_due or 0.0) <= desk.clock.now
    assert desk.taken() == ["e0-a"]


def claim(desk: Desk, key: str, nonce: str = "") -> tuple[str, float]:
    """Meet a run's message; return what comes of it, and in how many seconds it may start."""
    found = desk.ledger.claim(f"{key}-a", "boot", nonce or f"{key}{desk.clock.now}")
    return found.status, round(found.due - desk.clock.now, 3) if found.status == "early" else 0.0


def test_messages_that_waited_together_start_one_by_one(desk: Desk) -> None:
    """They were let in one by one, while all workers were busy."""
    keys = [f"e{n}" for n in range(5)]
    for key in keys:
        emit(desk, key, EACH_TEN)
    started(desk, 45)
    # one interval is how far two may come together: messages are on their way for different times
    assert [claim(desk, key) for key in keys] == [
        ("claimed", 0.0),
        ("claimed", 0.0),
        ("early", 20.0),
        ("early", 30.0),
        ("early", 40.0),
    ]
    assert states(desk, *keys[2:]) == ["pending"] * 3
    assert claim(desk, "e3", "again") == ("early", 30.0)
    assert usage(desk, THROTTLE)[1] == 0  # they wait for no turn any more
    desk.clock.advance(20)
    assert desk.taken() == ["e2-a"]
    assert claim(desk, "e2") == ("claimed", 0.0)
    desk.clock.advance(10)
    assert "e3-a" in desk.taken()
    # what comes next comes after those who have their times
    emit(desk, "e9", EACH_TEN)
    assert claim(desk, "e9")[0] == "early"
    assert claim(desk, "e3") == ("claimed", 0.0)


def test_a_burst_may_start_together(desk: Desk) -> None:
    flow = throttle(1, 10, burst=2)
    for n in range(4):
        emit(desk, f"e{n}", flow)
    started(desk, 12)
    assert [claim(desk, f"e{n}")[0] for n in range(4)] == ["claimed"] * 4


def test_one_that_is_retried_is_on_no_schedule(desk: Desk) -> None:
    emit(desk, "e0", EACH_TEN)
    token = begin(desk, "e0")
    desk.ledger.settle("e0-a", token, S.RETRYING, due=desk.clock.now, retries=1, reason="again")
    desk.taken()
    assert desk.ledger.claim("e0-a", "boot", "n2", retries=1).status == "claimed"


def test_one_that_has_a_time_of_its_own_may_run_out_of_time(desk: Desk) -> None:
    flow = dataclasses.replace(EACH_TEN, start_timeout=15.0)
    for n in range(3):
        emit(desk, f"e{n}", EACH_TEN if n < 2 else flow)
    started(desk, 12)
    desk.clock.advance(2)
    claim(desk, "e0")
    claim(desk, "e1")
    assert states(desk, "e2") == ["gated"]
    desk.clock.advance(2)
    assert desk.ledger.take().ended == ["e2-a"]


def test_keepers_look_more_often_for_a_while(desk: Desk) -> None:
    """A run that another limit lets go may have to wait for a throttle: a timer that none saw."""
    assert not desk.ledger.take().busy
    emit(desk, "e0", EACH_TEN)
    assert not desk.ledger.take().busy  # its interval is longer than keepers sleep
    emit(desk, "f0", throttle(5, 1, key="fast"))
    assert desk.ledger.take().busy
    assert not desk.ledger.take(["e0-a"]).busy
    desk.clock.advance(3)
    assert not desk.ledger.take().busy
