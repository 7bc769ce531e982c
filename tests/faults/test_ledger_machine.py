"""Interleavings on both ledgers that nobody has seen yet; see ``tests/conformance/machine.py``."""

from __future__ import annotations

import pytest

from tests.conformance.machine import explore
from tests.faults.conftest import SEED
from tests.servers import RedisServer


@pytest.mark.timeout(1800)
def test_both_ledgers_do_the_same(redis_server: RedisServer, bounded: bool) -> None:
    stories = 40 if bounded else 1500
    assert explore(redis_server, SEED, stories) == stories
