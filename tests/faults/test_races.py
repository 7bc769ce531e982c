"""Cancelling, replaying and rerunning, at whatever moment of a run: what it ends as, it stays."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from celery_fanout import get_fanout
from celery_fanout.exceptions import ControlError
from celery_fanout.model.ids import event_key
from celery_fanout.stores.records import LedgerRules, NewEvent, NewRun
from celery_fanout.stores.redis import RedisLedger
from celery_fanout.stores.states import FINAL, RunState
from tests.faults.conftest import SEED, Jobs
from tests.faults.jobs import LEASE
from tests.leaks import check_ledger
from tests.processes import wait_until
from tests.servers import RedisServer

S = RunState


# --- against the ledger, call by call -------------------------------------------------------------


class Story:
    """One run, a worker, a second worker with its message, and somebody who cancels or replays."""

    def __init__(self, ledger: RedisLedger, number: int) -> None:
        self.ledger = ledger
        self.number = number
        self.ids = [f"r{number}-{generation}" for generation in range(3)]
        self.key = f"e{number}"
        self.said: list[str] = []  # what the run was told to have become
        self.stored: dict[tuple[str, str], str] = {}
        ledger.record([NewEvent(self.key, "doc/up", "{}", "{}", [NewRun(self.ids[0], "s@doc/up")])])

    def works(self, run: str, name: str) -> Iterator[None]:
        """Execute a run, if it is given: one call at a time."""
        claim = self.ledger.claim(run, name, f"{name}-{run}")
        yield
        if claim.status != "claimed":
            return
        for field in ('s["a",1]', 's["b",1]'):
            text = f'{{"v":1,"s":"done","n":1,"r":"{name}","t":1}}'
            kept = self.ledger.store(run, claim.token, field, text, final=True)
            yield
            if kept is None:
                return  # it is no longer this worker's
            assert self.stored.setdefault((run, field), kept) == kept
        if self.ledger.settle(run, claim.token, S.SUCCEEDED, result='"done"').ok:
            self.said.append(f"{run} succeeded")
        yield

    def cancels(self, run: str) -> Iterator[None]:
        yield
        if run in self.ledger.cancel([run], "race")[0]:
            self.said.append(f"{run} cancelled")

    def replays(self, generation: int) -> Iterator[None]:
        """Replay the event, and execute that, too."""
        yield
        new = NewEvent(
            self.key,
            "doc/up",
            "{}",
            "{}",
            [NewRun(self.ids[generation], "s@doc/up")],
            generation=generation,
            replay=True,
            nonce=str(generation),
        )
        found = self.ledger.record([new])[0]
        yield
        if found.status == "new":
            yield from self.works(self.ids[generation], "replayer")

    def check(self) -> None:
        """Every run that there is has one end, the one that somebody was told of."""
        runs = {run.id: run for run in self.ledger.runs(event=self.key)}
        assert self.ids[0] in runs
        assert sorted(self.said) == sorted(f"{run.id} {run.state}" for run in runs.values())


def test_a_thousand_interleavings(redis_server: RedisServer) -> None:
    chance = random.Random(SEED)
    redis_server.flush()
    ledger = RedisLedger(redis_server.url(), LedgerRules())
    ends: Counter[str] = Counter()
    for number in range(1000):
        story = Story(ledger, number)
        first = story.ids[0]
        actors = [
            story.works(first, "w1"),
            story.works(first, "w2"),
            story.cancels(first),
            story.replays(1),
            story.replays(2),
            story.cancels(story.ids[chance.randrange(3)]),
        ]
        while actors:
            actor = chance.choice(actors)
            with suppress(StopIteration):
                next(actor)
                continue
            actors.remove(actor)
        # who was told that it is not theirs: the message comes once more
        for run in ledger.runs(event=story.key):
            if run.state not in FINAL:
                for _ in story.works(run.id, "last"):
                    pass
        story.check()
        ends.update(text.split()[1] for text in story.said)
    assert min(ends["succeeded"], ends["cancelled"]) > 100, ends
    ledger.close()
    with redis_server.client() as client:
        check_ledger(client)


# --- with workers ---------------------------------------------------------------------------------


def test_control_races_with_working(jobs: Jobs, chance: random.Random, bounded: bool) -> None:
    """Cancel in a step, replay and rerun while others work: what a run ends as, it stays."""
    number = 20 if bounded else 300
    jobs.worker(concurrency=2)
    control = get_fanout(jobs.app).runs
    cancelled: dict[str, float] = {}
    reruns: list[str] = []
    replayed = 0

    def cancel(run: str) -> None:
        control.cancel(run, "race")
        cancelled[run] = time.time()

    def rerun(run: str) -> None:
        reruns.append(control.rerun(run, "b"))

    for count in range(number):
        run = jobs.emit("job/slow", {"seconds": 0.02}, id=f"e{count}").runs[0].id
        moment = chance.random() * 0.3
        begun = time.monotonic()
        wait_until(lambda moment=moment, begun=begun: time.monotonic() - begun >= moment)
        what: list[Callable[[str], Any]] = [cancel, cancel, rerun]
        with suppress(ControlError):
            chance.choice(what)(run)
        if chance.random() < 0.3:
            key = event_key("job/slow", f"e{count}")
            replayed += len(control.replay(key))
            with suppress(ControlError):
                chance.choice(what)(run)
    jobs_events = {event_key("job/slow", f"e{count}") for count in range(number)}
    found = jobs.check()
    assert sum(found.values()) == number + len(reruns) + replayed
    before = {run.id: (run.state, run.finished) for run in jobs.ledger.runs(limit=10_000)}
    assert {run.event for run in jobs.ledger.runs(limit=10_000)} == jobs_events
    for run, when in cancelled.items():
        assert before[run][0] is S.CANCELLED
        late = [r for r in jobs.oracle.read() if r.get("run") == run and r["t"] > when]
        assert len(late) <= 1, late  # the step that was about to begin, and no more
    assert sum(state is S.CANCELLED for state, _ in before.values()) == len(cancelled)
    for run in reruns:
        assert jobs.counts(run).keys() <= {"b"}  # a was taken over
    settled = time.monotonic()
    wait_until(lambda: time.monotonic() - settled > 2 * LEASE)
    after = {run.id: (run.state, run.finished) for run in jobs.ledger.runs(limit=10_000)}
    assert after == before


@pytest.mark.parametrize("what", ["cancel", "replay"])
def test_control_in_the_middle_of_a_step(jobs: Jobs, what: str) -> None:
    jobs.worker(concurrency=2)
    control = get_fanout(jobs.app).runs
    run = jobs.emit("job/slow", {"seconds": 1}, id="e").runs[0].id
    jobs.wait_for("a")
    if what == "cancel":
        control.cancel(run)
        assert jobs.check() == {S.CANCELLED: 1}
        jobs.emit("job/steps", {}).get(timeout=30)  # its worker has left it, and goes on
        assert jobs.counts(run) == {"a": 1}
    else:
        (second,) = control.replay("e", name="job/slow")
        assert jobs.check() == {S.SUCCEEDED: 2}
        assert jobs.counts(run) == jobs.counts(second) == {"a": 1, "b": 1}
