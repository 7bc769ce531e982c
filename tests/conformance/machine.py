"""A state machine that drives both ledgers with the same calls.

After every call it compares their answers, and after every rule all that they have. The invariants
1 to 7 of DESIGN, section 10, are held against a model of what was asked for. In the end everything
has to come to an end, and nothing may be left over.

Some rules are whole errands of a worker or a keeper: at random, calls would seldom come as far as a
child that fails, is retried, and wakes its parent.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from celery_fanout.stores.ledger import Claim, NewEvent, NewRun, Recorded
from celery_fanout.stores.memory_ledger import MemoryLedger
from celery_fanout.stores.redis import RedisLedger
from celery_fanout.stores.states import FINAL, TRANSITIONS, RunState
from tests.conformance.ledgers import RULES as SHORT
from tests.conformance.ledgers import Clock, done
from tests.servers import RedisServer

__all__ = ["RULES", "Ledgers"]

S = RunState

#: Events do not expire here: Redis does that by a clock of its own, which no test moves. Runs do,
#: by the sweep.
RULES = dataclasses.replace(SHORT, event_retention=1e8)
SUBS = ("a@doc/up", "b@doc/up")
WAIT = 's["w",1]'
ERROR = {"type": "Boom", "message": "no", "traceback": "T"}
NUMBERS = st.integers(1, 3)
BOOTS = st.sampled_from(["w1", "w2"])

ACTIVE = (S.PENDING, S.PUBLISHED, S.SUSPENDED, S.RETRYING)


def plain(answer: Any) -> Any:
    """Return an answer in a form that both ledgers share: times rounded, texts as JSON."""
    if dataclasses.is_dataclass(answer) and not isinstance(answer, type):
        return {k: plain(v) for k, v in vars(answer).items()}
    if isinstance(answer, dict):
        return {str(k): plain(v) for k, v in answer.items()}
    if isinstance(answer, (list, tuple)):
        return [plain(item) for item in answer]
    if isinstance(answer, float):
        return round(answer, 4)
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
    if name in ("release", "resend", "untold"):  # what is due at one time has no order
        found = sorted(found)
    if name == "take":
        found["ended"].sort()
        found["wakeups"].sort(key=lambda wakeup: wakeup["run_id"])
    if name in ("runs", "events"):
        found.sort(key=lambda record: record.get("id") or record["key"])
    return found


class Ledgers(RuleBasedStateMachine):
    """Both ledgers, driven with the same calls."""

    server: RedisServer

    @initialize()
    def begin(self) -> None:
        self.server.flush()
        self.clock = Clock()
        self.memory = MemoryLedger(RULES, self.clock)
        self.redis = RedisLedger(self.server.url(), RULES, clock=self.clock)
        self.numbers = itertools.count(1)
        self.emitted: dict[str, list[str]] = {}  # event to the runs of its last emit
        self.replayed: dict[str, list[str]] = {}
        self.drafts: dict[str, tuple[NewEvent, float]] = {}  # event to its last emit
        self.tokens: dict[str, set[int]] = {}  # run to the tokens that it ever had
        self.values: dict[tuple[str, str, int], str] = {}  # final checkpoints, until forgotten
        self.states: dict[str, tuple[S, int, float | None]] = {}

    # -- asking both ----------------------------------------------------------------------------

    def both(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call both ledgers, and compare their answers."""
        left = getattr(self.memory, name)(*args, **kwargs)
        right = getattr(self.redis, name)(*args, **kwargs)
        assert normal(name, left) == normal(name, right), name
        self.check_transitions(name)
        return left

    def check_transitions(self, name: str) -> None:
        """4: states follow one another as they may; an end is an end, until it is reopened."""
        for row in self.memory.book.rows.values():
            was, reopened, finished = self.states.get(row.id, (row.state, 0, None))
            assert was is row.state or row.state in TRANSITIONS[was], (name, row.id, was, row.state)
            if was in FINAL and reopened == row.reopened:
                assert (row.state, row.finished) == (was, finished), name
            self.states[row.id] = (row.state, row.reopened, row.finished)

    def nonce(self) -> str:
        return f"n{next(self.numbers)}"

    def pick(self, data: Any, wanted: Callable[[Any], bool]) -> Any:
        """Draw a run: mostly one that is wanted, and sometimes any."""
        rows = [row for row in self.memory.book.rows.values() if self.memory.book.row(row.id)]
        rows.sort(key=lambda row: row.id)
        good = [row for row in rows if wanted(row)]
        if good and data.draw(st.integers(0, 5)):
            rows = good
        return data.draw(st.sampled_from(rows)) if rows else None

    def pick_running(self, data: Any) -> tuple[str, int, Any]:
        """Draw a run with the token of its holder, or sometimes another."""
        row = self.pick(data, lambda row: row.state is S.RUNNING)
        stale = data.draw(st.integers(0, 7)) == 7
        return row.id, max(0, row.token - stale), row

    def has_runs(self) -> bool:
        return bool(getattr(self, "memory", None) and self.memory.book.rows)

    def has_running(self) -> bool:
        rows = self.memory.book.rows.values() if self.has_runs() else ()
        return any(row.state is S.RUNNING for row in rows)

    # -- events ---------------------------------------------------------------------------------

    @rule(
        number=NUMBERS,
        subs=st.sampled_from([SUBS, SUBS[:1], ()]),
        delay=st.sampled_from([None, None, 40.0]),
        patience=st.sampled_from([None, None, 60.0]),
        then=st.booleans(),
        cancels=st.booleans(),
    )
    def emit(
        self,
        number: int,
        subs: Sequence[str],
        delay: float | None,
        patience: float | None,
        then: bool,
        cancels: bool,
    ) -> None:
        key = f"e{number}"
        cancel_on = (("doc/gone", json.dumps({"n": number})), ("doc/stop", "{}")) if cancels else ()

        def draft(generation: int) -> NewEvent:
            return NewEvent(
                key,
                "doc/up",
                json.dumps({"id": key}),
                json.dumps({"n": number}),
                [
                    NewRun(f"{key}-{sub[0]}-{generation}", sub, queue="q", cancel_on=cancel_on)
                    for sub in subs
                ],
                generation,
                resume_at=None if delay is None else self.clock.now + delay,
                expires_at=None if patience is None else self.clock.now + patience,
                then_id=f"{key}-then-{generation}" if then else "",
                then_message='{"m":1}' if then else "",
                trace=json.dumps({"t": generation}) if then else "",
            )

        found, new = self.record(draft(0)), draft(0)
        if found.status == "generation":
            new = draft(found.generation)
            found = self.record(new)
        if found.status == "new":
            self.emitted[key] = [run.id for run in new.runs]
            self.drafts[key] = new, self.clock.now
            assert self.clock.now - self.drafts[key][1] < RULES.dedup_window
        else:  # 1: a repeat has the runs of the first
            assert found.status == "repeat"
            assert [run_id for run_id, _ in found.runs] == self.emitted[key]
            assert self.clock.now - self.drafts[key][1] < RULES.dedup_window

    def record(self, new: NewEvent) -> Recorded:
        found: list[Recorded] = self.both("record", [new])
        return found[0]

    @precondition(lambda self: bool(self.emitted))
    @rule(data=st.data())
    def emit_again(self, data: Any) -> None:
        """The answer was lost, or somebody uses the id again."""
        key = data.draw(st.sampled_from(sorted(self.emitted)))
        new, at = self.drafts[key]
        found = self.record(new)
        assert (found.status == "repeat") == (at + RULES.dedup_window > self.clock.now)

    @rule(
        number=NUMBERS,
        name=st.sampled_from(["doc/ok", "doc/ok", "doc/gone", "doc/stop"]),
        then=st.booleans(),
    )
    def other_event(self, number: int, name: str, then: bool) -> None:
        key = f"x{next(self.numbers)}"
        more = {"then_id": f"{key}-then", "then_message": "{}"} if then else {}
        self.record(NewEvent(key, name, json.dumps({"id": key}), f'{{"n":{number}}}', **more))

    @precondition(lambda self: bool(self.emitted))
    @rule(data=st.data(), twice=st.booleans(), stepped=st.booleans(), sub=st.sampled_from(SUBS))
    def replay(self, data: Any, twice: bool, stepped: bool, sub: str) -> None:
        key = data.draw(st.sampled_from(sorted(self.emitted)))
        event = self.memory.event(key)
        assert event is not None
        generation = event.generation + 1
        kept = {'s["x",1]': done(1)} if stepped else {}
        runs = [NewRun(f"{key}-r-{generation}", sub, queue="q", checkpoints=kept)]
        new = NewEvent(
            key,
            "doc/up",
            event.attributes,
            event.data,
            runs,
            generation,
            replay=True,
            nonce=self.nonce(),
            resume_at=self.clock.now,
        )
        for _ in range(1 + twice):
            assert self.record(new).status == "new"
        other = dataclasses.replace(new, nonce="another")
        assert self.record(other).generation == generation + 1
        self.replayed.setdefault(key, []).append(runs[0].id)

    # -- a run ----------------------------------------------------------------------------------

    @precondition(has_runs)
    @rule(
        data=st.data(),
        boot=BOOTS,
        retries=st.sampled_from([0, 0, 0, -1, 1]),
        put_back=st.sampled_from([False, False, True]),
    )
    def claim(self, data: Any, boot: str, retries: int, put_back: bool) -> None:
        row = self.pick(data, lambda row: row.state in ACTIVE)
        retries = max(0, row.retries + retries)
        self.claimed(row.id, boot, retries=retries, put_back=put_back)

    def claimed(self, run_id: str, boot: str = "w1", **more: Any) -> Claim:
        nonce = self.nonce()
        row = self.memory.book.row(run_id)
        values = {
            field: text
            for (known, field, reopened), text in self.values.items()
            if row is not None and known == run_id and reopened == row.reopened
        }
        found: Claim = self.both("claim", run_id, boot, nonce, **more)
        if found.status == "claimed":
            tokens = self.tokens.setdefault(run_id, set())
            assert found.token not in tokens  # nobody had this claim before
            tokens.add(found.token)
            # 3: whoever executes it finds what was stored
            assert values.items() <= dict(found.checkpoints).items()
            again = self.both("claim", run_id, boot, nonce, **more)
            assert (again.status, again.token) == ("claimed", found.token)
        return found

    @rule(number=NUMBERS, again=st.booleans())
    def claim_lost(self, number: int, again: bool) -> None:
        """Redis has lost its data, and a message is still there."""
        key = f"l{number}"
        lost = NewEvent(key, "doc/up", f'{{"id":"{key}"}}', "null", [NewRun(f"{key}-a", SUBS[0])])
        self.both("claim", f"{key}-b", "w1", self.nonce())
        for _ in range(1 + again):
            self.claimed(f"{key}-a", recreate=lost)

    @precondition(has_running)
    @rule(data=st.data(), step=st.sampled_from("xyz"), final=st.sampled_from([True, True, False]))
    def store(self, data: Any, step: str, final: bool) -> None:
        run_id, token, row = self.pick_running(data)
        field = f's["{step}",1]'
        number = next(self.numbers)
        text = done(number) if final else f'{{"v":1,"s":"retrying","n":{number}}}'
        found = self.both("store", run_id, token, field, text, final=final)
        self.both("store", run_id, token, field, found or text, final=final)  # a lost answer
        key = (run_id, field, row.reopened)
        if row.state is not S.RUNNING or token != row.token:
            assert found is None
        elif key in self.values:
            assert found == self.values[key]  # 3
        elif final and found == text:
            self.values[key] = text

    @precondition(has_running)
    @rule(
        data=st.data(),
        to=st.sampled_from([S.RETRYING, S.SUSPENDED, S.SUSPENDED, S.PENDING]),
        wait=st.sampled_from([None, 0.0, 10.0, 100.0]),
        step=st.sampled_from("xyz"),
    )
    def leave(self, data: Any, to: RunState, wait: float | None, step: str) -> None:
        run_id, token, row = self.pick_running(data)
        options: dict[str, Any] = {"reason": "why"}
        if to is not S.PENDING and wait is not None:
            options["due"] = self.clock.now + wait
        if to is S.RETRYING:
            options.update(retries=row.retries + 1, error=ERROR, trace='{"t":"r"}')
        if step != "z":
            options["checkpoints"] = {f's["{step}",1]': '{"v":1,"s":"waiting","n":0}'}
        self.settled_twice(run_id, token, to, **options)

    @precondition(has_running)
    @rule(
        data=st.data(),
        to=st.sampled_from([S.SUCCEEDED, S.FAILED, S.CANCELLED, S.COMPLETING, S.COMPLETING]),
    )
    def end(self, data: Any, to: RunState) -> None:
        run_id, token, row = self.pick_running(data)
        self.settled_twice(run_id, token, to, **self.ending(row, to))

    def ending(self, row: Any, to: RunState) -> dict[str, Any]:
        if to is S.COMPLETING:
            link = NewRun(f"{row.id}-l", row.subscription, "then", message='{"l":1}')
            return {"result": "[1]", "child": link}
        if to is S.SUCCEEDED:
            return {"result": "[1]"}
        return {"reason": "why", **({"error": ERROR} if to is S.FAILED else {})}

    def settled_twice(self, run_id: str, token: int, to: RunState, **options: Any) -> None:
        """Settle, and once more because the answer was lost."""
        first = self.both("settle", run_id, token, to, **options)
        row = self.memory.book.row(run_id)
        if first.ok and row is not None and row.state is to:
            assert self.both("settle", run_id, token, to, **options).ok

    @precondition(has_runs)
    @rule(data=st.data(), dispatched=st.booleans())
    def finish_completing(self, data: Any, dispatched: bool) -> None:
        row = self.pick(data, lambda row: row.state is S.COMPLETING)
        if dispatched:
            self.settled_twice(row.id, row.token, S.SUCCEEDED)
        else:
            self.claimed(row.id)  # it is delivered again

    # -- waits and children ---------------------------------------------------------------------

    @precondition(has_running)
    @rule(data=st.data(), number=st.sampled_from([1, 2, 3, None]), leave=st.integers(0, 3))
    def wait(self, data: Any, number: int | None, leave: int) -> None:
        run_id, token, row = self.pick_running(data)
        due = self.clock.now + 50
        match = "{}" if number is None else f'{{"n":{number}}}'
        options = {"since": row.created, "due": due}
        text = self.both("wait", run_id, token, WAIT, "doc/ok", match, **options)
        assert self.both("wait", run_id, token, WAIT, "doc/ok", match, **options) == text
        if text is not None and json.loads(text)["s"] != "done" and leave:
            self.both("settle", run_id, token, S.SUSPENDED, due=due, group=WAIT, reason="event")

    @precondition(has_running)
    @rule(data=st.data())
    def end_wait(self, data: Any) -> None:
        row = self.pick(data, lambda row: row.state is S.RUNNING and WAIT in row.checkpoints)
        if WAIT in row.checkpoints:
            self.both("end_wait", row.id, row.token, WAIT)
            self.both("end_wait", row.id, row.token, WAIT)

    @precondition(has_running)
    @rule(
        data=st.data(),
        count=st.integers(1, 3),
        kind=st.sampled_from(["invoke", "parallel"]),
        group=st.sampled_from("gh"),
        leave=st.integers(0, 3),
    )
    def spawn(self, data: Any, count: int, kind: Any, group: str, leave: int) -> None:
        run_id, token, row = self.pick_running(data)
        if run_id.count("-c") > 1:
            return
        known = len([1 for child in row.children if f"-c{group}" in child])
        name = f's["{group}",1]'
        children = [
            NewRun(
                f"{run_id}-c{group}{n}",
                row.subscription,
                kind,
                "",
                "{}",
                f's["{group}",1,{n}]',
                name,
            )
            for n in range(known or count)  # the items of a step do not change
        ]
        if not self.both("spawn", run_id, token, name, children).ok:
            return
        assert self.both("spawn", run_id, token, name, children).ok
        if leave:
            self.both("settle", run_id, token, S.SUSPENDED, group=name, reason=kind)

    @precondition(has_runs)
    @rule(
        data=st.data(),
        to=st.sampled_from([S.SUCCEEDED, S.SUCCEEDED, S.FAILED, S.CANCELLED]),
        all_=st.booleans(),
    )
    def end_children(self, data: Any, to: RunState, all_: bool) -> None:
        """A worker executes children, or links, or what else waits for it."""
        rows = [row for row in self.memory.book.rows.values() if row.parent and not row.final]
        for row in sorted(rows, key=lambda row: row.id)[: None if all_ else 1]:
            if row.state is S.RUNNING:
                continue
            self.both("take", [row.id])
            self.both("mark_published", [row.id])
            found = self.claimed(row.id, "w2", retries=row.retries)
            if found.status == "claimed":
                self.both("settle", row.id, found.token, to, **self.ending(row, to))

    # -- people ---------------------------------------------------------------------------------

    @precondition(has_runs)
    @rule(data=st.data(), more=st.booleans())
    def cancel(self, data: Any, more: bool) -> None:
        row = self.pick(data, lambda row: not row.final)
        other = self.pick(data, lambda row: row.children and not row.final)
        ids = [row.id, other.id] if more else [row.id]
        cancelled, _ = self.both("cancel", [*ids, "nobody"], "enough")
        assert len(set(cancelled)) == len(cancelled)

    @precondition(has_runs)
    @rule(data=st.data(), run=st.booleans())
    def reopen(self, data: Any, run: bool) -> None:
        row = self.pick(data, lambda row: row.state in (S.FAILED, S.CANCELLED))
        was = row.state
        reopened = self.both("reopen", row.id, "again")
        assert reopened == (was in (S.FAILED, S.CANCELLED))
        if reopened and run:
            self.claimed(row.id)

    @rule(
        pause=st.booleans(),
        sub=st.sampled_from(SUBS),
        limit=st.sampled_from([0, 1, 1000, 1000]),
        go_on=st.booleans(),
    )
    def pause(self, pause: bool, sub: str, limit: int, go_on: bool) -> None:
        if pause:
            self.both("pause", sub)
        else:
            self.both("resume", sub, limit=limit, go_on=go_on)

    # -- keepers and main processes -------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.5, 5.0, 25.5, 35.5, 150.5, 520.5, 1100.5, 2100.5, 5100.5]))
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.sweep()

    @rule(late=st.sampled_from([-0.01, 0.0, 0.0, 0.01]))
    def pass_time_to_what_is_due(self, late: float) -> None:
        due = self.memory.take(()).next_due
        if due is not None and due + late > self.clock.now:
            self.clock.now = due + late
            self.sweep()

    def sweep(self) -> None:
        """Forget what has expired: the one ledger does it by itself, the other one so."""
        gone = [row.id for row in self.memory.book.rows.values() if row.gone_at <= self.clock.now]
        assert self.both("sweep") == len(gone)
        for run_id in gone:
            self.states.pop(run_id)
            self.tokens.pop(run_id, None)
        self.values = {key: text for key, text in self.values.items() if key[0] not in gone}

    @precondition(has_runs)
    @rule(data=st.data(), boot=BOOTS, does=st.sampled_from(["renew", "renew", "release"]))
    def heartbeat(self, data: Any, boot: str, does: str) -> None:
        rows = self.memory.book.rows.values()
        held = [row.id for row in rows if row.boot == boot]
        received = self.pick(data, lambda row: row.state in (S.PENDING, S.PUBLISHED))
        self.both(does, boot, sorted({*held, received.id, "nobody"}))

    @rule(
        grace=st.sampled_from([False, False, True]),
        publish=st.sampled_from(["all", "one", "none"]),
        limit=st.sampled_from([1, 1000, 1000]),
        queue=st.sampled_from(["", "q2"]),
    )
    def keep(self, grace: bool, publish: str, limit: int, queue: str) -> None:
        taken = self.both("take", limit=limit, grace=grace)
        ids = [wakeup.run_id for wakeup in taken.wakeups]
        ids = {"all": ids, "one": ids[:1], "none": []}[publish]
        self.both("mark_published", ids, dict.fromkeys(ids, queue))

    @precondition(has_runs)
    @rule(data=st.data())
    def take_some(self, data: Any) -> None:
        row = self.pick(data, lambda row: row.due is not None and row.due <= self.clock.now)
        other = self.pick(data, lambda row: not row.final)
        self.both("take", [row.id, other.id, row.id, "nobody"])

    @precondition(has_runs)
    @rule(data=st.data())
    def publish(self, data: Any) -> None:
        row = self.pick(data, lambda row: row.state is S.PENDING)
        self.both("mark_published", [row.id, "nobody"])

    @precondition(has_runs)
    @rule(data=st.data(), boot=st.sampled_from([None, None, None, "w1"]), final=st.booleans())
    def abandon(self, data: Any, boot: str | None, final: bool) -> None:
        row = self.pick(data, lambda row: row.state is S.RUNNING)
        self.both("abandon", row.id, boot or row.boot or "w1", ERROR, final=final)

    @precondition(has_runs)
    @rule(data=st.data())
    def crash_again_and_again(self, data: Any) -> None:
        """7: a run that kills its workers ends."""
        row = self.pick(data, lambda row: row.state in ACTIVE)
        for _ in range(RULES.max_crashes):
            found = self.claimed(row.id, retries=row.retries)
            if found.status != "claimed":
                return
            self.clock.advance(RULES.lease)
            self.sweep()
            self.both("take", [row.id])
        assert (row.state, row.crashes) == (S.FAILED, RULES.max_crashes)

    @precondition(has_runs)
    @rule(data=st.data(), delay=st.sampled_from([5.0, 505.0]))
    def unregistered(self, data: Any, delay: float) -> None:
        row = self.pick(data, lambda row: row.state in (S.PENDING, S.PUBLISHED))
        self.both("unregistered", row.id, delay)

    @rule(age=st.sampled_from([0.0, 15.0]), queue=st.sampled_from(["q", "q2"]))
    def resend(self, age: float, queue: str) -> None:
        found = self.both("resend", queue, self.clock.now - age, limit=1000)
        self.both("take", found)

    @rule(older=st.sampled_from([0.0, 20.0]), tell=st.booleans())
    def tell(self, older: float, tell: bool) -> None:
        for run_id in self.both("untold", older_than=older, limit=1000):
            row = self.memory.book.row(run_id)
            assert row is not None
            if not tell:
                continue
            child = NewRun(f"{run_id}-f{row.reopened}", row.subscription, "on_failure", message="1")
            new = f"{run_id}-f{row.reopened}" not in self.memory.book.rows
            assert self.both("adopt", run_id, child) == new
            assert not self.both("adopt", run_id, child)
            self.both("told", run_id)

    # -- all that they have ---------------------------------------------------------------------

    @invariant()
    def alike(self) -> None:
        """Both have the same."""
        if not hasattr(self, "memory"):
            return
        rows = sorted(self.memory.book.rows)
        for run_id in rows:
            assert plain(self.memory.run(run_id)) == plain(self.redis.run(run_id))
        for name, args in (("outcomes", [rows]), ("counts", []), ("paused", [])):
            assert plain(getattr(self.memory, name)(*args)) == plain(
                getattr(self.redis, name)(*args)
            )
        for key in self.memory.book.events:
            assert plain(self.memory.event(key)) == plain(self.redis.event(key))

    @rule(state=st.sampled_from([None, *S]), sub=st.sampled_from([None, *SUBS]), number=NUMBERS)
    def look(self, state: RunState | None, sub: str | None, number: int) -> None:
        for event in (None, f"e{number}"):
            self.both("runs", state=state, subscription=sub, event=event, limit=1000)
        for name in (None, "doc/up"):
            self.both("events", name=name, limit=1000)

    @invariant()
    def holds(self) -> None:
        """The invariants of DESIGN, as far as a ledger keeps them."""
        if not hasattr(self, "memory"):
            return
        rows = {row.id: row for row in self.memory.book.rows.values()}
        for key, ids in self.emitted.items():  # 1
            event = self.memory.event(key)
            assert event is not None
            assert (event.runs, event.replayed) == (ids, self.replayed.get(key, []))
        open_runs = Counter(row.event for row in rows.values() if not row.final)
        for key in self.memory.book.events:  # 5
            event = self.memory.event(key)
            assert event is not None
            assert event.open == open_runs[key], key
        assert sum(self.memory.counts().values()) == len(rows)
        for row in rows.values():
            self.check_row(row, rows)
        for (run_id, field, reopened), text in self.values.items():  # 3
            row = rows[run_id]
            if row.reopened == reopened:
                assert row.checkpoints[field] == text

    def check_row(self, row: Any, rows: Any) -> None:
        # 6: what is not final has a timer; what is, or is held back, has none
        assert (row.due is None) == (row.final or row.state is S.GATED), row
        assert row.crashes <= RULES.max_crashes  # 7
        assert row.token <= len(self.tokens.get(row.id, ())) + 1 + row.reopened
        if row.final:
            assert not row.waits
        if row.state is S.SUSPENDED and row.waits_for and row.waits_for != WAIT:
            # who waits for children is woken with the last of them
            left = [c for c in row.children if c in rows and rows[c].group == row.waits_for]
            assert any(not rows[child].final for child in left), row
        if row.state is S.SUSPENDED and row.waits_for == WAIT:
            assert WAIT in row.waits

    def teardown(self) -> None:
        """6: everything comes to an end. 9: nothing is left over."""
        if not hasattr(self, "memory"):
            return
        for sub in SUBS:
            self.both("resume", sub)
        for _ in range(300):
            taken = self.both("take", limit=1000)
            for wakeup in taken.wakeups:
                found = self.claimed(wakeup.run_id, "w9", retries=wakeup.retries)
                if found.status == "claimed":
                    self.both("settle", wakeup.run_id, found.token, S.SUCCEEDED, result="1")
            left = [row for row in self.memory.book.rows.values() if not row.final]
            if not left:
                break
            self.clock.now = max(self.clock.now, min(row.due or 0.0 for row in left))
        self.alike()
        self.holds()
        assert [row for row in self.memory.book.rows.values() if not row.final] == []
        self.check_fan_ins()
        self.check_leaks()
        self.redis.client.close()

    def check_fan_ins(self) -> None:
        for key, (new, _) in self.drafts.items():
            if new.then_id:
                run = self.memory.run(new.then_id)
                swept = self.clock.now - self.drafts[key][1] >= RULES.success_retention
                assert run is not None or swept, key

    def check_leaks(self) -> None:
        """What is for runs that have not ended is gone with the last of them."""
        root = "{fanout}"
        assert self.redis.client.zcard(f"{root}:due") == 0
        for pattern in ("wp:*", "wv:*", "g:*"):
            assert self.redis.client.keys(f"{root}:{pattern}") == []
