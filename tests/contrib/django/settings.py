"""Django settings of the tests of ``celery_fanout.contrib.django``; servers come by environment."""

from __future__ import annotations

import json
import os

import pymysql

# in place of mysqlclient, which has to be compiled; Django asks for a version of that
pymysql.version_info = (2, 2, 7, "final", 0)
pymysql.install_as_MySQLdb()

SECRET_KEY = "tests"
USE_TZ = True
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "tests.contrib.django.urls"
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "celery_fanout.contrib.django",
    "tests.contrib.django.shop",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
STATIC_URL = "/static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = json.loads(
    os.environ.get("TEST_DATABASES")
    or '{"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}'
)
CELERY_BROKER_URL = os.environ.get("TEST_BROKER", "memory://")
CELERY_RESULT_BACKEND = os.environ.get("TEST_BACKEND", "cache+memory://")
for _key, _value in json.loads(os.environ.get("TEST_SETTINGS", "{}")).items():
    globals()[_key] = _value
