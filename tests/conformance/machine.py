"""A state machine that drives the twin and the scripts with the same calls.

The scripts run in Redis and on the embedded Lua. After every call the machine compares the answers
of the three, and after every action all that they have; in the end also the keys that the scripts
have made. The invariants 1 to 7 of DESIGN, section 10, are held against a model of what was asked
for. In the end everything has to come to an end, and nothing may be left over.

Some rules are whole errands of a worker or a keeper: at random, calls would seldom come as far as a
child that fails, is retried, and wakes its parent.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from celery_fanout.stores.records import Claim, NewEvent, NewRun, Recorded
from celery_fanout.stores.redis.shards.ledger import ShardedLedger
from celery_fanout.stores.states import FINAL, TRANSITIONS, RunState
from tests.conformance.ledgers import RULES as SHORT
from tests.conformance.ledgers import Clock, done
from tests.conformance.mirror import Mirror
from tests.conformance.twin import Twin
from tests.servers import RedisServer

__all__ = ["RULES", "explore"]

S = RunState

#: Events do not expire here: Redis does that by a clock of its own, which no test moves. Runs do,
#: by the sweep.
RULES = dataclasses.replace(SHORT, event_retention=1e8)
SUBS = ("a@doc/up", "b@doc/up")
WAIT = 's["w",1]'
ERROR = {"type": "Boom", "message": "no", "traceback": "T"}
NUMBERS = (1, 2, 3)
BOOTS = ("w1", "w2")
BOOLEANS = (False, True)

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
    if name in ("release", "resend", "awaiting_follow_up"):  # what is due at one time has no order
        found = sorted(found)
    if name == "take":
        found["ended"].sort()
        found["wakeups"].sort(key=lambda wakeup: wakeup["run_id"])
    if name in ("runs", "events"):
        found.sort(key=lambda record: record.get("id") or record["key"])
    return found


@dataclass(frozen=True)
class Action:
    """One thing that somebody may do."""

    weight: int
    when: Callable[[Any], bool]
    options: Mapping[str, Sequence[Any]]
    method: Callable[..., None]


ACTIONS: list[Action] = []


def always(machine: Any) -> bool:
    return True


def action(
    weight: int, when: Callable[[Any], bool] = always, **options: Sequence[Any]
) -> Callable[[Any], Any]:
    """Add a method to what may be done, so often, when this holds."""

    def add(method: Callable[..., None]) -> Callable[..., None]:
        ACTIONS.append(Action(weight, when, options, method))
        return method

    return add


def any_row(wanted: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda machine: any(map(wanted, machine.twin.book.rows.values()))


emitted = lambda machine: bool(machine.emitted)  # noqa: E731
runs = any_row(always)
active = any_row(lambda row: row.state in ACTIVE)
running = any_row(lambda row: row.state is S.RUNNING)
waited = any_row(lambda row: row.state is S.RUNNING and WAIT in row.checkpoints)
completing = any_row(lambda row: row.state is S.COMPLETING)
children = any_row(lambda row: (row.parent or row.kind == "fan-in") and not row.final)
dead = any_row(lambda row: row.state in (S.FAILED, S.CANCELLED))


class Ledgers:
    """The twin and the scripts, driven with the same calls.

    Args:
        server: the Redis server of the scripts; it is emptied.
        shards: of the ledger there; with more than one it is not on the embedded Lua too.
        thorough: whether to compare all that they have after each action, and not only in the end.
    """

    def __init__(self, server: RedisServer, shards: int = 1, *, thorough: bool = True) -> None:
        self.shards = shards
        self.thorough = thorough
        self.clock = Clock()
        self.twin = Twin(RULES, self.clock)
        self.scripts: Any
        if shards == 1:
            self.scripts = Mirror(server.url(), RULES, self.clock)
        else:
            server.flush()
            self.scripts = ShardedLedger(server.url(), RULES, shards, clock=self.clock)
        self.numbers = itertools.count(1)
        self.emitted: dict[str, list[str]] = {}  # event to the runs of its last emit
        self.replayed: dict[str, list[str]] = {}
        self.drafts: dict[str, tuple[NewEvent, float]] = {}  # event to its last emit
        self.tokens: dict[str, set[int]] = {}  # run to the tokens that it ever had
        self.values: dict[tuple[str, str, int], str] = {}  # final checkpoints, until forgotten
        self.states: dict[str, tuple[S, int, float | None]] = {}
        self.story: list[str] = []  # what was done

    # -- asking both ----------------------------------------------------------------------------

    def both(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call both ledgers, and compare their answers."""
        if self.shards > 1 and kwargs.get("limit"):
            kwargs["limit"] = 1000  # each shard has its own order: others would be left out
        left = getattr(self.twin, name)(*args, **kwargs)
        right = getattr(self.scripts, name)(*args, **kwargs)
        if self.shards > 1 and name == "take" and args:  # only the shards of these runs were asked
            right = dataclasses.replace(right, next_due=left.next_due)
        assert normal(name, left) == normal(name, right), name
        self.check_transitions(name)
        return left

    def check_transitions(self, name: str) -> None:
        """4: states follow one another as they may; an end is an end, until it is reopened."""
        for row in self.twin.book.rows.values():
            was, reopened, finished = self.states.get(row.id, (row.state, 0, None))
            assert was is row.state or row.state in TRANSITIONS[was], (name, row.id, was, row.state)
            if was in FINAL and reopened == row.reopened:
                assert (row.state, row.finished) == (was, finished), name
            self.states[row.id] = (row.state, row.reopened, row.finished)

    def nonce(self) -> str:
        return f"n{next(self.numbers)}"

    def pick(self, wanted: Callable[[Any], bool]) -> Any:
        """Draw a run: mostly one that is wanted, and sometimes any."""
        rows = [row for row in self.twin.book.rows.values() if self.twin.book.row(row.id)]
        rows.sort(key=lambda row: row.id)
        good = [row for row in rows if wanted(row)]
        if good and self.random.randrange(6):
            rows = good
        return self.random.choice(rows) if rows else None

    def pick_running(self) -> tuple[str, int, Any]:
        """Draw a run with the token of its holder, or sometimes another."""
        row = self.pick(lambda row: row.state is S.RUNNING)
        stale = self.random.randrange(8) == 7
        return row.id, max(0, row.token - stale), row

    def act(self, seed: float) -> None:
        """Do one thing of those that are possible now, and compare all that both have then."""
        self.random = Random(seed)
        possible = [each for each in ACTIONS if each.when(self)]
        (chosen,) = self.random.choices(possible, [each.weight for each in possible])
        options = {key: self.random.choice(values) for key, values in chosen.options.items()}
        shown = ", ".join(f"{key}={value}" for key, value in options.items())
        self.story.append(f"{chosen.method.__name__}({shown})")
        chosen.method(self, **options)
        if self.thorough:
            self.compare()

    # -- events ---------------------------------------------------------------------------------

    @action(
        4,
        number=NUMBERS,
        subs=[SUBS, SUBS[:1], ()],
        delay=[None, None, 40.0],
        patience=[None, None, 60.0],
        then=BOOLEANS,
        cancels=BOOLEANS,
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
        # the last one by another event of this name, or by itself when it is emitted again
        pairs = {"doc/gone": number, "doc/stop": None, "doc/up": self.random.choice(NUMBERS)}
        cancel_on = tuple(
            (name, "{}" if n is None else json.dumps({"n": n})) for name, n in pairs.items()
        )

        def draft(generation: int) -> NewEvent:
            return NewEvent(
                key,
                "doc/up",
                json.dumps({"id": key}),
                json.dumps({"n": number}),
                [
                    NewRun(
                        f"{key}-{sub[0]}-{generation}",
                        sub,
                        queue="q",
                        cancel_on=cancel_on if cancels else (),
                    )
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

    @action(1, emitted)
    def emit_again(self) -> None:
        """The answer was lost, or somebody uses the id again."""
        key = self.random.choice(sorted(self.emitted))
        new, at = self.drafts[key]
        found = self.record(new)
        assert (found.status == "repeat") == (at + RULES.dedup_window > self.clock.now)

    @action(
        4,
        number=NUMBERS,
        name=["doc/ok", "doc/ok", "doc/gone", "doc/stop"],
        then=BOOLEANS,
    )
    def other_event(self, number: int, name: str, then: bool) -> None:
        key = f"x{next(self.numbers)}"
        more = {"then_id": f"{key}-then", "then_message": "{}"} if then else {}
        self.record(NewEvent(key, name, json.dumps({"id": key}), f'{{"n":{number}}}', **more))

    @action(2, emitted, twice=BOOLEANS, stepped=BOOLEANS, sub=SUBS)
    def replay(self, twice: bool, stepped: bool, sub: str) -> None:
        key = self.random.choice(sorted(self.emitted))
        event = self.twin.event(key)
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

    @action(
        7,
        active,
        boot=BOOTS,
        retries=[0, 0, 0, -1, -1, 1],
        put_back=[False, False, True],
    )
    def claim(self, boot: str, retries: int, put_back: bool) -> None:
        row = self.pick(self.claimable)
        retries = max(0, row.retries + retries)
        self.claimed(row.id, boot, retries=retries, put_back=put_back)

    def claimable(self, row: Any) -> bool:
        over = row.state is S.RUNNING and row.due <= self.clock.now
        return over or row.state in ACTIVE

    def claimed(self, run_id: str, boot: str = "w1", **more: Any) -> Claim:
        nonce = self.nonce()
        row = self.twin.book.row(run_id)
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

    @action(1, number=NUMBERS, again=BOOLEANS)
    def claim_lost(self, number: int, again: bool) -> None:
        """Redis has lost its data, and a message is still there."""
        key = f"l{number}"
        lost = NewEvent(key, "doc/up", f'{{"id":"{key}"}}', "null", [NewRun(f"{key}-a", SUBS[0])])
        self.both("claim", f"{key}-b", "w1", self.nonce())
        for _ in range(1 + again):
            self.claimed(f"{key}-a", recreate=lost)

    @action(4, running, step="xyz", final=[True, True, False])
    def store(self, step: str, final: bool) -> None:
        run_id, token, row = self.pick_running()
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

    @action(
        3,
        running,
        to=[S.RETRYING, S.SUSPENDED, S.SUSPENDED, S.PENDING],
        wait=[None, 0.0, 10.0, 100.0],
        step="xyz",
    )
    def leave(self, to: RunState, wait: float | None, step: str) -> None:
        run_id, token, row = self.pick_running()
        options: dict[str, Any] = {"reason": "why"}
        if to is not S.PENDING and wait is not None:
            options["due"] = self.clock.now + wait
        if to is S.RETRYING:
            options.update(retries=row.retries + 1, error=ERROR, trace='{"t":"r"}')
        if step != "z":
            options["checkpoints"] = {f's["{step}",1]': '{"v":1,"s":"waiting","n":0}'}
        self.settled_twice(run_id, token, to, **options)

    @action(
        5,
        running,
        to=[S.SUCCEEDED, S.FAILED, S.CANCELLED, S.COMPLETING, S.COMPLETING],
    )
    def end(self, to: RunState) -> None:
        run_id, token, row = self.pick_running()
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
        row = self.twin.book.row(run_id)
        if first.ok and row is not None and row.state is to:
            assert self.both("settle", run_id, token, to, **options).ok

    @action(4, completing, dispatched=BOOLEANS)
    def finish_completing(self, dispatched: bool) -> None:
        row = self.pick(lambda row: row.state is S.COMPLETING)
        if dispatched:
            self.settled_twice(row.id, row.token, S.SUCCEEDED)
            # a call that was under way all the time
            self.both("settle", row.id, row.token, S.COMPLETING, **self.ending(row, S.COMPLETING))
        else:
            self.claimed(row.id)  # it is delivered again

    # -- waits and children ---------------------------------------------------------------------

    @action(5, running, number=[1, 2, 3, None], leave=(0, 1, 1))
    def wait(self, number: int | None, leave: int) -> None:
        run_id, token, row = self.pick_running()
        due = self.clock.now + 50
        match = "{}" if number is None else f'{{"n":{number}}}'
        options = {"since": row.created, "due": due}
        text = self.both("wait", run_id, token, WAIT, "doc/ok", match, **options)
        assert self.both("wait", run_id, token, WAIT, "doc/ok", match, **options) == text
        if text is not None and json.loads(text)["s"] != "done" and leave:
            self.both("settle", run_id, token, S.SUSPENDED, due=due, group=WAIT, reason="event")

    @action(6, waited)
    def end_wait(self) -> None:
        row = self.pick(lambda row: row.state is S.RUNNING and WAIT in row.checkpoints)
        if WAIT in row.checkpoints:
            self.both("end_wait", row.id, row.token, WAIT)
            self.both("end_wait", row.id, row.token, WAIT)

    @action(
        5,
        running,
        count=NUMBERS,
        kind=["invoke", "parallel"],
        group="gh",
        leave=(0, 1, 2, 3),
    )
    def spawn(self, count: int, kind: Any, group: str, leave: int) -> None:
        run_id, token, row = self.pick_running()
        if run_id.count("-c") > 1:
            return
        self.spawned(row, token, kind, group, count)
        if leave:
            name = f's["{group}",1]'
            self.both("settle", run_id, token, S.SUSPENDED, group=name, reason=kind)

    def spawned(self, row: Any, token: int, kind: Any, group: str, count: int) -> None:
        # the items of a step do not change
        known = {child: k for child, k in row.children.items() if f"-c{group}" in child}
        kind, count = next(iter(known.values()), kind), len(known) or count
        name = f's["{group}",1]'
        children = [
            NewRun(
                f"{row.id}-c{group}{n}",
                row.subscription,
                kind,
                "",
                "{}",
                f's["{group}",1,{n}]',
                name,
            )
            for n in range(count)
        ]
        if self.both("spawn", row.id, token, name, children).ok:
            assert self.both("spawn", row.id, token, name, children).ok

    @action(
        6,
        children,
        to=[S.SUCCEEDED, S.SUCCEEDED, S.FAILED, S.CANCELLED],
        all_=BOOLEANS,
    )
    def end_children(self, to: RunState, all_: bool) -> None:
        """A worker executes children, or links, or what else waits for it."""
        rows = [row for row in self.twin.book.rows.values() if not row.final]
        rows = [row for row in rows if row.parent or row.kind == "fan-in"]
        for row in sorted(rows, key=lambda row: row.id)[: None if all_ else 1]:
            if row.state is not S.RUNNING:
                self.both("take", [row.id])
                self.both("mark_published", [row.id])
                self.end_child(row.id, to)

    @action(
        3,
        active,
        ends=[S.FAILED, S.CANCELLED],
        early=[None, S.SUCCEEDED, S.FAILED],
        late=[None, S.SUCCEEDED, S.FAILED],
    )
    def retry_parent(self, ends: RunState, early: RunState | None, late: RunState | None) -> None:
        """A run ends before its children, and is run again; some end before that, some after."""
        row = self.pick(lambda row: row.state in ACTIVE and "-c" not in row.id)
        found = self.claimed(row.id, retries=row.retries)
        if found.status != "claimed":
            return
        self.spawned(row, found.token, "invoke", "g", 2)
        known = [child for child in row.children if "-cg" in child]
        if not known:
            return
        self.end_child(known[0], early)
        if ends is S.FAILED:
            self.both("settle", row.id, found.token, S.FAILED, error=ERROR)
        else:
            self.both("cancel", [row.id], "enough")
        self.both("reopen", row.id, "again")
        self.end_child(known[-1], late)
        found = self.claimed(row.id, retries=row.retries)
        if found.status == "claimed":
            self.spawned(row, found.token, "invoke", "g", 2)
            self.both("settle", row.id, found.token, S.SUSPENDED, group='s["g",1]', reason="invoke")

    def end_child(self, run_id: str, to: RunState | None) -> None:
        row = self.twin.book.row(run_id)
        if row is None or to is None:
            return
        found = self.claimed(row.id, "w2", retries=row.retries)
        if found.status == "claimed":
            self.both("settle", row.id, found.token, to, **self.ending(row, to))

    # -- people ---------------------------------------------------------------------------------

    @action(2, runs, more=BOOLEANS)
    def cancel(self, more: bool) -> None:
        row = self.pick(lambda row: not row.final)
        other = self.pick(lambda row: row.children and not row.final)
        ids = [row.id, other.id] if more else [row.id]
        cancelled, _ = self.both("cancel", [*ids, "nobody"], "enough")
        assert len(set(cancelled)) == len(cancelled)

    @action(4, dead, run=BOOLEANS)
    def reopen(self, run: bool) -> None:
        row = self.pick(lambda row: row.state in (S.FAILED, S.CANCELLED))
        was = row.state
        reopened = self.both("reopen", row.id, "again")
        assert reopened == (was in (S.FAILED, S.CANCELLED))
        if reopened and run:
            self.claimed(row.id)

    @action(1, dead, to=[S.SUCCEEDED, S.FAILED])
    def retry_late(self, to: RunState) -> None:
        """A dead letter is run again when what succeeded beside it is forgotten."""
        row = self.pick(lambda row: row.state is S.FAILED)
        self.clock.advance(RULES.success_retention + 0.5)
        self.sweep()
        if self.twin.book.row(row.id) is None or not self.both("reopen", row.id, "again"):
            return
        found = self.claimed(row.id, retries=row.retries)
        if found.status == "claimed":
            if row.children:
                self.spawned(row, found.token, "invoke", "g", 2)
            self.both("settle", row.id, found.token, to, **self.ending(row, to))

    @action(
        2,
        pause=BOOLEANS,
        sub=SUBS,
        limit=[0, 1, 1000, 1000],
        go_on=BOOLEANS,
    )
    def pause(self, pause: bool, sub: str, limit: int, go_on: bool) -> None:
        if pause:
            self.both("pause", sub)
        else:
            self.both("resume", sub, limit=limit, go_on=go_on)

    # -- keepers and main processes -------------------------------------------------------------

    @action(
        2,
        seconds=[0.5, 5.0, 25.5, 35.5, 35.5, 150.5, 520.5, 1100.5, 2100.5, 5100.5, 90_000.0],
    )
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.sweep()

    @action(4, runs, late=[-0.01, 0.0, 0.0, 0.01])
    def pass_time_to_what_is_due(self, late: float) -> None:
        due = self.twin.take(()).next_due
        if due is not None and due + late > self.clock.now:
            self.clock.now = due + late
            self.sweep()

    def sweep(self) -> None:
        """Forget what has expired: the one ledger does it by itself, the other one so."""
        gone = [row.id for row in self.twin.book.rows.values() if row.gone_at < self.clock.now]
        assert self.both("sweep") == len(gone)
        for run_id in gone:
            self.states.pop(run_id)
            self.tokens.pop(run_id, None)
        self.values = {key: text for key, text in self.values.items() if key[0] not in gone}

    @action(2, runs, boot=BOOTS, does=["renew", "renew", "release"])
    def heartbeat(self, boot: str, does: str) -> None:
        rows = self.twin.book.rows.values()
        held = [row.id for row in rows if row.boot == boot]
        received = self.pick(lambda row: row.state in (S.PENDING, S.PUBLISHED))
        other = self.pick(lambda row: row.state in (S.RUNNING, S.COMPLETING))
        self.both(does, boot, sorted({*held, received.id, other.id, "nobody"}))

    @action(
        3,
        runs,
        grace=[False, False, True],
        publish=["all", "one", "none"],
        limit=[1, 1000, 1000],
        queue=["", "q2"],
    )
    def keep(self, grace: bool, publish: str, limit: int, queue: str) -> None:
        taken = self.both("take", limit=limit, grace=grace)
        ids = [wakeup.run_id for wakeup in taken.wakeups]
        ids = {"all": ids, "one": ids[:1], "none": []}[publish]
        self.both("mark_published", ids, dict.fromkeys(ids, queue))

    @action(3, runs, grace=BOOLEANS)
    def take_some(self, grace: bool) -> None:
        row = self.pick(lambda row: row.due is not None and row.due <= self.clock.now)
        other = self.pick(lambda row: not row.final)
        self.both("take", [row.id, other.id, row.id, "nobody"], grace=grace)

    @action(2, runs)
    def publish(self) -> None:
        row = self.pick(lambda row: row.state is S.PENDING)
        self.both("mark_published", [row.id, "nobody"])

    @action(2, running, boot=[None, None, None, "w1"], final=BOOLEANS)
    def abandon(self, boot: str | None, final: bool) -> None:
        row = self.pick(lambda row: row.state is S.RUNNING)
        self.both("abandon", row.id, boot or row.boot or "w1", ERROR, final=final)

    @action(2, active, retried=BOOLEANS, stale=BOOLEANS)
    def crash_again_and_again(self, retried: bool, stale: bool) -> None:
        """7: a run that kills its workers ends."""
        row = self.pick(lambda row: row.state in ACTIVE)
        if retried:
            found = self.claimed(row.id, retries=row.retries)
            if found.status == "claimed":
                more: Any = {"retries": row.retries + 1, "due": self.clock.now, "error": ERROR}
                self.both("settle", row.id, found.token, S.RETRYING, **more)
        crashes = row.crashes
        while crashes < RULES.max_crashes:
            if self.claimed(row.id, retries=row.retries).status != "claimed":
                return
            self.clock.advance(RULES.lease)
            self.sweep()
            if stale and row.retries:
                assert self.claimed(row.id, retries=row.retries - 1).status == "stale"
            self.both("take", [row.id])
            crashes += 1
        assert (row.state, row.crashes) == (S.FAILED, RULES.max_crashes)

    @action(2, runs, times=[1, 1, 2, 3], delay=[5.0, 255.0])
    def unregistered(self, times: int, delay: float) -> None:
        row = self.pick(lambda row: row.state in (S.PENDING, S.PUBLISHED))
        for _ in range(times):
            self.both("unregistered", row.id, delay)
            self.clock.advance(RULES.unregistered / 2)
            self.sweep()

    @action(1, age=[0.0, 15.0], queue=["q", "q2"])
    def resend(self, age: float, queue: str) -> None:
        found = self.both("resend", queue, self.clock.now - age, limit=1000)
        self.both("take", found)

    @action(3, dead, older=[0.0, 20.0], tell=BOOLEANS)
    def tell(self, older: float, tell: bool) -> None:
        for run_id in self.both("awaiting_follow_up", older_than=older, limit=1000):
            row = self.twin.book.row(run_id)
            assert row is not None
            if not tell:
                continue
            if row.kind == "on_failure":
                self.both("followed_up", run_id)
                continue
            child = NewRun(f"{run_id}-f{row.reopened}", row.subscription, "on_failure", message="1")
            new = f"{run_id}-f{row.reopened}" not in self.twin.book.rows
            assert self.both("adopt", run_id, child) == new
            assert not self.both("adopt", run_id, child)
            self.both("followed_up", run_id)

    # -- all that they have ---------------------------------------------------------------------

    def compare(self) -> None:
        self.alike()
        self.holds()

    def compare_keys(self) -> None:
        if isinstance(self.scripts, Mirror):
            self.scripts.compare()

    def alike(self) -> None:
        """Both have the same."""
        rows = sorted(self.twin.book.rows)
        for run_id in rows:
            assert plain(self.twin.run(run_id)) == plain(self.scripts.run(run_id))
        for name, args in (("outcomes", [rows]), ("counts", []), ("paused", [])):
            left, right = getattr(self.twin, name)(*args), getattr(self.scripts, name)(*args)
            assert plain(left) == plain(right), name
        for key in self.twin.book.events:
            assert plain(self.twin.event(key)) == plain(self.scripts.event(key))

    @action(1, state=[None, *S], sub=[None, *SUBS], number=NUMBERS)
    def look(self, state: RunState | None, sub: str | None, number: int) -> None:
        for event in (None, f"e{number}"):
            self.both("runs", state=state, subscription=sub, event=event, limit=1000)
        for name in (None, "doc/up"):
            self.both("events", name=name, limit=1000)

    def holds(self) -> None:
        """The invariants of DESIGN, as far as a ledger keeps them."""
        rows = {row.id: row for row in self.twin.book.rows.values()}
        for key, ids in self.emitted.items():  # 1
            event = self.twin.event(key)
            assert event is not None
            assert (event.runs, event.replayed) == (ids, self.replayed.get(key, []))
        open_runs = Counter(row.event for row in rows.values() if not row.final)
        for key in self.twin.book.events:  # 5
            event = self.twin.event(key)
            assert event is not None
            assert event.open == open_runs[key], key
        assert sum(self.twin.counts().values()) == len(rows)
        for row in rows.values():
            self.check_row(row, rows)
        for (run_id, field, reopened), text in self.values.items():  # 3
            row = rows[run_id]
            if row.reopened == reopened:
                assert row.checkpoints[field] == text

    def check_row(self, row: Any, rows: Any) -> None:
        # 6: what is not final has a timer; what is has none, and what is held back that of its end
        held = row.state is S.GATED
        assert (row.due is None) == (row.final or (held and row.timeout is None)), row
        if held:
            assert row.due == row.timeout, row
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

    def end_all(self) -> None:
        """6: everything comes to an end. 9: nothing is left over."""
        self.story.append("end_all()")
        self.compare()
        self.compare_keys()
        for sub in SUBS:
            self.both("resume", sub)
        for _ in range(300):
            taken = self.both("take", limit=1000)
            for wakeup in taken.wakeups:
                found = self.claimed(wakeup.run_id, "w9", retries=wakeup.retries)
                if found.status == "claimed":
                    self.both("settle", wakeup.run_id, found.token, S.SUCCEEDED, result="1")
            left = [row for row in self.twin.book.rows.values() if not row.final]
            if not left:
                break
            self.clock.now = max(self.clock.now, min(row.due or 0.0 for row in left))
            self.sweep()
        self.compare()
        assert [row for row in self.twin.book.rows.values() if not row.final] == []
        self.check_fan_ins()
        self.check_leaks()
        self.compare_keys()

    def close(self) -> None:
        self.scripts.close()

    def check_fan_ins(self) -> None:
        for key, (new, _) in self.drafts.items():
            if new.then_id:
                run = self.twin.run(new.then_id)
                swept = self.clock.now - self.drafts[key][1] >= RULES.success_retention
                assert run is not None or swept, key

    def check_leaks(self) -> None:
        """9: what belonged to runs is gone with the last of them."""
        self.clock.advance(RULES.failure_retention + 1)
        self.sweep()
        client: Any = self.scripts.client
        for pattern in ("r:*", "d:*", "s:*", "u:*", "due", "wp:*", "wv:*", "g:*"):
            assert client.keys(f"{{fanout*}}:{pattern}") == []
        assert client.keys("*:news") == []
        for key in client.keys("{fanout*}:[et]:*"):
            assert client.ttl(key) > 0


def _play(
    make: Callable[[], Ledgers], seeds: Sequence[float]
) -> tuple[list[str], BaseException | None]:
    ledgers = make()
    try:
        for seed in seeds:
            ledgers.act(seed)
        ledgers.end_all()
    except Exception as exc:  # noqa: BLE001 - a script's error is a finding too
        return ledgers.story, exc
    finally:
        ledgers.close()
    return ledgers.story, None


def explore(
    server: RedisServer,
    seed: Any,
    stories: int,
    steps: int = 50,
    shards: int = 1,
    *,
    thorough: bool = True,
) -> int:
    """Play stories of so many steps; return how many until one fails.

    Raises:
        AssertionError: if one does, with what was done, shortened.
    """

    def make() -> Ledgers:
        return Ledgers(server, shards, thorough=thorough)

    for number in range(1, stories + 1):
        random = Random(f"{seed} {number}")
        seeds = [random.random() for _ in range(steps)]
        story, error = _play(make, seeds)
        if error is not None:
            seeds, story, error = _shortened(make, seeds[: len(story)], story, error)
            told = "\n".join(story)
            raise AssertionError(
                f"seed {seed!r}, story {number}, shortened to {len(seeds)} steps:\n{told}"
            ) from error
    return stories


def _shortened(
    make: Callable[[], Ledgers], seeds: list[float], story: list[str], error: BaseException
) -> tuple[list[float], list[str], BaseException]:
    """Leave out what a story that fails can do without."""
    size = len(seeds) // 2
    while size:
        for start in range(len(seeds) - size, -1, -size):
            fewer = seeds[:start] + seeds[start + size :]
            told, found = _play(make, fewer)
            if found is not None:
                seeds, story, error = fewer[: len(told)], told, found
        size //= 2
    return seeds, story, error
