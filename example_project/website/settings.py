"""Settings of the example site. What differs from machine to machine is in the environment.

DATABASE_URL             postgres://user:password@host:port/name; without it SQLite
REDIS_URL                broker and ledger; without it both are in the site's own process
EXAMPLE_DIR              where SQLite and the model's state are
EXAMPLE_SECRET_KEY       Django's SECRET_KEY; without it a new one for each process
EXAMPLE_WEBHOOK_SECRET   what senders of documents sign with: whsec_ and base64
EXAMPLE_MODEL_SECONDS    how long the toy model thinks
EXAMPLE_HOSTS            host names that the site answers to, beside this machine's own
"""

from __future__ import annotations

import base64
import getpass
import os
import secrets
import tempfile
from pathlib import Path
from typing import Any, Literal

from django.core.management.utils import get_random_secret_key

from example_project.website.databases import database_of

DATA_DIR = Path(
    os.environ.get("EXAMPLE_DIR")
    or Path(tempfile.gettempdir(), f"celery-fanout-example-{getpass.getuser()}")
)
DATA_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)

SECRET_KEY = os.environ.get("EXAMPLE_SECRET_KEY") or get_random_secret_key()
DEBUG = os.environ.get("EXAMPLE_DEBUG") == "1"
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]", *os.environ.get("EXAMPLE_HOSTS", "").split()]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "celery_fanout.contrib.django",
    "example_project.inbox",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "example_project.website.security.ContentSecurityPolicy",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "example_project.website.urls"
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
DATABASES = {"default": database_of(os.environ.get("DATABASE_URL"), DATA_DIR)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "/static/"
LOGIN_URL = "admin:login"
CSRF_COOKIE_HTTPONLY = True  # no script of ours asks for it

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "loggers": {"django.server": {"level": "ERROR"}},  # pages ask for progress every second
}

# -- Celery, and what of it is about events ------------------------------------------------------

REDIS_URL = os.environ.get("REDIS_URL")
CELERY_BROKER_URL = REDIS_URL or "memory://"
CELERY_RESULT_BACKEND = REDIS_URL or "cache+memory://"
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_TIME_LIMIT = 300
CELERY_WORKER_REDIRECT_STDOUTS = False
CELERY_FANOUT_SOURCE = "/example/website"
if not REDIS_URL:
    # A worker thread in the site's process takes what is due; see example_project/serve.py.
    CELERY_FANOUT_STORE_URL = "memory://"
    SILENCED_SYSTEM_CHECKS = ["celery_fanout.W002", "celery_fanout.W006"]  # they warn of just that
    CELERY_BROKER_TRANSPORT_OPTIONS: dict[str, Any] = {"polling_interval": 0.05}

# -- the example's own ---------------------------------------------------------------------------

#: The largest document, in bytes.
MAX_DOCUMENT_SIZE = 200 * 1024
MODEL_DIR = DATA_DIR / "model"
MODEL_SECONDS = float(os.environ.get("EXAMPLE_MODEL_SECONDS", "0.5"))

#: What documents are sent with. Standard Webhooks wants base64.
WEBHOOK_SECRET = os.environ.get("EXAMPLE_WEBHOOK_SECRET") or (
    "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()
)
# The sender is told that we have it, and then it must not get lost: into the database, where the
# relay takes it from. Without Redis there is no relay, and whatever we have is gone with us.
WEBHOOK_DELIVERY: Literal["outbox", "now"] = "outbox" if REDIS_URL else "now"
