"""Subscribers that end in all sorts of ways, for tests/integration/test_publishing_results.py."""

from __future__ import annotations

import os
from typing import Any

import redis
from celery import Celery
from celery.exceptions import Ignore

from celery_fanout import on_event


def value(data: dict[str, Any]) -> Any:
    return {"doubled": data["n"] * 2}


def nothing(data: dict[str, Any]) -> None: ...


def fails(data: dict[str, Any]) -> None:
    raise ValueError("no", data["n"])


def begins(data: dict[str, Any]) -> int:
    return int(data["n"])


def fails_early(data: dict[str, Any]) -> int:
    raise KeyError("early")


def fast(data: Any) -> str:
    return "fast"


def slow(key: str) -> str:
    with redis.Redis.from_url(os.environ["ANSWERING_REDIS"]) as client:
        client.blpop([key], timeout=60)
    return "slow"


def never(data: Any) -> None:
    raise Ignore


def make_app(broker: str, backend: str) -> Celery:
    """Return the app; the worker and the test each have one."""
    app = Celery("answering", broker=broker, backend=backend, set_as_current=False)
    app.conf.fanout_store_url = (
        "backend"  # results are Celery's: those of the ledger have their own tests
    )

    @app.task(name="add", shared=False)
    def add(number: int, more: int) -> int:
        return number + more

    def subscribe(event: str, body: Any, name: str = "", **options: Any) -> None:
        ignore = options.pop("ignore_result", None)
        task = app.task(name=name or body.__name__, shared=False, ignore_result=ignore)(body)
        on_event(event, **options)(task)

    subscribe("all/of-them", value)
    subscribe("all/of-them", nothing)
    subscribe("all/of-them", fails)
    subscribe("all/of-them", begins, then=[add.s(10), add.s(100)])
    subscribe("all/of-them", fails_early, then=[add.s(10), add.s(100)])
    subscribe("all/of-them", begins, "fails_late", then=[add.s("not a number"), add.s(100)])
    subscribe("all/of-them", begins, "forgotten", options={"ignore_result": True})
    subscribe("all/of-them", begins, "forgotten_end", then=add.s(10).set(ignore_result=True))
    subscribe("all/of-them", begins, "forgotten_begin", then=add.s(10), ignore_result=True)
    subscribe("some/slow", fast)
    subscribe("some/slow", slow)
    subscribe("some/slow", never)
    return app


app = make_app(
    os.environ.get("ANSWERING_BROKER", "memory://"),
    os.environ.get("ANSWERING_BACKEND", "cache+memory://"),
)
