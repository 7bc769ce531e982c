"""How the fault tests count who ran when: with intervals made up for it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.intervals import (
    Execution,
    ahead,
    by_key,
    executions,
    most_at_once,
    most_within,
    spans,
    used,
    work,
)


def ran(begun: float, ended: float, run: str = "", key: str = "") -> Execution:
    return Execution(run or f"{begun}-{ended}", "k", key, 0, begun, ended)


def begin(x: str, m: float, run: str = "r", pid: int = 1, kind: str = "k") -> dict[str, Any]:
    return {
        "what": "begin",
        "x": x,
        "m": m,
        "run": run,
        "pid": pid,
        "kind": kind,
        "key": "",
        "n": 0,
    }


def end(x: str, m: float) -> dict[str, Any]:
    return {"what": "end", "x": x, "m": m}


def killed(m: float, *pids: int) -> dict[str, Any]:
    return {"what": "killed", "m": m, "pids": list(pids)}


def test_executions_are_paired_and_sorted() -> None:
    records = [begin("2", 3.0, "b"), begin("1", 1.0, "a"), end("1", 2.0), end("2", 4.0)]
    assert [(each.run, each.begun, each.ended) for each in executions(records)] == [
        ("a", 1.0, 2.0),
        ("b", 3.0, 4.0),
    ]


def test_only_of_a_kind() -> None:
    records = [begin("1", 1.0, kind="a"), begin("2", 1.5, kind="b"), end("1", 2.0), end("2", 3.0)]
    assert [each.kind for each in executions(records, "b")] == ["b"]


def test_one_that_was_killed_counts_until_then() -> None:
    records = [begin("1", 1.0, pid=7), begin("2", 1.0, "s", pid=8), killed(2.0, 7), end("2", 3.0)]
    first, second = executions(records)
    assert (first.ended, first.killed) == (2.0, True)
    assert (second.ended, second.killed) == (3.0, False)


def test_a_later_process_with_the_same_number() -> None:
    records = [killed(1.0, 7), begin("1", 2.0, pid=7), killed(5.0, 7), killed(9.0, 7)]
    assert [each.ended for each in executions(records)] == [5.0]


def test_what_ended_before_the_kill_was_not_killed() -> None:
    records = [begin("1", 1.0, pid=7), end("1", 2.0), killed(3.0, 7)]
    assert [(each.ended, each.killed) for each in executions(records)] == [(2.0, False)]


def test_one_that_is_begun_anew_counts_no_longer() -> None:
    records = [begin("1", 1.0), begin("2", 2.0, pid=2), end("1", 4.0), end("2", 3.0)]
    assert [each.ended for each in executions(records)] == [2.0, 3.0]


def test_one_that_never_ended_is_an_error() -> None:
    with pytest.raises(AssertionError, match="neither ended nor killed"):
        executions([begin("1", 1.0, pid=7), killed(2.0, 8)])


def test_most_at_once() -> None:
    assert most_at_once([]) == 0
    assert most_at_once([ran(0, 1), ran(1, 2), ran(2, 3)]) == 1  # one leaves, one comes
    assert most_at_once([ran(0, 1), ran(0.9, 2), ran(1.5, 3)]) == 2
    assert most_at_once([ran(0, 9), ran(1, 2), ran(3, 4), ran(3.5, 5)]) == 3


def test_spans_have_no_pauses() -> None:
    found = spans([ran(0, 1, "a"), ran(2, 3, "b"), ran(5, 6, "a")])
    assert [(each.run, each.begun, each.ended) for each in found] == [("a", 0, 6), ("b", 2, 3)]
    assert most_at_once(found) == 2


def test_by_key() -> None:
    a, b, c = ran(0, 1, key="a"), ran(0, 1, key="b"), ran(2, 3, key="a")
    assert by_key([a, b, c]) == {"a": [a, c], "b": [b]}


def test_work_is_an_area() -> None:
    assert work([ran(0, 10), ran(4, 6)], 5, 8) == pytest.approx(3 + 1)
    assert work([ran(0, 1)], 5, 8) == 0


def test_use_of_a_limit() -> None:
    full = [ran(0, 1), ran(0, 1), ran(1, 2), ran(1, 2), ran(2, 3)]
    assert used(full, 2) == pytest.approx(1.0)
    assert used(full, 4) == pytest.approx(0.5)
    gaps = [ran(0, 1), ran(2, 3), ran(4, 5)]
    assert used(gaps, 1) == pytest.approx(0.5)


def test_most_within_a_period() -> None:
    assert most_within([], 1) == 0
    assert most_within([0, 1, 2], 1) == 1  # one leaves the window when the next comes
    assert most_within([2, 0, 0.5, 1.4, 0.9], 1) == 3
    assert most_within([5, 5, 5], 0.1) == 3


def test_ahead_of_a_schedule() -> None:
    assert ahead([0.0, 0.1, 0.2], 0.0, 10, 1) == pytest.approx(0)
    assert ahead([0.0, 0.05, 0.2], 0.0, 10, 1) == pytest.approx(0.5)
    assert ahead([0.0, 0.35, 0.35, 0.36], 0.0, 10, 1) <= 0  # late, and close together
    assert ahead([0.0, 0.0, 0.0], 0.0, 10, 1, burst=2) == pytest.approx(0)
    assert ahead([0.0, 0.0, 0.0, 0.0], 0.0, 10, 1, burst=2) == pytest.approx(1)
