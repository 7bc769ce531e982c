"""Interleavings of the twin and the scripts that nobody has seen yet.

The scripts run on the embedded Lua, and again in Redis: 10,000 stories in the short form too. See
``tests/conformance/machine.py`` and ``tests/conformance/admissions.py``.
"""

from __future__ import annotations

import pytest

from celery_fanout.stores.ledger import Ledger
from tests.conformance import admissions
from tests.conformance.ledgers import Clock
from tests.conformance.machine import explore
from tests.conformance.mirror import Mirror
from tests.faults.conftest import SEED
from tests.servers import RedisServer


@pytest.mark.timeout(3600)
def test_many_short_stories(redis_server: RedisServer) -> None:
    """Compared in their end: twenty times as many in the same time."""
    stories = 9000
    assert explore(redis_server, SEED, stories, steps=25, thorough=False) == stories


@pytest.mark.timeout(3600)
def test_many_short_stories_of_limits(redis_server: RedisServer) -> None:
    def make(clock: Clock) -> Ledger:
        return Mirror(redis_server.url(), admissions.RULES, clock)

    stories = 1000
    found = admissions.explore(make, SEED, stories, steps=25, thorough=False)
    assert found == stories


@pytest.mark.timeout(1800)
def test_the_twin_and_the_scripts_do_the_same(redis_server: RedisServer, bounded: bool) -> None:
    stories = 40 if bounded else 1500
    assert explore(redis_server, SEED, stories) == stories


@pytest.mark.timeout(1800)
def test_limits_hold(redis_server: RedisServer, bounded: bool) -> None:
    def make(clock: Clock) -> Ledger:
        return Mirror(redis_server.url(), admissions.RULES, clock)

    stories = 20 if bounded else 1000
    assert admissions.explore(make, SEED, stories) == stories
