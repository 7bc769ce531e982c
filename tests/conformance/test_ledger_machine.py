"""Interleavings on both ledgers at once: each answers as the other, and DESIGN's invariants hold.

Emits, repeats, claims, duplicates, stale messages, checkpoints, every way to leave, crashes,
expiries, cancellations, retries by hand, replays, pauses, waits, child runs, tails, fan-ins, and
keepers that take what is due. After every call both ledgers must hold the same.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from celery_fanout.stores.ledger import NewEvent, NewRun
from celery_fanout.stores.memory_ledger import MemoryLedger
from celery_fanout.stores.redis import RedisLedger
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
WAITS = ('s["w",1]', 's["v",1]')
ERROR = {"type": "Boom", "message": "no", "traceback": "T"}
ALL = 10_000
READING = ("paused", "untold", "told")
SETTLED = (S.SUCCEEDED, S.FAILED, S.CANCELLED, S.RETRYING, S.SUSPENDED, S.COMPLETING, S.PENDING)

#: FAULTS=full looks for longer.
EXAMPLES = 600 if os.environ.get("FAULTS") == "full" else 60

_server: list[RedisServer] = []

#: What the machine has come by, over all its examples.
_seen: Counter[Any] = Counter()


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
    if name in ("release", "resend", "untold"):
        found = sorted(found)
    if name == "take":  # what is due at one time has no order
        found["ended"].sort()
        found["wakeups"].sort(key=lambda wakeup: wakeup["run_id"])
    return found


def has_runs(machine: Ledgers) -> bool:
    return bool(machine.states)


def has_running(machine: Ledgers) -> bool:
    return S.RUNNING in machine.states.values()


def has_completing(machine: Ledgers) -> bool:
    return S.COMPLETING in machine.states.values()


class Ledgers(RuleBasedStateMachine):
    """Both ledgers, driven with the same calls."""

    def __init__(self) -> None:
        super().__init__()
        _server[0].flush()
        self.clock = Clock()
        self.memory = MemoryLedger(RULES, self.clock)
        self.redis = RedisLedger(_server[0].url(), RULES, clock=self.clock)
        self.numbers = itertools.count(1)
        self.expected: dict[str, set[str]] = {}  # event to the runs of its emits and replays
        self.tokens: dict[str, set[int]] = {}  # run to the tokens that were claimed
        self.values: dict[tuple[str, str], str] = {}  # final checkpoints, as they were first seen
        self.states: dict[str, RunState] = {}
        self.ends: dict[tuple[str, int], RunState] = {}  # run and how often reopened
        self.claims: Counter[tuple[str, int]] = Counter()

    @initialize()
    def first(self) -> None:
        """Begin with runs: an empty ledger has little to do."""
        self.emit(1, None, None, then=True, cancels=False)

    # -- what every call goes through -----------------------------------------------------------

    def both(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call both ledgers, and compare their answers, and what they hold."""
        left = getattr(self.memory, name)(*args, **kwargs)
        right = getattr(self.redis, name)(*args, **kwargs)
        assert normal(name, left) == normal(name, right), name
        if name not in READING:
            self.look(name)
        return left

    def look(self, name: str) -> None:
        """Check the invariants of DESIGN section 10."""
        mine = {run.id: run for run in self.memory.runs(limit=ALL)}
        theirs = {run.id: run for run in self.redis.runs(limit=ALL)}
        assert mine == theirs, name
        # 5: runs created = the sum of the counts
        counts = self.memory.counts()
        assert counts == self.redis.counts()
        assert sum(counts.values()) == len(mine)
        assert mine.keys() >= self.states.keys()  # nobody vanishes
        # 1: every accepted event has exactly its runs
        events = {event.key: event for event in self.memory.events(limit=ALL)}
        assert events == {event.key: event for event in self.redis.events(limit=ALL)}, name
        unfinished = Counter(run.event for run in mine.values() if run.state not in FINAL)
        assert {key: event.open for key, event in events.items() if event.open} == unfinished
        for key, runs in self.expected.items():
            assert runs <= mine.keys()
            assert {*events[key].runs, *events[key].replayed} <= runs
        for run_id, run in mine.items():
            was = self.states.get(run_id)
            if was is not run.state:
                _seen[was, run.state] += 1
                first = (S.PENDING, S.GATED, S.RUNNING)  # the last is a lost one, claimed
                assert run.state in (first if was is None else TRANSITIONS[was]), (name, was, run)
            # 4: an end is an end, until somebody reopens it
            if run.state in FINAL:
                assert self.ends.setdefault((run_id, run.reopened), run.state) is run.state
            # 5, 6: what is neither final nor gated has a timer, and nothing else has
            assert (run.due is None) == (run.state in FINAL or run.state is S.GATED), (name, run)
            # 7: attempts are bounded
            assert run.crashes <= RULES.max_crashes
            self.states[run_id] = run.state

    def seen(self, run_id: str, field: str, text: str) -> None:
        """3: a final value never changes, whoever reads it."""
        if json.loads(text)["s"] in ("done", "failed"):
            known = self.values.setdefault((run_id, field), text)
            assert plain(known) == plain(text)

    def read(self, run_id: str, checkpoints: Any) -> None:
        """Check what a claim, or a page, shows."""
        for field, text in checkpoints.items():
            self.seen(run_id, field, text)
        for owner, field in self.values:
            assert owner != run_id or field in checkpoints

    def reopened(self, *run_ids: str) -> None:
        """Forget failed steps: they run again."""
        for key, text in list(self.values.items()):
            if key[0] in run_ids and json.loads(text)["s"] == "failed":
                del self.values[key]

    def some(self, data: Any, *states: RunState) -> Any:
        """Draw a run, in one of these states."""
        ids = sorted(i for i, state in self.states.items() if not states or state in states)
        run_id = data.draw(st.sampled_from(ids))
        return self.memory.run(run_id)

    # -- events ---------------------------------------------------------------------------------

    @rule(
        number=st.integers(1, 3),
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
                    queue=f"q{sub[0]}",
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
            before = {event: set(ids) for event, ids in self.expected.items()}
            self.expected.setdefault(key, set()).update(run.id for run in runs)
            known = self.memory.event(key)
            if known is not None:  # a repeat, or "generation": no new runs yet
                recent = known.created + RULES.dedup_window > self.clock.now
                if recent or known.generation + 1 != generation:
                    self.expected = before
            (found,) = self.both("record", [new])
            _seen["record", found.status] += 1
            if found.status != "generation":
                return
            generation = found.generation

    @rule(
        number=st.integers(1, 3),
        name=st.sampled_from(["doc/ok", "doc/gone"]),
        path=st.sampled_from("nm"),
    )
    def other_event(self, number: int, name: str, path: str) -> None:
        key = f"x{next(self.numbers)}"
        data = json.dumps({path: number})
        (found,) = self.both("record", [NewEvent(key, name, json.dumps({"id": key}), data)])
        _seen["an event", "woke somebody"] += bool(found.woken)

    @rule(number=st.integers(1, 3), sub=st.sampled_from(SUBS))
    def replay(self, number: int, sub: str) -> None:
        key = f"e{number}"
        event = self.memory.event(key)
        if event is None:
            return
        generation = event.generation + 1
        start = {'s["x",1]': done("from before")}
        run = NewRun(f"{key}-{sub[0]}-{generation}", sub, queue="q", checkpoints=start)
        new = NewEvent(key, "doc/up", event.attributes, event.data, [run], generation, replay=True)
        self.expected.setdefault(key, set()).add(run.id)
        for _ in range(2):  # the second repeats a call whose answer was lost
            (found,) = self.both("record", [new])
            assert (found.status, found.generation) == ("new", generation)
        self.seen(run.id, 's["x",1]', start['s["x",1]'])

    # -- workers --------------------------------------------------------------------------------

    @rule(boot=st.sampled_from(["w1", "w2"]), publish=st.booleans())
    def work(self, boot: str, publish: bool) -> None:
        """What happens most: a timer fires, its run is published, and a worker claims it."""
        due = self.both("take", limit=1).next_due
        self.clock.advance(max(0.0, (due or 0.0) - self.clock.now))
        for wakeup in self.both("take", limit=3).wakeups:
            if publish:
                self.both("mark_published", [wakeup.run_id])
            self.claimed(wakeup.run_id, boot, wakeup.retries)

    @rule(data=st.data(), behind=st.sampled_from([0, 0, 1]), times=st.integers(1, 4))
    @precondition(has_running)
    def crash(self, data: Any, behind: int, times: int) -> None:
        """A worker dies, and messages of the run come to others, some of an earlier retry."""
        run = self.some(data, S.RUNNING)
        for _ in range(times):
            self.clock.advance(RULES.lease)
            found = self.claimed(run.id, "w3", max(0, run.retries - behind))
            if found.status == "crashed":
                assert found.crashes == RULES.max_crashes

    @rule(
        data=st.data(),
        boot=st.sampled_from(["w1", "w2"]),
        retries=st.sampled_from([None, None, None, 0, 1]),
        put_back=st.booleans(),
    )
    @precondition(has_runs)
    def claim(self, data: Any, boot: str, retries: int | None, put_back: bool) -> None:
        run = self.some(data)
        self.claimed(run.id, boot, run.retries if retries is None else retries, put_back=put_back)

    def claimed(self, run_id: str, boot: str, retries: int, *, put_back: bool = False) -> Any:
        before = self.memory.run(run_id)
        assert before is not None
        nonce = f"n{next(self.numbers)}"
        found = self.both("claim", run_id, boot, nonce, retries=retries, put_back=put_back)
        _seen["claim", found.status] += 1
        if found.status in ("held", "finished", "stale", "early"):  # then nothing was written
            assert self.memory.run(run_id) == before
        if found.status == "claimed":
            tokens = self.tokens.setdefault(run_id, set())
            assert found.token > max(tokens, default=0)  # nobody had this claim before
            tokens.add(found.token)
            if run_id.count("-p") == 0:  # those of step.parallel get their parent's, too
                self.read(run_id, found.checkpoints)
            again = self.both("claim", run_id, boot, nonce, retries=retries)
            assert (again.status, again.token) == ("claimed", found.token)
            assert self.both("claim", run_id, boot, "other").status == "held"
        return found

    @rule(data=st.data())
    @precondition(has_runs)
    def lose(self, data: Any) -> None:
        """Claim a run that the ledger has never seen: it comes from its message."""
        number = next(self.numbers)
        key = data.draw(st.sampled_from([f"l{number}", *sorted(self.expected)]))
        run = NewRun(f"lost-{number}", SUBS[1])
        new = NewEvent(key, "doc/up", json.dumps({"id": key}), "null", [run])
        assert self.both("claim", run.id, "w1", f"n{number}").status == "unknown"
        found = self.both("claim", run.id, "w1", f"n{number}", recreate=new)
        paused = SUBS[1] in self.memory.paused()
        assert (found.status, found.token) == (("paused", 0) if paused else ("claimed", 1))
        self.tokens[run.id] = set() if paused else {1}

    @rule(data=st.data(), step=st.sampled_from("xyz"), final=st.booleans())
    @precondition(has_running)
    def store(self, data: Any, step: str, final: bool) -> None:
        run = self.some(data, S.RUNNING)
        field = f's["{step}",1]'
        text = done(next(self.numbers)) if final else '{"v":1,"s":"retrying","n":1}'
        found = self.both("store", run.id, run.token, field, text, final=final)
        assert found == self.values.get((run.id, field), text)
        self.seen(run.id, field, found)

    @rule(data=st.data(), to=st.sampled_from(SETTLED))
    @precondition(has_runs)
    def write_stale(self, data: Any, to: RunState) -> None:
        """Whoever has lost a run writes nothing."""
        run = self.some(data)
        tokens = {*self.tokens.get(run.id, ()), 0, run.token + 1}
        if run.state in (S.RUNNING, S.COMPLETING):
            tokens.discard(run.token)
        token = data.draw(st.sampled_from(sorted(tokens)))
        text = done("stale")
        assert self.both("store", run.id, token, 's["x",1]', text, final=True) is None
        settled = self.both("settle", run.id, token, to, error=ERROR, result="0", due=0.0)
        # a repeat of what it did itself is not refused
        repeated = token == run.token and (to is run.state or run.state is S.SUCCEEDED)
        assert not settled.ok or repeated
        assert not self.both("spawn", run.id, token, "g", []).ok
        due = self.clock.now
        assert self.both("wait", run.id, token, "sx", "doc/ok", "{}", since=0.0, due=due) is None
        assert self.both("end_wait", run.id, token, WAITS[0]) is None
        assert self.memory.run(run.id) == run

    @rule(
        data=st.data(), to=st.sampled_from(SETTLED), wait=st.sampled_from([0.0, 10.0, 100.0, None])
    )
    @precondition(has_running)
    def settle(self, data: Any, to: RunState, wait: float | None) -> None:
        run = self.some(data, S.RUNNING)
        options: dict[str, Any] = {"reason": "why"}
        if to in (S.SUCCEEDED, S.COMPLETING):
            options = {"result": "[1]"}
        if to is S.COMPLETING and run.kind != "invoke":
            options["child"] = NewRun(f"{run.id}-l", run.subscription, "then", message="{}")
        if to is S.FAILED:
            options["error"] = ERROR
        if to in (S.RETRYING, S.SUSPENDED):
            options["due"] = None if wait is None else self.clock.now + wait
            options["checkpoints"] = {
                's["x",1]': '{"v":1,"s":"waiting","n":0}',
                's["nap",1]': '{"v":1,"s":"waiting","n":0}',
            }
        if to is S.RETRYING:
            options.update(retries=run.retries + 1, error=ERROR, trace='{"traceparent":"t"}')
        for _ in range(2):  # the second repeats a call whose answer was lost
            assert self.both("settle", run.id, run.token, to, **options).ok

    @rule(data=st.data())
    @precondition(has_completing)
    def finish_completing(self, data: Any) -> None:
        run = self.some(data, S.COMPLETING)
        again = self.both("claim", run.id, "w2", f"n{next(self.numbers)}")
        assert (again.status, again.token) == ("completing", run.token)
        for _ in range(2):
            assert self.both("settle", run.id, run.token, S.SUCCEEDED).ok

    @rule(
        data=st.data(),
        number=st.integers(1, 3),
        path=st.sampled_from("nm"),
        field=st.sampled_from(WAITS),
        leave=st.booleans(),
    )
    @precondition(has_running)
    def wait(self, data: Any, number: int, path: str, field: str, leave: bool) -> None:
        run = self.some(data, S.RUNNING)
        due = self.clock.now + 50
        match = json.dumps({path: number})
        text = self.both(
            "wait", run.id, run.token, field, "doc/ok", match, since=run.created, due=due
        )
        self.seen(run.id, field, text)
        if leave and json.loads(text)["s"] == "waiting":
            options = {"due": due, "group": field, "reason": "event"}
            self.both("settle", run.id, run.token, S.SUSPENDED, **options)

    @rule(data=st.data(), field=st.sampled_from(WAITS))
    @precondition(has_running)
    def end_wait(self, data: Any, field: str) -> None:
        run = self.some(data, S.RUNNING)
        if field in run.detail["checkpoints"]:
            self.seen(run.id, field, self.both("end_wait", run.id, run.token, field))

    @rule(data=st.data(), count=st.integers(1, 2), kind=st.sampled_from(["invoke", "parallel"]))
    @precondition(has_running)
    def spawn(self, data: Any, count: int, kind: Any) -> None:
        run = self.some(data, S.RUNNING)
        if run.id.count("-p") + run.id.count("-i") > 1:
            return
        group = f"s{kind}"
        children = [
            NewRun(
                f"{run.id}-{kind[0]}{n}",
                run.subscription,
                kind,
                "",
                "{}",
                f's["{kind}",1,{n}]',
                group,
            )
            for n in range(count)
        ]
        for _ in range(2):
            self.reopened(*(child.id for child in children))  # of a parent that was reopened
            assert self.both("spawn", run.id, run.token, group, children).ok
        self.both("settle", run.id, run.token, S.SUSPENDED, group=group, reason=kind)

    @rule(boot=st.sampled_from(["w1", "w2"]), stops=st.booleans(), received=st.booleans())
    def heartbeat(self, boot: str, stops: bool, received: bool) -> None:
        runs = self.memory.runs(limit=ALL)
        held = sorted(run.id for run in runs if run.worker == boot or received)
        self.both("release" if stops else "renew", boot, held)

    @rule(data=st.data(), final=st.booleans(), boot=st.sampled_from([None, "w1"]))
    @precondition(has_running)
    def abandon(self, data: Any, final: bool, boot: str | None) -> None:
        run = self.some(data, S.RUNNING)
        settled = self.both("abandon", run.id, boot or run.worker, ERROR, final=final)
        assert settled.ok == ((boot or run.worker) == run.worker)

    @rule(data=st.data(), delay=st.sampled_from([1.0, 400.0]))
    @precondition(has_runs)
    def unregistered(self, data: Any, delay: float) -> None:
        self.both("unregistered", self.some(data).id, delay)

    # -- people ---------------------------------------------------------------------------------

    @rule(data=st.data())
    @precondition(has_runs)
    def cancel(self, data: Any) -> None:
        run = self.some(data)
        cancelled, _ = self.both("cancel", [run.id, "nobody"], "enough")
        ended = run.state in FINAL or run.state is S.COMPLETING
        assert (run.id in cancelled) is not ended
        assert self.both("cancel", [run.id], "again") == ([], [])

    @rule(data=st.data())
    @precondition(has_runs)
    def reopen(self, data: Any) -> None:
        run = self.some(data)
        self.reopened(run.id) if run.state in (S.FAILED, S.CANCELLED) else None
        assert self.both("reopen", run.id, "again") is (run.state in (S.FAILED, S.CANCELLED))
        assert not self.both("reopen", run.id, "again")

    @rule(pause=st.booleans(), sub=st.sampled_from(SUBS))
    def pause(self, pause: bool, sub: str) -> None:
        assert self.both("pause" if pause else "resume", sub) is not None
        assert (sub in self.both("paused")) is pause

    # -- keepers --------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.5, 5.0, 25.0, 35.0, 150.0, 1100.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(grace=st.booleans(), publish=st.booleans())
    def keep(self, grace: bool, publish: bool) -> None:
        taken = self.both("take", limit=ALL, grace=grace)
        assert self.both("take", limit=ALL, grace=grace).wakeups == []  # each is taken once
        if publish:
            self.both("mark_published", [wakeup.run_id for wakeup in taken.wakeups])

    @rule(data=st.data())
    @precondition(has_runs)
    def take_some(self, data: Any) -> None:
        ids = data.draw(st.lists(st.sampled_from(sorted(self.states)), max_size=3))
        taken = self.both("take", ids)
        assert {w.run_id for w in taken.wakeups} <= set(ids)

    @rule(queue=st.sampled_from(["qa", "qb"]))
    def resend(self, queue: str) -> None:
        self.both("resend", queue, self.clock.now - 15, limit=ALL)

    @rule(older=st.sampled_from([0.0, 20.0]), tell=st.booleans())
    def tell(self, older: float, tell: bool) -> None:
        for run_id in self.both("untold", older_than=older, limit=ALL):
            if tell:
                child = NewRun(f"{run_id}-f{next(self.numbers)}", "", "on_failure", message="{}")
                assert self.both("adopt", run_id, child)
                assert not self.both("adopt", run_id, child)
                self.both("told", run_id)

    # -- the end --------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Let everything come to an end: nothing is stuck."""
        for sub in SUBS:
            self.both("resume", sub)
        # a run may have suspended itself for a day without end, and is then looked at once a day
        for _ in range(60):
            taken = self.both("take", limit=ALL)
            for wakeup in taken.wakeups:
                nonce = f"n{next(self.numbers)}"
                found = self.both("claim", wakeup.run_id, "w9", nonce, retries=wakeup.retries)
                if found.status == "claimed":
                    self.both("settle", wakeup.run_id, found.token, S.SUCCEEDED, result="1")
            left = [r for r in self.memory.runs(limit=ALL) if r.state not in FINAL]
            if not left:
                break
            self.clock.advance(max(0.0, min(r.due or 0.0 for r in left) - self.clock.now))
        assert [run.id for run in self.memory.runs(limit=ALL) if run.state not in FINAL] == []
        for run in self.memory.runs(limit=ALL):
            detail = self.memory.run(run.id)
            assert detail is not None
            assert plain(detail) == plain(self.redis.run(run.id))
            self.read(run.id, detail.detail["checkpoints"])
        ids = sorted(self.states)
        assert plain(self.memory.outcomes(ids)) == plain(self.redis.outcomes(ids))


TestLedgers = Ledgers.TestCase
TestLedgers.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


@pytest.fixture(autouse=True, scope="module")
def server(redis_server: RedisServer) -> None:
    """The Redis server that the machine talks to."""
    _server[:] = [redis_server]
