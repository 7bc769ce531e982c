"""Django settings of a project that has no Celery app, or one that does not read them."""

from __future__ import annotations

import json
import os

from celery import Celery

SECRET_KEY = "tests"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "celery_fanout.contrib.django",
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
for _key, _value in json.loads(os.environ.get("TEST_SETTINGS", "{}")).items():
    globals()[_key] = _value
if "TEST_BARE_APP" in os.environ:
    app = Celery("bare", broker="memory://", backend="cache+memory://")
