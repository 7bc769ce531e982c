"""The ledger in this process's memory: for tests, demos, and apps of one process.

May import what ``stores`` may; no server is asked.
Private: its modules may change without notice.
"""

from __future__ import annotations

from celery_fanout.stores.memory.ledger import MemoryLedger

__all__ = ["MemoryLedger"]
