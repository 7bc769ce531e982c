"""Places where the fault tests break a process. For tests only: their names are a contract.

``CELERY_FANOUT_FAILPOINTS="step.after_store=kill@3;settle.before=raise"`` in the environment, when
the process starts: the third time that any process of this family passes ``step.after_store`` it
kills itself. How often a place was passed is counted in the directory
``CELERY_FANOUT_FAILPOINT_DIR``, so that a process which replaces a dead one goes on counting.

Actions: ``kill`` (SIGKILL), ``exit`` (``os._exit(1)``), ``raise`` (a ``ConnectionError``). Without
the variable a place costs one look at an empty dict.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

__all__ = ["hit"]


def _parse(text: str) -> dict[str, tuple[str, int]]:
    found: dict[str, tuple[str, int]] = {}
    for entry in filter(None, text.split(";")):
        name, _, action = entry.partition("=")
        action, _, number = action.partition("@")
        found[name] = (action, int(number or 1))
    return found


_points = _parse(os.environ.get("CELERY_FANOUT_FAILPOINTS", ""))


def hit(name: str) -> None:
    """Break this process here, if a test wants that."""
    if not _points or name not in _points:
        return
    action, number = _points[name]
    if _count(name) != number:
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "exit":
        os._exit(1)
    else:
        raise ConnectionError(f"failpoint {name}")


def _count(name: str) -> int:
    """Return the how-manieth time it is, over all processes of the family."""
    directory = Path(os.environ["CELERY_FANOUT_FAILPOINT_DIR"])
    file = os.open(directory / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, b".")
        return os.fstat(file).st_size
    finally:
        os.close(file)
