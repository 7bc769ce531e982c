"""A state machine over flow control: random mixes of options, held against a simple oracle.

The oracle only counts. From what a ledger answers, and from the states of runs, it knows who has a
place; it works out for itself what has to be dropped, cancelled or joined. After every step:

- no limit was exceeded when somebody was let in, and places and waiting runs are as they are listed
- within a lane runs were let in in their order, lanes took turns, and no arrival overtook
- nobody waits who could start
- an event counts the runs of it that are open
- what has to be over by now is

In the end everything comes to its end, and no place is left taken.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from celery_fanout.stores.ledger import Ledger
from celery_fanout.stores.limits import Collect, Flow, Gate, Once, Place, Rate
from celery_fanout.stores.records import Claim, NewEvent, NewRun
from celery_fanout.stores.redis import RedisLedger
from celery_fanout.stores.states import FINAL, RunState
from tests.conformance.ledgers import RULES as SHORT
from tests.conformance.ledgers import Clock
from tests.conformance.mirror import Mirror

__all__ = ["RULES", "Make", "explore"]

S = RunState
Make = Callable[[Clock], Ledger]

#: Nothing is forgotten while a story is told.
RULES = dataclasses.replace(
    SHORT,
    event_retention=1e8,
    dedup_window=1e8,
    success_retention=1e8,
    failure_retention=1e8,
)
ERROR = {"type": "Boom", "message": "no", "traceback": "T"}
SUBS = ("a@doc/up", "b@doc/up")
HELD = (S.PENDING, S.PUBLISHED, S.RUNNING, S.COMPLETING)

#: What few share comes first, as in a flow: who waits for what many share has got as far as that.
PLACES = [
    Place(Gate("singleton queue"), 1, kept=True),
    Place(Gate("concurrency work", "x"), 1),
    Place(Gate("concurrency work", "y"), 2),
    Place(Gate("concurrency app"), 2),
    Place(Gate("concurrency app"), 2),
]
THROTTLES = [Rate(Gate("throttle slow"), 1, 20), Rate(Gate("throttle fast", "k"), 4, 10, burst=1)]
RATE = Rate(Gate("rate_limit rate"), 3, 25)
SKIP = Place(Gate("singleton skip"), 1, kept=True, full="drop")
CANCEL = Place(Gate("singleton cancel"), 1, kept=True, full="cancel")
DEBOUNCE = Collect(Gate("debounce quiet"), "debounce", 6, timeout=15)
BATCH = Collect(Gate("batch some"), "batch", 10, max_size=3)
ONCE = [Once(Gate("idempotency once", value), 40) for value in ("u", "v")]
LIMITS = {each.gate.limit: each for each in [*PLACES, *THROTTLES, RATE, SKIP, CANCEL]}


@dataclass
class Run:
    """What the oracle knows of a run."""

    id: str
    flow: Flow
    sub: str
    number: int
    events: list[str]
    recorded: float
    delayed: bool = False
    state: RunState = S.PENDING
    reason: str = ""
    admitted: bool = False
    charged: bool = False
    held: dict[str, float] = field(default_factory=dict[str, float])  # gate to since when
    token: int = 0
    retries: int = 0
    started: float | None = None
    deadline: float | None = None
    impatient: bool = True
    collects: bool = False
    due: float | None = None
    child: str = ""
    parallel: bool = False  # the child is an item of step.parallel

    @property
    def rank(self) -> tuple[int, int]:
        return (-self.flow.priority, self.number)

    @property
    def lane(self) -> tuple[str, ...]:
        """Those of one lane need the same."""
        needs = [limit.gate.id for limit in self.limits]
        return (self.flow.lane, *(gate for gate in needs if gate not in self.held))

    @property
    def limits(self) -> list[Place | Rate]:
        throttle = self.flow.throttle
        return [*self.flow.places, *([throttle] if throttle and not self.charged else [])]

    @property
    def waits_at(self) -> str:
        """The id of the gate at which it waits."""
        if self.state is not S.GATED or self.collects:
            return ""
        found = [each.gate.id for each in self.limits if each.gate.limit == self.reason]
        return found[0] if found else ""


@dataclass(frozen=True)
class Action:
    """One thing that may happen."""

    weight: int
    method: Callable[..., None]


ACTIONS: list[Action] = []


def action(weight: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a method to what may happen, so often."""

    def add(method: Callable[..., None]) -> Callable[..., None]:
        ACTIONS.append(Action(weight, method))
        return method

    return add


class Admissions:
    """A ledger, and the oracle.

    Args:
        make: makes the ledger.
        thorough: whether to check after each step, and not only how all ends.
    """

    def __init__(self, make: Make, *, thorough: bool = True) -> None:
        self.thorough = thorough
        self.clock = Clock()
        self.random = Random("before the first step")
        self.ledger = make(self.clock)
        self.runs: dict[str, Run] = {}
        self.events: list[str] = []
        self.fan_ins: dict[str, str] = {}
        self.fanned: set[str] = set()
        self.children: dict[str, Run] = {}
        self.numbers = itertools.count(1)
        self.tuned: dict[str, int] = {}
        self.raised = False  # a limit was changed, and nobody has looked since
        self.paused: set[str] = set()
        self.let_through: list[float] = []
        self.once: dict[str, float] = {}
        self.starts: dict[str, list[float]] = defaultdict(list)
        self.turns: Counter[tuple[Any, ...]] = Counter()
        self.story: list[str] = []

    # -- asking ---------------------------------------------------------------------------------

    def ask(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.ledger, name)(*args, **kwargs)

    def record_of(self, run_id: str) -> Any:
        return self.ledger.run(run_id)

    def at_most(self, limit: Place | Rate) -> int:
        return self.tuned.get(limit.gate.limit, limit.at_most)

    def holders(self, gate_id: str) -> list[Run]:
        found = [run for run in self.runs.values() if gate_id in run.held]
        return sorted(found, key=lambda run: (run.held[gate_id], run.number))

    def waiting(self, gate_id: str) -> list[Run]:
        return [run for run in self.runs.values() if run.waits_at == gate_id]

    # -- one step -------------------------------------------------------------------------------

    def act(self, seed: float) -> None:
        self.random = Random(seed)
        (chosen,) = self.random.choices(ACTIONS, [each.weight for each in ACTIONS])
        self.story.append(chosen.method.__name__)
        chosen.method(self)

    def note(self, **words: Any) -> None:
        self.story[-1] += f" {words}"

    def pick(self, *states: RunState) -> Run | None:
        found = [run for run in self.runs.values() if run.state in states]
        return self.random.choice(found) if found else None

    def step(
        self,
        name: str,
        *args: Any,
        let_in: Callable[[Any], Iterable[str]] = lambda answer: (),
        put_out: Iterable[str] = (),
        **kwargs: Any,
    ) -> Any:
        """Ask for a change, see what has become of all runs, and check it.

        Args:
            name: the change.
            args: its arguments.
            let_in: which runs may go on, by its answer.
            put_out: which runs are to be let in again before they go on.
            kwargs: its arguments.
        """
        before = {
            run.id: dataclasses.replace(run, held=dict(run.held)) for run in self.runs.values()
        }
        answer = self.ask(name, *args, **kwargs)
        self.expected(name, args, answer)
        ids = args[0] if args and name == "take" else ()
        self.see(name, before, set(let_in(answer)), set(put_out), ids)
        if self.thorough:
            self.check("take some" if ids else name, before)
        return answer

    def expected(self, name: str, args: Any, answer: Any) -> None:
        """Check what a record has answered, and add its runs."""
        if name != "record":
            return
        ((new,),), (recorded,) = args, answer
        assert recorded.status == "new"
        for run, (run_id, state) in zip(new.runs, recorded.runs, strict=True):
            self.arrive(run, new, run_id, state)

    def arrive(self, new: NewRun, event: NewEvent, run_id: str, state: RunState) -> None:
        flow = new.flow
        assert flow is not None
        collects = [run for run in self.runs.values() if run.collects]
        if event.replay:
            assert (run_id, state != S.CANCELLED) == (new.id, True)
            self.add(new, event)
            return
        if self.is_dropped(flow):
            assert (run_id, state) == (new.id, S.CANCELLED), new.id
            assert self.record_of(run_id).reason.startswith("dropped: ")
            self.add(new, event).events = []
            return
        if flow.rate_limit is not None:
            self.let_through.append(self.clock.now)
        if flow.once is not None:
            self.once[flow.once.gate.id] = self.clock.now + flow.once.ttl
        for run in collects:
            if run.flow.collect == flow.collect:
                assert run_id == run.id, (run_id, run.id)
                run.events.append(event.key)
                run.collects = len(run.events) != flow.collect.max_size
                return
        assert run_id == new.id
        assert state is not S.CANCELLED or CANCEL in flow.places  # by the next one of its event
        run = self.add(new, event)
        run.collects = flow.collect is not None
        self.take_kept(run)

    def take_kept(self, run: Run) -> None:
        """Give a new run the places that it has from the beginning, if need be those of others."""
        for place in run.flow.places:
            if place.full == "cancel":
                # whose end is told: it is seen in its state
                left = [
                    r
                    for r in self.holders(place.gate.id)
                    if self.record_of(r.id).state not in FINAL
                ]
                assert all(self.record_of(r.id).state is S.COMPLETING for r in left) or (
                    len(left) < max(1, self.at_most(place))
                ), "not cancelled"
                if len(left) < self.at_most(place):
                    run.held[place.gate.id] = self.clock.now
            elif place.full == "drop":
                run.held[place.gate.id] = self.clock.now

    def is_dropped(self, flow: Flow) -> bool:
        now = self.clock.now
        if flow.once is not None and self.once.get(flow.once.gate.id, 0) > now:
            return True
        rate = flow.rate_limit
        if rate is not None:
            counted = [at for at in self.let_through if at > now - rate.per + 1e-6]
            if len(counted) >= self.at_most(rate):
                return True
        return any(
            len(self.holders(place.gate.id)) >= self.at_most(place)
            for place in flow.places
            if place.full == "drop"
        )

    def add(self, new: NewRun, event: NewEvent) -> Run:
        assert new.flow is not None
        number = len(self.runs) + 1
        delayed = event.resume_at is not None
        run = Run(new.id, new.flow, new.subscription, number, [event.key], self.clock.now, delayed)
        if delayed:
            run.recorded = event.resume_at or 0.0
        run.admitted = not delayed
        self.runs[new.id] = run
        return run

    # -- seeing ---------------------------------------------------------------------------------

    def see(
        self,
        name: str,
        before: dict[str, Run],
        let_in: set[str],
        put_out: set[str],
        ids: Sequence[str],
    ) -> None:
        """Work out who has which places now."""
        records = {record.id: record for record in self.ledger.runs(limit=10_000)}
        for run in self.runs.values():
            was = before.get(run.id)
            record = records[run.id]
            run.state, run.reason, run.token = record.state, record.reason, record.token
            run.retries, run.due = record.retries, record.due
            if run.state is not S.GATED or run.reason != self.collect_limit(run):
                run.collects = False
            if run.started is None:
                run.started = record.started
            if run.state in FINAL:
                run.held.clear()
            looked_at = name == "take" and (not ids or run.id in ids)
            self.see_admission(run, was, let_in, put_out, looked_at=looked_at)
            if not run.admitted:
                kept = {place.gate.id for place in run.flow.places if place.kept}
                run.held = {gate: at for gate, at in run.held.items() if gate in kept}
        for run in sorted(self.runs.values(), key=lambda run: run.number):
            if run.admitted:
                self.take_places(run)

    def see_admission(
        self, run: Run, was: Run | None, let_in: set[str], put_out: set[str], *, looked_at: bool
    ) -> None:
        """Work out whether a run may go on, and has all its places."""
        keeps = run.state is S.SUSPENDED and bool(run.child) and run.parallel
        if run.state not in HELD and not keeps:
            run.admitted = False
        elif run.id in let_in:
            run.admitted = True
        elif run.id in put_out:
            run.admitted = False
        elif was is not None and was.state is S.GATED:
            run.admitted = bool(was.waits_at or was.collects)
        elif was is not None and looked_at and was.due is not None:
            # it was due, had to wait, and somebody who ended in the same change has let it in
            run.admitted |= was.due <= self.clock.now + 1e-6

    def collect_limit(self, run: Run) -> str:
        return "" if run.flow.collect is None else run.flow.collect.gate.limit

    def take_places(self, run: Run) -> None:
        for place in run.flow.places:
            run.held.setdefault(place.gate.id, self.clock.now)
        throttle = run.flow.throttle
        if throttle is not None and not run.charged:
            run.charged = True
            self.starts[throttle.gate.id].append(self.clock.now)

    # -- checking -------------------------------------------------------------------------------

    def check(self, name: str, before: dict[str, Run]) -> None:
        if name == "take":
            self.raised = False
        self.check_limits(before)
        self.check_starts()
        self.check_lists()
        self.check_order(name, before)
        self.check_turns(before)
        self.check_work(name)
        self.check_events()
        for run in self.runs.values():
            self.check_run(run, name)

    def check_limits(self, before: dict[str, Run]) -> None:
        """Nobody was let in beyond a limit."""
        for place in {p.gate.id: p for p in [*PLACES, SKIP, CANCEL]}.values():
            gate, holders = place.gate.id, self.holders(place.gate.id)
            new = [
                run.id for run in holders if run.id not in before or gate not in before[run.id].held
            ]
            assert not new or len(holders) <= self.at_most(place), (place.gate, new, "too many")

    def check_starts(self) -> None:
        """No throttle let more start than its pace, its burst, and what a late timer may add."""
        for throttle in THROTTLES:
            starts = self.starts[throttle.gate.id]
            if throttle.gate.limit in self.tuned or not starts:
                continue
            pace = throttle.per / throttle.at_most
            more = 1 + throttle.burst + max(1.0, 0.1 / pace)
            last = starts[-1]
            for count, at in enumerate(reversed(starts), start=1):
                assert count <= (last - at) / pace + more + 1e-6, (throttle.gate, "too fast")

    def check_lists(self) -> None:
        """Places and waiting runs are as they are listed: none leaks."""
        listed = {record.gate.id: record for record in self.ask("gates", most=1000)}
        for limit in [*PLACES, SKIP, CANCEL, *THROTTLES]:
            record = listed.get(limit.gate.id)
            used, waiting = (0, 0) if record is None else (record.used, record.waiting)
            assert waiting == len(self.waiting(limit.gate.id)), (limit.gate, "waiting")
            if isinstance(limit, Place):
                held = [run.id for run in self.holders(limit.gate.id)]
                assert used == len(held), (limit.gate, used, held)
        for collect in (DEBOUNCE, BATCH):
            record = listed.get(collect.gate.id)
            of_it = [r for r in self.runs.values() if r.collects and r.flow.collect == collect]
            events = [key for run in of_it for key in run.events]
            assert (0 if record is None else record.used) == len(events), (collect.gate, "events")

    def check_order(self, name: str, before: dict[str, Run]) -> None:
        new = [run for run in self.runs.values() if run.admitted and not self.was_in(run, before)]
        for run in new:
            was = before.get(run.id)
            if was is not None and was.waits_at:
                assert run.sub not in self.paused, (run.id, "paused")
            for limit in run.limits if was is None else was.limits:
                gate = limit.gate.id
                if was is not None and gate in was.held:
                    continue
                for other in self.waiting(gate):
                    if other.id not in before or before[other.id].waits_at != gate:
                        continue
                    if was is not None and was.waits_at == gate:
                        alike = other.lane == was.lane
                        assert not alike or run.rank < other.rank, (run.id, other.id, "order")
                    elif (was is None or not was.waits_at) and (
                        name in ("record", "claim") and not self.ended(before)
                    ):
                        full = getattr(limit, "full", "wait")
                        assert full != "wait", (run.id, other.id, "overtaken")

    def was_in(self, run: Run, before: dict[str, Run]) -> bool:
        return run.id in before and before[run.id].admitted

    def ended(self, before: dict[str, Run]) -> bool:
        return any(
            self.runs[was.id].state in FINAL and was.state not in FINAL for was in before.values()
        )

    def let_in(self, gate: str, before: dict[str, Run]) -> Counter[tuple[str, ...]]:
        """Return how many of each lane got a place, or a turn, at a gate."""
        found: Counter[tuple[str, ...]] = Counter()
        for run in self.runs.values():
            was = before.get(run.id)
            if was is None or was.admitted or not run.admitted or gate in was.held:
                continue
            if any(limit.gate.id == gate for limit in was.limits):
                found[was.lane] += 1
        return found

    def forget_turns(self, gate: str, lane: str) -> None:
        for key in self.turns:
            if key[:2] == (gate, lane):
                self.turns[key] = 0

    def check_turns(self, before: dict[str, Run]) -> None:
        """While a lane waits no other one has two turns."""
        for gate in {run.waits_at for run in before.values()} - {""}:
            let_in = self.let_in(gate, before)
            left: dict[str, list[Run]] = defaultdict(list)
            for run in self.waiting(gate):
                if run.id in before and before[run.id].waits_at == gate:
                    left[run.flow.lane].append(run)
            had_a_turn = {lane[0] for lane in let_in}
            # one that was let in, and whose time was over in the same change, has had its lane's
            had_a_turn |= {
                run.flow.lane
                for run in before.values()
                if run.waits_at == gate and self.runs[run.id].state in FINAL
            }
            others = {run.lane for run in before.values()}
            for lane in ("", "x", "y"):
                # those that need more may have gone on to where they are refused
                waits = bool(left[lane]) and all(len(run.limits) == 1 for run in left[lane])
                if not waits or lane in had_a_turn:
                    self.forget_turns(gate, lane)
                    continue
                for other in others:
                    if lane != other[0]:
                        key = (gate, lane, other)
                        self.turns[key] += let_in[other]
                        assert self.turns[key] <= 1, (gate, lane, other, "turns")

    def check_work(self, name: str) -> None:
        """Nobody waits who could start, and whoever waits for the time has a timer."""
        if self.raised:
            return
        next_due = self.ask("take", []).next_due
        for run in self.runs.values():
            if not run.waits_at or any(self.is_full(run, place) for place in run.flow.places):
                continue
            throttle = None if run.charged else run.flow.throttle
            assert throttle is not None, (run.id, "idle")
            most = self.at_most(throttle)
            latest = self.clock.now + throttle.per / max(1, most) + 1e-3
            assert most == 0 or (next_due is not None and next_due <= latest), (run.id, "no timer")

    def is_full(self, run: Run, place: Place) -> bool:
        gate = place.gate.id
        return gate not in run.held and len(self.holders(gate)) >= self.at_most(place)

    def check_events(self) -> None:
        opens = Counter(
            key for run in self.runs.values() if run.state not in FINAL for key in run.events
        )
        for key, then_id in self.fan_ins.items():
            fan_in = self.record_of(then_id)
            if not opens[key]:
                assert fan_in is not None, (key, "fan-in")
                self.fanned.add(key)
            assert (fan_in is not None) == (key in self.fanned), (key, "early fan-in")
            opens[key] += fan_in is not None and fan_in.state not in FINAL
        for child, run in self.children.items():
            if self.record_of(child).state not in FINAL:
                opens[self.record_of(run.id).event] += 1
        for key in self.events:
            event = self.ledger.event(key)
            assert event is not None
            assert event.open == opens[key], (key, "open")

    def check_run(self, run: Run, name: str) -> None:
        now = self.clock.now
        if run.state is S.GATED and not run.waits_at and not run.collects:
            assert run.sub in self.paused, (run.id, run.reason)
        collect = run.flow.collect
        if run.collects and collect is not None and run.due is not None:
            latest = collect.period if collect.timeout is None else collect.timeout
            assert run.due <= run.recorded + latest + 1e-6, (run.id, "collects too long")
        if name != "take":
            return
        timeout = run.flow.start_timeout
        if run.state is S.GATED and timeout is not None and run.started is None and run.impatient:
            assert now < run.recorded + timeout, (run.id, "start_timeout")
        if run.state in (S.GATED, S.SUSPENDED, S.RETRYING) and run.deadline is not None:
            assert now < run.deadline, (run.id, "finish_timeout")

    # -- what may happen ------------------------------------------------------------------------

    def flow(self) -> Flow:
        random = self.random
        places = random.sample(PLACES, random.choice([0, 1, 1, 1, 2, 2]))
        places = list({place.gate.limit: place for place in places}.values())
        places.sort(key=PLACES.index)
        throttle = random.choice([None, None, *THROTTLES])
        more: dict[str, Any] = {}
        extra = random.choice(["", "", "", "", "rate", "once", "both", "both", *FULLS, *COLLECTS])
        if extra in ("rate", "both"):
            more["rate_limit"] = RATE
        if extra in ("once", "both"):
            more["once"] = random.choice(ONCE)
        if extra in FULLS:
            places.insert(0, FULLS[extra])
        if extra in COLLECTS:
            more["collect"] = COLLECTS[extra]
        return Flow(
            tuple(places),
            throttle,
            lane=random.choice(["", "x", "y"]),
            priority=random.choice([0, 0, 0, 9]),
            start_timeout=random.choice([None, None, 45.0]),
            finish_timeout=random.choice([None, None, 70.0]),
            **more,
        )

    @action(12)
    def emit(self) -> None:
        key = f"e{len(self.events)}"
        subs = self.random.choice([SUBS[:1], SUBS[:1], SUBS[1:], SUBS])
        flows = {sub: self.flow() for sub in subs}
        delay = self.random.choice([None, None, None, None, 9.0])
        if any(flow.collect for flow in flows.values()):
            delay = None
        then = self.random.choice([True, False])
        self.note(flows=flows, delay=delay)
        self.emitted(key, flows, None if delay is None else self.clock.now + delay, then=then)

    @action(5)
    def emit_many(self) -> None:
        """Many of a kind: lanes get long."""
        flow = self.flow()
        subs = [self.random.choice(SUBS) for _ in range(4)]
        lanes = [self.random.choice(["", "x", "y"]) for _ in range(4)]
        self.note(flow=flow, lanes=lanes)
        for sub, lane in zip(subs, lanes, strict=True):
            self.emitted(f"e{len(self.events)}", {sub: dataclasses.replace(flow, lane=lane)})

    def emitted(
        self,
        key: str,
        flows: dict[str, Flow],
        resume_at: float | None = None,
        *,
        then: bool = False,
    ) -> None:
        runs = [NewRun(f"{key}-{sub[0]}", sub, queue="q", flow=flow) for sub, flow in flows.items()]
        data = json.dumps({"key": key})
        new = NewEvent(key, "doc/up", data, data, runs, resume_at=resume_at)
        if then:
            self.fan_ins[key] = f"{key}-then"
            new = dataclasses.replace(new, then_id=f"{key}-then", then_message="{}")
        self.events.append(key)
        self.step("record", [new])
        found = self.ask("record", [new])[0]  # the answer was lost
        assert found.status == "repeat"
        for run_id, state in found.runs:
            assert self.runs[run_id].state is state

    @action(1)
    def replay(self) -> None:
        if not self.events:
            return
        key = self.random.choice(self.events)
        event = self.ledger.event(key)
        assert event is not None
        flow, sub = self.flow(), self.random.choice(SUBS)
        generation = event.generation + 1
        run_id = f"{key}-r{generation}"
        self.note(run_id=run_id, flow=flow)
        new = NewEvent(
            key,
            "doc/up",
            event.attributes,
            event.data,
            [NewRun(run_id, sub, flow=flow)],
            generation,
            replay=True,
            nonce=run_id,
        )
        self.step("record", [new])

    def claimed(self, run: Run) -> Claim:
        nonce = f"n{next(self.numbers)}"
        was, now = run.state, self.clock.now
        answer: Claim = self.step(
            *("claim", run.id, "w", nonce),
            retries=run.retries,
            let_in=lambda answer: [run.id] if answer.status == "claimed" else [],
        )
        if was is S.GATED and answer.status == "claimed":
            assert run.waits_at == ""
        if answer.status == "claimed":
            timeout = run.flow.start_timeout
            if timeout is not None and run.started == now and run.impatient:
                assert now < run.recorded + timeout, (run.id, "claimed too late")
            if run.deadline is None and run.flow.finish_timeout is not None:
                run.deadline = now + run.flow.finish_timeout
            assert run.deadline is None or now < run.deadline
        return answer

    @action(10)
    def claim(self) -> None:
        run = self.pick(S.PENDING, S.PUBLISHED)
        if run:
            self.note(run=run.id)
            self.claimed(run)

    @action(3)
    def claim_any(self) -> None:
        run = self.pick(*S)
        if not run:
            return
        self.note(run=run.id)
        state, paused = run.state, run.sub in self.paused
        waits = bool(run.waits_at or run.collects)
        status = self.claimed(run).status
        if state is S.GATED:
            allowed = {"paused"} if paused else {"gated"} if waits else {"claimed", "gated"}
            assert status in {*allowed, "expired"}, status

    @action(9)
    def settle(self) -> None:
        run = self.pick(S.RUNNING)
        if not run or run.child:
            return
        to = self.random.choice(
            [
                *[S.SUCCEEDED] * 4,
                S.FAILED,
                S.CANCELLED,
                S.SUSPENDED,
                S.SUSPENDED,
                S.RETRYING,
                S.PENDING,
            ]
        )
        self.note(run=run.id, to=to)
        more: dict[str, Any] = {}
        if to is S.FAILED:
            more["error"] = ERROR
        if to in (S.SUSPENDED, S.RETRYING):
            more["due"] = self.clock.now + self.random.choice([0.0, 4.0, 12.0])
        if to is S.RETRYING:
            more["retries"] = run.retries + 1
        for _ in range(2):
            assert self.step("settle", run.id, run.token, to, **more).ok

    @action(2)
    def complete(self) -> None:
        """Its tail is dispatched; sometimes the worker dies while it is."""
        run = self.pick(S.RUNNING, S.COMPLETING)
        if not run or run.child:
            return
        self.note(run=run.id, state=run.state)
        if run.state is S.RUNNING:
            self.step("settle", run.id, run.token, S.COMPLETING, result="1")
        else:
            self.step("settle", run.id, run.token, S.SUCCEEDED)

    @action(3)
    def fan(self) -> None:
        """Leave the worker to an item of step.parallel, or to a run that is invoked."""
        run = self.pick(S.RUNNING)
        if not run or run.child:
            return
        child, group = f"{run.id}-c{run.token}", f's["p",{run.token}]'
        kind = self.random.choice(["parallel", "parallel", "invoke"])
        self.note(run=run.id, kind=kind)
        new = NewRun(child, run.sub, kind, message="{}", field=f's["p",{run.token},0]', group=group)
        self.ask("spawn", run.id, run.token, group, [new])
        self.children[child] = run
        run.child, run.parallel = child, kind == "parallel"
        self.step("settle", run.id, run.token, S.SUSPENDED, group=group)
        if kind == "invoke":
            self.end_child(run, child)

    @action(3)
    def join(self) -> None:
        found = [run for run in self.runs.values() if run.child]
        if found:
            run = self.random.choice(found)
            self.note(run=run.id)
            self.end_child(run, run.child)

    def end_child(self, run: Run, child: str) -> None:
        found = self.ask("claim", child, "w", f"n{next(self.numbers)}")
        if found.status in ("paused", "held"):
            return
        self.ask("settle", child, found.token, S.SUCCEEDED, result="1")
        if run.child and run.state is S.SUSPENDED:
            self.step("take", [run.id], let_in=self.wakeups)
        run.child = ""

    def wakeups(self, taken: Any) -> list[str]:
        return [wakeup.run_id for wakeup in taken.wakeups]

    @action(10)
    def tick(self) -> None:
        """The keeper looks, some time later; it publishes what it finds, mostly."""
        seconds = self.random.choice([0.0, 0.0, 0.5, 3.0, 7.0, 20.0])
        self.clock.advance(seconds)
        self.taken()

    @action(4)
    def tick_on_time(self) -> None:
        due = self.ask("take", []).next_due
        if due is not None and due > self.clock.now:
            self.clock.now = due + self.random.choice([0.0, 0.0, 0.3])
        self.taken()

    def taken(self) -> list[str]:
        answer = self.step("take", limit=1000, let_in=self.wakeups)
        ids = self.wakeups(answer)
        for wakeup in answer.wakeups:
            run = self.runs.get(wakeup.run_id)
            if run is not None and run.flow.collect is not None:
                assert list(wakeup.events) == self.record_of(run.id).detail["events"]
        if self.random.randrange(3):
            self.step("mark_published", ids)
        return ids

    @action(2)
    def take_some(self) -> None:
        ids = [run.id for run in self.runs.values() if self.random.randrange(2)]
        if ids:
            self.step("take", ids, let_in=self.wakeups)

    @action(3)
    def crash(self) -> None:
        """Workers die: their leases end."""
        self.clock.advance(RULES.lease)
        self.taken()

    @action(3)
    def renew(self) -> None:
        self.clock.advance(self.random.choice([5.0, 20.0]))
        ids = [run.id for run in self.runs.values() if run.state is S.RUNNING]
        self.step("renew", "w", ids)
        for run in map(self.runs.__getitem__, ids):
            late = run.deadline is not None and run.deadline <= self.clock.now
            assert run.state is (S.CANCELLED if late else S.RUNNING), (run.id, "renew")

    @action(1)
    def abandon(self) -> None:
        run = self.pick(S.RUNNING)
        if run and not run.child:
            final = self.random.choice([True, False])
            self.note(run=run.id, final=final)
            self.step("abandon", run.id, "w", ERROR, final=final)

    @action(1)
    def unregistered(self) -> None:
        run = self.pick(S.PENDING, S.PUBLISHED)
        if run:
            self.note(run=run.id)
            self.step("unregistered", run.id, 8.0, put_out=[run.id])

    @action(3)
    def cancel(self) -> None:
        run = self.pick(S.GATED, S.PENDING, S.RUNNING, S.SUSPENDED, S.RETRYING)
        if run:
            self.note(run=run.id)
            self.step("cancel", [run.id], "enough")
            run.child = ""

    @action(2)
    def reopen(self) -> None:
        run = self.pick(S.FAILED, S.CANCELLED)
        if run:
            self.note(run=run.id)
            run.events = run.events or [self.record_of(run.id).event]
            run.deadline, run.impatient, run.child = None, False, ""
            run.charged = False
            assert self.step("reopen", run.id, "again", put_out=[run.id])

    @action(2)
    def pause(self) -> None:
        sub = self.random.choice(SUBS)
        self.note(sub=sub)
        self.paused.add(sub)
        self.step("pause", sub)

    @action(3)
    def resume(self) -> None:
        sub = self.random.choice(SUBS)
        self.note(sub=sub)
        self.resumed(sub)

    def resumed(self, sub: str) -> None:
        self.paused.discard(sub)
        held = [
            r.id for r in self.runs.values() if r.sub == sub and not r.waits_at and not r.collects
        ]
        self.step("resume", sub, put_out=[i for i in held if self.runs[i].state is S.GATED])

    @action(2)
    def tune(self) -> None:
        limit = self.random.choice(sorted(LIMITS))
        most = self.random.choice([None, 0, 1, 2, 3])
        self.note(limit=limit, most=most)
        self.tuned_to(limit, most)

    def tuned_to(self, limit: str, most: int | None) -> None:
        if most is None:
            self.tuned.pop(limit, None)
        else:
            self.tuned[limit] = most
        for throttle in THROTTLES:
            if throttle.gate.limit == limit:
                self.starts[throttle.gate.id].clear()
        self.raised = True
        self.step("tune", limit, most)
        if most is None or self.random.randrange(2):
            self.taken()

    @action(1)
    def sweep(self) -> None:
        assert self.ask("sweep") == 0

    # -- the end --------------------------------------------------------------------------------

    def end_all(self) -> None:
        """Everything comes to its end, and nothing is left over."""
        self.story.append("end_all")
        self.compare()
        for limit in sorted(self.tuned):
            self.tuned_to(limit, None)
        for sub in SUBS:
            self.resumed(sub)
        for run in self.runs.values():
            if run.child:
                self.end_child(run, run.child)
        for _ in range(500):
            self.taken()
            self.end_what_runs()
            left = [run for run in self.runs.values() if run.state not in FINAL]
            if not left:
                break
            due = self.ask("take", []).next_due
            assert due is not None, ("lost", [run.id for run in left])
            self.clock.now = max(self.clock.now, due)
        assert [run.id for run in self.runs.values() if run.state not in FINAL] == []
        for record in self.ask("gates", most=1000):
            if record.kind not in ("throttle", "rate_limit"):
                assert (record.used, record.waiting) == (0, 0), record
        self.compare()

    def compare(self) -> None:
        """The scripts do the same on the embedded Lua and in Redis, if both are there."""
        if isinstance(self.ledger, Mirror):
            self.ledger.compare()

    def end_what_runs(self) -> None:
        for run in list(self.runs.values()):
            if run.state in (S.PENDING, S.PUBLISHED):
                self.claimed(run)
            if run.state in (S.RUNNING, S.COMPLETING):
                self.step("settle", run.id, run.token, S.SUCCEEDED)


FULLS = {"skip": SKIP, "cancel": CANCEL}
COLLECTS = {"debounce": DEBOUNCE, "batch": BATCH}


def _play(
    make: Callable[[], Admissions], seeds: Sequence[float]
) -> tuple[list[str], BaseException | None]:
    machine = make()
    try:
        for seed in seeds:
            machine.act(seed)
        machine.end_all()
    except Exception as exc:  # noqa: BLE001 - an error of a ledger is a finding too
        return machine.story, exc
    finally:
        if isinstance(machine.ledger, RedisLedger):
            machine.ledger.close()
    return machine.story, None


def explore(
    ledger: Make, seed: Any, stories: int, steps: int = 40, *, thorough: bool = True
) -> int:
    """Play stories of so many steps; return how many.

    Raises:
        AssertionError: if one fails, with what was done, shortened.
    """

    def make() -> Admissions:
        return Admissions(ledger, thorough=thorough)

    for number in range(1, stories + 1):
        random = Random(f"{seed} {number}")
        seeds = [random.random() for _ in range(steps)]
        story, error = _play(make, seeds)
        if error is not None:
            story, error = _shortened(make, seeds[: len(story)], story, error)
            told = "\n".join(story)
            raise AssertionError(f"seed {seed!r}, story {number}:\n{told}") from error
    return stories


def _shortened(
    make: Callable[[], Admissions], seeds: list[float], story: list[str], error: BaseException
) -> tuple[list[str], BaseException]:
    """Leave out what a story that fails can do without."""
    size = len(seeds) // 2
    while size:
        for start in range(len(seeds) - size, -1, -size):
            fewer = seeds[:start] + seeds[start + size :]
            told, found = _play(make, fewer)
            if found is not None:
                seeds, story, error = fewer[: len(told)], told, found
        size //= 2
    return story, error
