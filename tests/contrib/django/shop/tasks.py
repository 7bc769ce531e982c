"""Subscribers of the tests' project: what they receive goes into a file, line by line."""

from __future__ import annotations

import json
import os

from celery import shared_task

from celery_fanout import current_event, current_run, on_event


def note(kind: str, **what: object) -> None:
    """Append to the file of the test's oracle, durably."""
    path = os.environ.get("TEST_ORACLE")
    if path:
        line = json.dumps({"kind": kind, **what}) + "\n"
        with open(path, "a") as file:  # noqa: PTH123 - one write, as O_APPEND
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


@on_event("order/*")
@shared_task
def record(data):
    event, run = current_event(), current_run()
    note("run", task="record", name=event.name, id=event.id, run=run.id, data=data)


@on_event("order/placed")
@shared_task
def invoice(data):
    event, run = current_event(), current_run()
    note("run", task="invoice", name=event.name, id=event.id, run=run.id, data=data)
