"""Subscribers as huey tasks."""

from __future__ import annotations

import os
from typing import Any

from huey import RedisHuey

from tests.benchmarks.engines.records import SUBSCRIBERS, no_steps

URL = "BENCHMARK_HUEY_URL"

huey = RedisHuey("engines", url=os.environ.get(URL, "redis://127.0.0.1:1/"), results=False)


def _subscribe(subscriber: int) -> Any:
    @huey.task(name=f"plain_{subscriber}")
    def plain(document: dict[str, Any]) -> None:
        no_steps(document, subscriber)

    return plain


TASKS = [_subscribe(subscriber) for subscriber in range(SUBSCRIBERS)]
