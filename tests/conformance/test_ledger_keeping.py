"""What keepers and people tell a ledger, for every ledger."""

from __future__ import annotations

import pytest

from celery_fanout.stores.records import NewEvent, NewRun
from celery_fanout.stores.states import RunState
from tests.conformance.ledgers import RULES, Desk, done

S = RunState
ERROR = {"type": "Boom", "message": "no", "traceback": "T"}


# --- leases --------------------------------------------------------------------------------------


def test_a_heartbeat_renews_what_its_boot_holds(desk: Desk) -> None:
    desk.emit("e1", "a", "b", "c")
    desk.begin("e1-a", "w1")
    desk.begin("e1-b", "w2")
    desk.ledger.mark_published(["e1-c"])
    desk.clock.advance(20)
    desk.ledger.renew("w1", ["e1-a", "e1-b", "e1-c", "unknown"])
    assert (desk.due("e1-a"), desk.due("e1-b"), desk.due("e1-c")) == (30, 10, 30)
    received = desk.ledger.run("e1-c")
    assert received is not None
    assert (received.state, received.worker) == (S.PUBLISHED, "w1")
    desk.clock.advance(30)
    assert sorted(desk.taken()) == ["e1-a", "e1-b", "e1-c"]
    runs = {run.id: run for run in desk.ledger.runs()}
    assert {run_id: (str(run.state), run.crashes) for run_id, run in runs.items()} == {
        "e1-a": ("pending", 1),
        "e1-b": ("pending", 1),
        "e1-c": ("pending", 0),
    }


def test_a_run_that_kills_its_workers_becomes_a_dead_letter(desk: Desk) -> None:
    desk.emit("e1", "a")
    for crash in range(1, RULES.max_crashes + 1):
        desk.begin("e1-a", f"w{crash}")
        desk.clock.advance(RULES.lease)
        taken = desk.ledger.take()
        last = crash == RULES.max_crashes
        assert [w.run_id for w in taken.wakeups] == ([] if last else ["e1-a"])
        assert list(taken.ended) == (["e1-a"] if last else [])
    run = desk.ledger.run("e1-a")
    assert run is not None
    assert (run.state, run.reason, run.crashes) == (S.FAILED, "crashed", 3)
    assert [attempt["outcome"] for attempt in run.detail["attempts"]] == ["crashed"] * 3


def test_while_the_ledger_was_away_nobody_crashed(desk: Desk) -> None:
    desk.emit("e1", "a")
    token = desk.begin("e1-a")
    desk.clock.advance(RULES.lease + 5)
    assert desk.taken(grace=True) == []
    assert desk.due("e1-a") == RULES.lease
    assert desk.ledger.settle("e1-a", token, S.SUCCEEDED, result="1").ok


def test_a_worker_that_stops_lets_go(desk: Desk) -> None:
    desk.emit("e1", "a", "b")
    desk.begin("e1-a")
    desk.ledger.mark_published(["e1-b"])
    desk.ledger.renew("w1", ["e1-b"])
    assert desk.ledger.release("other", ["e1-a", "e1-b"]) == []
    assert desk.ledger.release("w1", ["e1-a", "e1-b"]) == ["e1-b"]
    assert desk.taken("e1-b") == ["e1-b"]
    desk.clock.advance(RULES.lease)
    assert desk.claim("e1-a", "w2").crashes == 0
    assert outcomes(desk, "e1-a") == ["released"]
    desk.ledger.release("w2", ["e1-a"])
    desk.clock.advance(RULES.lease)
    assert "e1-a" in desk.taken()
    assert outcomes(desk, "e1-a") == ["released"] * 2


def outcomes(desk: Desk, run_id: str) -> list[str]:
    """Return how the executions of a run ended."""
    run = desk.ledger.run(run_id)
    assert run is not None
    return [attempt["outcome"] for attempt in run.detail["attempts"]]


@pytest.mark.parametrize("final", [False, True])
def test_a_process_that_is_gone(desk: Desk, final: bool) -> None:
    desk.emit("e1", "a")
    token = desk.begin("e1-a", "w1")
    assert not desk.ledger.abandon("e1-a", "w2", ERROR, final=final).ok
    settled = desk.ledger.abandon("e1-a", "w1", ERROR, final=final)
    assert settled.ok
    assert not desk.ledger.abandon("e1-a", "w1", ERROR, final=final).ok
    run = desk.ledger.run("e1-a")
    assert run is not None
    if final:
        assert (run.state, run.detail["error"], list(settled.woken)) == (S.FAILED, ERROR, [])
    else:
        assert (run.state, run.crashes, list(settled.woken)) == (S.PENDING, 1, ["e1-a"])
        assert desk.taken("e1-a") == ["e1-a"]
    assert desk.ledger.store("e1-a", token, 's["x",1]', done(1), final=True) is None


# --- lost messages -------------------------------------------------------------------------------


def test_what_was_lost_on_the_way_is_sent_again(desk: Desk) -> None:
    desk.emit("e1", "a", "b", "c")
    other = NewRun("e1-q", "q@doc/up", queue="other")
    desk.emit("e2", runs=[other])
    desk.ledger.mark_published(["e1-a", "e1-b", "e1-q"])
    desk.ledger.renew("w1", ["e1-b"])
    desk.clock.advance(10)
    desk.ledger.mark_published(["e1-c"])
    assert desk.ledger.resend("celery", desk.clock.now) == ["e1-a"]
    assert desk.taken() == ["e1-a"]


def test_a_task_that_nobody_knows(desk: Desk) -> None:
    desk.emit("e1", "a")
    desk.ledger.mark_published(["e1-a"])
    assert desk.ledger.unregistered("e1-a", 5).ok
    assert (desk.state("e1-a"), desk.due("e1-a")) == ("pending", 5)
    assert desk.claim("e1-a").status == "early"
    desk.clock.advance(5)
    assert desk.taken() == ["e1-a"]
    desk.clock.advance(RULES.unregistered)
    desk.ledger.unregistered("e1-a", 5)
    run = desk.ledger.run("e1-a")
    assert run is not None
    assert (run.state, run.reason) == (S.FAILED, "unregistered")
    assert run.detail["error"]["type"] == "Unregistered"


def test_take_says_when_to_come_again(desk: Desk) -> None:
    assert desk.ledger.take().next_due is None
    desk.emit("e1", "a")
    taken = desk.ledger.take()
    assert (taken.next_due, taken.now) == (desk.clock.now + RULES.grace, desk.clock.now)


def test_take_is_bounded(desk: Desk) -> None:
    desk.emit("e1", *(f"s{n}" for n in range(7)))
    desk.clock.advance(RULES.grace)
    found = [*desk.taken(limit=3), *desk.taken(limit=3), *desk.taken(limit=3)]
    assert sorted(found) == [f"e1-s{n}" for n in range(7)]


# --- what follows a failure ----------------------------------------------------------------------


def test_an_end_is_followed_up_once(desk: Desk) -> None:
    desk.emit("e1", "a")
    desk.ledger.settle("e1-a", desk.begin("e1-a"), S.FAILED, error=ERROR)
    assert desk.ledger.awaiting_follow_up(older_than=RULES.grace) == []
    desk.clock.advance(RULES.grace)
    assert desk.ledger.awaiting_follow_up(older_than=RULES.grace) == ["e1-a"]
    assert desk.ledger.awaiting_follow_up(older_than=RULES.grace) == []  # somebody sees to it
    desk.clock.advance(2 * RULES.grace)
    assert desk.ledger.awaiting_follow_up(older_than=RULES.grace) == ["e1-a"]
    desk.ledger.followed_up("e1-a")
    desk.clock.advance(10 * RULES.grace)
    assert desk.ledger.awaiting_follow_up(older_than=RULES.grace) == []


def test_a_failure_has_a_child(desk: Desk) -> None:
    desk.emit("e1", "a")
    desk.ledger.settle("e1-a", desk.begin("e1-a"), S.FAILED, error=ERROR)
    child = NewRun("c0", "a@doc/up", "on_failure", message='{"m":1}')
    assert desk.ledger.adopt("e1-a", child)
    assert not desk.ledger.adopt("e1-a", child)
    (wakeup,) = desk.ledger.take(["c0"]).wakeups
    assert (wakeup.kind, wakeup.message) == ("on_failure", '{"m":1}')
    desk.ledger.settle("c0", desk.begin("c0"), S.FAILED, error=ERROR)
    # of the child too: an event tells of it, and nobody calls another child for it
    assert sorted(desk.ledger.awaiting_follow_up(older_than=0)) == ["c0", "e1-a"]


# --- control -------------------------------------------------------------------------------------


def test_cancelling_fences_the_holder(desk: Desk) -> None:
    desk.emit("e1", "a", "b")
    token = desk.begin("e1-a")
    cancelled, _ = desk.ledger.cancel(["e1-a", "e1-b", "unknown"], "enough")
    assert cancelled == ["e1-a", "e1-b"]
    assert desk.ledger.cancel(["e1-a"], "again")[0] == []
    assert desk.ledger.store("e1-a", token, 's["x",1]', done(1), final=True) is None
    assert not desk.ledger.settle("e1-a", token, S.SUCCEEDED, result="1").ok
    assert desk.claim("e1-a").status == "finished"


def test_a_dead_letter_is_retried_with_its_steps(desk: Desk) -> None:
    desk.emit("e1", "a")
    token = desk.begin("e1-a")
    desk.ledger.store("e1-a", token, 's["x",1]', done(1), final=True)
    failed = '{"v":1,"s":"failed","n":2,"e":{"type":"Boom","message":"no"}}'
    desk.ledger.store("e1-a", token, 's["y",1]', failed, final=True)
    desk.ledger.settle("e1-a", token, S.FAILED, error=ERROR)
    assert desk.ledger.reopen("e1-a", "mended")
    assert not desk.ledger.reopen("e1-a", "mended")
    run = desk.ledger.run("e1-a")
    assert run is not None
    assert (run.state, run.reopened, run.reason) == (S.PENDING, 1, "mended")
    assert run.detail["error"] is None
    assert list(run.detail["checkpoints"]) == ['s["x",1]']
    assert desk.ledger.awaiting_follow_up(older_than=0) == []
    event = desk.ledger.event("e1")
    assert event is not None
    assert event.open == 1
    assert desk.taken("e1-a") == ["e1-a"]
    found = desk.claim("e1-a")
    assert (found.status, found.token) == ("claimed", token + 1)
    assert desk.ledger.settle("e1-a", found.token, S.SUCCEEDED, result="1").ok
    assert not desk.ledger.reopen("e1-a", "mended")
    run = desk.ledger.run("e1-a")
    assert run is not None
    assert [attempt.get("retried") for attempt in run.detail["attempts"]] == ["mended", None]


def test_why_a_cancelled_run_was_retried_is_kept(desk: Desk) -> None:
    desk.emit("e1", "a")
    desk.begin("e1-a")
    desk.ledger.cancel(["e1-a"], "sold out")
    for why in ("it was not", 'it was "not"'):  # the second without an execution between
        assert desk.ledger.reopen("e1-a", why)
        desk.ledger.cancel(["e1-a"], "sold out")
    run = desk.ledger.run("e1-a")
    assert run is not None
    (attempt,) = run.detail["attempts"]
    assert (attempt["outcome"], attempt["retried"]) == ("cancelled", 'it was "not"')


def test_a_replay_is_another_generation(desk: Desk) -> None:
    desk.emit("e1", "a", "b")
    new = [NewRun("e1-a-1", "a@doc/up", checkpoints={'s["x",1]': done(1)})]
    assert desk.emit("e1", runs=new, replay=True, generation=5).status == "generation"
    for _ in range(2):  # the second repeats a call whose answer was lost
        found = desk.emit("e1", runs=new, replay=True, generation=1)
        assert (found.status, list(found.runs)) == ("new", [("e1-a-1", S.PENDING)])
    assert dict(desk.claim("e1-a-1").checkpoints) == {'s["x",1]': done(1)}
    event = desk.ledger.event("e1")
    assert event is not None
    assert (list(event.runs), list(event.replayed)) == (["e1-a", "e1-b"], ["e1-a-1"])
    assert [run_id for run_id, _ in desk.emit("e1", "a").runs] == ["e1-a", "e1-b"]
    assert {run.id for run in desk.ledger.runs(event="e1")} == {"e1-a", "e1-b", "e1-a-1"}


def test_a_paused_subscription(desk: Desk) -> None:
    desk.emit("e1", "a", "b")
    desk.ledger.mark_published(["e1-a"])
    assert desk.ledger.pause("a@doc/up")
    assert not desk.ledger.pause("a@doc/up")
    assert desk.ledger.paused() == {"a@doc/up": desk.clock.now}
    assert (desk.claim("e1-a").status, desk.state("e1-a")) == ("paused", "gated")
    assert list(desk.emit("e2", "a", "b").runs) == [("e2-a", S.GATED), ("e2-b", S.PENDING)]
    desk.clock.advance(10_000)
    assert desk.taken() == ["e1-b", "e2-b"]
    assert desk.ledger.resume("a@doc/up", limit=1) == (1, True)
    assert desk.ledger.resume("a@doc/up", limit=1) == (1, False)
    assert desk.ledger.paused() == {}
    assert sorted(desk.taken()) == ["e1-a", "e2-a"]


def test_a_paused_run_expires(desk: Desk) -> None:
    expires = desk.clock.now + 60
    desk.emit("e1", "a", expires_at=expires)
    desk.ledger.pause("a@doc/up")
    assert desk.claim("e1-a").status == "paused"
    desk.emit("e2", "a", expires_at=expires)
    desk.emit("e3", "a", expires_at=expires, resume_at=desk.clock.now + 30)
    runs = ["e1-a", "e2-a", "e3-a"]
    assert [(desk.state(run), desk.due(run)) for run in runs] == [("gated", 60)] * 3
    desk.clock.advance(40)
    assert desk.taken() == []
    desk.clock.advance(20)
    taken = desk.ledger.take()
    assert (taken.wakeups, sorted(taken.ended)) == ([], runs)
    found = [desk.ledger.run(run_id) for run_id in runs]
    assert [(run.state, run.reason) for run in found if run] == [(S.CANCELLED, "expired")] * 3
    assert desk.ledger.resume("a@doc/up") == (0, False)


def test_a_gated_run_can_be_cancelled(desk: Desk) -> None:
    desk.ledger.pause("a@doc/up")
    desk.emit("e1", "a")
    assert desk.ledger.cancel(["e1-a"], "enough")[0] == ["e1-a"]
    assert desk.ledger.resume("a@doc/up") == (0, False)


# --- reading -------------------------------------------------------------------------------------


def test_lists(desk: Desk) -> None:
    for number in range(3):
        desk.emit(f"e{number}", "a", "b")
        desk.clock.advance(1)
    desk.begin("e0-a")
    ledger = desk.ledger
    assert [run.id for run in ledger.runs(limit=1)] == ["e0-a"]
    assert [run.id for run in ledger.runs(state=S.RUNNING)] == ["e0-a"]
    assert {run.id for run in ledger.runs(subscription="b@doc/up")} == {"e0-b", "e1-b", "e2-b"}
    assert {run.id for run in ledger.runs(event="e1")} == {"e1-a", "e1-b"}
    assert [run.id for run in ledger.runs(before=desk.clock.now - 2)] == ["e0-b"]
    assert [event.key for event in ledger.events()] == ["e2", "e1", "e0"]
    assert [event.key for event in ledger.events(name="doc/up", limit=1)] == ["e2"]
    assert ledger.events(name="doc/none") == []
    counts = ledger.counts()
    assert (counts[S.PENDING], counts[S.RUNNING], sum(counts.values())) == (5, 1, 6)
    assert ledger.run("unknown") is None
    assert ledger.event("unknown") is None
    assert [o.state for o in ledger.outcomes(["unknown", "e0-a"])] == [None, S.RUNNING]


def test_what_waits_for_its_time_is_not_marked_as_published(desk: Desk) -> None:
    """The event came again, without its delay: the message is early, and changes nothing."""
    desk.emit("e1", "a", resume_at=desk.clock.now + 40)
    assert list(desk.emit("e1", "a").runs) == [("e1-a", S.PENDING)]
    desk.ledger.mark_published(["e1-a"])
    assert (desk.state("e1-a"), desk.due("e1-a")) == ("pending", 40)
    assert desk.claim("e1-a").status == "early"
    desk.clock.advance(40)
    assert desk.taken() == ["e1-a"]
    desk.ledger.mark_published(["e1-a"])
    assert desk.state("e1-a") == "published"
    desk.begin("e1-a")


def test_many_events_in_one_call(desk: Desk) -> None:
    events = [
        NewEvent(f"e{n}", "doc/up", f'{{"id":"e{n}"}}', "null", [NewRun(f"r{n}", "a@doc/up")])
        for n in range(5)
    ]
    found = desk.ledger.record(events)
    assert [list(recorded.runs) for recorded in found] == [[(f"r{n}", S.PENDING)] for n in range(5)]
