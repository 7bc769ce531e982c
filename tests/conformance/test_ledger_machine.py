"""Many interleavings on the twin and the scripts at once; see ``machine.py``.

The same ones each time. ``make test-faults`` looks for others.
"""

from __future__ import annotations

import itertools

import pytest

from celery_fanout.stores.states import TRANSITIONS, RunState
from tests.conformance.machine import explore
from tests.servers import RedisServer

STORIES = 100


@pytest.mark.timeout(600)
def test_the_twin_and_the_scripts_do_the_same(redis_server: RedisServer) -> None:
    assert explore(redis_server, "always", STORIES) == STORIES


def test_one_in_shards_does_the_same_too(redis_server: RedisServer) -> None:
    assert explore(redis_server, "always", STORIES // 10, shards=3) == STORIES // 10


def test_the_machine_may_reach_every_state() -> None:
    reached = {RunState.PENDING, *itertools.chain.from_iterable(TRANSITIONS.values())}
    assert reached == set(RunState)
