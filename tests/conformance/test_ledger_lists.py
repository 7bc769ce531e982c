"""What both ledgers list, let go and replay, to the last run."""

from __future__ import annotations

import pytest

from celery_fanout.stores.records import NewEvent, NewRun
from celery_fanout.stores.states import RunState
from tests.conformance.ledgers import RULES, Desk

S = RunState


def replay(desk: Desk, generation: int, nonce: str) -> tuple[str, int]:
    new = [NewRun(f"e1-a-{generation}", "a@doc/up")]
    found = desk.emit("e1", runs=new, replay=True, generation=generation, nonce=nonce)
    return found.status, found.generation


def test_two_replays_at_once_are_two_generations(desk: Desk) -> None:
    desk.emit("e1", "a")
    assert replay(desk, 1, "mine") == ("new", 1)
    assert replay(desk, 1, "mine") == ("new", 1)  # its answer was lost
    assert replay(desk, 1, "yours") == ("generation", 2)
    assert replay(desk, 2, "yours") == ("new", 2)
    assert replay(desk, 1, "mine") == ("generation", 3)
    event = desk.ledger.event("e1")
    assert event is not None
    assert (event.replayed, event.generation) == (["e1-a-1", "e1-a-2"], 2)


def test_a_new_emit_forgets_who_replayed(desk: Desk) -> None:
    desk.emit("e1", "a")
    replay(desk, 1, "mine")
    desk.clock.advance(RULES.dedup_window)
    assert desk.emit("e1", "a", generation=2).status == "new"
    assert replay(desk, 2, "mine") == ("generation", 3)


def test_an_old_event_with_an_open_run_is_found_by_its_key_alone(desk: Desk) -> None:
    desk.emit("e1", "a")
    desk.clock.advance(RULES.event_retention)
    desk.emit("e2", name="doc/other")
    assert [event.key for event in desk.ledger.events()] == ["e2", "e1"]
    desk.clock.advance(0.001)
    assert [event.key for event in desk.ledger.events()] == ["e2"]
    assert desk.ledger.events(name="doc/up") == []
    event = desk.ledger.event("e1")
    assert event is not None
    assert event.open == 1
    assert [run.id for run in desk.ledger.runs(event="e1")] == ["e1-a"]


def test_runs_of_an_event_are_also_those_that_they_asked_for(desk: Desk) -> None:
    desk.emit("e1", "a", "b", then_id="e1-then", then_message="{}")
    desk.emit("e2", "a")
    token = desk.begin("e1-a")
    invoked = NewRun("e1-a-i", "a@doc/up", "invoke", "", "{}", 's["i",1]', "g")
    desk.ledger.spawn("e1-a", token, "g", [invoked])
    inner = desk.begin("e1-a-i")
    item = NewRun("e1-a-i-p", "a@doc/up", "parallel", "", "{}", 's["p",1,0]', "h")
    desk.ledger.spawn("e1-a-i", inner, "h", [item])
    link = NewRun("e1-b-then", "b@doc/up", "then", message="{}")
    desk.ledger.settle("e1-b", desk.begin("e1-b"), S.COMPLETING, result="1", child=link)
    replay(desk, 1, "mine")
    of_it = {"e1-a", "e1-b", "e1-a-i", "e1-a-i-p", "e1-b-then", "e1-a-1"}
    assert {run.id for run in desk.ledger.runs(event="e1")} == of_it
    assert [run.id for run in desk.ledger.runs(event="e1", state=S.COMPLETING)] == ["e1-b"]
    assert len(desk.ledger.runs(event="e1", limit=2)) == 2
    desk.ledger.cancel(["e1-a", "e1-a-1", "e1-b-then"], "enough")
    desk.ledger.settle("e1-b", 1, S.SUCCEEDED)
    assert {run.id for run in desk.ledger.runs(event="e1")} == {*of_it, "e1-then"}
    assert desk.ledger.runs(event="unknown") == []


def test_who_was_held_back_first_goes_first(desk: Desk) -> None:
    desk.ledger.pause("a@doc/up")
    desk.emit("e9", "a")
    for key in ("e2", "e1"):
        desk.clock.advance(1)
        desk.emit(key, "a")
    assert desk.ledger.resume("a@doc/up", limit=0) == (0, True)
    assert desk.ledger.paused() == {}
    for run_id, left in (("e9-a", True), ("e2-a", True), ("e1-a", False)):
        assert desk.state(run_id) == "gated"
        assert desk.ledger.resume("a@doc/up", limit=1, go_on=True) == (1, left)
        assert desk.state(run_id) == "pending"


@pytest.mark.parametrize("go_on", [False, True])
def test_a_pause_while_a_resume_goes_on(desk: Desk, go_on: bool) -> None:
    desk.ledger.pause("a@doc/up")
    for number in range(3):
        desk.emit(f"e{number}", "a")
    assert desk.ledger.resume("a@doc/up", limit=1) == (1, True)
    desk.ledger.pause("a@doc/up")
    if go_on:
        assert desk.ledger.resume("a@doc/up", go_on=True) == (0, False)
        assert list(desk.ledger.paused()) == ["a@doc/up"]
        assert desk.state("e1-a") == "gated"
    else:
        assert desk.ledger.resume("a@doc/up") == (2, False)
        assert desk.ledger.paused() == {}


def test_a_run_that_has_expired_is_told_of_no_more(desk: Desk) -> None:
    desk.emit("e1", "a")
    desk.ledger.cancel(["e1-a"], "enough")
    desk.clock.advance(RULES.success_retention + 1)
    desk.ledger.sweep()
    lost = NewEvent("e1", "doc/up", '{"id":"e1"}', "null", [NewRun("e1-a", "a@doc/up")])
    assert desk.claim("e1-a", recreate=lost).status == "claimed"
    assert desk.ledger.awaiting_follow_up(older_than=0) == []


def test_a_resume_that_was_cut_short_goes_on(desk: Desk) -> None:
    desk.ledger.pause("a@doc/up")
    for number in range(2):
        desk.emit(f"e{number}", "a")
    assert desk.ledger.resume("a@doc/up", limit=1) == (1, True)  # and its process dies
    desk.clock.advance(100_000)
    desk.ledger.sweep()
    assert sorted(desk.taken()) == ["e0-a", "e1-a"]
