# ruff: noqa: F821 - the names are those of the page
"""The tables of backends, as far as no server is needed for them."""

import django
import pytest
from django.conf import settings

from celery_fanout.exceptions import StoreUnsupported
from celery_fanout.model.settings import Settings
from celery_fanout.stores.backend import BackendStore

settings.configure(INSTALLED_APPS=["django.contrib.contenttypes", "django_celery_results"])
django.setup()

DAY = 86_400.0
LEVEL_2 = [
    *("redis://localhost:1", "rediss://localhost:1", "unix:///tmp/redis.sock"),
    *("valkey://localhost:1", "redis+cluster://localhost:1", "memory://"),
]
for number, url in enumerate(LEVEL_2):
    found = Celery(f"level-2-{number}", broker="memory://", fanout_store_url=url)
    assert get_fanout(found).level2 is not None, url
for number, url in enumerate(["backend", "db+sqlite://", "cache+memcached://localhost:1"]):
    found = Celery(f"level-1-{number}", backend="redis://localhost:1", fanout_store_url=url)
    found.conf.broker_url = "memory://"
    assert get_fanout(found).level2 is None, url
app.conf.result_expires = sql.conf.result_expires
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
