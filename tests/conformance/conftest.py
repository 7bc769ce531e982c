"""Ledgers for the conformance suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from celery_fanout.stores.memory.ledger import MemoryLedger
from celery_fanout.stores.redis import RedisLedger
from celery_fanout.stores.redis.shards.ledger import ShardedLedger
from tests.conformance.ledgers import Clock, Desk, make_ledger
from tests.leaks import check_ledger, no_leaks  # noqa: F401 - the second is a fixture

#: What a shard does alone is held by the other ledgers; here it is what several do together.
SHARDED = (
    "test_ledger_bounds",
    "test_ledger_keeping",
    "test_ledger_runs",
    "test_ledger_waits",
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test a ledger of each kind."""
    if "desk" in metafunc.fixturenames:
        module = metafunc.module.__name__.rpartition(".")[2]
        kinds = ["twin", "memory", "redis"]
        if module in SHARDED:
            kinds.append("shards")
        elif module == "test_ledger_shards":
            kinds = ["shards"]
        metafunc.parametrize("desk", kinds, indirect=True)


@pytest.fixture
def desk(request: pytest.FixtureRequest) -> Iterator[Desk]:
    """An empty ledger of each kind, whose keys are looked through after the test."""
    clock = Clock()
    if request.param in ("redis", "shards"):
        request.getfixturevalue("no_leaks")

    def url() -> str:
        found: str = request.getfixturevalue("redis_url")
        return found

    get: Callable[[], str] = url
    ledger = make_ledger(request.param, get, clock)
    yield Desk(ledger, clock)
    if isinstance(ledger, MemoryLedger):
        check_ledger(ledger.client)
    elif isinstance(ledger, (RedisLedger, ShardedLedger)):
        ledger.close()
