"""What one unit test declares is not there for the next."""

import pytest
from celery import _state
from hypothesis import HealthCheck, settings

from celery_fanout.model import event_types as eventtypes
from celery_fanout.subscribing.on_event import declared

# never a timed test
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def leave_nothing_declared():
    """Forget the apps, shared tasks, subscriptions and event types of the test."""
    apps = set(_state._apps)
    before = list(declared.all)
    finalizers = set(_state._on_app_finalizers)
    types, names = dict(eventtypes._types), dict(eventtypes._names)
    app = _state._tls.current_app
    yield
    for new in set(_state._apps) - apps:
        _state._deregister_app(new)
    declared.all[:] = before
    declared.version += 1
    _state._on_app_finalizers.intersection_update(finalizers)
    _state._tls.current_app = app
    for known, kept in ((eventtypes._types, types), (eventtypes._names, names)):
        known.clear()
        known.update(kept)
