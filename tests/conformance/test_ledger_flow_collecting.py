"""Several events make one run: debounces and batches, for every ledger."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import pytest

from celery_fanout.stores.limits import Flow
from celery_fanout.stores.records import NewRun, Wakeup
from celery_fanout.stores.states import RunState
from tests.conformance.flows import (
    WORK,
    batch,
    begin,
    debounce,
    emit,
    finish,
    gate,
    once,
    place,
    record,
    throttle,
    usage,
    waiting,
)
from tests.conformance.ledgers import RULES, Desk

S = RunState
QUIET, BATCH = "debounce work", "batch work"


def joined(desk: Desk, key: str, flow: Flow, **more: object) -> list[tuple[str, RunState]]:
    found = record(desk, key, [("a", flow)], **more)
    assert found.status == "new"
    return list(found.runs)


def wakeup(desk: Desk, *run_ids: str) -> Wakeup:
    (found,) = desk.ledger.take(list(run_ids) or None).wakeups
    return found


def opens(desk: Desk, *keys: str) -> list[int]:
    events = [desk.ledger.event(key) for key in keys]
    return [event.open for event in events if event is not None]


def event_runs(desk: Desk, key: str) -> Sequence[str]:
    event = desk.ledger.event(key)
    assert event is not None
    return list(event.runs)


def collected(desk: Desk, run_id: str) -> list[str]:
    run = desk.ledger.run(run_id)
    assert run is not None
    return list(run.detail["events"])


# --- debounce ------------------------------------------------------------------------------------


def test_one_event_makes_one_run_after_a_while(desk: Desk) -> None:
    assert emit(desk, "e0", debounce(10)) == "gated"
    assert (waiting(desk, "e0"), desk.due("e0-a")) == ([QUIET], 10)
    assert desk.claim("e0-a").status == "gated"
    desk.clock.advance(9.999)
    assert desk.taken() == []
    desk.clock.advance(0.001)
    found = wakeup(desk)
    assert (found.run_id, found.event, json.loads(found.data)) == ("e0-a", "e0", {"id": "e0"})
    assert list(found.events) == ["e0"]
    assert desk.claim("e0-a").status == "claimed"


def test_events_join_it_and_the_last_counts(desk: Desk) -> None:
    emit(desk, "e0", debounce(10))
    for n in (1, 2):
        desk.clock.advance(6)
        assert joined(desk, f"e{n}", debounce(10)) == [("e0-a", S.GATED)]
        assert desk.ledger.run(f"e{n}-a") is None
        assert desk.due("e0-a") == 10
    assert collected(desk, "e0-a") == ["e0", "e1", "e2"]
    assert [event_runs(desk, f"e{n}") for n in range(3)] == [["e0-a"]] * 3
    assert opens(desk, "e0", "e1", "e2") == [1, 1, 1]
    desk.clock.advance(10)
    found = wakeup(desk)
    assert (found.run_id, found.event, json.loads(found.data)) == ("e0-a", "e2", {"id": "e2"})
    assert json.loads(found.attributes) == {"id": "e2"}
    assert list(found.events) == ["e0", "e1", "e2"]
    run = desk.ledger.run("e0-a")
    assert run is not None
    assert (run.event, run.created) == ("e2", desk.clock.now - 22)


def test_it_is_never_later_than_its_timeout(desk: Desk) -> None:
    flow = debounce(10, 40)
    emit(desk, "e0", flow)
    for n, (gap, due) in enumerate([(5, 10), (9, 10), (9, 10), (9, 8), (7, 1)], start=1):
        desk.clock.advance(gap)
        assert joined(desk, f"e{n}", flow) == [("e0-a", S.GATED)]
        assert desk.due("e0-a") == due
    desk.clock.advance(1)
    woken = wakeup(desk)
    assert (woken.run_id, woken.event) == ("e0-a", "e5")


def test_the_next_event_begins_again(desk: Desk) -> None:
    emit(desk, "e0", debounce(10))
    desk.clock.advance(10)
    assert wakeup(desk).run_id == "e0-a"
    assert emit(desk, "e1", debounce(10)) == "gated"
    assert collected(desk, "e0-a") == ["e0"]
    desk.clock.advance(10)
    assert "e1-a" in desk.taken()


def test_a_repeat_has_the_run_that_was_joined(desk: Desk) -> None:
    emit(desk, "e0", debounce(10))
    joined(desk, "e1", debounce(10))
    desk.clock.advance(3)
    found = record(desk, "e1", [("a", debounce(10))])
    assert (found.status, list(found.runs)) == ("repeat", [("e0-a", S.GATED)])
    assert collected(desk, "e0-a") == ["e0", "e1"]
    assert desk.due("e0-a") == 7
    assert {run.id for run in desk.ledger.runs(event="e1")} == {"e0-a"}


def test_only_one_of_an_events_runs_joins(desk: Desk) -> None:
    record(desk, "e0", [("a", debounce(10)), ("b", None)])
    found = record(desk, "e1", [("a", debounce(10)), ("b", None)])
    assert list(found.runs) == [("e0-a", S.GATED), ("e1-b", S.PENDING)]
    assert event_runs(desk, "e1") == ["e0-a", "e1-b"]
    assert opens(desk, "e0", "e1") == [2, 2]


@pytest.mark.parametrize("to", [S.SUCCEEDED, S.FAILED, S.CANCELLED])
def test_its_end_closes_all_its_events(desk: Desk, to: RunState) -> None:
    emit(desk, "e0", debounce(10))
    joined(desk, "e1", debounce(10))
    desk.clock.advance(10)
    desk.ledger.take()
    finish(desk, "e0", to)
    assert opens(desk, "e0", "e1") == [0, 0]


def test_every_event_of_it_has_its_fan_in(desk: Desk) -> None:
    for n in range(2):
        then = {"then_id": f"e{n}-then", "then_message": "{}"}
        record(desk, f"e{n}", [("a", debounce(10)), ("b", None)], **then)
    desk.ledger.settle("e0-b", desk.begin("e0-b"), S.SUCCEEDED)
    desk.clock.advance(10)
    desk.ledger.take(["e0-a"])
    assert finish(desk, "e0") == ["e0-then"]
    assert desk.ledger.run("e1-then") is None
    found = desk.ledger.settle("e1-b", desk.begin("e1-b"), S.SUCCEEDED)
    assert list(found.woken) == ["e1-then"]
    assert opens(desk, "e0", "e1") == [1, 1]


def test_one_that_collects_can_be_cancelled(desk: Desk) -> None:
    emit(desk, "e0", debounce(10))
    joined(desk, "e1", debounce(10))
    assert desk.ledger.cancel(["e0-a"], "enough") == (["e0-a"], [])
    assert opens(desk, "e0", "e1") == [0, 0]
    assert joined(desk, "e2", debounce(10)) == [("e2-a", S.GATED)]
    desk.clock.advance(10)
    assert desk.taken() == ["e2-a"]


def test_one_that_is_retried_by_hand_collects_no_more(desk: Desk) -> None:
    emit(desk, "e0", debounce(10))
    joined(desk, "e1", debounce(10))
    desk.ledger.cancel(["e0-a"], "enough")
    assert desk.ledger.reopen("e0-a", "again")
    assert opens(desk, "e0", "e1") == [1, 1]
    assert joined(desk, "e2", debounce(10)) == [("e2-a", S.GATED)]
    found = wakeup(desk)
    assert (found.run_id, list(found.events)) == ("e0-a", ["e0", "e1"])
    finish(desk, "e0")
    assert opens(desk, "e0", "e1", "e2") == [0, 0, 1]


def test_a_delayed_event_is_not_run_before_its_time(desk: Desk) -> None:
    start = desk.clock.now
    emit(desk, "e0", debounce(10), resume_at=start + 30)
    assert desk.due("e0-a") == 30
    desk.clock.advance(5)
    joined(desk, "e1", debounce(10))
    assert desk.due("e0-a") == 25
    desk.clock.advance(1)
    joined(desk, "e2", debounce(10), resume_at=start + 40)
    assert desk.due("e0-a") == 34
    desk.clock.advance(34)
    assert desk.taken() == ["e0-a"]


def test_when_it_is_quiet_the_run_asks_for_its_place(desk: Desk) -> None:
    flow = debounce(10, places=(place(1),))
    emit(desk, "e9", Flow((place(1),)))
    emit(desk, "e0", flow)
    assert usage(desk) == (1, 0)
    desk.clock.advance(10)
    assert desk.taken("e0-a") == []
    assert (waiting(desk, "e0"), usage(desk)) == ([WORK], (1, 1))
    assert desk.due("e0-a") is None
    assert joined(desk, "e1", flow) == [("e1-a", S.GATED)]  # the next one collects
    assert finish(desk, "e9") == ["e0-a"]
    assert list(wakeup(desk, "e0-a").events) == ["e0"]


def test_a_paused_subscription_goes_on_collecting(desk: Desk) -> None:
    desk.ledger.pause("a@doc/up")
    emit(desk, "e0", debounce(10))
    joined(desk, "e1", debounce(10))
    assert desk.ledger.resume("a@doc/up") == (0, False)
    assert desk.due("e0-a") == 10
    desk.ledger.pause("a@doc/up")
    desk.clock.advance(10)
    assert desk.taken() == []
    assert (desk.state("e0-a"), desk.due("e0-a")) == ("gated", None)
    assert desk.claim("e0-a").status == "paused"
    assert joined(desk, "e2", debounce(10)) == [("e2-a", S.GATED)]
    assert desk.ledger.resume("a@doc/up") == (1, False)
    found = wakeup(desk)
    assert (found.run_id, list(found.events)) == ("e0-a", ["e0", "e1"])


def test_a_replay_is_a_run_of_its_own(desk: Desk) -> None:
    emit(desk, "e0", debounce(10))
    found = record(desk, "e0", [("a", debounce(10))], replay=True, generation=1, nonce="n")
    assert list(found.runs) == [("e0-a-1", S.PENDING)]
    assert collected(desk, "e0-a") == ["e0"]
    assert opens(desk, "e0") == [2]


def test_what_is_dropped_does_not_join(desk: Desk) -> None:
    flow = dataclasses.replace(debounce(10), once=once("v", 100).once)
    emit(desk, "e0", flow)
    assert joined(desk, "e1", flow) == [("e1-a", S.CANCELLED)]
    assert collected(desk, "e0-a") == ["e0"]


def test_a_debounce_is_listed(desk: Desk) -> None:
    emit(desk, "e0", debounce(10))
    joined(desk, "e1", debounce(10))
    found = gate(desk, QUIET)
    assert found is not None
    assert (found.kind, found.used, found.waiting) == ("debounce", 2, 0)
    assert (found.per, found.next_at) == (10, desk.clock.now + 10)


def test_events_are_kept_as_long_as_their_run(desk: Desk) -> None:
    emit(desk, "e0", debounce(10))
    joined(desk, "e1", debounce(10))
    desk.clock.advance(10)
    desk.ledger.take()
    desk.clock.advance(RULES.event_retention * 2)
    desk.ledger.sweep()
    assert opens(desk, "e0", "e1") == [1, 1]
    (found,) = desk.ledger.take().wakeups
    assert json.loads(found.data) == {"id": "e1"}


# --- batches -------------------------------------------------------------------------------------


def test_a_full_batch_starts_at_once(desk: Desk) -> None:
    flow = batch(3, 10)
    assert emit(desk, "e0", flow) == "gated"
    assert desk.due("e0-a") == 10
    desk.clock.advance(4)
    assert joined(desk, "e1", flow) == [("e0-a", S.GATED)]
    assert desk.due("e0-a") == 6  # its first event's
    found = record(desk, "e2", [("a", flow)])
    assert list(found.runs) == [("e0-a", S.PENDING)]
    assert list(found.woken) == ["e0-a"]
    woken = wakeup(desk, "e0-a")
    assert json.loads(woken.data) == [{"id": "e0"}, {"id": "e1"}, {"id": "e2"}]
    assert list(woken.events) == ["e0", "e1", "e2"]
    assert json.loads(woken.attributes) == {"id": "e2"}
    assert joined(desk, "e3", flow) == [("e3-a", S.GATED)]


def test_a_batch_starts_when_its_time_is_over(desk: Desk) -> None:
    flow = batch(3, 10)
    emit(desk, "e0", flow)
    desk.clock.advance(9)
    joined(desk, "e1", flow)
    desk.clock.advance(1)
    woken = wakeup(desk)
    assert json.loads(woken.data) == [{"id": "e0"}, {"id": "e1"}]
    finish(desk, "e0")
    assert opens(desk, "e0", "e1") == [0, 0]


def test_each_key_has_its_own_batch(desk: Desk) -> None:
    for n, key in enumerate("xyxy"):
        found = joined(desk, f"e{n}", batch(2, 10, key))
        assert found[0][0] == ("e0-a" if key == "x" else "e1-a")
    assert desk.state("e0-a") == desk.state("e1-a") == "pending"


def test_a_batch_of_one(desk: Desk) -> None:
    found = record(desk, "e0", [("a", batch(1, 10))])
    assert list(found.woken) == ["e0-a"]
    assert desk.state("e0-a") == "pending"
    assert json.loads(wakeup(desk, "e0-a").data) == [{"id": "e0"}]


def test_a_batch_is_the_same_on_every_delivery(desk: Desk) -> None:
    flow = batch(2, 10)
    emit(desk, "e0", flow)
    joined(desk, "e1", flow)
    for seconds in (0, RULES.grace, 1000):
        desk.clock.advance(seconds)
        assert json.loads(wakeup(desk).data) == [{"id": "e0"}, {"id": "e1"}]
    token = begin(desk, "e0")
    due = desk.clock.now + 5
    desk.ledger.settle("e0-a", token, S.RETRYING, due=due, retries=1, error={"type": "X"})
    desk.clock.advance(5)
    woken = wakeup(desk)
    assert (woken.retries, json.loads(woken.data)) == (1, [{"id": "e0"}, {"id": "e1"}])


def test_a_replayed_event_is_a_batch_of_its_own(desk: Desk) -> None:
    flow = batch(2, 10)
    emit(desk, "e0", flow)
    joined(desk, "e1", flow)
    found = record(desk, "e1", [("a", flow)], replay=True, generation=1, nonce="n")
    assert list(found.runs) == [("e1-a-1", S.PENDING)]
    desk.clock.advance(RULES.grace)
    woken = [w for w in desk.ledger.take().wakeups if w.run_id == "e1-a-1"]
    assert json.loads(woken[0].data) == [{"id": "e1"}]


def test_a_full_batch_asks_for_its_place_and_its_time(desk: Desk) -> None:
    flow = batch(2, 10, places=(place(1),), throttle=throttle(1, 60).throttle)
    for n in range(6):
        record(desk, f"e{n}", [("a", flow)])
    assert [desk.state(f"e{n}-a") for n in (0, 2, 4)] == ["pending", "gated", "gated"]
    assert waiting(desk, "e2", "e4") == [WORK, WORK]
    assert finish(desk, "e0") == []
    desk.clock.advance(60)
    (woken,) = desk.ledger.take().wakeups
    assert json.loads(woken.data) == [{"id": "e2"}, {"id": "e3"}]


def test_a_full_batch_of_delayed_events_waits_for_their_time(desk: Desk) -> None:
    flow = batch(2, 10)
    emit(desk, "e0", flow, resume_at=desk.clock.now + 50)
    assert joined(desk, "e1", flow) == [("e0-a", S.PENDING)]
    assert desk.taken("e0-a") == []
    assert desk.due("e0-a") == 50
    desk.clock.advance(50)
    assert desk.taken() == ["e0-a"]


def test_the_tail_of_a_batch_belongs_to_all_its_events(desk: Desk) -> None:
    """Or the fan-in of some would not wait for it."""
    flow = batch(2, 10)
    for n in range(2):
        record(desk, f"e{n}", [("a", flow)], then_id=f"e{n}-then", then_message="{}")
    token = begin(desk, "e0")
    link = NewRun("e0-a-2", "a@doc/up", "then", message="{}")
    desk.ledger.settle("e0-a", token, S.COMPLETING, result="1", child=link)
    assert list(desk.ledger.settle("e0-a", token, S.SUCCEEDED).woken) == []
    assert opens(desk, "e0", "e1") == [1, 1]
    found = desk.ledger.settle("e0-a-2", desk.begin("e0-a-2"), S.SUCCEEDED)
    assert sorted(found.woken) == ["e0-then", "e1-then"]


def test_items_of_a_batch_do_not_each_have_the_whole_of_it(desk: Desk) -> None:
    """Or a thousand items of a thousand events would be a million entries, and as many texts."""
    flow = batch(2, 10)
    emit(desk, "e0", flow)
    joined(desk, "e1", flow)
    assert desk.taken("e0-a") == ["e0-a"]
    token, group = begin(desk, "e0"), 's["p",1]'
    items = [NewRun(f"i{n}", "parallel", "a@doc/up", field=f"f{n}", group=group) for n in (1, 2)]
    assert desk.ledger.spawn("e0-a", token, group, items).ok
    desk.ledger.settle("e0-a", token, S.SUSPENDED, group=group)
    assert opens(desk, "e0", "e1") == [3, 1]
    woken = desk.ledger.take(["i1", "i2"]).wakeups
    assert [(tuple(w.events), json.loads(w.data)) for w in woken] == [((), {"id": "e0"})] * 2
    for n in (1, 2):
        desk.ledger.settle(f"i{n}", desk.begin(f"i{n}"), S.SUCCEEDED, result="1")
    assert opens(desk, "e0", "e1") == [1, 1]
    assert desk.taken("e0-a") == ["e0-a"]
    finish(desk, "e0")
    assert opens(desk, "e0", "e1") == [0, 0]


def test_a_batch_that_is_listed(desk: Desk) -> None:
    emit(desk, "e0", batch(3, 10))
    joined(desk, "e1", batch(3, 10))
    found = gate(desk, BATCH)
    assert found is not None
    assert (found.kind, found.at_most, found.used) == ("batch", 3, 2)
    assert (found.per, found.next_at) == (10, desk.clock.now + 10)


def test_a_run_that_collects_and_is_lost_on_the_way(desk: Desk) -> None:
    """Nobody has to be told twice: it is taken again."""
    emit(desk, "e0", batch(2, 10))
    joined(desk, "e1", batch(2, 10))
    assert desk.taken("e0-a") == ["e0-a"]
    assert desk.due("e0-a") == RULES.grace
