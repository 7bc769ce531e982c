# ruff: noqa: F821 - the names are those of the page
"""The table of backends, as far as no server is needed for it."""

import django
import pytest
from django.conf import settings

from celery_fanout.exceptions import StoreUnsupported
from celery_fanout.settings import Settings
from celery_fanout.stores.backend import BackendStore

settings.configure(INSTALLED_APPS=["django.contrib.contenttypes", "django_celery_results"])
django.setup()

DAY = 86_400.0
TABLE = {
    "redis://localhost:1": (30 * DAY, True),
    "rediss://localhost:1": (30 * DAY, True),
    "sentinel://localhost:1": (30 * DAY, True),
    "cache+memcached://localhost:1": (30 * DAY, True),
    "cache+memory://": (30 * DAY, True),
    "db+sqlite://": (14 * DAY, False),
    "django-db": (14 * DAY, False),
    "file:///tmp": (14 * DAY, False),
}
for url, (keeps, extends) in TABLE.items():
    store = BackendStore(app, Settings(store_url=url, checkpoint_expires=30 * DAY))
    assert (store.keeps, store.supports_extend) == (keeps, extends), url
long = Settings(store_url="cache+memcached://localhost:1", checkpoint_expires=31 * DAY)
assert BackendStore(app, long).keeps == 30 * DAY
for url in ("rpc://", "disabled://"):
    with pytest.raises(StoreUnsupported):
        BackendStore(app, Settings(store_url=url))
