"""Ledgers for the conformance suite."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conformance.ledgers import Clock, Desk, make_ledger


@pytest.fixture(params=["memory", "redis"])
def desk(request: pytest.FixtureRequest) -> Desk:
    """An empty ledger of each kind."""
    clock = Clock()

    def url() -> str:
        found: str = request.getfixturevalue("redis_url")
        return found

    get: Callable[[], str] = url
    return Desk(make_ledger(request.param, get, clock), clock)
