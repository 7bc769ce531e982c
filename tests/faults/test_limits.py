"""Each option of flow control with four prefork workers: never exceeded, and used fully.

Two things are held for each. What the tasks wrote down, by a clock that all processes of the
machine share, never exceeds the limit: without any tolerance, see ``intervals.py``. And by what the
ledger says, by its own clock, nobody waited or was dropped while there was room. That is exact too,
whatever else the machine does meanwhile. How much of a limit the tasks themselves measured depends
on how soon a free place's next run begins, and so on the machine: it is printed, and held to be
95 % in the full form only (``FAULTS=full``, and nothing else that is busy).
"""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from celery_fanout.model.ids import event_key
from celery_fanout.stores.records import RunRecord
from celery_fanout.stores.states import RunState
from tests.faults.intervals import ahead, by_key, most_at_once, most_within, spans, used
from tests.faults.limiting import Limits, check_full_while_waiting, open_limits
from tests.faults.limits import (
    AT_ONCE,
    BURST,
    COLLECTS,
    LET_THROUGH,
    NOT_LATER_THAN,
    PER_KEY,
    QUIET,
    SHARED,
    SIZE,
    STARTS,
    TIMEOUT,
    WINDOW,
)
from tests.processes import wait_until

S = RunState

#: What has to be used of what is permitted, while there is a backlog.
FULLY = 0.95

#: Seconds are kept with microseconds, and a difference of two of them has an error.
BLUR = 1e-5


@pytest.fixture(scope="module")
def four_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Limits]:
    """The app with four workers of two processes each, for all of these tests."""
    with open_limits(tmp_path_factory.mktemp("limits")) as found:
        found.start_workers()
        found.warm_up()
        yield found


@pytest.fixture
def limits(four_workers: Limits) -> Iterator[Limits]:
    """The same, with nothing under way."""
    four_workers.emissions.clear()
    yield four_workers
    four_workers.cancel_the_rest()  # of a test that failed


def report(what: str, share: float, bounded: bool) -> None:
    """Print which share of a limit was used, by the tasks' own clocks."""
    print(f"{what}: {100 * share:.1f} % of what is permitted")  # noqa: T201 - make test-faults ARGS=-s shows it
    assert bounded or share >= FULLY, f"{what}: {share}"


# --- concurrency ----------------------------------------------------------------------------------


def test_concurrency(limits: Limits, bounded: bool) -> None:
    number, seconds = (45, 0.1) if bounded else (120, 1.0)
    limits.emit_many("limit/global", [{"seconds": seconds}] * number)
    seen = limits.watch("concurrency limited.global@limit/global")
    check_full_while_waiting(seen, AT_ONCE)
    found = limits.executions("global")
    assert len(found) == len({each.run for each in found}) == number
    assert most_at_once(found) == AT_ONCE
    report("concurrency", used(found, AT_ONCE), bounded)
    limits.check()


def test_concurrency_by_key(limits: Limits, bounded: bool) -> None:
    """Each of three keys has its own limit, and uses it whatever the others do."""
    number, seconds = (60, 0.1) if bounded else (240, 1.0)
    limits.emit_many(
        "limit/keyed", ({"key": "abc"[n % 3], "seconds": seconds} for n in range(number))
    )
    seen = limits.watch("concurrency limited.keyed@limit/keyed by key")
    assert {record.gate.key for record in seen} == set("abc")
    check_full_while_waiting(seen, PER_KEY)
    found = by_key(limits.executions("keyed"))
    for key, each in found.items():
        assert len(each) == number // 3, key
        assert most_at_once(each) == PER_KEY, key
        report(f"concurrency of the key {key}", used(each, PER_KEY), bounded)
    limits.check()


def test_concurrency_of_two_subscriptions(limits: Limits, bounded: bool) -> None:
    """One limit for both, which take turns."""
    number, seconds = (25, 0.1) if bounded else (60, 1.0)
    limits.emit_many("limit/app", [{"seconds": seconds}] * number)
    check_full_while_waiting(limits.watch("concurrency app"), AT_ONCE)
    found = limits.executions("app.one", "app.two")
    assert Counter(each.kind for each in found) == {"app.one": number, "app.two": number}
    assert most_at_once(found) == AT_ONCE
    begun = Counter(each.kind for each in found[:number])  # the first half of all
    assert abs(begun["app.one"] - begun["app.two"]) <= 2 * AT_ONCE, begun
    report("concurrency of the app", used(found, AT_ONCE), bounded)
    limits.check()


def test_three_limits_together(limits: Limits, bounded: bool) -> None:
    """By key, by subscription, and one that is shared with another subscription."""
    number, seconds = (30, 0.1) if bounded else (90, 1.0)
    limits.emit_many(
        "limit/three", ({"key": "abc"[n % 3], "seconds": seconds} for n in range(number))
    )
    seen = limits.watch(
        "concurrency three",
        "concurrency limited.three@limit/three",
        "concurrency limited.three@limit/three by key",
    )
    by_limit = defaultdict(list)
    for record in seen:
        by_limit[record.gate.limit].append(record)
    check_full_while_waiting(by_limit["concurrency three"], SHARED)
    for limit, at_most in (
        ("concurrency limited.three@limit/three", AT_ONCE),
        ("concurrency limited.three@limit/three by key", PER_KEY),
    ):
        for record in by_limit[limit]:
            assert record.used <= at_most, record
            assert record.used == at_most or not record.waiting, record
    three, both = limits.executions("three"), limits.executions("three", "beside")
    assert len(both) == 2 * len(three) == 2 * number
    assert most_at_once(both) == SHARED
    assert most_at_once(three) <= AT_ONCE
    for key, each in by_key(three).items():
        assert most_at_once(each) <= PER_KEY, key
    report("the limit that both share", used(both, SHARED), bounded)
    limits.check()


# --- throttle and rate limit ----------------------------------------------------------------------


@pytest.mark.parametrize("burst", [0, BURST])
def test_throttle(limits: Limits, bounded: bool, burst: int) -> None:
    """Runs start when it is their turn, never before; and the next turn is never further off."""
    kind = "burst" if burst else "throttle"
    limit, number = f"throttle limited.{kind}@limit/{kind}", (30 if bounded else 300) + burst
    interval = 1 / STARTS
    done, since = limits.ledger.counts()[S.SUCCEEDED], time.monotonic()
    limits.emit_many(f"limit/{kind}", [{}] * number)
    turns: list[tuple[int, float]] = []  # how many wait, and when the next may start

    def over() -> bool:
        before = limits.ledger.time()
        for record in limits.ledger.gates(limit=limit):
            if record.waiting:
                assert record.next_at is not None, record
                turns.append((record.waiting, record.next_at))
                # an admission is reserved once: delays do not add up
                assert record.next_at <= limits.ledger.time() + interval + BLUR, (before, record)
        return limits.ledger.counts()[S.SUCCEEDED] >= done + number

    wait_until(over, 120)
    found = limits.executions(kind)
    assert len(found) == len({each.run for each in found}) == number
    assert ahead([each.begun for each in found], since, STARTS, 1, burst) <= 0
    assert turns, "nobody had to wait"
    (most, first), (least, last) = turns[0], turns[-1]
    assert most > least
    # how many started, while the schedule went on by so much: 1 if nobody came too late for a turn
    report(f"{kind}, by the ledger's turns", (most - least) * interval / (last - first), bounded)
    begun = [each.begun for each in found][burst:]
    report(kind, (len(begun) - 1) * interval / (begun[-1] - begun[0]), bounded)
    limits.check()


def dropped(run: RunRecord, limit: str) -> bool:
    """Say whether a run was dropped because of a limit; if not, that it was executed."""
    assert run.state in (S.CANCELLED, S.SUCCEEDED), run
    if run.state is S.CANCELLED:
        assert run.reason == f"dropped: {limit}", run
        assert run.started is None, run
    return run.state is S.CANCELLED


def test_rate_limit(limits: Limits, bounded: bool) -> None:
    """Four threads emit as fast as they can: what is let through, and what is dropped, is exact."""
    rounds = 25 if bounded else 100

    def emit_some(key: str) -> None:
        for _ in range(rounds):
            limits.emit_many("limit/rate", [{"key": key}] * 5)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(emit_some, "aabb"))
    limits.watch()
    limit = "rate_limit limited.rate@limit/rate by key"
    key_of = {e.runs[0].id: e.event.data["key"] for e in limits.emissions}
    runs = defaultdict(list)
    for run in limits.runs_of("rate", "limit/rate"):
        runs[key_of[run.id]].append(run)
    for key, each in runs.items():
        assert len(each) == 2 * rounds * 5
        through = [run.created for run in each if not dropped(run, limit)]
        assert LET_THROUGH <= len(through) < len(each), key
        assert most_within(through, WINDOW - BLUR) <= LET_THROUGH, key
        for run in each:
            if run.state is S.CANCELLED:
                before = [at for at in through if run.created - WINDOW - BLUR <= at <= run.created]
                assert len(before) >= LET_THROUGH, f"dropped while there was room: {run}"
    found = limits.executions("rate")
    assert len(found) == sum(run.state is S.SUCCEEDED for each in runs.values() for run in each)
    limits.check()


# --- one at a time --------------------------------------------------------------------------------


def test_singleton_skip(limits: Limits, bounded: bool) -> None:
    """A run is dropped if there is one of its key, at that moment, and only then."""
    rounds = 20 if bounded else 100

    def emit_some(key: str) -> None:
        for _ in range(rounds):
            limits.emit_many("limit/skip", [{"key": key, "seconds": 0.02}] * 3)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(emit_some, "aabb"))
    limits.watch()
    limit = "singleton limited.skip@limit/skip by key"
    key_of = {e.runs[0].id: e.event.data["key"] for e in limits.emissions}
    runs = defaultdict(list)
    for run in limits.runs_of("skip", "limit/skip"):
        runs[key_of[run.id]].append(run)
    for key, each in runs.items():
        assert len(each) == 2 * rounds * 3
        there = [run for run in each if not dropped(run, limit)]
        assert 1 < len(there) < len(each), key
        for one, next_one in itertools.pairwise(there):
            assert one.finished is not None
            assert one.finished <= next_one.created, (one, next_one)
        for run in each:
            if run.state is S.CANCELLED:
                assert any(
                    other.finished is not None and other.created <= run.created <= other.finished
                    for other in there
                ), f"dropped, and nobody was there: {run}"
        assert most_at_once(by_key(limits.executions("skip"))[key]) == 1
    limits.check()


def test_singleton_cancel(limits: Limits, bounded: bool) -> None:
    """The last one wins. A body that was cancelled goes on to its next step, and no further."""
    number = 8 if bounded else 40
    emitted: list[str] = []
    for n in range(number):
        emitted.append(limits.emit("limit/cancel", {"n": n, "key": "a", "seconds": 0.2}).runs[0].id)
        if n % 2 == 0:  # half of them while they run, half before they have begun
            wait_until(lambda n=n: n in begun(limits, "cancel"))
    limits.watch()
    runs = [limits.run(run_id) for run_id in emitted]
    for run, next_run in itertools.pairwise(runs):
        assert run.state is S.CANCELLED, run
        assert run.reason == "cancelled: singleton limited.cancel@limit/cancel by key"
        assert run.finished == pytest.approx(next_run.created, abs=BLUR)
    assert runs[-1].state is S.SUCCEEDED
    done = [record["n"] for record in limits.oracle.read() if record["what"] == "done"]
    assert done == [number - 1]
    limits.check()


def begun(limits: Limits, kind: str) -> list[int]:
    """Return the numbers of those that have begun, ended or not."""
    records = limits.oracle.read()
    return [r["n"] for r in records if r["what"] == "begin" and r["kind"] == kind]


def test_singleton_queue(limits: Limits, bounded: bool) -> None:
    """One after the other, in their order, although each leaves its worker in between."""
    number = 8 if bounded else 60
    limits.emit_many("limit/queue", ({"key": "ab"[n % 2], "seconds": 0.02} for n in range(number)))
    check_full_while_waiting(limits.watch("singleton limited.queue@limit/queue by key"), 1)
    found = by_key(limits.executions("queue"))
    for key, each in found.items():
        assert len(each) == number  # half of the runs, each executed twice
        whole = spans(each)
        assert most_at_once(whole) == 1, key
        assert [run.n for run in whole] == sorted(run.n for run in whole)
    limits.check()


# --- several events, one run ----------------------------------------------------------------------


#: A run, and the number and time of each of its events.
Collected = tuple[RunRecord, list[tuple[int, float]]]


def collected(limits: Limits, task: str, event: str) -> dict[str, list[Collected]]:
    """Return the runs of a subscription by key; each event is in one run."""
    events = {
        event_key(e.event.name, e.event.id): e for e in limits.emissions if e.event.name == event
    }
    found: dict[str, list[Collected]] = defaultdict(list)
    seen: list[str] = []
    for run in limits.runs_of(task, event):
        assert run.state is S.SUCCEEDED, run
        assert run.started is not None
        keys = limits.run(run.id).detail["events"]
        seen += keys
        members = []
        for key in keys:
            record = limits.ledger.event(key)
            assert record is not None
            assert [*record.runs] == [run.id] == [each.id for each in events[key].runs]
            members.append((events[key].event.data["n"], record.created))
        found[events[keys[0]].event.data["key"]].append((run, members))
    assert Counter(seen) == Counter(events.keys()), "an event is in no run, or in two"
    return found


def test_debounce(limits: Limits, bounded: bool) -> None:
    """Bursts become one run each, with the last event; who is never quiet waits for so long."""

    def due(members: list[tuple[int, float]]) -> float:
        return min(members[-1][1] + QUIET, members[0][1] + NOT_LATER_THAN)

    for _ in range(1 if bounded else 5):
        limits.emit_many("limit/debounce", ({"key": "abc"[n % 3]} for n in range(30)))
        since, last = time.monotonic(), 0.0
        while time.monotonic() - since < NOT_LATER_THAN + QUIET:
            wait_until(lambda last=last: time.monotonic() - last > QUIET / 5)
            last = time.monotonic()
            limits.emit("limit/debounce", {"n": int((last - since) * 1000), "key": "restless"})
        limits.watch()
    handled = {each.run: each.n for each in limits.executions("debounce")}
    late = []
    for key, found in collected(limits, "debounce", "limit/debounce").items():
        for run, members in found:
            assert handled[run.id] == members[-1][0]
            assert run.started is not None
            assert run.started >= due(members) - BLUR, f"it was not quiet yet: {run}"
            late.append(run.started - due(members))
        for (_, members), (_, next_members) in itertools.pairwise(found):
            assert next_members[0][1] >= due(members) - BLUR, f"{key} has a run too many"
    print(f"debounce: {len(late)} runs, up to {max(late):.2f} s late")  # noqa: T201 - ARGS=-s shows it
    limits.check()


def test_batch(limits: Limits, bounded: bool) -> None:
    """Runs have all the data in order; none is smaller than it could have been."""
    number = 95 if bounded else 1_995
    limits.emit_many("limit/batch", ({"key": "b" if n % 5 == 4 else "a"} for n in range(number)))
    limits.watch()
    handled = {r["run"]: r["numbers"] for r in limits.oracle.read() if r["what"] == "batch"}
    sizes: Counter[int] = Counter()
    for key, found in collected(limits, "batch", "limit/batch").items():
        for run, members in found:
            assert handled[run.id] == [n for n, _ in members]
            assert len(members) <= SIZE
            sizes[len(members)] += 1
            if len(members) < SIZE:
                assert run.started is not None
                assert run.started >= members[0][1] + COLLECTS - BLUR, f"{key}: too early: {run}"
        numbers = [n for _, members in found for n, _ in members]
        assert numbers == sorted(numbers), key
        for (run, members), (_, next_members) in itertools.pairwise(found):
            if len(members) < SIZE:
                assert next_members[0][1] >= members[0][1] + COLLECTS - BLUR, (
                    f"there was room: {run}"
                )
    print(f"batches of so many events: {dict(sizes)}")  # noqa: T201 - make test-faults ARGS=-s shows it
    assert sizes[SIZE] >= number // SIZE // 2
    limits.check()


# --- once, in order, in time ----------------------------------------------------------------------


def test_idempotency(limits: Limits, bounded: bool) -> None:
    """Four threads emit the same values at the same time: the first of each value is executed."""
    values = [f"v{number}" for number in range(20 if bounded else 400)]

    def emit_all(_: int) -> None:
        limits.emit_many("limit/once", ({"key": value} for value in values))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(emit_all, range(4)))
    limits.watch()
    limit = "idempotency limited.once@limit/once by key"
    assert sorted(each.key for each in limits.executions("once")) == sorted(values)
    key_of = {e.runs[0].id: e.event.data["key"] for e in limits.emissions}
    first: dict[str, float] = {}
    for run in limits.runs_of("once", "limit/once"):
        if not dropped(run, limit):
            assert key_of[run.id] not in first, run
            first[key_of[run.id]] = run.created
    for run in limits.runs_of("once", "limit/once"):
        assert first[key_of[run.id]] <= run.created
    limits.check()


def test_priority(limits: Limits, bounded: bool, chance: random.Random) -> None:
    """Among those that wait, the higher first, and those of equal priority in their order."""
    number = 30 if bounded else 300
    limits.emit("limit/priority", {"n": -1, "priority": 0, "seconds": 1})
    wait_until(lambda: begun(limits, "priority"))
    priorities = [chance.choice([-255, -1, 0, 1, 9, 255]) for _ in range(number)]
    limits.emit_many("limit/priority", ({"priority": priority} for priority in priorities))
    assert len(begun(limits, "priority")) == 1, "it ended before the others were there"
    limits.watch()
    order = [each.n for each in limits.executions("priority")]
    assert order == [-1, *sorted(range(number), key=lambda n: (-priorities[n], n))]
    limits.check()


def test_a_start_in_time(limits: Limits) -> None:
    """Who has not started after so long is cancelled; who was let go in time is not."""
    limits.emit("limit/late", {"n": -1, "seconds": 2 * TIMEOUT})
    wait_until(lambda: begun(limits, "late"))
    waiting = limits.emit_many("limit/late", [{}] * 5)
    limits.watch()
    for emission in waiting:
        run = limits.run(emission.runs[0].id)
        assert (run.state, run.reason, run.started) == (S.CANCELLED, "start_timeout", None)
        assert run.finished is not None
        assert run.finished >= run.created + TIMEOUT - BLUR
    assert limits.emit("limit/late", {"n": 9}).runs[0].get(timeout=30) is None
    assert [each.n for each in limits.executions("late")] == [-1, 9]
    limits.check()


def test_an_end_in_time(limits: Limits) -> None:
    """Who has not ended so long after its start is cancelled, and its place is another's."""
    slow = limits.emit("limit/long", {"n": 0, "seconds": 3600}).runs[0]
    wait_until(lambda: begun(limits, "long"))
    quick = limits.emit("limit/long", {"n": 1, "seconds": 0.1}).runs[0]
    assert quick.get(timeout=30) is None
    limits.watch()
    run = limits.run(slow.id)
    assert (run.state, run.reason) == (S.CANCELLED, "finish_timeout")
    assert run.started is not None
    assert run.finished is not None
    assert run.finished >= run.started + TIMEOUT - BLUR
    assert not [r for r in limits.oracle.read() if r["what"] == "a" and r["run"] == slow.id]
    limits.check()
