"""Places: so many runs at once, for every ledger."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import pytest

from celery_fanout.stores.limits import Flow
from celery_fanout.stores.records import NewEvent, NewRun
from celery_fanout.stores.states import RunState
from tests.conformance.flows import (
    ERROR,
    WORK,
    begin,
    emit,
    finish,
    one,
    place,
    record,
    states,
    usage,
    waiting,
)
from tests.conformance.ledgers import RULES, Desk

S = RunState
ONE = Flow((place(1),))
TWO = Flow((place(2),))


def test_it_supports_it(desk: Desk) -> None:
    assert desk.ledger.supports_flow


def test_so_many_may_start_and_the_others_wait(desk: Desk) -> None:
    assert [emit(desk, f"e{n}", TWO) for n in range(4)] == ["pending", "pending", "gated", "gated"]
    assert usage(desk) == (2, 2)
    assert desk.due("e0-a") == RULES.grace
    assert desk.due("e2-a") is None
    assert waiting(desk, "e2", "e3") == [WORK, WORK]
    assert desk.ledger.counts()[S.GATED] == 2


def test_who_ends_lets_the_first_that_waits_in(desk: Desk) -> None:
    for n in range(4):
        emit(desk, f"e{n}", TWO)
    assert finish(desk, "e0") == ["e2-a"]
    assert states(desk, "e2", "e3") == ["pending", "gated"]
    assert desk.due("e2-a") == 0
    assert waiting(desk, "e2") == ["pending"]
    assert desk.taken("e2-a") == ["e2-a"]
    assert (finish(desk, "e1"), finish(desk, "e2"), finish(desk, "e3")) == (["e3-a"], [], [])
    assert usage(desk) == (0, 0)


def test_a_message_of_one_that_waits_changes_nothing(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    emit(desk, "e1", ONE)
    before = desk.ledger.run("e1-a")
    desk.clock.advance(5)
    assert desk.claim("e1-a").status == "gated"
    assert desk.ledger.run("e1-a") == before
    assert usage(desk) == (1, 1)


def test_a_repeat_of_a_record_changes_nothing(desk: Desk) -> None:
    for _ in range(2):
        record(desk, "e0", [("a", ONE)])
        record(desk, "e1", [("a", ONE)])
    assert usage(desk) == (1, 1)
    found = record(desk, "e1", [("a", ONE)])
    assert (found.status, list(found.runs)) == ("repeat", [("e1-a", S.GATED)])


def test_two_runs_of_one_event_and_one_of_a_subscription_without_limits(desk: Desk) -> None:
    found = record(desk, "e0", [("a", ONE), ("b", ONE), ("c", None)])
    assert list(found.runs) == [("e0-a", S.PENDING), ("e0-b", S.GATED), ("e0-c", S.PENDING)]
    event = desk.ledger.event("e0")
    assert event is not None
    assert event.open == 3


def test_each_key_has_its_own_places(desk: Desk) -> None:
    keys = ["x", "y", "x", "y"]
    found = [emit(desk, f"e{n}", Flow((place(1, key=key),))) for n, key in enumerate(keys)]
    assert found == ["pending", "pending", "gated", "gated"]
    assert finish(desk, "e1") == ["e3-a"]
    assert (usage(desk, key="x"), usage(desk, key="y")) == ((1, 1), (1, 0))


# --- several gates -------------------------------------------------------------------------------

BOTH = Flow((place(1, key="x"), place(2, "concurrency app")))


def test_it_takes_all_its_places_at_once_or_none(desk: Desk) -> None:
    emit(desk, "e0", Flow((place(2, "concurrency app"),)))
    emit(desk, "e1", Flow((place(2, "concurrency app"),)))
    assert emit(desk, "e2", BOTH) == "gated"
    assert waiting(desk, "e2") == ["concurrency app"]
    assert usage(desk, key="x") == (0, 0)
    assert finish(desk, "e0") == ["e2-a"]
    assert usage(desk, key="x") == (1, 0)


def test_it_waits_at_the_first_gate_that_refuses_it(desk: Desk) -> None:
    emit(desk, "e0", BOTH)
    emit(desk, "e1", Flow((place(2, "concurrency app"),)))
    emit(desk, "e2", BOTH)
    assert waiting(desk, "e2") == [WORK]
    assert finish(desk, "e0") == ["e2-a"]


def test_it_moves_on_to_the_gate_that_refuses_it_next(desk: Desk) -> None:
    emit(desk, "e0", Flow((place(1, key="x"),)))
    emit(desk, "e1", BOTH)
    emit(desk, "e2", Flow((place(2, "concurrency app"),)))
    emit(desk, "e3", Flow((place(2, "concurrency app"),)))
    assert finish(desk, "e0") == []
    assert waiting(desk, "e1") == ["concurrency app"]
    # the key is free for others, meanwhile
    assert emit(desk, "e4", Flow((place(1, key="x"),))) == "pending"
    # and when the other has a place, the key is taken again
    assert finish(desk, "e2") == []
    assert waiting(desk, "e1") == [WORK]
    assert finish(desk, "e4") == ["e1-a"]
    assert (usage(desk, key="x"), usage(desk, "concurrency app")) == ((1, 0), (2, 0))


def test_who_moves_on_does_not_hold_up_those_behind(desk: Desk) -> None:
    """Two free places of one gate go to those who have all else."""
    app = "concurrency app"
    emit(desk, "e0", Flow((place(1, app), place(1, key="x"))))
    emit(desk, "e1", Flow((place(1, app), place(1, "concurrency other"))))
    emit(desk, "e2", Flow((place(1, app),)))
    emit(desk, "e3", Flow((place(1, "concurrency other"),)))
    assert waiting(desk, "e1", "e2") == [app, app]
    assert finish(desk, "e0") == ["e2-a"]
    assert waiting(desk, "e1", "e2") == ["concurrency other", "pending"]


def test_an_arrival_never_overtakes(desk: Desk) -> None:
    """Nor at a gate that has room, while another one waits for that room and more."""
    app = "concurrency app"
    emit(desk, "e0", Flow((place(1, key="x"),)))
    emit(desk, "e1", Flow((place(1, key="x"), place(1, app))))
    assert waiting(desk, "e1") == [WORK]
    # at the other gate nobody waits yet, so it is open
    assert emit(desk, "e2", Flow((place(1, app),))) == "pending"
    assert finish(desk, "e0") == []
    assert waiting(desk, "e1") == [app]
    assert emit(desk, "e3", Flow((place(1, app),))) == "gated"
    assert finish(desk, "e2") == ["e1-a"]


def test_no_arrival_overtakes_while_a_limit_was_raised(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    emit(desk, "e1", ONE)
    desk.ledger.tune(WORK, 2)
    assert emit(desk, "e2", ONE) == "gated"
    assert desk.taken() == ["e1-a"]
    assert states(desk, "e1", "e2") == ["pending", "gated"]


# --- giving back, and coming back ----------------------------------------------------------------


def leave(desk: Desk, key: str, to: RunState, **more: object) -> list[str]:
    found = desk.ledger.settle(f"{key}-a", begin(desk, key), to, **more)  # type: ignore[arg-type]
    assert found.ok
    return list(found.woken)


@pytest.mark.parametrize("to", [S.SUSPENDED, S.RETRYING])
def test_who_leaves_its_worker_gives_its_place_back(desk: Desk, to: RunState) -> None:
    emit(desk, "e0", ONE)
    emit(desk, "e1", ONE)
    assert leave(desk, "e0", to, due=desk.clock.now + 10) == ["e1-a"]
    assert usage(desk) == (1, 0)
    desk.clock.advance(10)
    assert desk.taken() == ["e1-a"]
    assert (states(desk, "e0"), waiting(desk, "e0")) == (["gated"], [WORK])
    assert finish(desk, "e1") == ["e0-a"]
    assert desk.taken("e0-a") == ["e0-a"]
    assert finish(desk, "e0") == []
    assert usage(desk) == (0, 0)


def test_who_comes_back_has_kept_its_number(desk: Desk) -> None:
    for n in range(4):
        emit(desk, f"e{n}", ONE)
    assert leave(desk, "e0", S.SUSPENDED, due=desk.clock.now + 10) == ["e1-a"]
    desk.clock.advance(10)
    desk.ledger.take()
    assert waiting(desk, "e0", "e2", "e3") == [WORK] * 3
    assert finish(desk, "e1") == ["e0-a"]
    assert finish(desk, "e0") == ["e2-a"]


def test_who_comes_back_to_a_free_place_goes_on(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    leave(desk, "e0", S.SUSPENDED, due=desk.clock.now + 10)
    assert usage(desk) == (0, 0)
    desk.clock.advance(10)
    assert desk.taken() == ["e0-a"]
    assert usage(desk) == (1, 0)


def test_a_stray_message_takes_a_place_too_or_waits(desk: Desk) -> None:
    for key in ("e0", "e1"):
        emit(desk, key, ONE)
        leave(desk, key, S.RETRYING, due=desk.clock.now + 10, retries=1)
    desk.clock.advance(10)
    assert desk.claim("e1-a", retries=0).status == "stale"
    assert usage(desk) == (0, 0)
    assert desk.claim("e1-a", retries=1).status == "claimed"
    assert usage(desk) == (1, 0)
    assert desk.claim("e0-a", retries=1).status == "gated"
    assert desk.ledger.settle("e1-a", 2, S.SUCCEEDED).woken == ["e0-a"]
    (wakeup,) = desk.ledger.take(["e0-a"]).wakeups
    assert wakeup.retries == 1


def test_an_early_message_takes_no_place(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    leave(desk, "e0", S.SUSPENDED, due=desk.clock.now + 10)
    assert desk.claim("e0-a").status == "early"
    assert usage(desk) == (0, 0)


def test_a_run_that_waits_for_an_event_waits_for_a_place_after_it(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    emit(desk, "e1", ONE)
    token, field = begin(desk, "e0"), 's["w",1]'
    now = desk.clock.now
    desk.ledger.wait("e0-a", token, field, "doc/ok", "{}", since=now, due=now + 50)
    found = desk.ledger.settle("e0-a", token, S.SUSPENDED, group=field, due=now + 50)
    assert found.woken == ["e1-a"]
    assert list(desk.emit("ok", name="doc/ok").woken) == ["e0-a"]
    assert desk.taken("e0-a") == []
    assert finish(desk, "e1") == ["e0-a"]
    found_claim = desk.claim("e0-a")
    assert found_claim.status == "claimed"
    assert json.loads(found_claim.checkpoints[field])["s"] == "done"


def test_items_of_a_parallel_group_keep_their_runs_place(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    emit(desk, "e1", ONE)
    token, group = begin(desk, "e0"), 's["p",1]'
    items = [NewRun(f"i{n}", "a@doc/up", "parallel", field=f"f{n}", group=group) for n in (1, 2)]
    assert desk.ledger.spawn("e0-a", token, group, items).ok
    assert desk.ledger.settle("e0-a", token, S.SUSPENDED, group=group).woken == []
    assert usage(desk) == (1, 1)
    for n, woken in ((1, []), (2, ["e0-a"])):
        token = desk.begin(f"i{n}")
        assert list(desk.ledger.settle(f"i{n}", token, S.SUCCEEDED, result="1").woken) == woken
    assert desk.taken("e0-a") == ["e0-a"]
    assert usage(desk) == (1, 1)
    assert finish(desk, "e0") == ["e1-a"]


def test_runs_that_are_invoked_do_not_keep_it(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    emit(desk, "e1", ONE)
    token, group = begin(desk, "e0"), 's["i",1]'
    children = [NewRun("i1", "a@doc/up", "invoke", field="f1", group=group)]
    assert desk.ledger.spawn("e0-a", token, group, children).ok
    assert desk.ledger.settle("e0-a", token, S.SUSPENDED, group=group).woken == ["e1-a"]
    token = desk.begin("i1")
    assert desk.ledger.settle("i1", token, S.SUCCEEDED, result="1").woken == ["e0-a"]
    assert desk.taken("e0-a") == []
    assert finish(desk, "e1") == ["e0-a"]


def test_a_run_keeps_its_place_while_its_tail_is_dispatched(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    emit(desk, "e1", ONE)
    token = begin(desk, "e0")
    link = NewRun("e0-a-2", "a@doc/up", "then", message="{}")
    assert desk.ledger.settle("e0-a", token, S.COMPLETING, result="1", child=link).woken == []
    assert usage(desk) == (1, 1)
    assert desk.ledger.settle("e0-a", token, S.SUCCEEDED).woken == ["e1-a"]
    assert usage(desk) == (1, 0)


def test_one_that_completes_alone_gives_its_place_back(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    emit(desk, "e1", ONE)
    desk.ledger.settle("e0-a", begin(desk, "e0"), S.COMPLETING, result="1")
    desk.clock.advance(RULES.lease)
    desk.ledger.take()
    assert states(desk, "e0", "e1") == ["succeeded", "pending"]
    assert desk.taken() == ["e1-a"]


def test_a_crash_keeps_the_place_until_it_is_the_last(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    emit(desk, "e1", ONE)
    for _ in range(RULES.max_crashes - 1):
        begin(desk, "e0")
        desk.clock.advance(RULES.lease)
        assert desk.taken() == ["e0-a"]
        assert usage(desk) == (1, 1)
    begin(desk, "e0")
    desk.clock.advance(RULES.lease)
    assert list(desk.ledger.take().ended) == ["e0-a"]
    assert usage(desk) == (1, 0)
    assert desk.taken() == ["e1-a"]


def test_a_last_crash_that_a_claim_meets(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    emit(desk, "e1", ONE)
    for _ in range(RULES.max_crashes):
        begin(desk, "e0")
        desk.clock.advance(RULES.lease)
    found = desk.claim("e0-a")
    assert (found.status, list(found.woken)) == ("crashed", ["e1-a"])
    assert usage(desk) == (1, 0)


def test_a_process_that_is_gone(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    emit(desk, "e1", ONE)
    begin(desk, "e0")
    assert desk.ledger.abandon("e0-a", "w1", ERROR, final=False).woken == ["e0-a"]
    assert usage(desk) == (1, 1)
    assert desk.taken("e0-a") == ["e0-a"]
    begin(desk, "e0")
    assert desk.ledger.abandon("e0-a", "w1", ERROR, final=True).woken == ["e1-a"]
    assert usage(desk) == (1, 0)


def test_a_worker_that_stops_keeps_it(desk: Desk) -> None:
    emit(desk, "e0", TWO)
    emit(desk, "e1", TWO)
    begin(desk, "e0")
    desk.ledger.renew("w1", ["e1-a"])
    assert desk.ledger.release("w1", ["e0-a", "e1-a"]) == ["e1-a"]
    assert usage(desk) == (2, 0)
    desk.clock.advance(RULES.lease)
    assert sorted(desk.taken()) == ["e0-a", "e1-a"]
    assert usage(desk) == (2, 0)


def test_a_run_that_a_worker_puts_back_keeps_it(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    desk.ledger.settle("e0-a", begin(desk, "e0"), S.PENDING)
    assert usage(desk) == (1, 0)


def test_a_task_that_no_worker_knows_gives_it_back(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    emit(desk, "e1", ONE)
    assert desk.ledger.unregistered("e0-a", 10).woken == ["e1-a"]
    assert (states(desk, "e0"), usage(desk)) == (["pending"], (1, 0))
    desk.clock.advance(10)
    assert desk.taken() == ["e1-a"]
    assert waiting(desk, "e0") == [WORK]
    finish(desk, "e1")
    assert desk.taken("e0-a") == ["e0-a"]
    desk.clock.advance(RULES.unregistered)
    assert desk.ledger.unregistered("e0-a", 10).ok
    assert (states(desk, "e0"), usage(desk)) == (["failed"], (0, 0))


def test_one_that_is_sent_again_keeps_it(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    for _ in range(2):
        desk.ledger.mark_published(["e0-a"])
        desk.clock.advance(500)
        assert desk.taken() == ["e0-a"]
        assert usage(desk) == (1, 0)


def test_a_lost_answer_of_a_claim_takes_it_once(desk: Desk) -> None:
    emit(desk, "e0", TWO)
    for _ in range(2):
        assert desk.ledger.claim("e0-a", "w1", "n").status == "claimed"
    assert usage(desk) == (1, 0)


# --- every end -----------------------------------------------------------------------------------


def to_suspended(desk: Desk) -> None:
    leave(desk, "e0", S.SUSPENDED, due=desk.clock.now + 10)


def to_gated_again(desk: Desk) -> None:
    to_suspended(desk)
    desk.clock.advance(10)
    desk.ledger.take()


def to_running(desk: Desk) -> None:
    begin(desk, "e0")


def nothing(desk: Desk) -> None:
    pass


@pytest.mark.parametrize("before", [nothing, to_running, to_suspended, to_gated_again])
def test_a_cancelled_run_leaves_nothing_behind(desk: Desk, before: Callable[[Desk], None]) -> None:
    emit(desk, "e0", ONE)
    emit(desk, "e1", ONE)
    before(desk)
    cancelled, woken = desk.ledger.cancel(["e0-a"], "enough")
    freed = before in (nothing, to_running)
    assert (cancelled, woken) == (["e0-a"], ["e1-a"] if freed else [])
    assert usage(desk) == (1, 0)
    assert finish(desk, "e1") == []
    assert usage(desk) == (0, 0)


def test_a_gated_run_that_is_cancelled_waits_no_more(desk: Desk) -> None:
    for n in range(3):
        emit(desk, f"e{n}", ONE)
    assert desk.ledger.cancel(["e1-a"], "enough") == (["e1-a"], [])
    assert usage(desk) == (1, 1)
    assert finish(desk, "e0") == ["e2-a"]


@pytest.mark.parametrize("to", [S.SUCCEEDED, S.FAILED, S.CANCELLED])
def test_every_end_gives_it_back(desk: Desk, to: RunState) -> None:
    emit(desk, "e0", ONE)
    emit(desk, "e1", ONE)
    assert finish(desk, "e0", to) == ["e1-a"]
    assert usage(desk) == (1, 0)


def test_one_that_expired_gives_it_back(desk: Desk) -> None:
    emit(desk, "e0", ONE, expires_at=desk.clock.now + 5)
    emit(desk, "e1", ONE)
    desk.clock.advance(6)
    found = desk.claim("e0-a")
    assert (found.status, list(found.woken)) == ("expired", ["e1-a"])
    assert usage(desk) == (1, 0)


def test_one_that_is_retried_by_hand_waits_in_its_turn(desk: Desk) -> None:
    for n in range(3):
        emit(desk, f"e{n}", ONE)
    assert finish(desk, "e0", S.FAILED) == ["e1-a"]
    assert desk.ledger.reopen("e0-a", "again")
    assert states(desk, "e0") == ["pending"]
    assert usage(desk) == (1, 1)
    assert desk.taken() == ["e1-a"]
    assert waiting(desk, "e0") == [WORK]
    assert finish(desk, "e1") == ["e0-a"]  # with its number
    assert finish(desk, "e0") == ["e2-a"]


def test_a_gated_run_that_was_cancelled_is_retried_by_hand(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    emit(desk, "e1", ONE)
    desk.ledger.cancel(["e1-a"], "enough")
    assert desk.ledger.reopen("e1-a", "again")
    assert desk.claim("e1-a").status == "gated"
    assert finish(desk, "e0") == ["e1-a"]
    assert finish(desk, "e1") == []


def test_many_wait_and_all_have_their_turn(desk: Desk) -> None:
    """Also more than one change lets in."""
    flow = Flow((place(120),))
    for n in range(240):
        emit(desk, f"e{n:03}", flow)
    assert usage(desk) == (120, 120)
    ended = desk.ledger.cancel([f"e{n:03}-a" for n in range(120)], "enough")
    assert sorted(ended[1]) == [f"e{n:03}-a" for n in range(120, 240)]
    assert usage(desk) == (120, 0)


def test_a_pump_that_has_done_enough_goes_on_with_the_next_take(desk: Desk) -> None:
    flow = Flow((place(1),))
    for n in range(121):
        emit(desk, f"e{n:03}", flow)
    desk.ledger.tune(WORK, 121)
    assert (desk.ledger.take([]).next_due or 0.0) <= desk.clock.now
    seen = []
    for more in (50, 50, 20):
        found = desk.ledger.take(limit=1000)
        seen += [wakeup.run_id for wakeup in found.wakeups]
        assert len(found.wakeups) == more
        assert (found.next_due == desk.clock.now) == (len(seen) < 120)
    assert sorted(seen) == [f"e{n:03}-a" for n in range(1, 121)]
    assert usage(desk) == (121, 0)


# --- delayed runs and replays --------------------------------------------------------------------


def test_a_delayed_run_asks_for_its_place_when_it_is_due(desk: Desk) -> None:
    assert emit(desk, "e0", ONE, resume_at=desk.clock.now + 10) == "pending"
    assert usage(desk) == (0, 0)
    assert emit(desk, "e1", ONE) == "pending"
    assert desk.claim("e0-a").status == "early"
    desk.clock.advance(10)
    assert desk.taken() == []
    assert (waiting(desk, "e0"), usage(desk)) == ([WORK], (1, 1))
    assert finish(desk, "e1") == ["e0-a"]


def test_a_replay_waits_too(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    found = record(desk, "e0", [("a", ONE)], replay=True, generation=1, nonce="n")
    assert list(found.runs) == [("e0-a-1", S.GATED)]
    assert finish(desk, "e0") == ["e0-a-1"]


def test_a_lost_run_is_made_again_and_asks_for_a_place(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    runs = [NewRun("e9-a", "a@doc/up", flow=ONE)]
    lost = NewEvent("e9", "doc/up", '{"id":"e9"}', "null", runs)
    assert desk.claim("e9-a", recreate=lost).status == "gated"
    assert finish(desk, "e0") == ["e9-a"]
    assert desk.claim("e9-a", recreate=lost).status == "claimed"


# --- places that are kept ------------------------------------------------------------------------


def test_a_kept_place_is_kept_while_a_run_is_suspended(desk: Desk) -> None:
    flow = one("queue")
    emit(desk, "e0", flow)
    emit(desk, "e1", flow)
    assert leave(desk, "e0", S.SUSPENDED, due=desk.clock.now + 10) == []
    assert usage(desk, "singleton work") == (1, 1)
    desk.clock.advance(10)
    assert desk.taken() == ["e0-a"]
    assert finish(desk, "e0") == ["e1-a"]


def test_a_run_with_a_kept_place_gives_the_other_back(desk: Desk) -> None:
    flow = dataclasses.replace(one("queue"), places=(*one("queue").places, place(1)))
    emit(desk, "e0", flow)
    emit(desk, "e1", ONE)
    assert leave(desk, "e0", S.RETRYING, due=desk.clock.now + 10) == ["e1-a"]
    assert (usage(desk, "singleton work"), usage(desk)) == ((1, 0), (1, 0))
    desk.clock.advance(10)
    desk.ledger.take()
    assert (waiting(desk, "e0"), usage(desk, "singleton work")) == ([WORK], (1, 0))
    assert desk.ledger.cancel(["e0-a"], "enough") == (["e0-a"], [])
    assert (usage(desk, "singleton work"), usage(desk)) == ((0, 0), (1, 0))


def test_a_gated_run_of_a_queue_has_no_place_yet(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    flow = dataclasses.replace(one("queue"), places=(*one("queue").places, place(1)))
    emit(desk, "e1", flow)
    assert (waiting(desk, "e1"), usage(desk, "singleton work")) == ([WORK], (0, 0))
