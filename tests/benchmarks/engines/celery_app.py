"""Subscribers as runs of ours, as plain Celery tasks, and as plain Celery chains."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from celery import Celery, chain

from celery_fanout import Concurrency, Throttle, on_event, step
from tests.benchmarks import documents  # noqa: F401 - logs as its workers do
from tests.benchmarks.engines.records import STEPS, SUBSCRIBERS, no_steps, one_step

#: Environment variable by which a worker learns its app's settings.
CONF = "BENCHMARK_ENGINE_CONF"

#: How many runs of a limited subscriber there may be at once; how many may start in a second.
AT_ONCE, A_SECOND = 10, 200

#: Events with one subscriber, and its limits.
LIMITED: Mapping[str, Mapping[str, Any]] = {
    "limited/not": {},
    "limited/at-once": {"concurrency": Concurrency(AT_ONCE)},
    "limited/a-second": {"throttle": Throttle(A_SECOND, 1)},
}


def make_app(**conf: Any) -> Celery:
    """Return the app. Workers and their benchmark call it with the same settings."""
    app = Celery("engines", set_as_current=False)
    app.conf.update(conf)
    for subscriber in range(SUBSCRIBERS):
        _subscribe(app, subscriber)
        _plain(app, subscriber)
    if conf.get("fanout_store_url") != "backend":  # level 1 has no limits
        for event, options in LIMITED.items():
            _limit(app, event, options)
    app.finalize()
    return app


def _subscribe(app: Celery, subscriber: int) -> None:
    @on_event("document/0")
    @app.task(name=f"runs.plain_{subscriber}", shared=False)
    def plain(document: dict[str, Any]) -> None:
        no_steps(document, subscriber)

    @on_event("document/3")
    @app.task(name=f"runs.steps_{subscriber}", shared=False)
    def steps(document: dict[str, Any]) -> None:
        for number in range(STEPS):
            step.run(f"part-{number}", one_step, document, subscriber, number)


def _limit(app: Celery, event: str, options: Mapping[str, Any]) -> None:
    @on_event(event, **options)
    @app.task(name=f"runs.{event}", shared=False)
    def limited(document: dict[str, Any]) -> None:
        no_steps(document, 0)


def _plain(app: Celery, subscriber: int) -> None:
    @app.task(name=f"tasks.plain_{subscriber}", ignore_result=True, shared=False)
    def plain(document: dict[str, Any]) -> None:
        no_steps(document, subscriber)

    for number in range(STEPS):

        @app.task(name=f"tasks.step_{subscriber}_{number}", ignore_result=True, shared=False)
        def part(document: dict[str, Any], number: int = number) -> dict[str, Any]:
            one_step(document, subscriber, number)
            return document


def chains(app: Celery, document: dict[str, Any]) -> list[Any]:
    """Return one chain of three tasks for each subscriber."""
    found = []
    for subscriber in range(SUBSCRIBERS):
        first, *rest = (app.tasks[f"tasks.step_{subscriber}_{number}"] for number in range(STEPS))
        found.append(chain(first.s(document), *(task.s() for task in rest), app=app))
    return found


if CONF in os.environ:
    app = make_app(**json.loads(os.environ[CONF]))
