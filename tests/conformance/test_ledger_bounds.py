"""What a ledger looks at, how much of it, and how long it is kept, for every ledger."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from celery_fanout.stores.ledger import Ledger
from celery_fanout.stores.limits import Collect, Flow, Gate
from celery_fanout.stores.memory.ledger import MemoryLedger
from celery_fanout.stores.records import NewEvent, NewRun
from celery_fanout.stores.redis import RedisLedger
from celery_fanout.stores.redis.shards.ledger import ShardedLedger
from celery_fanout.stores.states import RunState
from tests.conformance.ledgers import RULES, Desk, done
from tests.conformance.twin import Twin

S = RunState
ERROR = {"type": "Boom", "message": "no", "traceback": "T"}
FIELD = 's["ok",1]'


def wait(desk: Desk, run_id: str, token: int, match: Any, field: str = FIELD) -> str:
    """Wait for the event ``doc/ok``; return the status of the step."""
    now = desk.clock.now
    text = desk.ledger.wait(
        run_id, token, field, "doc/ok", json.dumps(match), since=now, due=now + 60
    )
    assert text is not None
    return str(json.loads(text)["s"])


def with_rules(desk: Desk, **rules: Any) -> Desk:
    """Return the same ledger under other rules."""
    changed = dataclasses.replace(RULES, **rules)
    ledger: Ledger
    if isinstance(desk.ledger, (RedisLedger, ShardedLedger)):
        ledger = desk.ledger
        for part in ledger.parts if isinstance(ledger, ShardedLedger) else [ledger]:
            part._scripts._rules = RedisLedger(ledger.url, changed)._scripts._rules
            part._scripts._shas.clear()
    else:
        ledger = Twin(changed, desk.clock)
    return Desk(ledger, desk.clock)


def is_kept(desk: Desk, key: str, at_least: float) -> bool:
    """Whether an event is kept as long; in Redis by its expiry, as no test moves its clock."""
    if isinstance(desk.ledger, (RedisLedger, ShardedLedger)):
        names = desk.ledger.client.keys(f"{{fanout*}}:[et]:{key}")
        left = [desk.ledger.client.ttl(name) for name in names]
        return len(left) == 2 and all(each == -1 or each >= at_least for each in left)
    desk.clock.advance(at_least)
    return desk.ledger.event(key) is not None


# --- what is looked at ---------------------------------------------------------------------------


def test_waits_with_one_value_at_two_paths(desk: Desk) -> None:
    desk.emit("e1", "a", "b")
    for run_id, path in (("e1-a", "a"), ("e1-b", "b")):
        assert wait(desk, run_id, desk.begin(run_id), {path: 1}) == "waiting"
    desk.emit("x1", name="doc/ok", data={"a": 1, "b": 2})
    assert [desk.checkpoint(f"e1-{n}", FIELD)["s"] for n in "ab"] == ["done", "waiting"]
    desk.emit("x2", name="doc/ok", data={"b": 1})
    assert desk.checkpoint("e1-b", FIELD)["r"]["d"] == {"b": 1}


def test_two_waits_of_one_run(desk: Desk) -> None:
    desk.emit("e1", "a")
    token = desk.begin("e1-a")
    wait(desk, "e1-a", token, {"n": 1})
    wait(desk, "e1-a", token, {"n": 1}, 's["too",1]')
    wait(desk, "e1-a", token, {"n": 2}, 's["not",1]')
    desk.emit("x1", name="doc/ok", data={"n": 1})
    found = [desk.checkpoint("e1-a", f's["{step}",1]')["s"] for step in ("ok", "too", "not")]
    assert found == ["done", "done", "waiting"]


def test_an_event_that_both_ends_and_cancels_a_wait(desk: Desk) -> None:
    run = NewRun("e1-a", "a@doc/up", cancel_on=(("doc/ok", '{"n":1}'),))
    desk.emit("e1", runs=[run])
    wait(desk, "e1-a", desk.begin("e1-a"), {"n": 1})
    assert list(desk.emit("x1", name="doc/ok", data={"n": 1}).woken) == []
    assert desk.state("e1-a") == "cancelled"
    desk.emit("x2", name="doc/ok", data={"n": 1})
    assert desk.ledger.counts()[S.CANCELLED] == 1


@pytest.mark.parametrize(
    ("wanted", "found", "fits"),
    [(0, 0.0, True), (0, -0.0, True), (0, 10**400, False), (1e300, 10**300, True), (1, 2, False)],
)
def test_numbers(desk: Desk, wanted: float, found: float, fits: bool) -> None:
    desk.emit("e1", "a")
    wait(desk, "e1-a", desk.begin("e1-a"), {"n": wanted})
    desk.emit("x1", name="doc/ok", data={"n": found})
    assert desk.checkpoint("e1-a", FIELD)["s"] == ("done" if fits else "waiting")


# --- how much of it ------------------------------------------------------------------------------


def test_no_runs_are_not_all_runs(desk: Desk) -> None:
    desk.emit("e1", "a")
    desk.clock.advance(RULES.grace)
    taken = desk.ledger.take([])
    assert (list(taken.wakeups), taken.next_due) == ([], desk.clock.now)
    assert desk.ledger.cancel([], "x") == ([], [])
    assert desk.ledger.release("w1", []) == []
    assert desk.ledger.outcomes([]) == []
    desk.ledger.mark_published([])
    desk.ledger.renew("w1", [])
    assert desk.taken() == ["e1-a"]


def test_a_run_that_is_named_twice_is_taken_once(desk: Desk) -> None:
    desk.emit("e1", "a")
    desk.clock.advance(RULES.grace)
    assert desk.taken("e1-a", "e1-a", "unknown") == ["e1-a"]


def test_only_what_is_due_is_taken_by_name(desk: Desk) -> None:
    desk.emit("e1", "a", "b")
    desk.begin("e1-b")
    assert desk.taken("e1-a", "e1-b") == []
    desk.clock.advance(RULES.grace)
    assert desk.taken("e1-a", "e1-b") == ["e1-a"]


def test_lost_messages_are_found_behind_those_of_other_queues(desk: Desk) -> None:
    other = [NewRun(f"o{n}", "a@doc/up", queue="other") for n in range(5)]
    desk.emit("e1", runs=other)
    desk.ledger.mark_published([run.id for run in other])
    desk.clock.advance(1)
    desk.emit("e2", "a", "b")
    desk.ledger.mark_published(["e2-a"])
    desk.clock.advance(1)
    desk.ledger.mark_published(["e2-b"])
    desk.clock.advance(1)
    assert desk.ledger.resend("celery", desk.clock.now, limit=1) == ["e2-a"]
    assert desk.ledger.resend("celery", desk.clock.now, limit=9) == ["e2-a", "e2-b"]
    assert desk.ledger.resend("celery", desk.clock.now - 2) == []


def test_a_sweep_is_bounded(desk: Desk) -> None:
    desk.emit("e1", "a", "b", "c")
    desk.ledger.settle("e1-a", desk.begin("e1-a"), S.SUCCEEDED, result="1")
    desk.ledger.cancel(["e1-b"], "enough")
    desk.ledger.settle("e1-c", desk.begin("e1-c"), S.FAILED, error=ERROR)
    desk.clock.advance(RULES.failure_retention + 1)
    assert [desk.ledger.sweep(limit=2) for _ in range(3)] == [2, 1, 0]


def test_awaited_follow_ups_are_bounded(desk: Desk) -> None:
    desk.emit("e1", "a", "b", "c")
    for number, run_id in enumerate(("e1-a", "e1-b", "e1-c")):
        desk.clock.advance(number)
        desk.ledger.cancel([run_id], "enough")
    assert desk.ledger.awaiting_follow_up(older_than=0, limit=2) == ["e1-a", "e1-b"]
    assert desk.ledger.awaiting_follow_up(older_than=0, limit=2) == ["e1-c"]


@pytest.mark.parametrize("kind", ["event", "then", "fan-in", "invoke", "parallel", "on_failure"])
def test_which_ends_have_a_follow_up(desk: Desk, kind: Any) -> None:
    desk.emit("e1", runs=[NewRun("e1-a", "a@doc/up", kind, message="{}")])
    desk.ledger.settle("e1-a", desk.begin("e1-a"), S.FAILED, error=ERROR)
    told = [] if kind == "parallel" else ["e1-a"]
    assert desk.ledger.awaiting_follow_up(older_than=0) == told


def test_attempts_are_bounded(desk: Desk) -> None:
    desk.emit("e1", "a")
    for _ in range(105):
        desk.ledger.settle("e1-a", desk.begin("e1-a"), S.PENDING, reason="rejected")
    run = desk.ledger.run("e1-a")
    assert run is not None
    assert [a["number"] for a in run.detail["attempts"]] == list(range(6, 106))


# --- how long it is kept -------------------------------------------------------------------------


def test_an_event_is_kept_as_long_as_its_runs(desk: Desk) -> None:
    long = 50_000.0
    assert long > RULES.event_retention
    desk = with_rules(desk, success_retention=long)
    desk.emit("e1", "a")
    desk.ledger.cancel(["e1-a"], "enough")
    assert is_kept(desk, "e1", long - 10)
    assert desk.ledger.reopen("e1-a", "mended")
    event = desk.ledger.event("e1")
    assert event is not None
    assert event.open == 1


@pytest.mark.parametrize("subs", [["a"], []])
def test_an_event_is_kept_as_long_as_its_id_is_known(desk: Desk, subs: list[str]) -> None:
    long = 50_000.0
    desk = with_rules(desk, dedup_window=long)
    desk.emit("e1", *subs)
    for sub in subs:
        desk.ledger.cancel([f"e1-{sub}"], "enough")
    assert is_kept(desk, "e1", long - 10)
    assert desk.emit("e1", *subs).status == "repeat"


def test_an_event_that_comes_again_to_nobody_keeps_what_is_open(desk: Desk) -> None:
    desk.emit("e1", "a")
    due = desk.clock.now + 50_000
    desk.ledger.settle("e1-a", desk.begin("e1-a"), S.SUSPENDED, due=due, reason="sleep")
    desk.clock.advance(RULES.dedup_window + 1)
    assert desk.emit("e1", generation=1).status == "new"
    assert is_kept(desk, "e1", 2 * RULES.event_retention)
    event = desk.ledger.event("e1")
    assert event is not None
    assert event.open == 1


def test_what_is_recorded_again_after_it_was_forgotten_is_new(desk: Desk) -> None:
    desk.emit("e1", "a")
    desk.ledger.settle("e1-a", desk.begin("e1-a"), S.SUCCEEDED, result="1")
    desk.clock.advance(RULES.success_retention + 1)
    assert desk.ledger.sweep() == 1
    assert desk.claim("e1-a").status == "unknown"
    assert desk.emit("e2", "a").status == "new"
    lost = NewEvent("e1", "doc/up", "{}", "null", [NewRun("e1-a", "a@doc/up")])
    assert desk.claim("e1-a", recreate=lost).status == "claimed"


# --- Redis alone: what its keys look like --------------------------------------------------------


@pytest.fixture
def redis(desk: Desk) -> Desk:
    """A desk with a ledger that has keys: in Redis, or in memory."""
    if not isinstance(desk.ledger, RedisLedger):
        pytest.skip("only where there are keys")
    return desk


def client(desk: Desk) -> Any:
    assert isinstance(desk.ledger, RedisLedger)
    return desk.ledger.client


def test_what_is_adopted_by_a_run_without_data_expires(redis: Desk) -> None:
    redis.emit("e1", "a")
    redis.ledger.cancel(["e1-a"], "enough")
    assert redis.ledger.adopt("e1-a", NewRun("c0", "", "on_failure", message="{}"))
    assert client(redis).ttl("{fanout}:d:e1-a") == client(redis).ttl("{fanout}:r:e1-a") > 0


def test_of_what_a_debounced_run_has_collected_the_last_is_read(redis: Desk) -> None:
    if isinstance(redis.ledger, MemoryLedger):
        pytest.skip("only Redis counts its commands")
    flow = Flow(collect=Collect(Gate("debounce work"), "debounce", 10))
    for n in range(20):
        redis.emit(f"e{n}", runs=[NewRun(f"e{n}-a", "a@doc/up", flow=flow)])
    redis.clock.advance(10)
    before = client(redis).info("commandstats")["cmdstat_get"]["calls"]
    (woken,) = redis.ledger.take().wakeups
    assert (len(woken.events), json.loads(woken.data)) == (20, {"id": "e19"})
    assert (
        client(redis).info("commandstats")["cmdstat_get"]["calls"] == before + 2
    )  # and the key "busy"


def test_the_sweep_finds_what_redis_expired_first(redis: Desk) -> None:
    redis.emit("e1", "a", "b")
    redis.ledger.settle("e1-a", redis.begin("e1-a"), S.SUCCEEDED, result="1")
    client(redis).delete("{fanout}:r:e1-a", "{fanout}:d:e1-a")
    redis.clock.advance(RULES.success_retention + 1)
    assert redis.ledger.sweep() == 1
    left = [
        m for key in client(redis).keys("{fanout}:u:*") for m in client(redis).zrange(key, 0, -1)
    ]
    assert left == ["e1-b"]


def test_the_indexes_of_a_lost_event_expire(redis: Desk) -> None:
    lost = NewEvent("e9", "doc/up", "{}", "null", [NewRun("e9-a", "a@doc/up")])
    redis.begin("e9-a", recreate=lost)
    assert client(redis).ttl("{fanout}:ev") > 0
    assert client(redis).ttl("{fanout}:n:doc/up") > 0


def test_nothing_is_written_of_an_event_that_is_gone(redis: Desk) -> None:
    redis.emit("e1", "a")
    redis.ledger.cancel(["e1-a"], "enough")
    client(redis).delete("{fanout}:e:e1", "{fanout}:t:e1")
    assert redis.ledger.reopen("e1-a", "mended")
    assert not client(redis).exists("{fanout}:e:e1", "{fanout}:t:e1")
    assert redis.emit("e1", "b").status == "new"
    client(redis).flushdb()  # an event without one of its runs is what the test has made


def test_messages_are_published_with_the_record(redis: Desk) -> None:
    redis.ledger.pause("b@doc/up")
    found = redis.emit("e1", "a", "b", messages={"celery": ["m1", "m2"]})
    assert list(found.runs) == [("e1-a", S.PUBLISHED), ("e1-b", S.GATED)]
    assert redis.due("e1-a") == RULES.republish
    assert client(redis).lrange("celery", 0, -1) == ["m2", "m1"]
    assert redis.emit("e1", "a", "b", messages={"celery": ["m1", "m2"]}).status == "repeat"
    assert client(redis).llen("celery") == 2
    assert redis.ledger.store("e1-a", redis.begin("e1-a"), FIELD, done(1), final=True) == done(1)


def test_messages_are_published_with_the_mark_of_their_runs(redis: Desk) -> None:
    redis.emit("e1", "a", "b")
    redis.ledger.mark_published(["e1-a", "e1-b"], messages={"celery": ["m1"], "brief": ["m2"]})
    assert [client(redis).lrange(key, 0, -1) for key in ("celery", "brief")] == [["m1"], ["m2"]]
    assert [redis.state(run_id) for run_id in ("e1-a", "e1-b")] == [S.PUBLISHED] * 2
