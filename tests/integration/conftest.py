"""What one integration test declares is not there for the next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import _state

from celery_fanout.declarations import declared


@pytest.fixture(autouse=True)
def leave_nothing_declared() -> Iterator[None]:
    """Forget the subscriptions and shared tasks of the test, and what app was current."""
    before = list(declared.all)
    finalizers = set(_state._on_app_finalizers)
    app, apps = _state._tls.current_app, set(_state._get_active_apps())
    yield
    declared.all[:] = before
    declared.version += 1
    _state._on_app_finalizers.intersection_update(finalizers)
    _state._tls.current_app = app
    for made in set(_state._get_active_apps()) - apps:
        made.close()  # or it gets the shared tasks of the tests to come
