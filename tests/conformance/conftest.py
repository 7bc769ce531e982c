"""Ledgers for the conformance suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from celery_fanout.stores.redis import RedisLedger
from tests.conformance.ledgers import Clock, Desk, make_ledger
from tests.leaks import no_leaks  # noqa: F401 - a fixture


@pytest.fixture(params=["memory", "redis"])
def desk(request: pytest.FixtureRequest, no_leaks: None) -> Iterator[Desk]:  # noqa: F811
    """An empty ledger of each kind."""
    clock = Clock()

    def url() -> str:
        found: str = request.getfixturevalue("redis_url")
        return found

    get: Callable[[], str] = url
    ledger = make_ledger(request.param, get, clock)
    yield Desk(ledger, clock)
    if isinstance(ledger, RedisLedger):
        ledger.close()
