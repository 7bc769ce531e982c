"""Two limits together, under a backlog: what somebody waits for at one gate is free at another."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest

from celery_fanout.stores.limits import Flow, Gate, Place
from celery_fanout.stores.records import NewEvent, NewRun
from celery_fanout.stores.states import RunState
from tests.conformance.ledgers import Desk

S = RunState


class Backlog:
    """Runs of some keys, each with its own limit, behind one that they share.

    Args:
        desk: with the ledger.
        own: the limit of each key.
        shared: that of all.
        keys: one for each run.
        prefix: of their ids.
    """

    def __init__(
        self, desk: Desk, own: int, shared: int, keys: list[str], prefix: str = ""
    ) -> None:
        self.desk, self.own, self.shared = desk, own, shared
        self.keys = {f"{prefix}{n}-a": key for n, key in enumerate(keys)}
        self.waiting: dict[str, None] = {}
        self.there: list[str] = []  # who has its places
        self.order: list[str] = []
        self.late = 0  # who got its place only by a take
        for run_id, key in self.keys.items():
            places = (
                Place(Gate("concurrency work by key", key), own),
                Place(Gate("concurrency app"), shared),
            )
            run = NewRun(run_id, "a@doc/up", queue="celery", flow=Flow(places, lane=f"a {key}"))
            event = NewEvent(run_id[:-2], "doc/up", json.dumps({"id": run_id}), "{}", [run])
            (found,) = desk.ledger.record([event])
            self.waiting[run.id] = None
            if found.runs[0][1] is S.PENDING:
                self._let_in([run.id])

    def _let_in(self, run_ids: list[str]) -> None:
        for run_id in run_ids:
            del self.waiting[run_id]
        self.there += run_ids
        self.order += run_ids

    def finish(self, run_id: str) -> None:
        """Execute a run, and let in whom that lets in."""
        token = self.desk.begin(run_id)
        self.there.remove(run_id)
        woken = list(self.desk.ledger.settle(run_id, token, S.SUCCEEDED, result="1").woken)
        if woken:
            self._let_in(self.desk.taken(*woken))

    def cancel(self, run_id: str) -> None:
        """Cancel a run that waits."""
        del self.waiting[run_id]
        _, woken = self.desk.ledger.cancel([run_id], "enough")
        if woken:
            self._let_in(self.desk.taken(*woken))

    def look_again(self) -> None:
        """Do what keepers do with gates that are due."""
        while taken := self.desk.taken():
            self.late += len(taken)
            self._let_in(taken)

    def check(self) -> None:
        """No limit is exceeded, and whoever waits does so for a place that is taken."""
        used = Counter(self.keys[run_id] for run_id in self.there)
        assert len(self.there) <= self.shared
        assert all(number <= self.own for number in used.values()), used
        if len(self.there) < self.shared:
            for key in {self.keys[run_id] for run_id in self.waiting}:
                assert used[key] == self.own, f"{key} could start: {used}, {len(self.waiting)} wait"


@pytest.mark.parametrize(
    ("own", "shared", "keys", "number"),
    [
        (1, 1, 2, 200),
        (1, 2, 3, 200),
        (1, 3, 3, 120),  # the shared limit is never in the way
        (2, 3, 3, 300),
        (2, 4, 5, 300),
        (2, 4, 30, 300),
        (1, 10, 60, 300),
        (3, 3, 8, 200),
        (100, 4, 8, 200),  # the own limit is never in the way
    ],
)
def test_nobody_waits_for_nothing(
    desk: Desk, own: int, shared: int, keys: int, number: int
) -> None:
    chance = random.Random(f"{own} {shared} {keys} {number}")
    names = [f"k{n}" for n in range(keys)]
    # one of them has half of all
    given = [names[0] if chance.random() < 0.5 else chance.choice(names) for _ in range(number)]
    backlog = Backlog(desk, own, shared, given)
    while backlog.there:
        backlog.finish(chance.choice(backlog.there))
        backlog.look_again()
        backlog.check()
    assert not backlog.waiting
    for name in names:
        numbers = [int(run_id[:-2]) for run_id in backlog.order if given[int(run_id[:-2])] == name]
        assert numbers == sorted(numbers), f"{name}: not first come, first served"
    # it is whoever frees a place that lets the next one in, and not a keeper a second later
    assert backlog.late <= number // 100
    assert all(not gate.used and not gate.waiting for gate in desk.ledger.gates())


def test_nobody_waits_for_one_that_is_gone(desk: Desk) -> None:
    """Runs that wait are cancelled at random: those behind them are not forgotten."""
    chance = random.Random(5)
    for number in range(5):
        given = [chance.choice("aab") for _ in range(100)]
        backlog = Backlog(desk, 2, 3, given, f"{number}.")
        while backlog.there:
            backlog.finish(chance.choice(backlog.there))
            for run_id in chance.sample(sorted(backlog.waiting), min(2, len(backlog.waiting))):
                if run_id in backlog.waiting:
                    backlog.cancel(run_id)
            backlog.look_again()
            backlog.check()
        assert not backlog.waiting
