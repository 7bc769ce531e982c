"""The way of an event from ``emit()`` to the ledger and the broker: how far, and what is asked."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

import celery_fanout
from celery_fanout import Concurrency, Event, Idempotency, emit, emit_many, get_fanout
from celery_fanout import on_event as subscribe
from celery_fanout.emitting.delivery import Draft
from celery_fanout.testing import Clock, simulate

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

PACKAGE = Path(celery_fanout.__file__).parent

#: The rooms from the ground up, as the import contract has them.
FLOORS = [
    {"exceptions", "signals.py"},
    {"model"},
    {"stores"},
    {"subscribing"},
    {"emitting", "operating"},
    {"keeping", "running"},
    {"app"},
]


def site(store_url: str, **options: Any) -> Celery:
    """Return an app with one subscriber."""
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.update(fanout_store_url=store_url, result_backend="cache+memory://")

    @subscribe("order/paid", **options)
    @app.task(name="tell", shared=False)
    def tell(data: Any) -> None: ...

    app.finalize()
    return app


def file_of(frame: FrameType | None) -> str:
    """Return a frame's file below the package; ``""`` if it is not ours."""
    path = Path(frame.f_code.co_filename) if frame is not None else Path()
    return path.relative_to(PACKAGE).as_posix() if path.is_relative_to(PACKAGE) else ""


def callers(frame: FrameType) -> list[FrameType]:
    """Return the frames of ours that a frame was called from, the nearest first."""
    found: list[FrameType] = []
    above = frame.f_back
    while above is not None:
        if file_of(above):
            found.append(above)
        above = above.f_back
    return found


def profiled(action: Callable[[], object], called: Callable[[FrameType], None]) -> None:
    """Do something, and look at each function of ours when it is called."""

    def profile(frame: FrameType, event: str, arg: object) -> None:
        if event == "call" and file_of(frame) and not frame.f_code.co_name.startswith("<"):
            called(frame)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        action()
    finally:
        sys.setprofile(before)


@pytest.mark.parametrize(
    ("store_url", "end"),
    [("backend", "emitting/broker/sending.py"), ("memory://", "stores/")],
    ids=["level 1, to the broker", "level 2, to the ledger"],
)
def test_an_event_passes_five_functions_at_most(store_url: str, end: str) -> None:
    app = site(store_url)
    emit("order/paid", app=app)  # what is built once is built
    ways: list[list[str]] = []

    def called(frame: FrameType) -> None:
        if file_of(frame).startswith(end):
            ways.append([f"{file_of(f)}:{f.f_code.co_name}" for f in callers(frame)])

    profiled(lambda: emit("order/paid", app=app), called)
    assert ways[0][-1] == "app/api.py:emit"
    assert len(ways[0]) <= 5, ways[0]


def moves(action: Callable[[], object]) -> list[tuple[str, str, str]]:
    """Return the calls from one room into another on the way of an event that was drafted.

    Several in a row into one room are one move. What a store does inside is its own affair, and who
    listens to our signals is no part of the way.
    """
    found: list[tuple[str, str, str]] = []
    last = ""

    def called(frame: FrameType) -> None:
        nonlocal last
        above = callers(frame)
        rooms = [file_of(caller).split("/")[0] for caller in above]
        drafted = "emitting/delivery.py" in map(file_of, above)
        if not drafted or "stores" in rooms or file_of(frame) == "app/logs.py":
            return
        room = file_of(frame).split("/")[0]
        if room not in (rooms[0], last):
            found.append((rooms[0], room, frame.f_code.co_name))
        last = room

    profiled(action, called)
    return found


@pytest.mark.parametrize(
    "options",
    [{}, {"concurrency": Concurrency(9, "id"), "priority": lambda event: 1}],
    ids=["plain", "with limits"],
)
def test_recording_goes_down_and_not_to_and_fro(options: dict[str, Any]) -> None:
    app = site("memory://", **options)
    emit("order/paid", {"id": 1}, app=app)
    made = moves(lambda: emit("order/paid", {"id": 2}, app=app))
    assert made
    assert len(made) <= 12, made
    floors = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    assert [move for move in made if floors[move[0]] <= floors[move[1]]] == []


class Asked(Counter[str]):
    """Counts how often the user's functions are called."""

    def key(self, event: Event) -> str:
        self["key"] += 1
        return event.id

    def priority(self, event: Event) -> int:
        self["priority"] += 1
        return 5

    def options(self) -> dict[str, Any]:
        return {"idempotency": Idempotency(self.key), "priority": self.priority}


class TestUsersFunctions:
    """A subscription's functions may be slow, or count: each is called once per event."""

    def test_of_one_event(self) -> None:
        asked = Asked()
        emit("order/paid", app=site("memory://", **asked.options()))
        assert asked == {"key": 1, "priority": 1}

    def test_of_several_events(self) -> None:
        asked = Asked()
        app = site("memory://", **asked.options())
        emit_many([("order/paid", number) for number in range(3)], app=app)
        assert asked == {"key": 3, "priority": 3}

    def test_of_an_event_that_was_checked_before_it_waited(self) -> None:
        asked = Asked()
        fanout = get_fanout(site("memory://", **asked.options()))
        draft = Draft(fanout, [Event("order/paid"), Event("order/paid")])
        draft.check()
        assert asked == {"key": 2, "priority": 2}
        assert [len(emission.runs) for emission in draft.emit(passed=1.0)] == [1, 1]
        assert asked == {"key": 2, "priority": 2}

    def test_of_an_event_whose_id_was_used_before(self) -> None:
        """Its runs are frozen again, with the ids of another generation."""
        asked = Asked()
        app = site("memory://", **asked.options())
        with simulate(app, clock=Clock(1000.0)) as simulation:
            first = emit("order/paid", id="a", app=app)
            simulation.work()
            simulation.advance(100_000)  # longer than fanout_dedup_window
            asked.clear()
            second = emit("order/paid", id="a", app=app)
        assert second.runs[0].id != first.runs[0].id
        assert asked == {"key": 1, "priority": 1}
