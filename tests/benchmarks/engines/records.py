"""What the subscribers of every engine do, and what they write down about it.

Imported by every worker, so it imports next to nothing.
"""

from __future__ import annotations

import functools
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Environment variable by which a worker finds the file.
FILE = "BENCHMARK_RECORDS"

#: How many subscribers an event has, and how many steps a run has that has steps.
SUBSCRIBERS, STEPS = 5, 3

#: What a record is about: the first step of a run begins, the last one has ended.
FIRST, LAST = 1, 2

# number of the event, number of the subscriber, what it is about, the machine's monotonic clock
_RECORD = struct.Struct("<IHHd")


@functools.cache
def _file() -> int:
    return os.open(os.environ[FILE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def _write(event: dict[str, Any], subscriber: int, mark: int) -> None:
    os.write(_file(), _RECORD.pack(event["number"], subscriber, mark, time.monotonic()))


def no_steps(event: dict[str, Any], subscriber: int) -> None:
    """Be the body of a run without steps."""
    _write(event, subscriber, LAST)


def one_step(event: dict[str, Any], subscriber: int, number: int) -> dict[str, int]:
    """Be one step of a run."""
    if number == 0:
        _write(event, subscriber, FIRST)
    if number == STEPS - 1:
        _write(event, subscriber, LAST)
    return {"part": number}


class Records:
    """The file, as the benchmark reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def count(self) -> int:
        """Return how many records there are."""
        return self.path.stat().st_size // _RECORD.size

    def read(self, start: int) -> Iterator[tuple[int, int, int, float]]:
        """Yield event, subscriber, mark and time of all records from one on."""
        return _RECORD.iter_unpack(self.path.read_bytes()[start * _RECORD.size :])
