"""Checkpoints in this process's memory: for tests, eager apps and single-process demos."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from celery_fanout.model.locks import fork_safe_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery_fanout.stores.checkpoints import StepKey

#: Expired entries are swept when this many puts went by.
_SWEEP_EVERY = 1000


class MemoryStore:
    """A store that forgets everything when the process ends.

    Args:
        expires: how long a checkpoint is kept, in seconds.
        clock: where the time comes from.
    """

    name = "The memory store"
    supports_extend = True
    keeps_setting = "fanout_checkpoint_expires"

    def __init__(self, expires: float, clock: Callable[[], float] = time.time) -> None:
        self.keeps: float | None = expires
        self.longest: float | None = None
        self._expires = expires
        self._clock = clock
        self._lock = fork_safe_lock()
        self._entries: dict[tuple[str, StepKey], tuple[str, float]] = {}
        self._puts = 0

    def get(self, run_id: str, key: StepKey) -> str | None:
        """Return the text stored under a key, or ``None``."""
        with self._lock:
            entry = self._entries.get((run_id, key))
            if entry is None or entry[1] <= self._clock():
                return None
            return entry[0]

    def put(self, run_id: str, key: StepKey, text: str, *, final: bool) -> None:  # noqa: ARG002 - the protocol's
        """Store a text under a key."""
        with self._lock:
            self._entries[run_id, key] = (text, self._clock() + self._expires)
            self._puts += 1
            if self._puts % _SWEEP_EVERY == 0:
                now = self._clock()
                self._entries = {k: e for k, e in self._entries.items() if e[1] > now}

    def forget(self, run_ids: Sequence[str]) -> None:
        """Drop all checkpoints of some runs."""
        with self._lock:
            self._entries = {k: e for k, e in self._entries.items() if k[0] not in run_ids}

    def extend(self, run_id: str, keys: Sequence[StepKey], seconds: float) -> None:
        """Keep what is stored under these keys for at least ``seconds`` from now."""
        with self._lock:
            until = self._clock() + seconds
            for key in keys:
                entry = self._entries.get((run_id, key))
                if entry is not None and entry[1] < until:
                    self._entries[run_id, key] = (entry[0], until)
