"""A small Django project, and the tests of ``celery_fanout.contrib.django`` on it."""

from tests.contrib.django.celery_app import app as celery_app

__all__ = ["celery_app"]
