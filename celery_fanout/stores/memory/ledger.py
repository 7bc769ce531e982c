"""The ledger in this process's memory, which is what it is in Redis but for where it is kept."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from celery_fanout.stores.memory.client import MemoryLink
from celery_fanout.stores.redis import RedisLedger

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_fanout.stores.ledger import LedgerRules

__all__ = ["MemoryLedger"]


class MemoryLedger(RedisLedger):
    """A :class:`~celery_fanout.stores.ledger.Ledger` that forgets everything with its process.

    Threads may share it. A forked process has a copy of what there was.

    Args:
        rules: the settings that its decisions follow.
        clock: the time.

    Raises:
        MissingExtra: if lupa is not installed.
    """

    name = "The memory ledger"
    supports_publish = False

    def __init__(self, rules: LedgerRules, clock: Callable[[], float] = time.time) -> None:
        super().__init__("memory://", rules, clock=clock, link=MemoryLink(clock))
