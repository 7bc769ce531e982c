"""One trace from ``emit`` to everything that follows from it, with the real tracing packages."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes import wait_until
from tests.servers import ROOT, Oracle, RedisServer, Worker

APP = "tests.integration.traced"


@pytest.fixture(params=["redis", "rabbitmq"])
def trace(
    request: pytest.FixtureRequest,
    redis_server: RedisServer,
    redis_url: str,
    oracle: Oracle,
    start_worker: Callable[..., Worker],
    tmp_path: Path,
) -> Callable[..., list[dict[str, Any]]]:
    """A function that emits one event from a traced process, and returns the spans of all."""
    url = redis_url if request.param == "redis" else request.getfixturevalue("rabbit_url")

    def run(by: str, names: list[str]) -> list[dict[str, Any]]:
        environment = {
            **oracle.environment,
            "TRACED_BY": by,
            "TRACED_BROKER": url,
            "TRACED_BACKEND": redis_server.url(1),
        }
        start_worker(APP, pool="solo", fork=False, env=environment)
        subprocess.run(
            [sys.executable, "-m", APP],
            env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            check=True,
            timeout=60,
        )

        def left() -> Counter[str]:
            return Counter(names) - Counter(span["name"] for span in oracle.read())

        wait_until(lambda: not left(), message=lambda: f"no span of {left()}")
        return oracle.read()

    return run


def paths(spans: list[dict[str, Any]], names: set[str]) -> list[list[str]]:
    """Return for each span of these names the names that are above it, its own first."""
    by_id = {span["span"]: span for span in spans}
    found = []
    for span in spans:
        path, above = [], span
        while above["parent"]:
            path.append(above["name"])
            above = by_id[above["parent"]]
        if span["name"] in names:
            found.append([name for name in (*path, above["name"]) if name in names])
    return sorted(found)


EXPECTED = [
    ["mail", "request"],
    ["ship", "request"],
    ["remind", "request"],
    ["fail", "request"],
    ["bill", "ship", "request"],  # the tail
    ["remind", "remind", "request"],  # woken from its sleep
    ["note", "remind", "remind", "request"],  # emitted by a step
    ["apologise", "fail", "request"],  # on_failure
]


def test_opentelemetry(trace: Callable[..., list[dict[str, Any]]]) -> None:
    published = [f"apply_async/{path[0]}" for path in EXPECTED]
    executed = [f"run/{path[0]}" for path in EXPECTED]

    spans = trace("opentelemetry", ["request", *published, *executed])

    assert Counter(span["name"] for span in spans) == Counter(["request", *published, *executed])
    assert len({span["trace"] for span in spans}) == 1, spans
    for span in spans:
        span["name"] = span["name"].removeprefix("run/")
    assert paths(spans, {name for path in EXPECTED for name in path}) == sorted(
        [["request"], *EXPECTED]
    )


def test_sentry(trace: Callable[..., list[dict[str, Any]]]) -> None:
    executed = [path[0] for path in EXPECTED]

    spans = trace("sentry", ["request", *executed])

    assert len({span["trace"] for span in spans}) == 1, spans
    assert paths(spans, {name for path in EXPECTED for name in path}) == sorted(
        [["request"], *EXPECTED]
    )
    # one for each message; the enclosing ones are of apply_async and send_task
    assert Counter(span["name"] for span in spans)["queue.publish"] == len(EXPECTED)


KEEPER = """
import json
import redis
from celery_fanout import emit, get_fanout
from celery_fanout.stores.records import NewRun
from tests.integration import traced

with traced.root as root:
    runs = emit("order/paid", {}, app=traced.app).runs
(run,) = [run for run in runs if run.subscription.task.name == "fail"]
signature = {"task": "apologise", "args": [{}], "kwargs": {}, "options": {}, "immutable": True}
message = json.dumps({"signature": {**signature, "subtask_type": None}})
level2 = get_fanout(traced.app).level2
assert level2.ledger.adopt(run.id, NewRun("later", "", "on_failure", message=message))
level2.wakeups.wake(["later"])  # as a keeper does, of what nobody has published
broker = redis.Redis.from_url(traced.app.conf.broker_url)
found = [json.loads(each)["headers"] for each in broker.lrange("celery", 0, -1)]
(late,) = [headers for headers in found if headers["id"] == "later"]
print(root.trace_id, late["sentry-trace"])
"""


def test_what_a_keeper_publishes_goes_on_with_the_trace_of_sentry(
    redis_url: str, redis_server: RedisServer, oracle: Oracle
) -> None:
    """Outside of spans Sentry has a trace as well, which begins there."""
    environment = {
        **oracle.environment,
        "TRACED_BY": "sentry",
        "TRACED_BROKER": redis_url,
        "TRACED_BACKEND": redis_server.url(1),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", KEEPER]
    done = subprocess.run(
        command, env={**os.environ, **environment}, check=True, capture_output=True, text=True
    )
    trace, header = done.stdout.split()
    assert header.split("-")[0] == trace
