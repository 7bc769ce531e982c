"""The app of the benchmarks that have workers: subscribers, and plain tasks that do the same.

Each body appends one byte to a file when it is done. So it can be seen from outside, at the same
cost for everybody, how many are.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from typing import Any

from celery import Celery
from celery import signals as celery_signals

from celery_fanout import on_event, step

#: Environment variables by which a worker learns its app and the file.
CONF, DONE = "BENCHMARK_CONF", "BENCHMARK_DONE"

DATA = {
    "id": "d-1",
    "name": "invoice-2026-0042.pdf",
    "size": 48_213,
    "type": "application/pdf",
    "owner": {"id": 42, "email": "someone@example.com"},
    "tags": ["invoice", "2026", "unread"],
    "url": "https://storage.example.com/documents/d-1/invoice-2026-0042.pdf",
}

RESULT = {"pages": 3, "language": "en"}

#: How many subscribers each kind of event has, for fan-out.
SUBSCRIBERS = 5


@functools.cache
def _file() -> int:
    return os.open(os.environ[DONE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def done() -> None:
    """Tell that a body is done."""
    os.write(_file(), b".")


def part(number: int) -> dict[str, int]:
    """Do one step's work: none."""
    return {"part": number}


def make_app(**conf: Any) -> Celery:
    """Return the app. Workers and their benchmark call it with the same settings."""
    app = Celery("benchmarks", set_as_current=False)
    app.conf.update(conf)

    @app.task(name="documents.ignored", ignore_result=True, shared=False)
    def ignored(document: dict[str, Any]) -> dict[str, Any]:
        done()
        return RESULT

    @app.task(name="documents.stored", shared=False)
    def stored(document: dict[str, Any]) -> dict[str, Any]:
        done()
        return RESULT

    @app.task(name="documents.link", ignore_result=True, shared=False)
    def link(document: dict[str, Any]) -> dict[str, Any]:
        done()
        return document

    @on_event("document/plain")
    @app.task(name="documents.plain", shared=False)
    def plain(document: dict[str, Any]) -> dict[str, Any]:
        done()
        return RESULT

    @on_event("document/steps")
    @app.task(name="documents.steps", shared=False)
    def steps(document: dict[str, Any]) -> dict[str, Any]:
        in_three_steps()
        done()
        return RESULT

    @on_event("document/sleeping")
    @app.task(name="documents.sleeping", shared=False)
    def sleeping(document: dict[str, Any]) -> None:
        step.sleep_until("rest", document["until"])
        done()

    for number in range(SUBSCRIBERS):
        _subscribe(app, number)
    app.finalize()
    return app


def in_three_steps() -> None:
    """Take three steps."""
    for name in ("fetch", "read", "file"):
        step.run(name, part, 1)


def _subscribe(app: Celery, number: int) -> None:
    @on_event("fan-out/plain")
    @app.task(name=f"documents.plain_{number}", shared=False)
    def plain(document: dict[str, Any]) -> None:
        done()

    @on_event("fan-out/steps")
    @app.task(name=f"documents.steps_{number}", shared=False)
    def steps(document: dict[str, Any]) -> None:
        for name in ("fetch", "read", "file"):
            step.run(name, part, 1)
            done()


@celery_signals.after_setup_logger.connect
def _quiet(**_: Any) -> None:
    """Log as a worker does by default, but for the line that says that it is ready."""
    for name in ("celery.worker.strategy", "celery.app.trace", "celery_fanout"):
        logging.getLogger(name).setLevel(logging.WARNING)


if CONF in os.environ:
    app = make_app(**json.loads(os.environ[CONF]))
