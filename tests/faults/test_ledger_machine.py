"""Interleavings on both ledgers that nobody has seen yet.

See ``tests/conformance/machine.py`` and ``tests/conformance/admissions.py``.
"""

from __future__ import annotations

import pytest

from celery_fanout.stores.ledger import Ledger
from celery_fanout.stores.memory.ledger import MemoryLedger
from celery_fanout.stores.redis import RedisLedger
from tests.conformance import admissions
from tests.conformance.ledgers import Clock
from tests.conformance.machine import explore
from tests.faults.conftest import SEED
from tests.servers import RedisServer


@pytest.mark.timeout(1800)
def test_both_ledgers_do_the_same(redis_server: RedisServer, bounded: bool) -> None:
    stories = 40 if bounded else 1500
    assert explore(redis_server, SEED, stories) == stories


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["memory", "redis"])
def test_limits_hold(request: pytest.FixtureRequest, bounded: bool, kind: str) -> None:
    def make(clock: Clock) -> Ledger:
        if kind == "memory":
            return MemoryLedger(admissions.RULES, clock)
        server: RedisServer = request.getfixturevalue("redis_server")
        server.flush()
        return RedisLedger(server.url(), admissions.RULES, clock=clock)

    stories = (100 if bounded else 3000) // (1 if kind == "memory" else 5)
    assert admissions.explore(make, SEED, stories) == stories
