"""Who is let in next: lanes take turns, priority and order within one; for every ledger."""

from __future__ import annotations

import dataclasses

from celery_fanout.stores.limits import Flow
from celery_fanout.stores.states import RunState
from tests.conformance.flows import (
    WORK,
    begin,
    emit,
    finish,
    place,
    states,
    throttle,
    usage,
    waiting,
)
from tests.conformance.ledgers import Desk

S = RunState
ONE = Flow((place(1),))


def lane(name: str, priority: int = 0) -> Flow:
    return dataclasses.replace(ONE, lane=name, priority=priority)


def order(desk: Desk, first: str) -> list[str]:
    """End one run after another; return in which order they were let in."""
    found, woken = [], finish(desk, first)
    while woken:
        (run_id,) = woken
        found.append(run_id.removesuffix("-a"))
        woken = finish(desk, found[-1])
    return found


def test_lanes_take_turns(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    for n in range(4):
        emit(desk, f"big{n}", lane("big"))
    emit(desk, "small0", lane("small"))
    emit(desk, "other0", lane("other"))
    emit(desk, "small1", lane("small"))
    assert order(desk, "e0") == [
        *("big0", "small0", "other0", "big1", "small1", "big2", "big3"),
    ]


def test_a_new_lane_joins_at_the_end_of_the_round(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    for name in ("x", "y"):
        for n in range(2):
            emit(desk, f"{name}{n}", lane(name))
    assert finish(desk, "e0") == ["x0-a"]  # now it is y's turn, and then x's
    emit(desk, "z0", lane("z"))
    assert order(desk, "x0") == ["y0", "x1", "z0", "y1"]


def test_a_lane_that_was_empty_is_new(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    emit(desk, "x0", lane("x"))
    emit(desk, "y0", lane("y"))
    emit(desk, "y1", lane("y"))
    assert finish(desk, "e0") == ["x0-a"]
    emit(desk, "x1", lane("x"))
    assert order(desk, "x0") == ["y0", "x1", "y1"]


def test_within_a_lane_the_higher_priority_is_first(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    for n, priority in enumerate((0, -255, 255, 0, 7, 255)):
        emit(desk, f"p{n}", lane("", priority))
    assert order(desk, "e0") == ["p2", "p5", "p4", "p0", "p3", "p1"]


def test_a_priority_is_nothing_to_other_lanes(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    emit(desk, "x0", lane("x"))
    emit(desk, "x1", lane("x"))
    emit(desk, "y0", lane("y", 255))
    emit(desk, "y1", lane("y", 255))
    assert order(desk, "e0") == ["x0", "y0", "x1", "y1"]


def test_a_priority_lets_nobody_overtake_who_was_let_in(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    assert emit(desk, "e1", lane("", 255)) == "gated"
    assert finish(desk, "e0") == ["e1-a"]


def test_who_comes_back_is_where_it_was_in_its_lane(desk: Desk) -> None:
    emit(desk, "e0", lane("x"))
    emit(desk, "x1", lane("x"))
    emit(desk, "y1", lane("y"))
    emit(desk, "x2", lane("x"))
    desk.ledger.settle("e0-a", begin(desk, "e0"), S.SUSPENDED, due=desk.clock.now + 1)
    assert states(desk, "x1") == ["pending"]
    desk.clock.advance(1)
    desk.ledger.take()
    # it is the first of its lane, and its lane has had its turn
    assert order(desk, "x1") == ["y1", "e0", "x2"]


def test_a_lane_moves_to_another_gate_as_a_whole(desk: Desk) -> None:
    """All of a lane need the same, so what is refused to the first is refused to all."""
    app, both = "concurrency app", Flow((place(1), place(1, "concurrency app")))
    emit(desk, "e0", Flow((place(1),)))
    emit(desk, "e9", Flow((place(1, app),)))
    for key in ("e1", "e2", "e3"):
        emit(desk, key, both)
    assert waiting(desk, "e1", "e2", "e3") == [WORK, WORK, WORK]
    assert finish(desk, "e0") == []
    assert waiting(desk, "e1", "e2", "e3") == [app, app, app]
    assert finish(desk, "e9") == ["e1-a"]
    assert emit(desk, "e4", both) == "gated"
    assert order(desk, "e1") == ["e2", "e3", "e4"]


def test_those_who_need_something_else_are_another_lane(desk: Desk) -> None:
    """Whatever it is called: lanes that have the same name take turns at a gate of both."""
    app = "concurrency app"
    emit(desk, "e0", Flow((place(1),)))
    emit(desk, "e1", Flow((place(1), place(1, app))))
    emit(desk, "e2", Flow((place(1, app),)))
    emit(desk, "e3", Flow((place(1, app),)))
    emit(desk, "e4", Flow((place(1, app),)))
    assert waiting(desk, "e1", "e2", "e3") == [WORK, "pending", app]
    assert finish(desk, "e0") == []
    assert waiting(desk, "e1", "e3", "e4") == [app, app, app]
    assert order(desk, "e2") == ["e3", "e1", "e4"]


def test_who_needs_less_is_not_held_up_by_who_waits_elsewhere(desk: Desk) -> None:
    app = "concurrency app"
    emit(desk, "e0", Flow((place(1),)))
    emit(desk, "e9", Flow((place(1, app),)))
    for n in (1, 2):
        emit(desk, f"e{n}", Flow((place(1), place(1, app))))
    assert finish(desk, "e0") == []
    assert usage(desk) == (0, 0)
    assert emit(desk, "e3", Flow((place(1),))) == "pending"
    assert finish(desk, "e9") == []
    assert finish(desk, "e3") == ["e1-a"]


def test_when_the_first_of_a_lane_goes_the_next_one_may_start(desk: Desk) -> None:
    app = "concurrency app"
    emit(desk, "e0", Flow((place(1),)))
    emit(desk, "e9", Flow((place(1, app),)))
    for n in (1, 2):
        emit(desk, f"e{n}", Flow((place(1), place(1, app))))
    assert finish(desk, "e0") == []
    assert waiting(desk, "e1", "e2") == [app, app]
    desk.ledger.cancel(["e1-a"], "enough")
    assert finish(desk, "e9") == ["e2-a"]


def test_an_empty_name_is_a_lane_as_any(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    emit(desk, "e1", ONE)
    emit(desk, "e2", ONE)
    emit(desk, "x0", lane("x"))
    assert order(desk, "e0") == ["e1", "x0", "e2"]


def test_names_of_any_kind(desk: Desk) -> None:
    names = ["a:b", "a", ":b", "ä €", 'a"b', "a b", "a\nb"]
    emit(desk, "e0", ONE)
    for number in range(2):
        for n, name in enumerate(names):
            emit(desk, f"r{number}{n}", lane(name))
    expected = [f"r{number}{n}" for number in range(2) for n in range(len(names))]
    assert order(desk, "e0") == expected


def test_lanes_take_turns_at_a_throttle_too(desk: Desk) -> None:
    flow = throttle(1, 10)
    emit(desk, "e0", flow)
    finish(desk, "e0")
    for n in range(3):
        emit(desk, f"x{n}", dataclasses.replace(flow, lane="x"))
    emit(desk, "y0", dataclasses.replace(flow, lane="y"))
    found = []
    for _ in range(4):
        desk.clock.advance(10)
        found += [run_id for run_id in desk.taken() if run_id not in found]
    assert found == ["x0-a", "y0-a", "x1-a", "x2-a"]


def test_one_big_lane_starves_no_other(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    for n in range(300):
        emit(desk, f"big{n:03}", lane("big"))
    for n in range(3):
        for name in range(5):
            emit(desk, f"s{name}{n}", lane(f"small{name}"))
    first = order(desk, "e0")[:18]
    assert [key for key in first if key.startswith("big")] == ["big000", "big001", "big002"]


def test_a_cancelled_one_leaves_its_lane_in_its_turn(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    for key in ("x0", "y0", "x1", "y1"):
        emit(desk, key, lane(key[0]))
    desk.ledger.cancel(["x0-a"], "enough")
    assert order(desk, "e0") == ["x1", "y0", "y1"]


def test_a_lane_that_is_cancelled_empty_is_passed_over(desk: Desk) -> None:
    emit(desk, "e0", ONE)
    for key in ("x0", "y0", "y1"):
        emit(desk, key, lane(key[0]))
    desk.ledger.cancel(["x0-a"], "enough")
    assert order(desk, "e0") == ["y0", "y1"]
