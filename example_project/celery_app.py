"""The Celery app, as any Celery app: celery-fanout needs nothing here."""

import os

from celery import Celery

app = Celery(
    "documents",
    broker=os.environ.get("BROKER_URL", "memory://"),
    backend=os.environ.get("RESULT_BACKEND", "cache+memory://"),
    include=["example_project.documents.tasks"],
)
app.conf.update(
    # a run whose worker dies is delivered again, and its finished steps are not repeated
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_time_limit=300,
    fanout_source="/example/documents",
)
