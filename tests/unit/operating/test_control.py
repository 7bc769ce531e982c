"""Looking at runs and changing them by hand: in memory, on a clock that tests move."""

import json
import logging

import pytest
from celery import Celery

from celery_fanout import on_event
from celery_fanout.app.fanout import get_fanout
from celery_fanout.exceptions import (
    EventNotFound,
    ReplayContended,
    RunNotFound,
    TooMany,
    UnknownStep,
    UnknownSubscription,
    WrongKind,
    WrongState,
)
from celery_fanout.model.ids import event_key, run_id
from celery_fanout.operating.control import RunControl
from celery_fanout.stores.checkpoints import Checkpoint, field_of
from celery_fanout.stores.memory.ledger import MemoryLedger
from celery_fanout.stores.records import NewEvent, NewRun
from celery_fanout.stores.states import RunState as S
from tests.conformance.ledgers import RULES, Clock

SHIP, AUDIT = "shop.ship@order/paid", "shop.audit@order/*"


class Shop:
    """An app with two subscriptions, a ledger, and what was woken."""

    def __init__(self) -> None:
        app = Celery("shop", broker="memory://", set_as_current=False)

        @on_event("order/paid")
        @app.task(name="shop.ship")
        def ship(order): ...

        @on_event("order/*", filter=lambda event: event.data["total"] > 100)
        @app.task(name="shop.audit")
        def audit(order): ...

        fanout = get_fanout(app)
        fanout.load()
        self.app = app  # the registry knows it, and its tasks only weakly
        self.clock = Clock()
        self.ledger = MemoryLedger(RULES, self.clock)
        self.woken: list[str] = []
        self.runs = RunControl(self.ledger, fanout.registry, self.woken.extend)

    def emit(self, id="o-1", name="order/paid", subs=(SHIP,), total=5, **more):
        """Record an event; returns the ids of its runs."""
        ids = [run_id(name, id, sub) for sub in subs]
        runs = [NewRun(run, sub) for run, sub in zip(ids, subs, strict=True)]
        attributes = {"id": id, "type": name, "source": "shop", "specversion": "1.0"}
        attributes["time"] = "2026-05-03T10:00:00Z"
        data = json.dumps({"total": total})
        new = NewEvent(event_key(name, id), name, json.dumps(attributes), data, runs, **more)
        self.ledger.record([new])
        return ids

    def begin(self, run):
        return self.ledger.claim(run, "boot", f"nonce-{self.clock.now}").token

    def step(self, run, token, *key, value=1, status="done"):
        """Store a checkpoint, a second after the last."""
        self.clock.advance(1)
        error = None if status == "done" else {"type": "E", "message": "no"}
        text = Checkpoint(status, value, error, 1, stored=self.clock.now).dumps()
        self.ledger.store(run, token, field_of(key), text, final=True)

    def fail(self, run, error="Boom"):
        token = self.begin(run)
        self.ledger.settle(run, token, S.FAILED, error={"type": error, "message": "no"})

    def state(self, run):
        return str(self.runs.get(run).state)


@pytest.fixture
def shop():
    return Shop()


# --- looking -------------------------------------------------------------------------------------


def test_a_run_is_found_by_its_id_and_by_its_beginning(shop):
    (run,) = shop.emit()
    assert shop.runs.get(run).subscription == SHIP
    assert shop.runs.find(run[:6]).id == run
    with pytest.raises(RunNotFound, match=r"Give at least 6 characters of its id\.$"):
        shop.runs.find(run[:5])
    with pytest.raises(RunNotFound, match=r"It may have expired"):
        shop.runs.find("ffffffff")
    with pytest.raises(RunNotFound):
        shop.runs.get(run[:8])


def test_a_beginning_has_to_be_the_only_one(shop):
    shop.ledger.record(
        [
            NewEvent(
                "e", "order/paid", "{}", "{}", [NewRun("abcdef-1", SHIP), NewRun("abcdef-2", "")]
            )
        ]
    )
    with pytest.raises(RunNotFound, match=r"2 of the latest runs begin so: give more of its id"):
        shop.runs.find("abcdef")


def test_an_event_is_found_by_key_by_id_and_by_name_and_id(shop):
    shop.emit("o-1")
    shop.emit("o-1", "order/sent", ())
    shop.emit("o-2")
    assert shop.runs.event(event_key("order/paid", "o-1")).name == "order/paid"
    assert shop.runs.event("o-2").name == "order/paid"
    assert shop.runs.event("o-1", "order/sent").name == "order/sent"
    with pytest.raises(EventNotFound, match=r"Several have this id \(order/paid, order/sent\)"):
        shop.runs.event("o-1")
    with pytest.raises(EventNotFound):
        shop.runs.event("o-3")
    with pytest.raises(EventNotFound):
        shop.runs.event("o-2", "order/sent")


def test_filters(shop):
    (old,) = shop.emit("o-1")
    shop.fail(old, "KeyError")
    shop.clock.advance(100)
    noon = shop.clock.now
    one, two = shop.emit("o-2", subs=(SHIP, AUDIT), total=500)
    (sent,) = shop.emit("o-3", "order/sent", (AUDIT,), total=500)
    shop.clock.advance(1)
    shop.fail(two)

    def found(**filters):
        return {run.id for run in shop.runs.list(**filters)}

    assert found() == {old, one, two, sent}
    assert found(state="failed") == found(state=S.FAILED) == {old, two}
    assert found(state=["failed", "pending"]) == {old, one, two, sent}
    assert found(subscription=AUDIT) == {two, sent}
    assert found(subscription=AUDIT, state="failed") == {two}
    assert found(name="order/paid") == {old, one, two}
    assert found(name="order/sent") == {sent}
    assert found(name="order/other") == found(name="document/x") == set()
    assert found(since=noon) == {one, two, sent}
    assert found(before=noon) == {old}
    assert found(error_type="KeyError") == {old}
    assert found(error_type="KeyError", state="pending") == set()
    assert found(event=event_key("order/paid", "o-2")) == {one, two}
    assert found(event=event_key("order/paid", "o-2"), state="failed") == {two}
    assert [run.id for run in shop.runs.list(limit=1)] == [two]
    assert [run.id for run in shop.runs.list(state=["failed", "pending"], limit=1)] == [two]
    assert shop.runs.counts()[S.FAILED] == 2
    with pytest.raises(ValueError, match=r"^There is no state 'done'\. The states are pending, "):
        shop.runs.list(state="done")
    with pytest.raises(ValueError, match="There is no state 'done'"):
        shop.runs.list(state=["failed", "done"])

    assert {json.loads(e.attributes)["id"] for e in shop.runs.events(since=noon)} == {"o-2", "o-3"}
    assert len(shop.runs.events(name="order/paid")) == 2
    assert len(shop.runs.events(before=noon)) == 1
    assert len(shop.runs.events(limit=2)) == 2
    assert len(shop.runs.select_events(limit=3)) == 3
    with pytest.raises(TooMany):
        shop.runs.select_events(limit=2)


def test_what_happened_at_one_time_may_be_more_than_a_page(shop):
    """One script records, resumes or cancels many, all with the same time."""
    ids = {f"run-{n}" for n in range(1700)}
    shop.ledger.record([NewEvent("e", "order/paid", "{}", "{}", [NewRun(i, SHIP) for i in ids])])
    (earlier_or_later,) = shop.emit()
    for filters in ({"state": "pending"}, {"name": "order/paid"}, {"subscription": SHIP}, {}):
        found = [run.id for run in shop.runs.list(**filters, limit=10_000)]
        assert len(found) == len(set(found)) == 1701
        assert {*found} == {*ids, earlier_or_later}
    for n in range(1200):
        shop.emit(f"o-{n}", "order/many", ())
    assert len({event.key for event in shop.runs.events(limit=5000)}) == 1202


def test_a_selection_has_a_cap(shop):
    for n in range(3):
        shop.emit(f"o-{n}")
    assert len(shop.runs.select(state="pending", limit=3)) == 3
    with pytest.raises(TooMany, match=r"^3 runs or more match, and at most 2 may be changed"):
        shop.runs.select(state="pending", limit=2)


# --- cancel --------------------------------------------------------------------------------------


def test_cancel(shop, caplog):
    caplog.set_level(logging.INFO)
    (run,) = shop.emit()
    shop.runs.cancel(run, "sold out")
    assert (shop.state(run), shop.runs.get(run).reason) == ("cancelled", "sold out")
    assert (caplog.records[-1].action, caplog.messages[-1]) == (
        "run_cancelled",
        f"Run {run} cancelled: sold out",
    )
    with pytest.raises(WrongState, match=r"is cancelled and cannot be cancelled\. It has ended\."):
        shop.runs.cancel(run)
    with pytest.raises(RunNotFound):
        shop.runs.cancel("nobody")


def test_what_is_completing_has_returned(shop):
    (run,) = shop.emit()
    token = shop.begin(run)
    shop.ledger.settle(run, token, S.COMPLETING, result="1", child=NewRun("tail", SHIP, "then"))
    with pytest.raises(WrongState, match="its tail is being dispatched"):
        shop.runs.cancel(run)


def test_cancel_many_with_their_children(shop):
    parent, other, ended = (shop.emit(f"o-{n}")[0] for n in range(3))
    token = shop.begin(parent)
    child = NewRun("kid", SHIP, "invoke", field='s["ask",1]', group='s["ask",1]')
    shop.ledger.spawn(parent, token, child.group, [child])
    shop.fail(ended)
    told = []
    ids = [parent, other, ended, "kid", "nobody"]
    found = shop.runs.cancel_many(ids, "why", progress=told.append)
    assert found.changed == [parent, other, "kid"]
    assert {key: type(exc) for key, exc in found.problems.items()} == {
        ended: WrongState,
        "nobody": RunNotFound,
    }
    assert told == [5]
    assert shop.runs.get("kid").reason == "why"


def test_many_have_a_cap_too(shop):
    ids = [shop.emit(f"o-{n}")[0] for n in range(3)]
    for change in (shop.runs.cancel_many, shop.runs.retry_many, shop.runs.replay_many):
        with pytest.raises(TooMany):
            change(ids, limit=2)
    assert {shop.state(run) for run in ids} == {"pending"}


# --- retry ---------------------------------------------------------------------------------------


def test_retry_keeps_what_is_done(shop):
    (run,) = shop.emit()
    token = shop.begin(run)
    shop.step(run, token, "fetch", 1)
    shop.step(run, token, "ask", 1, status="failed")
    shop.ledger.settle(run, token, S.FAILED, error={"type": "Boom", "message": "no"})
    shop.runs.retry(run, "mended")
    found = shop.runs.get(run)
    assert (str(found.state), found.reason, found.reopened) == ("pending", "mended", 1)
    assert list(found.detail["checkpoints"]) == ['s["fetch",1]']
    assert shop.woken == [run]
    with pytest.raises(WrongState, match=r"is pending and cannot be retried\. It has not ended"):
        shop.runs.retry(run)


def test_what_has_succeeded_is_not_retried(shop):
    (run,) = shop.emit()
    shop.ledger.settle(run, shop.begin(run), S.SUCCEEDED, result="1")
    with pytest.raises(WrongState, match=r"cannot be retried\. Use replay, or rerun from a step"):
        shop.runs.retry(run)
    with pytest.raises(RunNotFound):
        shop.runs.retry("nobody")


def test_a_part_of_a_step_is_retried_with_its_run(shop):
    (run,) = shop.emit()
    token = shop.begin(run)
    child = NewRun("kid", SHIP, "invoke", field='s["ask",1]', group='s["ask",1]')
    shop.ledger.spawn(run, token, child.group, [child])
    shop.fail("kid")
    with pytest.raises(WrongKind, match=f"It is a part of a step: retry its run {run}"):
        shop.runs.retry("kid")


def test_retry_many(shop):
    one, two = (shop.emit(f"o-{n}")[0] for n in range(2))
    shop.fail(one)
    told = []
    found = shop.runs.retry_many([one, two], "mended", progress=told.append)
    assert (found.changed, found.new, list(found.problems)) == ([one], [], [two])
    assert told == [1, 1]


# --- replay --------------------------------------------------------------------------------------


def test_replay_to_whom_it_matches_now(shop):
    shop.emit(total=500)
    new = shop.runs.replay("o-1", reason="lost")
    assert new == [run_id("order/paid", "o-1", sub, 1) for sub in (SHIP, AUDIT)]
    assert shop.woken == new
    assert [wakeup.run_id for wakeup in shop.ledger.take(new).wakeups] == new
    assert [shop.runs.get(run).generation for run in new] == [1, 1]
    (again,) = shop.runs.replay("o-1", [SHIP, SHIP], name="order/paid")
    assert again == run_id("order/paid", "o-1", SHIP, 2)
    event = shop.runs.event("o-1")
    assert (event.generation, list(event.replayed)) == (2, [*new, again])


def test_replay_to_one_that_does_not_match(shop):
    shop.emit(total=5)
    assert shop.runs.replay("o-1") == [run_id("order/paid", "o-1", SHIP, 1)]
    assert shop.runs.replay("o-1", [AUDIT]) == [run_id("order/paid", "o-1", AUDIT, 2)]
    with pytest.raises(UnknownSubscription, match=rf"Did you mean '{SHIP}'\?"):
        shop.runs.replay("o-1", ["shop.shop@order/paid"])
    with pytest.raises(EventNotFound):
        shop.runs.replay("o-9")


def test_replay_to_nobody(shop):
    shop.emit("o-1", "document/seen", ())
    assert shop.runs.replay("o-1") == []
    assert shop.runs.event("o-1").generation == 0


def test_replay_after_somebody_else_has(shop):
    shop.emit()
    seen = shop.runs.event("o-1")
    shop.runs.replay("o-1", [SHIP])
    shop.ledger.event = lambda key: seen  # what was read before the other one wrote
    assert shop.runs.replay("o-1", [AUDIT]) == [run_id("order/paid", "o-1", AUDIT, 2)]


def test_replay_at_the_same_time_as_somebody_else(shop):
    """The first run of both is the same, which looks like a repeat to the ledger."""
    shop.emit()
    seen = shop.runs.event("o-1")
    shop.runs.replay("o-1", [SHIP])
    shop.ledger.event = lambda key: seen
    new = shop.runs.replay("o-1", [SHIP, AUDIT])
    assert new == [run_id("order/paid", "o-1", sub, 2) for sub in (SHIP, AUDIT)]
    assert [shop.state(run) for run in new] == ["pending", "pending"]


def test_replay_does_not_go_on_for_ever(shop):
    shop.emit()
    numbers = iter(range(2, 100))
    recorded = shop.ledger.record

    def others_are_faster(events):
        found = recorded(events)
        return [type(found[0])("generation", next(numbers))]

    shop.ledger.record = others_are_faster
    with pytest.raises(ReplayContended):
        shop.runs.replay("o-1")


def test_replay_many(shop):
    shop.emit("o-1")
    shop.emit("o-2")
    found = shop.runs.replay_many(["o-1", "o-2", "o-3"], [SHIP], "lost")
    assert found.changed == ["o-1", "o-2"]
    assert found.new == [run_id("order/paid", id, SHIP, 1) for id in ("o-1", "o-2")]
    assert list(found.problems) == ["o-3"]
    with pytest.raises(UnknownSubscription):
        shop.runs.replay_many(["o-1"], ["nobody@order/paid"])


# --- rerun ---------------------------------------------------------------------------------------


@pytest.fixture
def ended(shop):
    """A run with steps: fetch, ask (two items, then a second call), failed, save."""
    (run,) = shop.emit()
    token = shop.begin(run)
    shop.step(run, token, "fetch", 1)
    shop.step(run, token, "broken", 1, status="failed")
    shop.step(run, token, "ask", 1, 1)
    shop.step(run, token, "ask", 1, 0)
    shop.step(run, token, "ask", 2)
    shop.step(run, token, "save", 1)
    shop.ledger.settle(run, token, S.SUCCEEDED, result="1")
    return run


@pytest.mark.parametrize(
    ("step", "kept"),
    [
        ("fetch", []),
        ("broken", ['s["fetch",1]']),
        ("ask", ['s["fetch",1]', 's["broken",1]']),
        ("save", ['s["fetch",1]', 's["broken",1]', 's["ask",1,1]', 's["ask",1,0]', 's["ask",2]']),
    ],
)
def test_rerun_copies_what_was_done_before(shop, ended, step, kept):
    new = shop.runs.rerun(ended, step, "again")
    found = shop.runs.get(new)
    assert (found.generation, str(found.state), found.subscription) == (1, "pending", SHIP)
    assert found.detail["checkpoints"] == {
        field: shop.runs.get(ended).detail["checkpoints"][field] for field in kept
    }
    assert shop.woken == [new]
    assert shop.state(ended) == "succeeded"


def test_rerun_from_a_step_that_there_is_not(shop, ended):
    with pytest.raises(UnknownStep, match=r"It has: 'fetch', 'broken', 'ask', 'save'\.$") as caught:
        shop.runs.rerun(ended, "asks")
    assert caught.value.known == ["fetch", "broken", "ask", "save"]


def test_rerun_at_the_same_time_as_a_replay(shop, ended):
    seen = shop.runs.event("o-1")
    shop.runs.replay("o-1", [SHIP])  # with no checkpoints
    shop.ledger.event = lambda key: seen
    new = shop.runs.rerun(ended, "ask")
    assert new == run_id("order/paid", "o-1", SHIP, 2)
    assert set(shop.runs.get(new).detail["checkpoints"]) == {'s["fetch",1]', 's["broken",1]'}


def test_only_a_run_that_has_ended_is_rerun(shop):
    (run,) = shop.emit()
    shop.step(run, shop.begin(run), "fetch", 1)
    with pytest.raises(WrongState, match=r"is running and cannot be rerun\. .* cancel it first"):
        shop.runs.rerun(run, "fetch")


def test_only_a_subscribers_run_is_rerun(shop):
    (run,) = shop.emit()
    shop.fail(run)
    shop.ledger.adopt(run, NewRun("told", SHIP, "on_failure"))
    with pytest.raises(WrongKind, match=f"Rerun the run that it belongs to: {run}"):
        shop.runs.rerun("told", "fetch")


# --- pause and resume ----------------------------------------------------------------------------


def test_pause_and_resume(shop):
    assert shop.runs.pause(SHIP)
    assert not shop.runs.pause(SHIP)
    assert list(shop.runs.paused()) == [SHIP]
    ids = [shop.emit(f"o-{n}")[0] for n in range(1500)]
    assert {shop.state(run) for run in ids} == {"gated"}
    told = []
    assert shop.runs.resume(SHIP, told.append) == 1500
    assert told == [1000, 1500]
    assert {shop.state(run) for run in ids} == {"pending"}
    assert shop.runs.resume(SHIP) == 0


def test_a_pause_while_a_resume_goes_on_is_not_lost(shop):
    shop.runs.pause(SHIP)
    for n in range(1500):
        shop.emit(f"o-{n}")
    assert shop.runs.resume(SHIP, lambda _: shop.runs.pause(SHIP)) == 1000
    assert list(shop.runs.paused()) == [SHIP]
    assert shop.runs.counts()["gated"] == 500
    assert shop.runs.resume(SHIP) == 500


def test_pause_and_resume_of_what_there_is_not(shop):
    with pytest.raises(UnknownSubscription):
        shop.runs.pause("shop.ship@order/pai")
    with pytest.raises(UnknownSubscription):
        shop.runs.resume("shop.ship@order/pai")
    shop.ledger.pause("shop.gone@order/paid")  # the code has it no more
    assert shop.runs.resume("shop.gone@order/paid") == 0
