"""What only a ledger in several shards does: where things lie, and what crosses."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from redis.crc import key_slot

from celery_fanout.model.ids import PLACES, child_id, event_key, place_in, place_of, run_id
from celery_fanout.stores.records import NewEvent, NewRun
from celery_fanout.stores.redis import RedisLedger
from celery_fanout.stores.redis.shards.ledger import ShardedLedger
from celery_fanout.stores.redis.shards.places import places, tag
from celery_fanout.stores.redis.shards.shard import Shard
from celery_fanout.stores.states import RunState
from tests.conformance.ledgers import RULES, Clock, Desk
from tests.conformance.test_ledger_waits import FIELD, suspended, wait

S = RunState
SHARDS = 3
SUB = "a@doc/up"


@pytest.fixture
def ledger(desk: Desk) -> ShardedLedger:
    assert isinstance(desk.ledger, ShardedLedger)
    return desk.ledger


@pytest.fixture
def clock(desk: Desk) -> Clock:
    return desk.clock


def key_at(number: int, beginning: str = "e") -> str:
    """Return a key of an event in one of the shards."""
    place = places(SHARDS)[number]
    return next(
        key for key in (f"{beginning}{n}" for n in range(1000)) if place_of(key, SHARDS) == place
    )


def lost_news(desk: Desk, key: str, name: str = "doc/ok", data: Any = None) -> None:
    """Record an event as one does that dies before it has told the other shards."""
    ledger: Any = desk.ledger
    new = NewEvent(key, name, json.dumps({"id": key, "type": name}), json.dumps(data))
    ledger._shards.home(key).record_one(new)


def real_run(key: str, place: int | None) -> str:
    return run_id("doc/up", key, SUB, 0, place)


# --- where things lie ----------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [2, 3, 6, 12, 64])
@pytest.mark.parametrize("nodes", [2, 3, 5])
def test_nodes_share_the_shards(shards: int, nodes: int) -> None:
    counts = [0] * nodes
    for place in places(shards):
        counts[key_slot(f"{{{tag('fanout', place)}}}".encode()) * nodes // 16_384] += 1
    assert max(counts) <= -(-shards // nodes) + 1
    assert min(counts) >= min(1, shards // nodes)


@pytest.mark.parametrize(("shards", "more"), [(1, 2), (2, 6), (3, 12), (6, 18), (32, 64)])
def test_a_ledger_grows_by_a_multiple(shards: int, more: int) -> None:
    assert set(places(shards)) < set(places(more))
    assert places(shards)[0] == 0
    assert max(places(more)) < PLACES


def test_where_is_what_never_changes() -> None:
    """Written out: what is under way is found by it."""
    assert [tag("fanout", place) for place in (0, 10, 32, 63)] == [
        "fanout",
        "fanout#10.353",
        "fanout#32.12",
        "fanout#63.162",
    ]
    assert [place_of(key, 6) for key in ("e1", "e2", "e4")] == [53, 32, 42]


def test_everything_of_an_event_lies_in_one_shard(desk: Desk, ledger: ShardedLedger) -> None:
    for number, place in enumerate(places(SHARDS)):
        key = key_at(number)
        run = real_run(key, place)
        then_id = child_id(event_key("doc/up", key), "then", 0, place=place)
        desk.emit(key, runs=[NewRun(run, SUB)], then_id=then_id, then_message="{}")
        token = desk.begin(run)
        child = child_id(run, "invoke", "i", 1)
        ledger.spawn(run, token, "g", [NewRun(child, SUB, "invoke", "", "{}", 's["i",1]', "g")])
        ledger.settle(run, token, S.SUSPENDED, group="g", reason="invoke")
        ledger.settle(child, desk.begin(child), S.SUCCEEDED, result="1")
        ledger.settle(run, desk.begin(run), S.SUCCEEDED, result="2")
        ledger.settle(then_id, desk.begin(then_id), S.SUCCEEDED, result="3")
        assert {place_in(id_) for id_ in (run, child, then_id)} == {place}
        root = f"{{{tag('fanout', place)}}}"
        names = [f"e:{key}", *(f"r:{id_}" for id_ in (run, child, then_id))]
        assert ledger.client.exists(*(f"{root}:{name}" for name in names)) == 4
    assert ledger.counts()[S.SUCCEEDED] == 3 * SHARDS


def test_an_id_finds_its_run_whatever_the_number_of_shards(
    desk: Desk, ledger: ShardedLedger, redis_url: str, clock: Clock
) -> None:
    keys = [key_at(number) for number in range(SHARDS)]
    runs = [real_run(key, place_of(key, SHARDS)) for key in keys]
    for key, run in zip(keys, runs, strict=True):
        desk.emit(key, runs=[NewRun(run, SUB, queue="celery")])
    for shards in (2, 6, 64):
        other = ShardedLedger(redis_url, RULES, shards, clock=clock)
        assert [other.run(run) is not None for run in runs] == [True] * SHARDS
        found = other.event(keys[0])
        assert found is not None
        assert list(found.runs) == runs[:1]
        assert [run.id for run in other.runs(event=keys[0])] == runs[:1]
        other.client.close()
    more = ShardedLedger(redis_url, RULES, 2 * SHARDS, clock=clock)
    clock.advance(RULES.grace)
    taken = [wakeup.run_id for wakeup in more.take().wakeups]
    assert sorted(taken) == sorted(runs)  # and a keeper sees to it
    more.cancel(runs, "enough")
    assert ledger.counts()[S.CANCELLED] == SHARDS
    more.client.close()


def test_a_ledger_with_one_shard_becomes_one_with_more(
    desk: Desk, ledger: ShardedLedger, redis_url: str, clock: Clock
) -> None:
    one = RedisLedger(redis_url, RULES, clock=clock)
    before = Desk(one, clock)
    keys = [key_at(number) for number in range(SHARDS)]
    runs = [real_run(key, None) for key in keys]
    for key, run in zip(keys, runs, strict=True):
        before.emit(key, runs=[NewRun(run, SUB)])
    one.client.close()
    event = ledger.event(keys[1])
    assert event is not None
    assert list(event.runs) == runs[1:2]
    token = desk.begin(runs[1])
    child = child_id(runs[1], "invoke", "i", 1)
    assert ledger.spawn(runs[1], token, "g", [NewRun(child, "", "invoke", "", "{}", "s1", "g")]).ok
    ledger.settle(runs[1], token, S.SUSPENDED, group="g", reason="invoke")
    assert list(ledger.settle(child, desk.begin(child), S.SUCCEEDED, result="1").woken) == [runs[1]]
    assert wait(desk, runs[1], desk.begin(runs[1]), {})["s"] == "waiting"
    desk.emit(key_at(2, "x"), name="doc/ok")
    assert desk.checkpoint(runs[1], FIELD)["s"] == "done"
    # replayed, it is recorded where it belongs now
    again = real_run(keys[1], place_of(keys[1], SHARDS))
    new = NewEvent(keys[1], "doc/up", event.attributes, event.data, [NewRun(again, SUB)], 0)
    (recorded,) = ledger.record([new])
    assert (recorded.status, desk.state(again)) == ("new", "pending")


def test_the_number_of_shards_is_noted(redis_url: str, clock: Clock) -> None:
    def noted(shards: int) -> int:
        ledger = ShardedLedger(redis_url, RULES, shards, clock=clock)
        ledger.take()
        found = ledger.stored_shards()
        ledger.client.close()
        return found

    # one that leaves out places in use is not noted: see fanout.E008
    assert [noted(shards) for shards in (3, 6, 4, 3, 12)] == [3, 6, 6, 6, 12]


def test_a_lost_run_is_recreated_where_its_id_says(desk: Desk, ledger: ShardedLedger) -> None:
    for place in (places(SHARDS)[1], None):
        key = key_at(2, "y" if place is None else "z")
        run = real_run(key, place)
        lost = NewEvent(key, "doc/up", "{}", "null", [NewRun(run, SUB)])
        assert desk.claim(run).status == "unknown"
        assert desk.claim(run, recreate=lost).status == "claimed"
        assert desk.state(run) == "running"
        assert ledger.event(key) is not None


# --- what crosses --------------------------------------------------------------------------------


@pytest.mark.parametrize("place", range(SHARDS))
def test_an_event_reaches_who_waits_in_every_shard(desk: Desk, place: int) -> None:
    waiting = [suspended(desk, key_at(number)) for number in range(SHARDS)]
    found = desk.emit(key_at(place, "x"), name="doc/ok", data=1)
    assert sorted(found.woken) == sorted(waiting)
    assert sorted(desk.taken(*found.woken)) == sorted(waiting)
    assert [desk.checkpoint(run, FIELD)["r"]["d"] for run in waiting] == [1] * SHARDS


@pytest.mark.parametrize("place", range(SHARDS))
def test_a_wait_looks_back_in_every_shard(desk: Desk, clock: Clock, place: int) -> None:
    """The first event that fits, wherever it lies, and not its own."""
    run = f"{key_at(0)}-a"
    desk.emit(key_at(0), "a", name="doc/ok")
    for number in sorted(range(SHARDS), key=lambda number: number != place):
        clock.advance(1)
        desk.emit(key_at(number, "x"), name="doc/ok", data=number)
    token = desk.begin(run)
    found = wait(desk, run, token, {}, since=clock.now - 10)
    assert (found["s"], found["r"]["d"]) == ("done", place)
    assert wait(desk, run, token, {}, since=clock.now + 1, field='s["b",1]')["s"] == "waiting"


def test_a_stale_holder_waits_for_nothing(desk: Desk) -> None:
    desk.emit("e1", "a")
    token = desk.begin("e1-a")
    args = (FIELD, "doc/ok", "{}")
    now = desk.clock.now
    assert desk.ledger.wait("e1-a", token + 1, *args, since=now, due=now + 60) is None
    desk.emit("x1", name="doc/ok")
    assert list(desk.emit("x2", name="doc/ok").woken) == []


def test_a_keeper_tells_what_an_emitter_did_not(desk: Desk, ledger: ShardedLedger) -> None:
    waiting = [suspended(desk, key_at(number)) for number in range(SHARDS)]
    lost_news(desk, key_at(0, "x"), data=5)
    assert desk.taken() == [waiting[0]]  # of its own shard
    desk.clock.advance(RULES.grace - 1)
    assert desk.taken() == []
    desk.clock.advance(1)
    assert sorted(desk.taken()) == sorted(waiting)  # the first: nobody has published it
    assert [desk.checkpoint(run, FIELD)["r"]["d"] for run in waiting] == [5] * SHARDS
    assert ledger.client.keys("*:news") == []


def test_an_emitter_that_repeats_its_event_tells_of_it(desk: Desk) -> None:
    waiting = [suspended(desk, key_at(number)) for number in range(SHARDS)]
    lost_news(desk, key_at(0, "x"))
    found = desk.emit(key_at(0, "x"), name="doc/ok")
    assert (found.status, sorted(found.woken)) == ("repeat", sorted(waiting[1:]))
    assert list(desk.emit(key_at(0, "x"), name="doc/ok").woken) == []


def test_news_that_are_late_concern_nobody_who_came_after(desk: Desk) -> None:
    def run(number: int, key: str) -> str:
        desk.emit(key, runs=[NewRun(f"{key}-a", SUB, cancel_on=(("doc/gone", "{}"),))])
        return f"{key}-a"

    before = run(1, key_at(1))
    desk.clock.advance(1)
    lost_news(desk, key_at(0, "x"), "doc/gone")
    lost_news(desk, key_at(0, "y"), "doc/ok")
    desk.clock.advance(1)
    after = run(2, key_at(2))
    assert wait(desk, after, desk.begin(after), {})["s"] == "waiting"
    desk.clock.advance(RULES.grace)
    desk.ledger.renew("w1", [after])
    desk.taken()
    assert [desk.state(id_) for id_ in (before, after)] == ["cancelled", "running"]
    assert desk.checkpoint(after, FIELD)["s"] == "waiting"


def test_of_an_event_that_is_gone_nobody_is_told(desk: Desk, ledger: ShardedLedger) -> None:
    waiting = suspended(desk, key_at(1))
    lost_news(desk, key_at(0, "x"))
    for key in ledger.client.keys("*:[et]:x*"):
        ledger.client.delete(key)
    desk.clock.advance(RULES.grace)
    assert desk.taken() == []
    assert desk.state(waiting) == "suspended"
    assert ledger.client.keys("*:news") == []


def test_an_event_that_is_repeated_concerns_nobody_who_came_after(desk: Desk) -> None:
    desk.emit(key_at(0, "x"), name="doc/ok")
    desk.clock.advance(1)
    waiting = suspended(desk, key_at(1))
    assert desk.emit(key_at(0, "x"), name="doc/ok").status == "repeat"
    assert desk.state(waiting) == "suspended"
    assert desk.checkpoint(waiting, FIELD)["s"] == "waiting"


def test_of_events_in_one_call_the_first_concern_no_runs_of_the_last(
    redis_url: str, desk: Desk
) -> None:
    """By the clock of the server, which goes on meanwhile."""
    ledger = ShardedLedger(redis_url, RULES, SHARDS)
    late = NewRun("late", SUB, cancel_on=(("doc/gone", "{}"),))
    early = NewRun("early", SUB, cancel_on=(("doc/gone", "{}"),))
    ledger.record(
        [
            NewEvent(key_at(1), "doc/up", "{}", "null", [early]),
            NewEvent(key_at(0, "x"), "doc/gone", "{}", "null"),
            NewEvent(key_at(2), "doc/up", "{}", "null", [late]),
        ]
    )
    found = [outcome.state for outcome in ledger.outcomes(["early", "late"])]
    assert found == [S.CANCELLED, S.PENDING]
    ledger.cancel(["late"], "enough")
    ledger.client.close()


def test_many_events_in_one_call_reach_whom_they_concern(desk: Desk) -> None:
    waiting = [suspended(desk, key_at(number), {"n": number}) for number in range(SHARDS)]
    events = [
        NewEvent(key_at((n + 1) % SHARDS, "x"), "doc/ok", "{}", json.dumps({"n": n}))
        for n in range(SHARDS)
    ]
    found = desk.ledger.record(events)
    assert [list(recorded.woken) for recorded in found] == [[run] for run in waiting]


def test_of_an_event_and_a_wait_at_once_one_sees_the_other(redis_url: str, desk: Desk) -> None:
    """By the clock of the server, and many times, as they have to meet."""
    ledger = ShardedLedger(redis_url, RULES, SHARDS)
    missed: list[int] = []
    for number in range(100):
        key, other = f"e{number}", f"x{number}"
        ledger.record([NewEvent(key, "doc/up", "{}", "null", [NewRun(f"{key}-a", SUB)])])
        claim = ledger.claim(f"{key}-a", "w1", "n")
        gate = threading.Barrier(2)

        def emit(other: str = other, gate: threading.Barrier = gate) -> None:
            gate.wait()
            ledger.record([NewEvent(other, "doc/ok", "{}", json.dumps({"n": other}))])

        thread = threading.Thread(target=emit)
        thread.start()
        gate.wait()
        match = json.dumps({"n": other})
        ledger.wait(
            f"{key}-a", claim.token, FIELD, "doc/ok", match, since=claim.created, due=claim.now + 60
        )
        thread.join()
        run = ledger.run(f"{key}-a")
        assert run is not None
        if json.loads(run.detail["checkpoints"][FIELD])["s"] != "done":
            missed.append(number)
        ledger.cancel([f"{key}-a"], "enough")
    assert missed == []
    ledger.client.close()


# --- keepers and lists ---------------------------------------------------------------------------


def test_every_shard_has_its_turn(desk: Desk) -> None:
    for number in range(SHARDS):
        desk.emit(key_at(number), "a", "b", "c")
    desk.clock.advance(RULES.grace)
    found = [desk.taken(limit=2) for _ in range(SHARDS)]
    assert len({run.split("-")[0] for part in found for run in part}) == SHARDS
    assert sum(len(part) for part in found) == 2 * SHARDS


def test_lists_of_all_shards_can_be_paged(desk: Desk, ledger: ShardedLedger) -> None:
    for number in range(20):
        desk.clock.advance(1)
        desk.emit(f"e{number}", "a")
    seen: list[str] = []
    before = None
    while page := ledger.runs(limit=3, before=before):
        seen += [run.id for run in page]
        before = page[-1].updated
    assert seen == [f"e{number}-a" for number in range(19, -1, -1)]
    names: list[str] = []
    before = None
    while events := ledger.events(limit=3, before=before):
        names += [event.key for event in events]
        before = events[-1].created
    assert names == [f"e{number}" for number in range(19, -1, -1)]
    some = [f"e{number}-a" for number in (7, 3, 11)]
    assert [outcome.run_id for outcome in ledger.outcomes([*some, "unknown"])] == [*some, "unknown"]


def test_a_pause_holds_in_shards_that_are_new(desk: Desk, redis_url: str, clock: Clock) -> None:
    desk.ledger.take()
    desk.ledger.pause(SUB)
    more = ShardedLedger(redis_url, RULES, 2 * SHARDS, clock=clock)
    more.take()
    keys = [f"e{number}" for number in range(20)]
    more.record([NewEvent(k, "doc/up", "{}", "null", [NewRun(f"{k}-a", SUB)]) for k in keys])
    assert more.counts()[S.GATED] == len(keys)
    more.cancel([f"{key}-a" for key in keys], "enough")
    more.client.close()


def test_messages_are_published_with_the_record(desk: Desk, ledger: ShardedLedger) -> None:
    """On one server every script reaches the lists of the broker."""
    for number in range(SHARDS):
        found = desk.emit(key_at(number), "a", messages={"celery": [f"m{number}"]})
        assert [state for _, state in found.runs] == [S.PUBLISHED]
    assert ledger.client.lrange("celery", 0, -1) == ["m2", "m1", "m0"]
    assert ledger.client.delete("celery") == 1


def test_messages_are_published_once_whatever_shards_their_runs_are_in(
    desk: Desk, ledger: ShardedLedger
) -> None:
    runs = [run_id for n in range(SHARDS) for run_id, _ in desk.emit(key_at(n), "a").runs]
    ledger.mark_published(runs, messages={"celery": ["m0", "m1", "m2"]})
    assert [desk.state(run_id) for run_id in runs] == [S.PUBLISHED] * SHARDS
    assert ledger.client.lrange("celery", 0, -1) == ["m2", "m1", "m0"]
    assert ledger.client.delete("celery") == 1


def test_a_resume_goes_on_in_all_shards(desk: Desk) -> None:
    desk.ledger.pause(SUB)
    runs = [f"{key_at(number)}-a" for number in range(SHARDS)]
    for number in range(SHARDS):
        desk.emit(key_at(number), "a")
    assert desk.ledger.resume(SUB, limit=1) == (1, True)
    assert desk.ledger.paused() == {}
    assert desk.ledger.resume(SUB, limit=1, go_on=True) == (1, True)
    desk.ledger.pause(SUB)
    assert desk.ledger.resume(SUB, limit=1, go_on=True) == (0, False)
    assert sorted(desk.state(run) for run in runs) == ["gated", "pending", "pending"]


def test_a_pause_that_was_cut_short_is_completed(desk: Desk, ledger: ShardedLedger) -> None:
    ledger.parts[0].pause(SUB)
    since = desk.clock.now
    desk.clock.advance(1)
    assert ledger.pause(SUB)
    assert not ledger.pause(SUB)
    assert ledger.paused() == {SUB: since}
    for number in range(SHARDS):
        desk.emit(key_at(number), "a", "b")
    assert ledger.counts()[S.GATED] == SHARDS
    assert ledger.resume(SUB, limit=2) == (2, True)
    assert ledger.resume(SUB, limit=2) == (1, False)
    assert ledger.paused() == {}
    assert ledger.counts()[S.GATED] == 0


def test_a_shard_is_a_ledger(ledger: ShardedLedger) -> None:
    assert [type(part) for part in ledger.parts] == [Shard] * SHARDS
    assert {part.client for part in ledger.parts} == {ledger.client}
