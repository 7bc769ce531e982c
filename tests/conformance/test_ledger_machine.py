"""Thousands of interleavings on both ledgers at once; see ``machine.py``.

The same ones each time. ``make test-faults`` looks for others.
"""

from __future__ import annotations

import itertools

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from celery_fanout.stores.states import TRANSITIONS, RunState
from tests.conformance.machine import Ledgers
from tests.servers import RedisServer

SETTINGS = settings(
    max_examples=100,
    derandomize=True,
    stateful_step_count=50,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


def test_both_ledgers_do_the_same(redis_server: RedisServer) -> None:
    Ledgers.server = redis_server
    run_state_machine_as_test(Ledgers, settings=SETTINGS)


def test_the_machine_may_reach_every_state() -> None:
    reached = {RunState.PENDING, *itertools.chain.from_iterable(TRANSITIONS.values())}
    assert reached == set(RunState)
