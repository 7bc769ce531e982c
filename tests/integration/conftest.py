"""What one integration test declares is not there for the next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.declaring import declarations_forgotten


@pytest.fixture(autouse=True)
def leave_nothing_declared() -> Iterator[None]:
    """Forget the subscriptions and shared tasks of the test, and what app was current."""
    with declarations_forgotten():
        yield
