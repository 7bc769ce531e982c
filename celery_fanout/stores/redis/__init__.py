"""The ledger in Redis or Valkey: one server, Sentinel, or Cluster."""

from __future__ import annotations

from celery_fanout.stores.redis.client import is_redis_url
from celery_fanout.stores.redis.store import RedisLedger

__all__ = ["RedisLedger", "is_redis_url"]
