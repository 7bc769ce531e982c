"""A small Django project, and the tests of ``celery_fanout.contrib.django`` on it."""

import os

if "DJANGO_SETTINGS_MODULE" in os.environ:
    # as Celery's documentation has it; but the tests themselves run in a process without Django
    from tests.contrib.django.celery_app import app as celery_app

    __all__ = ["celery_app"]
