"""Subscribers as dramatiq actors."""

from __future__ import annotations

import os
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from tests.benchmarks.engines.records import SUBSCRIBERS, no_steps

URL = "BENCHMARK_DRAMATIQ_URL"

broker = RedisBroker(url=os.environ.get(URL, "redis://127.0.0.1:1/"))
dramatiq.set_broker(broker)


def _subscribe(subscriber: int) -> Any:
    @dramatiq.actor(actor_name=f"plain_{subscriber}", broker=broker)
    def plain(document: dict[str, Any]) -> None:
        no_steps(document, subscriber)

    return plain


ACTORS = [_subscribe(subscriber) for subscriber in range(SUBSCRIBERS)]
