"""Places where the fault tests break a process. For tests only: their names are a contract.

``CELERY_FANOUT_FAILPOINTS="step.after_store=kill@3;settle.before=raise"`` in the environment, when
the process starts: the third time that any process of this family passes ``step.after_store`` it
kills itself. How often a place was passed is counted in the directory
``CELERY_FANOUT_FAILPOINT_DIR``, so that a process which replaces a dead one goes on counting, and
nothing happens twice; with ``@3+`` it happens the third time and every time after that.

============== ====================================================================================
``kill``       SIGKILL to this process
``killworker`` SIGKILL to its process group: the worker's main process and all its children
``exit``       ``os._exit(1)``
``raise``      a ``ConnectionError``
``hang``       nothing goes on in this thread until the file ``CELERY_FANOUT_FAILPOINT_FILE`` exists
============== ====================================================================================

Without the variable a place costs one look at an empty dict.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import NamedTuple

ACTIONS = ("kill", "killworker", "exit", "raise", "hang")

#: How soon a thread that hangs sees that it may go on, in seconds.
LOOK = 0.02


class _Point(NamedTuple):
    action: str
    number: int
    on: bool


def _parse(text: str) -> dict[str, _Point]:
    points: dict[str, _Point] = {}
    for entry in filter(None, text.split(";")):
        name, _, rest = entry.partition("=")
        action, _, number = rest.partition("@")
        if action not in ACTIONS:
            # a typo that did nothing would let a fault test pass
            raise ValueError(f"CELERY_FANOUT_FAILPOINTS: {entry!r}; actions are {ACTIONS}")
        points[name] = _Point(action, int(number.removesuffix("+") or 1), number.endswith("+"))
    return points


_points = _parse(os.environ.get("CELERY_FANOUT_FAILPOINTS", ""))


def hit(name: str) -> None:
    """Break this process here, if a test wants that."""
    if _points and name in _points:
        _pass(name, _points[name])


def _pass(name: str, point: _Point) -> None:
    count = _count(name)
    if count != point.number and not (point.on and count > point.number):
        return
    if point.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif point.action == "killworker":
        os.killpg(os.getpgrp(), signal.SIGKILL)
    elif point.action == "exit":
        os._exit(1)
    elif point.action == "raise":
        raise ConnectionError(f"failpoint {name}")
    else:
        gate = Path(os.environ["CELERY_FANOUT_FAILPOINT_FILE"])
        while not gate.exists():
            threading.Event().wait(LOOK)


def _count(name: str) -> int:
    """Count this time, and return its number over all processes of the family."""
    directory = Path(os.environ["CELERY_FANOUT_FAILPOINT_DIR"])
    file = os.open(directory / name, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        # two that came at once must not both find the larger size: each one's own end is its number
        os.write(file, b".")
        return os.lseek(file, 0, os.SEEK_CUR)
    finally:
        os.close(file)
