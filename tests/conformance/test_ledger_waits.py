"""Waits for events, child runs, fan-ins, for every ledger."""

from __future__ import annotations

import json
from typing import Any

import pytest

from celery_fanout.stores.records import NewEvent, NewRun
from celery_fanout.stores.states import RunState
from tests.conformance.ledgers import RULES, Desk, done

S = RunState
FIELD = 's["ok",1]'


def wait(desk: Desk, run_id: str, token: int, match: Any, **more: Any) -> dict[str, Any]:
    """Wait for the event ``doc/ok``, and return the checkpoint."""
    text = desk.ledger.wait(
        run_id,
        token,
        more.pop("field", FIELD),
        more.pop("name", "doc/ok"),
        json.dumps(match),
        since=more.pop("since", desk.clock.now),
        due=desk.clock.now + 60,
    )
    assert text is not None
    found: dict[str, Any] = json.loads(text)
    return found


def suspended(desk: Desk, key: str = "e1", match: Any = None) -> str:
    """Let a run wait for an event, and return its id."""
    run_id = f"{key}-a"
    desk.emit(key, "a")
    token = desk.begin(run_id)
    assert wait(desk, run_id, token, match or {})["s"] == "waiting"
    desk.ledger.settle(
        run_id, token, S.SUSPENDED, due=desk.clock.now + 60, group=FIELD, reason="event"
    )
    return run_id


def test_an_event_wakes_who_waits_for_it(desk: Desk) -> None:
    run_id = suspended(desk)
    assert (desk.claim(run_id).status, desk.due(run_id)) == ("early", 60)
    assert list(desk.emit("x1", name="doc/other").woken) == []
    assert list(desk.emit("x2", name="doc/ok", data={"n": [1]}).woken) == [run_id]
    assert desk.taken(run_id) == [run_id]
    found = desk.checkpoint(run_id, FIELD)
    assert (found["s"], found["r"]) == (
        "done",
        {"a": {"id": "x2", "type": "doc/ok"}, "d": {"n": [1]}},
    )
    assert list(desk.emit("x3", name="doc/ok").woken) == []  # it waits no more


def test_each_of_many_events_says_whom_it_wakes(desk: Desk) -> None:
    waiting = [suspended(desk, f"e{n}", {"n": n}) for n in range(3)]
    found = desk.ledger.record(
        [NewEvent(f"x{n}", "doc/ok", "{}", json.dumps({"n": n})) for n in range(3)]
    )
    assert [(recorded.status, list(recorded.woken)) for recorded in found] == [
        ("new", [run_id]) for run_id in waiting
    ]


@pytest.mark.parametrize(
    ("match", "data", "fits"),
    [
        ({}, {"id": 1}, True),
        ({"id": 1}, {"id": 1}, True),
        ({"id": 1}, {"id": 1.0}, True),
        ({"id": 1}, {"id": True}, False),
        ({"id": 1}, {"id": "1"}, False),
        ({"id": "é"}, {"id": "é"}, True),
        ({"a.b.1": "x"}, {"a": {"b": ["w", "x"]}}, True),
        ({"a.b.2": "x"}, {"a": {"b": ["w", "x"]}}, False),
        ({"a": None}, {"a": None}, True),
        ({"a": None}, {}, False),
        ({"a": None}, {"a": {"b": 1}}, False),
        ({"a": "x", "b": False}, {"a": "x", "b": False, "c": 1}, True),
        ({"a": "x", "b": False}, {"a": "x", "b": True}, False),
        ({"a": ""}, {"a": ""}, True),
        ({"a": 1}, [1], False),
        ({"a": 1}, None, False),
        ({"0": 1}, [1], True),
        ({"a.b": 1}, {"a": 1}, False),
    ],
    ids=str,
)
def test_what_matches(desk: Desk, match: Any, data: Any, fits: bool) -> None:
    run_id = suspended(desk, match=match)
    assert list(desk.emit("x1", name="doc/ok", data=data).woken) == ([run_id] if fits else [])
    # and the same when the event was first
    desk.emit("e2", "a")
    token = desk.begin("e2-a")
    assert wait(desk, "e2-a", token, match)["s"] == ("done" if fits else "waiting")


def test_a_wait_looks_back(desk: Desk) -> None:
    desk.emit("x1", name="doc/ok", data={"n": 1})
    desk.clock.advance(10)
    desk.emit("e1", "a")
    since = desk.clock.now
    token = desk.begin("e1-a")
    assert wait(desk, "e1-a", token, {}, since=since)["s"] == "waiting"
    desk.emit("x2", name="doc/ok", data={"n": 2})
    found = wait(desk, "e1-a", token, {}, since=since, field='s["b",1]')
    assert (found["s"], found["r"]["d"]) == ("done", {"n": 2})
    found = wait(desk, "e1-a", token, {"n": 1}, since=since - 10, field='s["c",1]')
    assert (found["s"], found["r"]["d"]) == ("done", {"n": 1})


def test_a_wait_that_looks_far_back(desk: Desk) -> None:
    desk.emit("e1", "a")
    for number in range(1203):
        desk.emit(f"x{number}", name="doc/ok", data={"n": number})
    token = desk.begin("e1-a")
    assert wait(desk, "e1-a", token, {"n": 1202})["r"]["d"] == {"n": 1202}
    assert wait(desk, "e1-a", token, {"n": -1}, field='s["b",1]')["s"] == "waiting"


def test_an_event_before_the_run_has_left(desk: Desk) -> None:
    desk.emit("e1", "a")
    token = desk.begin("e1-a")
    wait(desk, "e1-a", token, {})
    assert list(desk.emit("x1", name="doc/ok").woken) == []
    settled = desk.ledger.settle(
        "e1-a", token, S.SUSPENDED, due=desk.clock.now + 60, group=FIELD, reason="event"
    )
    assert (list(settled.woken), desk.due("e1-a")) == (["e1-a"], 0)


def test_a_wait_times_out(desk: Desk) -> None:
    run_id = suspended(desk)
    desk.clock.advance(60)
    assert desk.taken() == [run_id]
    token = desk.begin(run_id)
    text = desk.ledger.end_wait(run_id, token, FIELD)
    assert text is not None
    assert (json.loads(text)["s"], json.loads(text)["r"]) == ("done", None)
    assert list(desk.emit("x1", name="doc/ok").woken) == []
    assert desk.ledger.end_wait(run_id, token, FIELD) == text
    assert desk.ledger.end_wait(run_id, token + 1, FIELD) is None


def test_an_event_that_comes_just_before_the_end(desk: Desk) -> None:
    run_id = suspended(desk)
    desk.clock.advance(60)
    desk.taken()
    token = desk.begin(run_id)
    desk.emit("x1", name="doc/ok", data=1)
    text = desk.ledger.end_wait(run_id, token, FIELD)
    assert text is not None
    assert json.loads(text)["r"]["d"] == 1


# --- cancel_on -----------------------------------------------------------------------------------


def test_an_event_cancels(desk: Desk) -> None:
    run = NewRun("e1-a", "a@doc/up", cancel_on=(("doc/gone", '{"id":"e1"}'), ("doc/up", "{}")))
    desk.emit("e1", runs=[run])  # not by its own event
    desk.emit("x1", name="doc/gone", data={"id": "other"})
    assert desk.state("e1-a") == "pending"
    token = desk.begin("e1-a")
    desk.emit("x2", name="doc/gone", data={"id": "e1"})
    found = desk.ledger.run("e1-a")
    assert found is not None
    assert (found.state, found.reason) == (S.CANCELLED, "cancel_on doc/gone")
    assert desk.ledger.store("e1-a", token, FIELD, done(1), final=True) is None
    desk.emit("x3", name="doc/up")
    assert desk.ledger.counts()[S.CANCELLED] == 1


def test_an_event_cancels_a_run_that_was_retried(desk: Desk) -> None:
    more = {"cancel_on": (("doc/gone", '{"id":"e1"}'), ("doc/shut", "{}"))}
    desk.emit("e1", runs=[NewRun("e1-a", "a@doc/up", **more), NewRun("e1-b", "b@doc/up", **more)])
    error = {"type": "Boom", "message": "no", "traceback": ""}
    for run_id in ("e1-a", "e1-b"):
        desk.ledger.settle(run_id, desk.begin(run_id), S.FAILED, error=error)
    desk.emit("x1", name="doc/gone", data={"id": "e1"})  # nobody is there
    assert desk.ledger.reopen("e1-a", "mended")
    assert desk.state("e1-a") == "pending"
    desk.emit("x2", name="doc/gone", data={"id": "e1"})
    assert desk.ledger.reopen("e1-a", "it is not gone")
    desk.emit("x3", name="doc/shut")
    found = desk.ledger.run("e1-a")
    assert found is not None
    assert (found.state, found.reason) == (S.CANCELLED, "cancel_on doc/shut")
    assert found.detail["waits"] == {}
    assert desk.state("e1-b") == "failed"


# --- children ------------------------------------------------------------------------------------


def family(desk: Desk, count: int) -> int:
    """Let a run ask for children, and leave; return its token."""
    desk.emit("e1", "a")
    token = desk.begin("e1-a")
    children = [
        NewRun(f"c{n}", "a@doc/up", "invoke", message="{}", field=f's["p",1,{n}]', group="g")
        for n in range(count)
    ]
    for _ in range(2):  # the second repeats a call whose answer was lost
        assert desk.ledger.spawn("e1-a", token, "g", children).ok
    desk.ledger.settle("e1-a", token, S.SUSPENDED, group="g", reason="parallel")
    return token


def test_children_are_due_now_and_wake_their_parent(desk: Desk) -> None:
    family(desk, 2)
    assert desk.taken() == ["c0", "c1"]
    assert desk.due("e1-a") == 86_400
    desk.ledger.settle("c0", desk.begin("c0"), S.SUCCEEDED, result='{"x":1}')
    assert desk.claim("e1-a").status == "early"
    error = {"type": "Boom", "message": "no", "traceback": "T"}
    settled = desk.ledger.settle("c1", desk.begin("c1"), S.FAILED, error=error)
    assert list(settled.woken) == ["e1-a"]
    assert desk.checkpoint("e1-a", 's["p",1,0]')["r"] == {"x": 1}
    failed = desk.checkpoint("e1-a", 's["p",1,1]')
    assert (failed["s"], failed["n"], failed["e"]) == (
        "failed",
        1,
        {"type": "Boom", "message": "no"},
    )
    assert desk.taken("e1-a") == ["e1-a"]
    event = desk.ledger.event("e1")
    assert event is not None
    assert event.open == 1


def test_children_that_end_before_the_parent_has_left(desk: Desk) -> None:
    desk.emit("e1", "a")
    token = desk.begin("e1-a")
    child = NewRun("c0", "", "invoke", message="{}", field='s["i",1]', group='s["i",1]')
    desk.ledger.spawn("e1-a", token, 's["i",1]', [child])
    desk.ledger.settle("c0", desk.begin("c0"), S.SUCCEEDED, result="5")
    settled = desk.ledger.settle("e1-a", token, S.SUSPENDED, group='s["i",1]', reason="invoke")
    assert (list(settled.woken), desk.due("e1-a")) == (["e1-a"], 0)


def test_a_parent_that_waits_looks_for_itself_once_a_day(desk: Desk) -> None:
    family(desk, 1)
    desk.taken()
    desk.ledger.settle(
        "c0", desk.begin("c0"), S.SUSPENDED, due=desk.clock.now + 1e6, reason="sleep"
    )
    desk.clock.advance(86_400)
    assert desk.taken() == []
    assert (desk.state("e1-a"), desk.due("e1-a")) == ("suspended", 86_400)


def test_a_parallel_child_reads_its_parents_checkpoints(desk: Desk) -> None:
    desk.emit("e1", "a")
    token = desk.begin("e1-a")
    desk.ledger.store("e1-a", token, 's["k",1]', done(10), final=True)
    child = NewRun("c0", "a@doc/up", "parallel", message="{}", field='s["p",1,0]', group="g")
    desk.ledger.spawn("e1-a", token, "g", [child])
    desk.ledger.settle("e1-a", token, S.SUSPENDED, group="g", reason="parallel")
    assert dict(desk.claim("c0").checkpoints) == {'s["k",1]': done(10)}


def test_a_parallel_child_reads_no_results_of_its_siblings(desk: Desk) -> None:
    """Else n items would read n times n results."""
    desk.emit("e1", "a")
    token = desk.begin("e1-a")
    desk.ledger.store("e1-a", token, 's["k",1]', done(10), final=True)
    group = 's["p",1]'
    children = [
        NewRun(f"c{n}", "a@doc/up", "parallel", message="{}", field=f's["p",1,{n}]', group=group)
        for n in range(3)
    ]
    desk.ledger.spawn("e1-a", token, group, children)
    desk.ledger.settle("e1-a", token, S.SUSPENDED, group=group, reason="parallel")
    for number in range(2):
        claim = desk.claim(f"c{number}")
        assert dict(claim.checkpoints) == {'s["k",1]': done(10)}
        desk.ledger.settle(f"c{number}", claim.token, S.SUCCEEDED, result="1")
    claim = desk.claim("c2")
    desk.ledger.settle("c2", claim.token, S.FAILED, error={"type": "E", "message": "no"})
    # one that is run again by itself replays the body with all that its parent has
    assert desk.ledger.reopen("c2", "again")
    assert set(desk.claim("c2").checkpoints) >= {'s["k",1]', 's["p",1,0]', 's["p",1,1]'}


def test_a_run_is_missed_in_the_queue_that_it_was_published_to(desk: Desk) -> None:
    desk.emit("e1", "a")
    token = desk.begin("e1-a")
    desk.ledger.spawn("e1-a", token, "g", [NewRun("c0", "a@doc/up", "invoke", message="{}")])
    desk.taken("c0")
    desk.ledger.mark_published(["c0"], {"c0": "heavy"})
    desk.clock.advance(1)
    assert desk.ledger.resend("celery", desk.clock.now) == []
    assert desk.ledger.resend("heavy", desk.clock.now) == ["c0"]
    desk.taken("c0")
    desk.ledger.mark_published(["c0"], {"c0": ""})  # not known now: as it was
    desk.clock.advance(1)
    assert desk.ledger.resend("heavy", desk.clock.now) == ["c0"]


def test_a_parallel_child_that_is_lost_on_its_way_is_missed(desk: Desk) -> None:
    desk.emit("e1", "a")
    token = desk.begin("e1-a")
    child = NewRun("c0", "a@doc/up", "parallel", message="{}", field='s["p",1,0]', group="g")
    desk.ledger.spawn("e1-a", token, "g", [child])
    desk.taken("c0")
    desk.ledger.mark_published(["c0"], {"c0": "celery"})
    desk.clock.advance(1)
    assert desk.ledger.resend("other", desk.clock.now) == []
    assert desk.ledger.resend("celery", desk.clock.now) == ["c0"]


def test_cancelling_a_parent_cancels_its_children(desk: Desk) -> None:
    family(desk, 2)
    cancelled, woken = desk.ledger.cancel(["e1-a"], "enough")
    assert (sorted(cancelled), woken) == (["c0", "c1", "e1-a"], [])
    assert desk.ledger.counts()[S.CANCELLED] == 3


def test_a_cancelled_child_fails_its_step(desk: Desk) -> None:
    family(desk, 1)
    _, woken = desk.ledger.cancel(["c0"], "enough")
    assert woken == ["e1-a"]
    found = desk.checkpoint("e1-a", 's["p",1,0]')
    assert (found["s"], found["e"]) == ("failed", {"type": "RunCancelled", "message": "enough"})


# --- fan-in --------------------------------------------------------------------------------------


def test_a_fan_in_follows_the_last_run(desk: Desk) -> None:
    desk.emit("e1", "a", "b", then_id="e1-then", then_message='{"t":1}')
    token = desk.begin("e1-a")
    link = NewRun("e1-a-link", "a@doc/up", "then", message="{}")
    desk.ledger.settle("e1-a", token, S.COMPLETING, result="1", child=link)
    desk.ledger.settle("e1-a", token, S.SUCCEEDED)
    assert list(desk.ledger.cancel(["e1-b"], "enough")[1]) == []
    assert desk.ledger.run("e1-then") is None
    settled = desk.ledger.settle("e1-a-link", desk.begin("e1-a-link"), S.SUCCEEDED, result="2")
    assert list(settled.woken) == ["e1-then"]
    (wakeup,) = desk.ledger.take(["e1-then"]).wakeups
    assert (wakeup.kind, wakeup.message, wakeup.event) == ("fan-in", '{"t":1}', "e1")


def test_a_replay_does_not_call_the_fan_in_again(desk: Desk) -> None:
    desk.emit("e1", "a", then_id="e1-then", then_message="{}")
    for number in range(3):
        run_id = f"e1-a-{number}" if number else "e1-a"
        if number:
            desk.emit("e1", "a", replay=True, generation=number, nonce=run_id)
        settled = desk.ledger.settle(run_id, desk.begin(run_id), S.SUCCEEDED, result="1")
        assert list(settled.woken) == ([] if number else ["e1-then"])
        if not number:
            desk.ledger.settle("e1-then", desk.begin("e1-then"), S.SUCCEEDED, result="0")
        desk.clock.advance(RULES.success_retention + 1)  # nothing is left of it but its event
        desk.ledger.sweep()
        assert desk.ledger.run("e1-then") is None


def test_a_fan_in_of_nobody(desk: Desk) -> None:
    found = desk.emit("e1", then_id="e1-then", then_message="{}")
    assert list(found.woken) == ["e1-then"]
    desk.ledger.settle("e1-then", desk.begin("e1-then"), S.SUCCEEDED, result="0")
    assert desk.ledger.run("e1-then") is not None


def test_events_outlive_their_runs(desk: Desk) -> None:
    desk.emit("e1", "a")
    token = desk.begin("e1-a")
    month = 30 * 86_400.0
    desk.ledger.settle("e1-a", token, S.SUSPENDED, due=desk.clock.now + month, reason="sleep")
    desk.clock.advance(month)
    desk.ledger.sweep()
    (wakeup,) = desk.ledger.take().wakeups
    assert json.loads(wakeup.data) == {"id": "e1"}
    assert RULES.event_retention < month
