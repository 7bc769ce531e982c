"""The path of a run through a ledger, for every ledger."""

from __future__ import annotations

import json

import pytest

from celery_fanout.stores.records import NewEvent, NewRun
from celery_fanout.stores.states import RunState
from tests.conformance.ledgers import RULES, Desk, done

S = RunState


# --- record --------------------------------------------------------------------------------------


def test_a_new_event_has_pending_runs(desk: Desk) -> None:
    found = desk.emit("e1", "a", "b")
    assert (found.status, found.generation, list(found.woken)) == ("new", 0, [])
    assert list(found.runs) == [("e1-a", S.PENDING), ("e1-b", S.PENDING)]
    assert desk.due("e1-a") == RULES.grace
    event = desk.ledger.event("e1")
    assert event is not None
    assert (event.name, json.loads(event.data), list(event.runs), event.open) == (
        *("doc/up", {"id": "e1"}, ["e1-a", "e1-b"], 2),
    )


def test_a_repeat_changes_nothing(desk: Desk) -> None:
    desk.emit("e1", "a", "b")
    desk.ledger.mark_published(["e1-a"])
    found = desk.emit("e1", "a", "b", "c")
    assert (found.status, list(found.runs)) == (
        "repeat",
        [("e1-a", S.PUBLISHED), ("e1-b", S.PENDING)],
    )
    assert desk.ledger.run("e1-c") is None


def test_after_the_window_a_new_generation_begins(desk: Desk) -> None:
    desk.emit("e1", "a")
    desk.clock.advance(RULES.dedup_window + 1)
    found = desk.emit("e1", "a")
    assert (found.status, found.generation, list(found.runs)) == ("generation", 1, [])
    found = desk.emit("e1", "a", generation=1)
    assert (found.status, list(found.runs)) == ("new", [("e1-a-1", S.PENDING)])
    assert desk.emit("e1", "a", generation=1).status == "repeat"


def test_an_event_without_subscribers_is_kept_for_a_while(desk: Desk) -> None:
    assert list(desk.emit("e1").runs) == []
    assert desk.ledger.event("e1") is not None
    desk.clock.advance(RULES.event_retention + 1)
    desk.ledger.sweep()
    assert desk.ledger.events() == []


def test_a_delayed_run_is_due_then(desk: Desk) -> None:
    desk.emit("e1", "a", resume_at=desk.clock.now + 50)
    assert desk.due("e1-a") == 50
    found = desk.claim("e1-a")
    assert (found.status, found.due) == ("early", desk.clock.now + 50)
    desk.clock.advance(50)
    assert desk.taken() == ["e1-a"]
    assert desk.claim("e1-a").status == "claimed"


def test_a_run_that_does_not_start_in_time_is_cancelled(desk: Desk) -> None:
    desk.emit("e1", "a", "b", expires_at=desk.clock.now + 5)
    desk.clock.advance(6)
    assert desk.claim("e1-a").status == "expired"
    desk.clock.advance(30)
    assert list(desk.ledger.take().ended) == ["e1-b"]
    runs = [desk.ledger.run(run_id) for run_id in ("e1-a", "e1-b")]
    assert [(str(r.state), r.reason) for r in runs if r] == [("cancelled", "expired")] * 2


def test_published_runs_are_sent_again_later_and_later(desk: Desk) -> None:
    desk.emit("e1", "a")
    waits = []
    for _ in range(3):
        desk.ledger.mark_published(["e1-a"])
        waits.append(desk.due("e1-a"))
        desk.clock.advance(waits[-1] or 0)
        assert desk.taken() == ["e1-a"]
        assert desk.state("e1-a") == "pending"
    assert waits == [100, 200, 400]
    assert desk.taken() == []  # not twice


# --- claim ---------------------------------------------------------------------------------------


def test_a_claim_holds_for_a_lease(desk: Desk) -> None:
    desk.emit("e1", "a")
    found = desk.ledger.claim("e1-a", "w1", "n1")
    assert (found.status, found.state, found.token, found.retries) == ("claimed", S.RUNNING, 1, 0)
    assert (found.created, found.now) == (desk.clock.now, desk.clock.now)
    assert desk.due("e1-a") == RULES.lease
    assert desk.ledger.claim("e1-a", "w1", "n1") == found  # its answer was lost
    assert desk.claim("e1-a", "w2").status == "held"


def test_a_claim_that_was_left_is_taken_over_at_once(desk: Desk) -> None:
    """Its worker put the message back as the store did not answer, and works with it no more."""
    desk.emit("e1", "a")
    token = desk.begin("e1-a")
    assert desk.claim("e1-a", "w2", put_back=True).status == "held"
    assert desk.claim("e1-a", "w2", put_back=True, left=token + 1).status == "held"
    found = desk.claim("e1-a", "w2", put_back=True, left=token)
    assert (found.status, found.token, found.crashes) == ("claimed", token + 1, 0)
    assert desk.ledger.store("e1-a", token, "s", "1", final=True) is None
    assert desk.claim("e1-a", "w3", put_back=True, left=token).status == "held"


def test_a_lease_that_is_over_was_a_crash(desk: Desk) -> None:
    desk.emit("e1", "a")
    desk.begin("e1-a")
    desk.clock.advance(RULES.lease)
    found = desk.claim("e1-a", "w2")
    assert (found.status, found.token, found.crashes) == ("claimed", 2, 1)
    desk.clock.advance(RULES.lease)
    assert desk.claim("e1-a", "w2", put_back=True).crashes == 1
    desk.clock.advance(RULES.lease)
    assert desk.claim("e1-a", "w2").crashes == 2
    desk.clock.advance(RULES.lease)
    found = desk.claim("e1-a", "w2")
    assert (found.status, found.state) == ("crashed", S.FAILED)
    run = desk.ledger.run("e1-a")
    assert run is not None
    assert (run.reason, run.crashes, run.detail["error"]["type"]) == ("crashed", 3, "WorkerCrashed")


def test_what_is_not_claimed(desk: Desk) -> None:
    assert desk.claim("nobody").status == "unknown"
    desk.emit("e1", "a")
    token = desk.begin("e1-a")
    desk.ledger.settle("e1-a", token, S.SUCCEEDED, result="1")
    assert desk.claim("e1-a").status == "finished"


def test_a_stale_message_is_refused(desk: Desk) -> None:
    desk.emit("e1", "a")
    token = desk.begin("e1-a")
    desk.ledger.settle("e1-a", token, S.RETRYING, due=desk.clock.now + 5, retries=1)
    assert desk.claim("e1-a", retries=1).status == "early"
    desk.clock.advance(5)
    assert desk.claim("e1-a", retries=0).status == "stale"
    found = desk.claim("e1-a", retries=1)
    assert (found.status, found.retries, found.token) == ("claimed", 1, 2)


def test_a_lost_run_is_recreated(desk: Desk) -> None:
    lost = NewEvent("e9", "doc/up", '{"id":"e9"}', '{"n":1}', [NewRun("e9-a", "a@doc/up")])
    found = desk.claim("e9-a", recreate=lost)
    assert (found.status, found.token) == ("claimed", 1)
    event = desk.ledger.event("e9")
    assert event is not None
    assert (list(event.runs), event.open) == (["e9-a"], 1)
    assert desk.claim("e9-a", recreate=lost).status == "held"


# --- checkpoints ---------------------------------------------------------------------------------


def test_checkpoints_are_fenced_and_final(desk: Desk) -> None:
    desk.emit("e1", "a")
    token = desk.begin("e1-a")
    first, second = done("first"), done("second")
    waiting = '{"v":1,"s":"retrying","n":1}'
    assert desk.ledger.store("e1-a", token, 's["x",1]', waiting, final=False) == waiting
    assert desk.ledger.store("e1-a", token, 's["x",1]', first, final=True) == first
    assert desk.ledger.store("e1-a", token, 's["x",1]', second, final=True) == first
    assert desk.ledger.store("e1-a", token + 1, 's["y",1]', second, final=True) is None
    desk.clock.advance(RULES.lease)
    found = desk.claim("e1-a", "w2")
    assert dict(found.checkpoints) == {'s["x",1]': first}
    assert desk.ledger.store("e1-a", token, 's["y",1]', second, final=True) is None
    assert desk.ledger.store("e1-a", found.token, 's["y",1]', second, final=True) == second


# --- settle --------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", [S.SUCCEEDED, S.FAILED, S.CANCELLED])
def test_a_run_ends_once(desk: Desk, to: RunState) -> None:
    desk.emit("e1", "a")
    token = desk.begin("e1-a")
    error = {"type": "Boom", "message": "no", "traceback": "T"}
    more = {"result": "[1]"} if to is S.SUCCEEDED else {"reason": "why"}
    if to is S.FAILED:
        more["error"] = error  # type: ignore[assignment]
    for _ in range(2):  # the second repeats a call whose answer was lost
        assert desk.ledger.settle("e1-a", token, to, **more).ok  # type: ignore[arg-type]
    other = S.FAILED if to is S.SUCCEEDED else S.SUCCEEDED
    assert not desk.ledger.settle("e1-a", token, other, error=error, result="2").ok
    assert desk.due("e1-a") is None
    (outcome,) = desk.ledger.outcomes(["e1-a"])
    assert (outcome.state, outcome.result) == (to, "[1]" if to is S.SUCCEEDED else None)
    assert outcome.error == (error if to is S.FAILED else None)
    assert desk.ledger.counts()[to] == 1
    event = desk.ledger.event("e1")
    assert event is not None
    assert event.open == 0
    told = [] if to is S.SUCCEEDED else ["e1-a"]
    assert desk.ledger.awaiting_follow_up(older_than=0) == told


def test_a_stale_holder_settles_nothing(desk: Desk) -> None:
    desk.emit("e1", "a")
    token = desk.begin("e1-a")
    desk.clock.advance(RULES.lease)
    desk.begin("e1-a", "w2")
    assert not desk.ledger.settle("e1-a", token, S.SUCCEEDED, result="1").ok
    assert desk.state("e1-a") == "running"


def test_a_sleep(desk: Desk) -> None:
    desk.emit("e1", "a")
    token = desk.begin("e1-a")
    kept = {'s["nap",1]': '{"v":1,"s":"waiting","n":0}'}
    settled = desk.ledger.settle(
        "e1-a", token, S.SUSPENDED, due=desk.clock.now + 500, reason="sleep", checkpoints=kept
    )
    assert (settled.ok, list(settled.woken), desk.due("e1-a")) == (True, [], 500)
    assert desk.claim("e1-a").status == "early"
    desk.clock.advance(499)
    assert desk.taken() == []
    desk.clock.advance(1)
    taken = desk.ledger.take()
    (wakeup,) = taken.wakeups
    assert (wakeup.run_id, wakeup.subscription, wakeup.event, json.loads(wakeup.data)) == (
        *("e1-a", "a@doc/up", "e1", {"id": "e1"}),
    )
    assert dict(desk.claim("e1-a").checkpoints) == kept


def test_a_retry(desk: Desk) -> None:
    desk.emit("e1", "a")
    token = desk.begin("e1-a")
    error = {"type": "Boom", "message": "no", "traceback": ""}
    desk.ledger.settle(
        "e1-a", token, S.RETRYING, due=desk.clock.now + 9, retries=1, error=error, reason="Boom"
    )
    assert (desk.state("e1-a"), desk.due("e1-a")) == ("retrying", 9)
    desk.clock.advance(9)
    assert [(w.run_id, w.retries) for w in desk.ledger.take().wakeups] == [("e1-a", 1)]
    run = desk.ledger.run("e1-a")
    assert run is not None
    (attempt,) = run.detail["attempts"]
    assert (attempt["number"], attempt["outcome"], attempt["error"]) == (1, "retrying", "Boom: no")


def test_a_run_that_is_put_back_is_due_now(desk: Desk) -> None:
    desk.emit("e1", "a")
    desk.ledger.settle("e1-a", desk.begin("e1-a"), S.PENDING, reason="rejected")
    assert (desk.state("e1-a"), desk.due("e1-a")) == ("pending", 0)


def test_a_tail_is_recorded_with_what_it_follows(desk: Desk) -> None:
    desk.emit("e1", "a")
    token = desk.begin("e1-a")
    link = NewRun("e1-a-link", "a@doc/up", "then", message='{"m":1}')
    assert desk.ledger.settle("e1-a", token, S.COMPLETING, result="7", child=link).ok
    assert (desk.state("e1-a"), desk.state("e1-a-link")) == ("completing", "pending")
    again = desk.claim("e1-a", "w2")
    assert (again.status, again.token, again.result) == ("completing", token, "7")
    (outcome,) = desk.ledger.outcomes(["e1-a"])
    assert (outcome.run_id, outcome.state, outcome.result) == ("e1-a", S.PENDING, None)
    assert desk.ledger.settle("e1-a", token, S.SUCCEEDED).ok
    assert (desk.state("e1-a"), desk.state("e1-a-link")) == ("succeeded", "published")
    desk.ledger.settle("e1-a-link", desk.begin("e1-a-link"), S.SUCCEEDED, result="8")
    (outcome,) = desk.ledger.outcomes(["e1-a"])
    assert (outcome.state, outcome.result) == (S.SUCCEEDED, "8")
    run = desk.ledger.run("e1-a")
    assert run is not None
    assert run.detail["children"] == {"e1-a-link": "then"}


def test_a_worker_that_dies_while_completing_loses_no_tail(desk: Desk) -> None:
    desk.emit("e1", "a")
    link = NewRun("e1-a-link", "a@doc/up", "then", message='{"m":1}')
    desk.ledger.settle("e1-a", desk.begin("e1-a"), S.COMPLETING, result="7", child=link)
    desk.clock.advance(RULES.lease)
    (wakeup,) = desk.ledger.take().wakeups
    assert (wakeup.run_id, wakeup.kind, wakeup.message) == ("e1-a-link", "then", '{"m":1}')
    assert desk.state("e1-a") == "succeeded"


# --- what expires --------------------------------------------------------------------------------


def test_runs_are_kept_as_long_as_it_says(desk: Desk) -> None:
    desk.emit("e1", "a", "b")
    desk.ledger.settle("e1-a", desk.begin("e1-a"), S.SUCCEEDED, result="1")
    error = {"type": "Boom", "message": "no", "traceback": ""}
    desk.ledger.settle("e1-b", desk.begin("e1-b"), S.FAILED, error=error)
    desk.clock.advance(RULES.success_retention + 1)
    assert desk.ledger.sweep() == 1
    assert desk.ledger.run("e1-a") is None
    assert [run.id for run in desk.ledger.runs()] == ["e1-b"]
    assert desk.ledger.counts()[S.SUCCEEDED] == 0
    desk.clock.advance(RULES.failure_retention)
    assert desk.ledger.sweep() == 1
    assert desk.ledger.runs() == []
    assert desk.ledger.runs(subscription="b@doc/up") == []
