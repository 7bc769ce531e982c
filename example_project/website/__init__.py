"""The example as a Django site: `make example` starts it."""

from example_project.website.celery import app as celery_app

__all__ = ["celery_app"]
