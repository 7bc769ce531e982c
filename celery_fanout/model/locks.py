"""Locks that a forked process finds free."""

from __future__ import annotations

import os
import threading
from typing import Any
from weakref import WeakSet

_locks: WeakSet[Any] = WeakSet()


def fork_safe_lock() -> threading.RLock:
    """Return a re-entrant lock that is free in a forked process.

    A fork copies a lock as it is, but not the thread that holds it: without this, what a web server
    or a pool forks while another thread emits would wait for ever. What that thread was making is
    made again in the forked process.
    """
    lock = threading.RLock()
    _locks.add(lock)
    return lock


def _free_all() -> None:
    for lock in list(_locks):
        lock._at_fork_reinit()  # noqa: SLF001 - what logging and threading do with theirs


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_free_all)
