"""Thousands of interleavings on two ledgers at once: each answers as the other, and DESIGN's
invariants hold after every step. Once with one shard, and once with several.

Emits, repeats, claims, duplicates, stale messages, checkpoints, every way to leave, crashes,
expiries, cancellations, replays, pauses, waits, child runs, and keepers that take what is due.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from celery_fanout.stores.ledger import NewEvent, NewRun
from celery_fanout.stores.memory_ledger import MemoryLedger
from celery_fanout.stores.redis import RedisLedger
from celery_fanout.stores.redis.sharded import ShardedLedger
from celery_fanout.stores.states import FINAL, TRANSITIONS, RunState
from tests.conformance.ledgers import RULES as SHORT
from tests.conformance.ledgers import Clock, done
from tests.servers import RedisServer

S = RunState

#: Nothing expires here: Redis does that by a clock of its own, which no test moves.
AGES = 1e8
RULES = dataclasses.replace(
    SHORT, success_retention=AGES, failure_retention=AGES, event_retention=AGES
)
SUBS = ("a@doc/up", "b@doc/up")
FIELD = 's["w",1]'
ERROR = {"type": "Boom", "message": "no", "traceback": "T"}

#: FAULTS=full looks for longer.
EXAMPLES = 500 if os.environ.get("FAULTS") == "full" else 50

_server: list[RedisServer] = []


def plain(answer: Any) -> Any:
    """Return an answer in a form that both ledgers share: times rounded, texts as JSON."""
    if dataclasses.is_dataclass(answer) and not isinstance(answer, type):
        return {k: plain(v) for k, v in vars(answer).items()}
    if isinstance(answer, dict):
        return {str(k): plain(v) for k, v in answer.items()}
    if isinstance(answer, (list, tuple)):
        return [plain(item) for item in answer]
    if isinstance(answer, float):
        return round(answer, 3)
    if isinstance(answer, str) and answer.startswith(("{", "[")):
        return plain(json.loads(answer))
    return answer


class Ledgers(RuleBasedStateMachine):
    """Both ledgers, driven with the same calls."""

    @initialize()
    def begin(self) -> None:
        _server[0].flush()
        self.clock = Clock()
        self.memory = MemoryLedger(RULES, self.clock)
        self.redis = self.open_redis()
        self.numbers = itertools.count(1)
        self.expected: dict[str, set[str]] = {}  # event to the runs of its emits and replays
        self.tokens: dict[str, set[int]] = {}  # run to the tokens that it ever had
        self.values: dict[tuple[str, str], Any] = {}  # final checkpoints
        self.states: dict[str, RunState] = {}
        self.ends: dict[tuple[str, int], RunState] = {}  # run and how often reopened

    def open_redis(self) -> Any:
        """Return the other ledger."""
        return RedisLedger(_server[0].url(), RULES, clock=self.clock)

    def both(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call both ledgers, and compare their answers."""
        left = getattr(self.memory, name)(*args, **kwargs)
        right = getattr(self.redis, name)(*args, **kwargs)
        assert normal(name, left) == normal(name, right), name
        return left

    def some_run(self, data: Any) -> str | None:
        ids = sorted(self.memory.book.rows)
        return data.draw(st.sampled_from(ids)) if ids else None

    # -- rules ----------------------------------------------------------------------------------

    @rule(
        number=st.integers(1, 4),
        delay=st.sampled_from([None, None, 40.0]),
        patience=st.sampled_from([None, None, 60.0]),
        then=st.booleans(),
        cancels=st.booleans(),
    )
    def emit(
        self, number: int, delay: float | None, patience: float | None, then: bool, cancels: bool
    ) -> None:
        key, generation = f"e{number}", 0
        for _ in range(2):
            runs = [
                NewRun(
                    f"{key}-{sub[0]}-{generation}",
                    sub,
                    queue="q",
                    cancel_on=(("doc/gone", json.dumps({"n": number})),) if cancels else (),
                )
                for sub in SUBS
            ]
            new = NewEvent(
                key,
                "doc/up",
                json.dumps({"id": key}),
                json.dumps({"n": number}),
                runs,
                generation,
                resume_at=None if delay is None else self.clock.now + delay,
                expires_at=None if patience is None else self.clock.now + patience,
                then_id=f"{key}-then-{generation}" if then else "",
                then_message="{}" if then else "",
            )
            (found,) = self.both("record", [new])
            if found.status == "generation":
                generation = found.generation
                continue
            if found.status == "new":
                self.expected.setdefault(key, set()).update(run.id for run in runs)
            return

    @rule(number=st.integers(1, 4), name=st.sampled_from(["doc/ok", "doc/gone"]))
    def other_event(self, number: int, name: str) -> None:
        key = f"x{next(self.numbers)}"
        self.both("record", [NewEvent(key, name, json.dumps({"id": key}), f'{{"n":{number}}}')])

    @rule(data=st.data(), boot=st.sampled_from(["w1", "w2"]), retries=st.integers(0, 2))
    def claim(self, data: Any, boot: str, retries: int) -> None:
        run_id = self.some_run(data)
        if run_id is None:
            return
        nonce = f"n{next(self.numbers)}"
        known = self.memory.book.rows[run_id].retries
        retries = known if data.draw(st.booleans()) else retries
        found = self.both("claim", run_id, boot, nonce, retries=retries)
        if found.status == "claimed":
            tokens = self.tokens.setdefault(run_id, set())
            assert found.token not in tokens  # nobody had this claim before
            tokens.add(found.token)
            again = self.both("claim", run_id, boot, nonce, retries=retries)
            assert (again.status, again.token) == ("claimed", found.token)

    @rule(data=st.data(), step=st.sampled_from("xyz"), stale=st.booleans())
    def store(self, data: Any, step: str, stale: bool) -> None:
        run_id = self.some_run(data)
        if run_id is None:
            return
        row = self.memory.book.rows[run_id]
        token = max(0, row.token - stale)
        field = f's["{step}",1]'
        text = done(next(self.numbers))
        found = self.both("store", run_id, token, field, text, final=True)
        if row.state is not S.RUNNING or token != row.token:
            assert found is None
        elif (run_id, field) in self.values:
            assert found == self.values[run_id, field]
        else:
            self.values[run_id, field] = text

    @rule(
        data=st.data(),
        to=st.sampled_from(
            [S.SUCCEEDED, S.FAILED, S.CANCELLED, S.RETRYING, S.SUSPENDED, S.COMPLETING, S.PENDING]
        ),
        wait=st.sampled_from([0.0, 10.0, 100.0]),
        stale=st.booleans(),
    )
    def settle(self, data: Any, to: RunState, wait: float, stale: bool) -> None:
        run_id = self.some_run(data)
        if run_id is None:
            return
        row = self.memory.book.rows[run_id]
        options: dict[str, Any] = {"reason": "why"}
        if to in (S.SUCCEEDED, S.COMPLETING):
            options = {"result": "[1]"}
        if to is S.COMPLETING:
            options["child"] = NewRun(f"{run_id}-l", row.subscription, "then", message="{}")
        if to is S.FAILED:
            options["error"] = ERROR
        if to in (S.RETRYING, S.SUSPENDED):
            options["due"] = self.clock.now + wait
        if to is S.RETRYING:
            options.update(retries=row.retries + 1, error=ERROR)
        self.both("settle", run_id, max(0, row.token - stale), to, **options)

    @rule(data=st.data())
    def finish_completing(self, data: Any) -> None:
        rows = [r for r in self.memory.book.rows.values() if r.state is S.COMPLETING]
        if rows:
            row = data.draw(st.sampled_from(sorted(rows, key=lambda r: r.id)))
            self.both("settle", row.id, row.token, S.SUCCEEDED)

    @rule(data=st.data(), number=st.integers(1, 4), leave=st.booleans())
    def wait(self, data: Any, number: int, leave: bool) -> None:
        run_id = self.some_run(data)
        if run_id is None:
            return
        row = self.memory.book.rows[run_id]
        due = self.clock.now + 50
        options = {"since": row.created, "due": due}
        text = self.both("wait", run_id, row.token, FIELD, "doc/ok", f'{{"n":{number}}}', **options)
        if text is None:
            return
        if json.loads(text)["s"] == "done":
            self.values.setdefault((run_id, FIELD), text)
        elif leave:
            self.both(
                "settle", run_id, row.token, S.SUSPENDED, due=due, group=FIELD, reason="event"
            )

    @rule(data=st.data())
    def end_wait(self, data: Any) -> None:
        run_id = self.some_run(data)
        row = None if run_id is None else self.memory.book.rows[run_id]
        if row is not None and FIELD in row.checkpoints:
            self.both("end_wait", row.id, row.token, FIELD)

    @rule(data=st.data(), count=st.integers(1, 2))
    def spawn(self, data: Any, count: int) -> None:
        run_id = self.some_run(data)
        if run_id is None or run_id.count("-c") > 1:
            return
        row = self.memory.book.rows[run_id]
        children = [
            NewRun(f"{run_id}-c{n}", row.subscription, "invoke", "", "{}", f's["p",1,{n}]', "g")
            for n in range(count)
        ]
        if self.both("spawn", run_id, row.token, "g", children).ok:
            self.both("settle", run_id, row.token, S.SUSPENDED, group="g", reason="invoke")

    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        run_id = self.some_run(data)
        if run_id is not None:
            self.both("cancel", [run_id], "enough")

    @rule(data=st.data())
    def reopen(self, data: Any) -> None:
        run_id = self.some_run(data)
        if run_id is not None:
            self.both("reopen", run_id, "again")

    @rule(number=st.integers(1, 4))
    def replay(self, number: int) -> None:
        key = f"e{number}"
        event = self.memory.event(key)
        if event is None:
            return
        generation = event.generation + 1
        runs = [NewRun(f"{key}-a-{generation}", SUBS[0], queue="q")]
        new = NewEvent(key, "doc/up", event.attributes, event.data, runs, generation, replay=True)
        (found,) = self.both("record", [new])
        assert found.status == "new"
        self.expected.setdefault(key, set()).add(runs[0].id)

    @rule(pause=st.booleans())
    def pause(self, pause: bool) -> None:
        if pause:
            self.both("pause", SUBS[0])
        else:
            self.both("resume", SUBS[0])

    @rule(seconds=st.sampled_from([0.5, 5.0, 25.0, 35.0, 150.0, 1100.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(boot=st.sampled_from(["w1", "w2"]), stops=st.booleans())
    def heartbeat(self, boot: str, stops: bool) -> None:
        held = [r.id for r in self.memory.book.rows.values() if r.boot == boot]
        self.both("release" if stops else "renew", boot, sorted(held))

    @rule(grace=st.booleans(), publish=st.booleans())
    def keep(self, grace: bool, publish: bool) -> None:
        taken = self.both("take", limit=1000, grace=grace)
        if publish:
            self.both("mark_published", [wakeup.run_id for wakeup in taken.wakeups])

    @rule(data=st.data(), final=st.booleans())
    def abandon(self, data: Any, final: bool) -> None:
        run_id = self.some_run(data)
        if run_id is not None:
            boot = self.memory.book.rows[run_id].boot or "w1"
            self.both("abandon", run_id, boot, ERROR, final=final)

    @rule()
    def resend(self) -> None:
        self.both("resend", "q", self.clock.now - 15, limit=1000)

    @rule(older=st.sampled_from([0.0, 20.0]))
    def tell(self, older: float) -> None:
        left = self.memory.untold(older_than=older)
        assert sorted(left) == sorted(self.redis.untold(older_than=older))

    # -- invariants -----------------------------------------------------------------------------

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "memory"):
            return
        rows = {run.id: run for run in self.memory.runs(limit=10_000)}
        # 1: each accepted event has exactly its runs, as long as they are kept
        for key, runs in self.expected.items():
            event = self.memory.event(key)
            if event is not None:
                assert set(event.runs) | set(event.replayed) <= runs
        for run_id, run in rows.items():
            # 4: an end is an end, until somebody reopens it
            if run.state in FINAL:
                known = self.ends.setdefault((run_id, run.reopened), run.state)
                assert known is run.state
            # 6: what is not final has a timer; what is has none
            assert (run.due is None) == (run.state in FINAL or run.state is S.GATED), run
            # 7
            assert run.crashes <= RULES.max_crashes
            self.states[run_id] = run.state
        # 3: a stored value never changes
        for (run_id, field), text in self.values.items():
            row = self.memory.book.row(run_id)
            if row is not None and field in row.checkpoints:
                assert row.checkpoints[field] == text
        # 5: the counts add up
        assert sum(self.memory.counts().values()) == len(rows)
        assert plain(self.memory.counts()) == plain(self.redis.counts())

    def teardown(self) -> None:
        """Let everything come to an end: nothing is stuck."""
        if not hasattr(self, "memory"):
            return
        self.both("resume", SUBS[0])
        for _ in range(200):
            taken = self.both("take", limit=1000)
            for wakeup in taken.wakeups:
                found = self.both(
                    "claim", wakeup.run_id, "w9", f"n{next(self.numbers)}", retries=wakeup.retries
                )
                if found.status == "claimed":
                    self.both("settle", wakeup.run_id, found.token, S.SUCCEEDED, result="1")
            left = [r for r in self.memory.runs(limit=10_000) if r.state not in FINAL]
            if not left:
                break
            self.clock.advance(max(0.0, min(r.due or 0.0 for r in left) - self.clock.now))
        assert [run.id for run in self.memory.runs(limit=10_000) if run.state not in FINAL] == []
        details = [self.memory.run(run.id) for run in self.memory.runs(limit=10_000)]
        for detail in details:
            assert detail is not None
            other = self.redis.run(detail.id)
            assert plain_record(detail) == plain_record(other)


def normal(name: str, answer: Any) -> Any:
    """Return an answer without what has no order."""
    found = plain(answer)
    if isinstance(found, dict) and isinstance(found.get("woken"), list):
        found["woken"].sort()
    if name == "record":
        for recorded in found:
            recorded["woken"].sort()
    if name == "cancel":
        found = [sorted(part) for part in found]
    if name in ("release", "resend"):
        found = sorted(found)
    if name == "take":  # what is due at one time has no order
        found["ended"].sort()
        found["wakeups"].sort(key=lambda wakeup: wakeup["run_id"])
    return found


def plain_record(record: Any) -> Any:
    found = plain(record)
    found["detail"].pop("waits")
    return found


class ShardedLedgers(Ledgers):
    """The same with a ledger in several shards."""

    def open_redis(self) -> Any:
        return ShardedLedger(_server[0].url(), RULES, 3, clock=self.clock)


TestLedgers = Ledgers.TestCase
TestShardedLedgers = ShardedLedgers.TestCase
TestLedgers.settings = TestShardedLedgers.settings = settings(
    max_examples=EXAMPLES,
    derandomize=EXAMPLES < 100,  # the same ones each time, but for FAULTS=full
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


@pytest.fixture(autouse=True, scope="module")
def server(redis_server: RedisServer) -> None:
    """The Redis server that the machine talks to."""
    _server[:] = [redis_server]


def test_the_machine_may_reach_every_state() -> None:
    reached = {RunState.PENDING, *itertools.chain.from_iterable(TRANSITIONS.values())}
    assert reached == set(RunState)
