"""Many mixes of options, and much that happens to them; see ``admissions.py``.

The same ones each time. ``make test-faults`` looks for others.
"""

from __future__ import annotations

import pytest

from celery_fanout.stores.ledger import Ledger
from celery_fanout.stores.memory_ledger import MemoryLedger
from celery_fanout.stores.redis import RedisLedger
from tests.conformance.admissions import RULES, explore
from tests.conformance.ledgers import Clock
from tests.servers import RedisServer

STORIES = 150


@pytest.mark.timeout(600)
def test_the_ledger_in_memory_keeps_to_the_limits() -> None:
    assert explore(lambda clock: MemoryLedger(RULES, clock), "always", STORIES) == STORIES


@pytest.mark.timeout(600)
def test_the_ledger_in_redis_keeps_to_them_too(redis_server: RedisServer) -> None:
    def make(clock: Clock) -> Ledger:
        redis_server.flush()
        return RedisLedger(redis_server.url(), RULES, clock=clock)

    assert explore(make, "always", STORIES // 5) == STORIES // 5
