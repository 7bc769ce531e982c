"""How far it is from ``emit()`` to the store: frames, and moves between rooms.

Measured where an event takes the longest way: level 2, the ledger in another database than the
broker's. Calls of words (``model``, ``exceptions``, ``signals``) are no moves: they hold no state.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import pytest
from celery import Celery

import celery_fanout
from celery_fanout import emit, on_event
from tests.servers import RedisServer
from tests.test_architecture import LAYERS

PACKAGE = Path(celery_fanout.__file__).parent
WORDS = ("model", "exceptions", "signals")


class Call(NamedTuple):
    """A call of a function of the package."""

    room: str
    caller: str | None
    name: str
    #: the functions of the package that it was called through, ``emit`` first
    path: list[str]


def room_of(frame: FrameType | None) -> str | None:
    """Return the room of a function; ``None`` if it is none of ours."""
    file = Path(frame.f_code.co_filename) if frame is not None else None
    if file is None or not file.is_relative_to(PACKAGE):
        return None
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


@pytest.fixture(scope="module")
def calls(redis_server: RedisServer) -> list[Call]:
    redis_server.flush()
    app = Celery("proj", broker=redis_server.url(), set_as_current=False)
    app.conf.fanout_store_url = redis_server.url(1)

    @on_event("document/uploaded")
    @app.task(name="index", shared=False)
    def index(data: object) -> None:
        """Never run."""

    seen: list[Call] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        room = room_of(frame)
        if event != "call" or room is None:
            return
        path = [each.f_code.co_name for each in frames(frame.f_back) if room_of(each) is not None]
        seen.append(Call(room, room_of(frame.f_back), frame.f_code.co_name, path[::-1]))

    emit("document/uploaded", {"id": 1}, app=app)  # the first one builds the parts
    sys.setprofile(note)
    try:
        emit("document/uploaded", {"id": 2}, app=app)
    finally:
        sys.setprofile(None)
    app.close()
    return seen


def test_it_is_five_frames_to_the_store(calls: list[Call]) -> None:
    path = next(call.path for call in calls if (call.room, call.name) == ("stores", "record"))
    assert len(path) <= 5, path


def moves(calls: list[Call]) -> list[tuple[str, str, str]]:
    return [
        (call.caller, call.room, call.name)
        for call in calls
        if call.caller not in (None, call.room, *WORDS) and call.room not in WORDS
    ]


def test_it_moves_twelve_times_between_rooms(calls: list[Call]) -> None:
    found = moves(calls)
    assert 3 < len(found) <= 12, found


def test_it_never_moves_upwards(calls: list[Call]) -> None:
    floors = {room: -number for number, layer in enumerate(LAYERS) for room in layer}
    assert [move for move in moves(calls) if floors[move[1]] > floors[move[0]]] == []
