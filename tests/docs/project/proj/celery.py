"""The app of somebody who reads a how-to guide."""

from celery import Celery

app = Celery(
    "proj", broker="redis://localhost", backend="redis://localhost", include=["proj.tasks"]
)
