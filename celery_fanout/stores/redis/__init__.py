"""The ledger in Redis or Valkey: one server, Sentinel, or Cluster."""

from __future__ import annotations

from celery_fanout.stores.redis.ledger import RedisLedger

__all__ = ["RedisLedger"]
