"""What one integration test declares is not there for the next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.declaring import declarations_forgotten
from tests.leaks import check_ledgers


@pytest.fixture(autouse=True)
def leave_nothing_declared() -> Iterator[None]:
    """Forget the subscriptions and shared tasks of the test, and what app was current."""
    with declarations_forgotten():
        yield


@pytest.fixture(autouse=True)
def leave_no_keys(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves keys without an expiry in the shared Redis, whatever it is about."""
    used = "redis_server" in request.fixturenames
    server = request.getfixturevalue("redis_server") if used else None
    yield
    if server is not None:
        check_ledgers(server)
