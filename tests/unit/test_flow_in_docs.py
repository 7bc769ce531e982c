"""What holds a place, and when: the table in the docs, done with the ledger in memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from celery_fanout.stores.limits import Flow
from celery_fanout.stores.memory.ledger import MemoryLedger
from celery_fanout.stores.records import NewRun
from celery_fanout.stores.states import RunState
from tests.conformance.flows import emit, finish, one, place, usage
from tests.conformance.ledgers import RULES, Clock, Desk

S = RunState
PAGE = Path(__file__).parent.parent.parent / "docs/explanation/flow-control.md"
RUN, GROUP = "e1-a", 's["p",1]'
LIMITS = {
    "concurrency work": Flow((place(),)),
    "singleton work": one("queue"),
}


def _rows() -> dict[str, list[str]]:
    """Return the table: what a run does, and which places it has."""
    table = PAGE.read_text().partition("## What holds a place, and when")[2].partition("\n## ")[0]
    found = re.findall(r"^\| (?!the run)(.+?) \| (.+?) \| (.+?) \|$", table, re.MULTILINE)
    return {name: places for name, *places in found}


def leave(desk: Desk, to: RunState, **more: object) -> None:
    desk.ledger.settle(RUN, desk.begin(RUN), to, **more)  # type: ignore[arg-type]


def call(desk: Desk, kind: str) -> None:
    token = desk.begin(RUN)
    child = NewRun("item", "a@doc/up", kind, field="f1", group=GROUP)  # type: ignore[arg-type]
    assert desk.ledger.spawn(RUN, token, GROUP, [child]).ok
    assert desk.ledger.settle(RUN, token, S.SUSPENDED, group=GROUP).ok


def complete(desk: Desk) -> None:
    link = NewRun("tail", "a@doc/up", "then", message="{}")
    leave(desk, S.COMPLETING, result="1", child=link)


def die(desk: Desk) -> None:
    desk.begin(RUN)
    desk.clock.advance(RULES.lease + 1)
    assert desk.taken() == [RUN]


def put_back(desk: Desk) -> None:
    assert desk.ledger.unregistered(RUN, 10).ok


#: What is done with a run that was let go, by what the table says of it.
DONE: dict[str, list[Callable[[Desk], object]]] = {
    "was let go: its message is on the way, or in a queue": [
        lambda desk: None,
        lambda desk: desk.ledger.mark_published([RUN]),
    ],
    "is executed": [lambda desk: desk.begin(RUN)],
    "has returned, and its tail is being dispatched": [complete],
    "sleeps, waits for an event or an invoked task, or a step waits for its retry": [
        lambda desk: leave(desk, S.SUSPENDED, due=desk.clock.now + 60),
        lambda desk: call(desk, "invoke"),
    ],
    "waits for the items of `step.parallel`": [lambda desk: call(desk, "parallel")],
    "waits for a retry": [lambda desk: leave(desk, S.RETRYING, retries=1, due=desk.clock.now + 60)],
    "its worker died, and it goes on when the lease is over": [die],
    "no worker knows its task": [put_back],
    "has ended": [
        lambda desk: finish(desk, "e1"),
        lambda desk: finish(desk, "e1", S.FAILED),
        lambda desk: desk.ledger.cancel([RUN], "no"),
    ],
}


@pytest.fixture
def desk() -> Desk:
    clock = Clock()
    return Desk(MemoryLedger(RULES, clock), clock)


def test_the_table_has_no_other_row() -> None:
    first, *others = _rows()
    assert first == "waits, or collects"
    assert others == list(DONE)


@pytest.mark.parametrize("column", [0, 1])
@pytest.mark.parametrize(("row", "number"), [(r, n) for r in DONE for n in range(len(DONE[r]))])
def test_a_run_that_was_let_go(desk: Desk, row: str, number: int, column: int) -> None:
    limit = list(LIMITS)[column]
    assert emit(desk, "e1", LIMITS[limit]) == "pending"
    DONE[row][number](desk)
    assert {"yes": 1, "no": 0}[_rows()[row][column]] == usage(desk, limit)[0]


def test_a_run_that_waits(desk: Desk) -> None:
    concurrency, singleton = _rows()["waits, or collects"]
    assert concurrency == "no"
    assert singleton == '`"skip"` and `"cancel"`: from when it is recorded. `"queue"`: no'
    full = place(limit="concurrency other")
    emit(desk, "e0", Flow((full,)))
    for mode, key, held in (("skip", "s", 1), ("cancel", "c", 1), ("queue", "q", 0)):
        flow = one(mode, key)  # type: ignore[arg-type]
        waits = Flow((place(9, key=key), *flow.places, full))
        assert emit(desk, mode, waits) == "gated"
        assert usage(desk, "singleton work", key)[0] == held
        assert usage(desk, key=key)[0] == 0
