"""The app of ``jobs.py``, in a worker that is told to stop while it hands over ``jobs.steps``."""

from __future__ import annotations

import os
import signal
from typing import Any

from billiard.connection import Connection

from tests.faults.jobs import app

__all__ = ["app"]

_send_offset = Connection.send_offset
_told: list[bool] = []


def send_offset(self: Any, buf: Any, offset: int) -> Any:
    """Send, as billiard does: first the length of a message, then the message."""
    if not _told and b"jobs.steps" in bytes(buf):
        _told.append(True)
        os.kill(os.getpid(), signal.SIGQUIT)  # Celery's handler runs at once, in here
    return _send_offset(self, buf, offset)


Connection.send_offset = send_offset
