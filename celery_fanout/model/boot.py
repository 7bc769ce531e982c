"""Which start of which worker this process belongs to: apart, as only this is process state.

A lease belongs to a boot, not to a host name: host names repeat. Pool processes are forked from the
worker's main process, and so share its boot.
"""

from __future__ import annotations

import os
import uuid

_boot: list[str] = []
_master: list[int] = []


def new_boot() -> str:
    """Begin a new boot; called in the worker's main process before it forks."""
    _boot[:] = [uuid.uuid4().hex[:12]]
    _master[:] = [os.getpid()]
    return _boot[0]


def boot_id() -> str:
    """Return the boot of this process."""
    return _boot[0] if _boot else new_boot()


def is_main() -> bool:
    """Whether this is the worker's main process, not one of its pool."""
    return _master == [os.getpid()]
