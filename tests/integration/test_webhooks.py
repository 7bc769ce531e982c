"""A day's webhooks through real workers: every subscriber gets exactly its events."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import celery
import pytest

from celery_fanout import emit
from tests.integration.webhooks import make_app, payloads
from tests.processes import wait_until
from tests.servers import Oracle, RedisServer, Worker


def wanted_by(name: str, data: dict[str, Any]) -> list[str]:
    """Return who wants a webhook, said in another way than with patterns and filters."""
    # a filter that raises is no match
    names = ["pattern", "durable", "failing", "failing"]  # which is tried twice
    if name == "github/push":
        names.append("exact")
    kind = re.sub(r"^github/|\..*", "", name)
    if kind == "pull_request":
        names += ["twice", "slow"]
    if kind == "issues":
        names.append("twice")
    if data.get("sender", {}).get("login", "")[-5:] == "[bot]":
        names.append("filtered")
    if data.get("issue", {}).get("number") == 2:
        names.append("raising filter")
    return names


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent"])
@pytest.mark.parametrize("broker", ["redis", "rabbit"])
def test_every_subscriber_gets_exactly_its_events(
    broker: str,
    pool: str,
    redis_server: RedisServer,
    redis_url: str,
    start_worker: Callable[..., Worker],
    oracle: Oracle,
    request: pytest.FixtureRequest,
) -> None:
    url = redis_url if broker == "redis" else request.getfixturevalue("rabbit_url")
    backend = redis_server.url(1)
    webhooks = [
        (f"w-{number}", webhook["event"], webhook["data"])
        for number, webhook in enumerate(payloads())
    ]
    if pool != "prefork":
        webhooks = webhooks[::5]  # every kind of those that are made up, twice
    if (broker, pool) == ("rabbit", "gevent"):
        webhooks = webhooks[::2]  # Celery itself takes 0.1 s for each message there
    if (broker, pool) == ("rabbit", "threads") and celery.VERSION < (5, 7):
        webhooks = webhooks[::2]  # and there it acknowledges every two seconds
    expected = Counter(
        (subscriber, id) for id, name, data in webhooks for subscriber in wanted_by(name, data)
    )

    start_worker(
        "tests.integration.webhooks",
        pool=pool,
        concurrency=4,
        env={**oracle.environment, "WEBHOOKS_BROKER": url, "WEBHOOKS_BACKEND": backend},
    )
    with make_app(url, backend) as app:
        for id, name, data in webhooks:
            emit(name, data, id=id, app=app)

        def found() -> Counter[tuple[str, str]]:
            return Counter((record["subscriber"], record["event"]) for record in oracle.read())

        wait_until(
            lambda: found() >= expected,
            timeout=90,
            message=lambda: f"missing: {expected - found()}",
        )
        wait_until(lambda: is_idle(app, broker))
    assert found() == expected


def is_idle(app: Any, broker: str) -> bool:
    """Say whether no message is left, waiting or in a worker."""
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        if broker == "redis":
            return not channel.client.exists("celery", "unacked")
        waiting = channel.queue_declare("celery", passive=True).message_count
    active = app.control.inspect(timeout=5).active() or {}
    return waiting == 0 and bool(active) and not any(active.values())
