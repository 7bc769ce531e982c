"""The pytest fixture ``fanout``, apart because every pytest run imports this file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from celery_fanout.testing import FanoutTester


@pytest.fixture
def fanout() -> FanoutTester:
    """Capture emitted events and run subscribers in memory; see :mod:`celery_fanout.testing`."""
    from celery_fanout.testing import FanoutTester

    return FanoutTester()
