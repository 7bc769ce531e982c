"""What one test declares is not there for the next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from celery import _state

from celery_fanout.subscribing.on_event import declared

__all__ = ["declarations_forgotten"]


@contextmanager
def declarations_forgotten() -> Iterator[None]:
    """Forget at the end what subscriptions and shared tasks were made, and what app is current."""
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
