"""The ledger in Redis or Valkey: one server, Sentinel, or Cluster.

One script for each change, one round trip for each script. Key names, the packing of records and
the clients live here too; nothing outside of this directory knows a key.

May import what ``stores`` may.
Private: its modules may change without notice.
"""

from __future__ import annotations

from celery_fanout.stores.redis.ledger import RedisLedger

__all__ = ["RedisLedger"]
