# ruff: noqa: F821 - the names are those of the page
from celery_fanout import get_fanout

assert get_fanout(app).store.name == "The result backend RedisBackend"
