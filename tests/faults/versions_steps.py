"""What the tasks of ``versions.py`` do: steps, which they write down outside of the system."""

from __future__ import annotations

import datetime as dt
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import celery_fanout
from celery_fanout import current_run, step
from tests.servers import Oracle

LEASE = 2.0

#: Longer than any test takes.
LONG = 3600

#: For how long those collect that go on by themselves, and how far apart throttled ones start.
SHORT = 1.0

#: How many of those that are busy run at once, for each key.
AT_ONCE = 2

#: A queue that only some workers serve.
LATER = "later"

#: How the name of a gate ends that opens by itself.
ONCE = ".once"

#: Options of tasks that try again soon, and as often as it takes.
TRIES = {"autoretry_for": (ConnectionError,), "default_retry_delay": 1.5, "max_retries": 1000}

_executions = count(1)

#: Which version this process has; tests compare it with where it should be.
CODE = str(Path(celery_fanout.__file__).parent.parent)


class Page(BaseModel):
    """What a step returns, and another version reads back."""

    number: int
    text: str
    price: Decimal
    printed: dt.datetime


def write(what: str, **more: Any) -> None:
    """Write down that something begins."""
    run = current_run()
    assert run is not None
    Oracle.from_environment().write(what=what, run=run.id, pid=os.getpid(), code=CODE, **more)


@contextmanager
def execution_noted(kind: str, data: dict[str, Any]) -> Iterator[None]:
    """Write down when this execution begins, and when it ends, however it does."""
    x = f"{os.getpid()}-{next(_executions)}"
    write("begin", x=x, kind=kind, key=data["key"], n=data["n"], m=time.monotonic())
    try:
        yield
    finally:
        write("end", x=x, kind=kind, m=time.monotonic())


def noted(what: str, value: Any = None) -> Any:
    """Be a step: write down that it begins."""
    write(what)
    return what if value is None else value


def steps(*names: str) -> list[str]:
    """Execute steps that return their names."""
    return [step.run(name, noted, name) for name in names]


def unless_open(gate: str) -> None:
    """Fail while a file is not there: once, if its name says so."""
    if not Path(gate).exists():
        if gate.endswith(ONCE):
            Path(gate).touch()
        raise ConnectionError("the dependency is down")


def wait_for(gate: str) -> None:
    """Wait until a file is there."""
    while not Path(gate).exists():
        threading.Event().wait(0.02)


def retried_step(what: str, gate: str) -> str:
    """Be a step that fails for a while."""
    write(what)
    unless_open(gate)
    return what


def page() -> Page:
    """Be a step with a value that JSON does not have."""
    write("a")
    printed = dt.datetime(2026, 11, 27, 12, 30, tzinfo=dt.timezone.utc)
    return Page(
        number=2**53 + 1, text="Gr\u00fc\u00dfe \U0001f600", price=Decimal("9.90"), printed=printed
    )


def large() -> list[str]:
    """Be a step with a large value."""
    write("b")
    return ["x" * 1000] * 100
