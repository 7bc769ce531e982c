"""The app of the benchmark of limits: subscribers that differ in their options of flow control."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from celery import Celery

from celery_fanout import (
    Batch,
    Concurrency,
    Debounce,
    Idempotency,
    RateLimit,
    Singleton,
    Throttle,
    on_event,
)
from tests.benchmarks.documents import CONF, DATA, RESULT, done

#: A limit that nobody meets.
MANY = 1_000_000

#: How many places there are where runs wait for them, and how many runs start in a second where
#: they wait for that.
FEW, A_SECOND = 2, 1000

#: Events of one batch.
SIZE = 100

#: What a run without options is called in the tables: what the others are compared with.
NONE = "none"

#: Options that hold nobody up.
FREE: Mapping[str, Mapping[str, Any]] = {
    NONE: {},
    "concurrency": {"concurrency": Concurrency(MANY)},
    "concurrency by key": {"concurrency": Concurrency(MANY, key="owner.id")},
    "three concurrencies, throttle, priority": {
        "concurrency": [
            Concurrency(MANY),
            Concurrency(MANY, key="owner.id"),
            Concurrency(MANY, scope="app"),
        ],
        "throttle": Throttle(MANY, 1),
        "priority": lambda event: len(event.data["tags"]),
    },
    "throttle": {"throttle": Throttle(MANY, 1)},
    "rate_limit": {"rate_limit": RateLimit(MANY, 3600)},
    "singleton by key": {"singleton": Singleton("id")},
    "idempotency": {"idempotency": Idempotency("id")},
    "priority": {"priority": 5},
    "start_timeout, finish_timeout": {"start_timeout": 3600, "finish_timeout": 3600},
}

#: Options that turn several events into one run.
COLLECTING: Mapping[str, Mapping[str, Any]] = {
    "debounce": {"debounce": Debounce(3600)},
    f"batch of {SIZE}": {"batch": Batch(SIZE, 3600)},
}

#: Limits that refuse all but the first: so many wait, or were dropped.
REFUSING: Mapping[str, Mapping[str, Any]] = {
    "waits for a place": {"concurrency": Concurrency(1)},
    "waits for its turn": {"throttle": Throttle(1, 86_400)},
    "dropped: rate_limit": {"rate_limit": RateLimit(1, 86_400)},
    "dropped: singleton": {"singleton": Singleton()},
    "dropped: idempotency": {"idempotency": Idempotency("owner.id")},
}

#: Limits under which runs start as others end, or as time goes by.
BACKLOG: Mapping[str, Mapping[str, Any]] = {
    f"backlog, concurrency of {FEW}": {"concurrency": Concurrency(FEW)},
    f"backlog, concurrency of {FEW} by key": {"concurrency": Concurrency(FEW, key="owner.id")},
    "backlog, singleton that queues": {"singleton": Singleton(mode="queue")},
    f"backlog, throttle of {A_SECOND:,} a second": {"throttle": Throttle(A_SECOND, 1)},
}

ALL = {**FREE, **COLLECTING, **REFUSING, **BACKLOG}


def event_name(option: str, subscribers: int = 1) -> str:
    """Return the name of the event whose subscribers have an option."""
    return f"limits/{list(ALL).index(option)}/{subscribers}"


def document(number: int) -> dict[str, Any]:
    """Return an event's data: its id is its own, and its owner is everybody's."""
    return {**DATA, "id": f"d-{number}"}


def make_app(subscribers: int = 1, **conf: Any) -> Celery:
    """Return the app. Workers and their benchmark call it with the same settings.

    Args:
        subscribers: how many there are for the event of each option.
        conf: settings of the app.
    """
    app = Celery("limits", set_as_current=False)
    app.conf.update(conf)
    for option, given in ALL.items():
        for number in range(subscribers):
            _subscribe(app, event_name(option, subscribers), f"{option}, {number}", given)
    app.finalize()
    return app


def _subscribe(app: Celery, event: str, name: str, options: Mapping[str, Any]) -> None:
    @on_event(event, **options)
    @app.task(name=f"limits.{name}", shared=False)
    def subscriber(document: Any) -> dict[str, Any]:
        done()
        return RESULT


if CONF in os.environ:
    app = make_app(**json.loads(os.environ[CONF]))
