"""What runs again, comes twice, or comes too late, for every ledger."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from celery_fanout.stores.records import NewEvent, NewRun
from celery_fanout.stores.states import RunState
from tests.conformance.ledgers import RULES, Desk, done

S = RunState
ERROR = {"type": "Boom", "message": "no", "traceback": "T"}
WAITING = '{"v":1,"s":"waiting","n":0}'


def items(count: int) -> list[NewRun]:
    """Return the children of a ``step.parallel``."""
    return [
        NewRun(f"c{n}", "a@doc/up", "invoke", message="{}", field=f's["p",1,{n}]', group="g")
        for n in range(count)
    ]


def ask(desk: Desk, count: int, retries: int = 0) -> tuple[int, list[str]]:
    """Let the run ask for children and leave; return its token, and who is woken by that."""
    token = desk.begin("e1-a", retries=retries)
    assert desk.ledger.spawn("e1-a", token, "g", items(count)).ok
    settled = desk.ledger.settle("e1-a", token, S.SUSPENDED, group="g", reason="parallel")
    return token, list(settled.woken)


def fail(desk: Desk, run_id: str) -> list[str]:
    """Let a run fail; return who is woken by that."""
    return list(desk.ledger.settle(run_id, desk.begin(run_id), S.FAILED, error=ERROR).woken)


def succeed(desk: Desk, run_id: str) -> list[str]:
    """Let a run succeed; return who is woken by that."""
    return list(desk.ledger.settle(run_id, desk.begin(run_id), S.SUCCEEDED, result="1").woken)


# --- a parent that is retried by hand ------------------------------------------------------------


def test_a_parent_that_is_retried_runs_its_failed_children_again(desk: Desk) -> None:
    desk.emit("e1", "a")
    ask(desk, 2)
    succeed(desk, "c0")
    assert fail(desk, "c1") == ["e1-a"]
    desk.taken("e1-a")
    fail(desk, "e1-a")
    assert desk.ledger.reopen("e1-a", "mended")
    assert desk.ledger.awaiting_follow_up(older_than=0) == ["c1"]

    assert ask(desk, 2)[1] == []
    assert (desk.state("c0"), desk.state("c1"), desk.due("c1")) == ("succeeded", "pending", 0)
    child = desk.ledger.run("c1")
    assert child is not None
    assert (child.reopened, child.detail["error"]) == (1, None)
    assert desk.ledger.awaiting_follow_up(older_than=0) == []
    event = desk.ledger.event("e1")
    assert event is not None
    assert event.open == 2
    assert succeed(desk, "c1") == ["e1-a"]
    assert desk.checkpoint("e1-a", 's["p",1,1]')["s"] == "done"
    assert desk.taken("e1-a") == ["e1-a"]


def test_a_parent_that_was_cancelled_takes_its_children_along_again(desk: Desk) -> None:
    desk.emit("e1", "a")
    ask(desk, 2)
    succeed(desk, "c0")
    assert desk.ledger.cancel(["e1-a"], "enough")[0] == ["e1-a", "c1"]
    assert desk.ledger.reopen("e1-a", "mended")
    assert desk.state("c1") == "cancelled"  # until it is asked for
    assert ask(desk, 2)[1] == []
    assert (desk.state("c0"), desk.state("c1")) == ("succeeded", "pending")
    assert succeed(desk, "c1") == ["e1-a"]


def test_a_child_that_succeeded_while_its_parent_was_dead(desk: Desk) -> None:
    desk.emit("e1", "a")
    token = desk.begin("e1-a")
    desk.ledger.spawn("e1-a", token, "g", items(1))
    desk.ledger.settle("e1-a", token, S.FAILED, error=ERROR)  # a time limit, for example
    succeed(desk, "c0")
    run = desk.ledger.run("e1-a")
    assert run is not None
    assert run.detail["checkpoints"] == {}  # it had ended
    desk.ledger.reopen("e1-a", "mended")
    assert ask(desk, 1)[1] == ["e1-a"]  # nothing is outstanding
    assert desk.checkpoint("e1-a", 's["p",1,0]')["r"] == 1


def test_a_child_that_ends_before_its_retried_parent_asks_again(desk: Desk) -> None:
    desk.emit("e1", "a")
    token = desk.begin("e1-a")
    desk.ledger.spawn("e1-a", token, "g", items(2))
    desk.ledger.settle("e1-a", token, S.FAILED, error=ERROR)
    desk.ledger.reopen("e1-a", "mended")
    assert succeed(desk, "c0") == []
    assert ask(desk, 2)[1] == []  # the other is outstanding
    assert succeed(desk, "c1") == ["e1-a"]


def retried_while_two_are_open(desk: Desk) -> None:
    """Item 0 has succeeded, items 1 and 2 have not begun, and the run has failed and is retried."""
    desk.emit("e1", "a")
    token = desk.begin("e1-a")
    desk.ledger.spawn("e1-a", token, "g", items(3))
    desk.ledger.settle("c0", desk.begin("c0"), S.SUCCEEDED, result="1")
    desk.ledger.settle("e1-a", token, S.FAILED, error=ERROR)
    desk.ledger.reopen("e1-a", "again")


def test_a_child_that_fails_before_its_retried_parent_asks_again(desk: Desk) -> None:
    retried_while_two_are_open(desk)
    desk.ledger.settle("c1", desk.begin("c1"), S.FAILED, error=ERROR)
    assert ask(desk, 3)[1] == []
    assert desk.state("c1") == "failed"  # its parent has that outcome
    found = desk.ledger.settle("c2", desk.begin("c2"), S.SUCCEEDED, result="1")
    assert found.woken == ["e1-a"]


def test_an_outcome_outlives_the_record_of_its_child(desk: Desk) -> None:
    retried_while_two_are_open(desk)
    desk.clock.advance(RULES.success_retention + 1)
    desk.ledger.sweep()
    ask(desk, 3)
    assert desk.ledger.run("c0") is None  # it does not run again
    assert desk.checkpoint("e1-a", 's["p",1,0]')["r"] == 1
    for child in ("c1", "c2"):
        assert desk.state("e1-a") == "suspended"
        desk.ledger.settle(child, desk.begin(child), S.SUCCEEDED, result="1")
    assert desk.taken() == ["e1-a"]


def test_a_child_that_is_retried_counts_once(desk: Desk) -> None:
    desk.emit("e1", "a")
    ask(desk, 2)
    assert fail(desk, "c0") == []
    desk.ledger.reopen("c0", "mended")
    assert succeed(desk, "c0") == []  # the other is outstanding
    assert desk.checkpoint("e1-a", 's["p",1,0]')["s"] == "failed"  # its parent was told so
    assert desk.claim("e1-a").status == "early"
    assert succeed(desk, "c1") == ["e1-a"]


# --- stored values -------------------------------------------------------------------------------


def test_what_comes_with_a_settlement_replaces_nothing_final(desk: Desk) -> None:
    desk.emit("e1", "a")
    token = desk.begin("e1-a")
    desk.ledger.store("e1-a", token, 's["x",1]', done("kept"), final=True)
    desk.ledger.store("e1-a", token, 's["y",1]', WAITING, final=False)
    retrying = '{"v":1,"s":"retrying","n":2}'
    texts = {'s["x",1]': WAITING, 's["y",1]': retrying, 's["z",1]': WAITING}
    due = desk.clock.now + 5
    assert desk.ledger.settle("e1-a", token, S.SUSPENDED, due=due, checkpoints=texts).ok
    run = desk.ledger.run("e1-a")
    assert run is not None
    assert run.detail["checkpoints"] == {**texts, 's["x",1]': done("kept")}


def test_a_failure_without_an_error(desk: Desk) -> None:
    desk.emit("e1", "a")
    ask(desk, 1)
    assert desk.ledger.settle("c0", desk.begin("c0"), S.FAILED).ok
    run = desk.ledger.run("c0")
    assert run is not None
    assert (run.state, run.reason, run.detail["error"]) == (S.FAILED, "error", {})
    assert desk.checkpoint("e1-a", 's["p",1,0]')["e"]["type"] == "?"


# --- claims --------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [2, 8])
def test_one_of_many_claims_wins(desk: Desk, workers: int) -> None:
    desk.emit("e1", "a")
    start = threading.Barrier(workers)
    found: list[tuple[str, int]] = []

    def work(number: int) -> None:
        start.wait()
        claim = desk.ledger.claim("e1-a", f"w{number}", f"race-{number}")
        found.append((claim.status, claim.token))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [("claimed", 1)] + [("held", 1)] * (workers - 1)


def test_a_message_of_a_later_retry_is_believed(desk: Desk) -> None:
    desk.emit("e1", "a")
    assert desk.claim("e1-a", retries=2).retries == 2
    run = desk.ledger.run("e1-a")
    assert run is not None
    assert run.retries == 2


def test_a_stale_message_is_no_crash(desk: Desk) -> None:
    desk.emit("e1", "a")
    token = desk.begin("e1-a", retries=1)
    desk.clock.advance(RULES.lease)
    for _ in range(RULES.max_crashes):
        assert desk.claim("e1-a", "w2", retries=0).status == "stale"
    run = desk.ledger.run("e1-a")
    assert run is not None
    assert (run.state, run.crashes, run.token) == (S.RUNNING, 0, token)
    assert desk.taken() == ["e1-a"]  # it did crash, once
    found = desk.claim("e1-a", "w2", retries=1)
    assert (found.status, found.crashes) == ("claimed", 1)


def test_a_message_of_a_gated_run_changes_nothing(desk: Desk) -> None:
    desk.ledger.pause("a@doc/up")
    desk.emit("e1", "a")
    before = desk.ledger.run("e1-a")
    desk.clock.advance(5)
    for _ in range(2):
        assert desk.claim("e1-a").status == "paused"
    assert desk.ledger.run("e1-a") == before


def test_a_gated_run_is_claimed_once_it_is_let_go(desk: Desk) -> None:
    desk.ledger.pause("a@doc/up")
    desk.emit("e1", "a")
    desk.clock.advance(1)
    desk.emit("e2", "a")
    assert desk.ledger.resume("a@doc/up", limit=1) == (1, True)
    assert (desk.state("e1-a"), desk.state("e2-a")) == ("pending", "gated")
    found = desk.claim("e2-a")  # its message was there already
    assert (found.status, found.token) == ("claimed", 1)
    assert desk.ledger.resume("a@doc/up") == (0, False)


def test_a_lost_run_of_a_paused_subscription(desk: Desk) -> None:
    desk.ledger.pause("a@doc/up")
    lost = NewEvent("e9", "doc/up", '{"id":"e9"}', "null", [NewRun("e9-a", "a@doc/up")])
    assert desk.claim("e9-a", recreate=lost).status == "paused"
    assert desk.state("e9-a") == "gated"


def test_nobody_holds_a_run_that_was_never_claimed(desk: Desk) -> None:
    desk.emit("e1", "a")
    desk.ledger.cancel(["e1-a"], "enough")
    assert not desk.ledger.settle("e1-a", 0, S.CANCELLED).ok


# --- every fenced write of who has lost a run ----------------------------------------------------

WRITES: dict[str, Callable[[Desk, int], Any]] = {
    "store": lambda d, t: d.ledger.store("e1-a", t, 's["x",1]', done(2), final=True),
    "store, not final": lambda d, t: d.ledger.store("e1-a", t, 's["y",1]', WAITING, final=False),
    "spawn": lambda d, t: d.ledger.spawn("e1-a", t, "g", items(1)).ok or None,
    "wait": lambda d, t: d.ledger.wait("e1-a", t, "sw", "doc/ok", "{}", since=0, due=1e10),
    "end_wait": lambda d, t: d.ledger.end_wait("e1-a", t, "sw"),
    **{
        f"settle {to}": lambda d, t, to=to: d.ledger.settle("e1-a", t, to, error=ERROR).ok or None
        for to in (S.SUCCEEDED, S.COMPLETING, S.FAILED, S.CANCELLED, S.RETRYING, S.SUSPENDED)
    },
}


@pytest.mark.parametrize("lost", ["claimed by another", "taken", "failed", "abandoned"])
@pytest.mark.parametrize("write", WRITES)
def test_who_has_lost_a_run_writes_nothing(desk: Desk, write: str, lost: str) -> None:
    desk.emit("e1", "a")
    token = desk.begin("e1-a")
    desk.ledger.store("e1-a", token, 's["x",1]', done(1), final=True)
    if lost == "abandoned":
        desk.ledger.abandon("e1-a", "w1", ERROR, final=False)
    elif lost == "failed":
        desk.ledger.abandon("e1-a", "w1", ERROR, final=True)
    else:
        desk.clock.advance(RULES.lease)
        assert desk.taken() == ["e1-a"]
        if lost == "claimed by another":
            desk.begin("e1-a", "w2")
    before, children = desk.ledger.run("e1-a"), desk.ledger.run("c0")
    found = WRITES[write](desk, token)
    if (write, lost) == ("settle failed", "failed"):
        assert found is True  # what it says is so
    else:
        assert found is None
    assert (desk.ledger.run("e1-a"), desk.ledger.run("c0")) == (before, children)
    read = json.loads(before.detail["checkpoints"]['s["x",1]']) if before else None
    assert read is not None
    assert read["r"] == 1
