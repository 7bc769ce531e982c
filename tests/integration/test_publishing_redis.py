"""How events travel to Redis: all messages of an emission at once, and nothing besides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis
from celery import Task

from celery_fanout import emit, emit_many
from tests.integration.publishing import (
    Careful,
    make_app,
    order_paid,
    redis_wire,
    subscribe,
)
from tests.processes import Process, free_port, is_listening
from tests.servers import RedisServer, program

pytestmark = pytest.mark.matrix


@pytest.fixture
def client(redis_server: RedisServer, redis_url: str) -> Any:
    """A client of the broker, whose statistics begin with the first emission of the test."""
    with redis_server.client() as client:
        yield client


def commands(client: redis.Redis) -> dict[str, int]:
    """Return how often each command was called, and forget it."""
    found: dict[str, Any] = client.info("commandstats")  # type: ignore[assignment]
    client.config_resetstat()
    return {
        name.removeprefix("cmdstat_").upper(): counted["calls"]
        for name, counted in found.items()
        if name not in {"cmdstat_info", "cmdstat_config|resetstat"}
    }


def round_trips(client: redis.Redis, call: Callable[[], Any]) -> int:
    """Return how often the server had to read from its clients."""
    before = client.info("stats")["total_reads_processed"]
    call()
    return client.info("stats")["total_reads_processed"] - before - 1


def probe_of(client: redis.Redis, seen: list[int]) -> type[Task]:
    """Return a base class that looks what has left when its task is published."""

    class Probe(Task):
        abstract = True

        def apply_async(self, *args: Any, **options: Any) -> Any:
            result = super().apply_async(*args, **options)
            seen.append(client.llen("celery"))
            return result

    return Probe


def test_one_round_trip_for_all_subscribers(client: redis.Redis, redis_url: str) -> None:
    app = make_app(redis_url)
    for number in range(5):
        subscribe(app, f"shop.task_{number}", options={"queue": f"queue-{number % 2}"})
    emit(order_paid(), app=app)  # declares the queues
    client.delete("queue-0", "queue-1")

    assert round_trips(client, lambda: emit(order_paid(), app=app)) == 1

    commands(client)
    emit_many([order_paid(), order_paid(), order_paid()], app=app)
    assert commands(client) == {"LPUSH": 2}  # one for each queue
    assert len(redis_wire(client)) == 20


def test_messages_keep_their_order(client: redis.Redis, redis_url: str) -> None:
    app = make_app(redis_url)
    for number in range(3):
        subscribe(app, f"shop.task_{number}")

    emissions = emit_many([order_paid() for _ in range(700)], app=app)  # more than one LPUSH takes

    sent = [run.id for emission in emissions for run in emission.runs]
    tags = client.lrange("celery", 0, -1)[::-1]
    assert len(tags) == 2100
    assert all(run.encode() in tag for run, tag in zip(sent, tags, strict=True))


@pytest.mark.parametrize("careful", [True, False])
def test_nothing_leaves_before_all_is_ready(
    careful: bool, client: redis.Redis, redis_url: str
) -> None:
    pytest.importorskip("kombu", "5.7")
    seen: list[int] = []
    app = make_app(redis_url, task_cls=Careful if careful else None)
    subscribe(app, "shop.first")
    subscribe(app, "shop.probe", task={"base": probe_of(client, seen)})
    subscribe(app, "shop.last")

    emit_many([order_paid(), order_paid()], app=app)

    assert seen == [0, 0]
    assert client.llen("celery") == 6


@pytest.mark.parametrize("careful", [True, False])
def test_nobody_subscribes_to_results_that_are_stored(
    careful: bool, client: redis.Redis, redis_url: str
) -> None:
    """A process that only emits would never read what Redis sends it, until that cuts it off."""
    app = make_app(redis_url, redis_url, task_cls=Careful if careful else None)
    subscribe(app, "shop.mail")
    subscribe(app, "shop.ship", task={"ignore_result": True})
    subscribe(app, "shop.bill", options={"ignore_result": False}, task={"ignore_result": True})
    commands(client)

    for _ in range(10):
        emit(order_paid(), app=app)

    assert not {"SUBSCRIBE", "UNSUBSCRIBE", "PSUBSCRIBE"} & commands(client).keys()
    assert [entry for entry in client.client_list() if entry["sub"] != "0"] == []
    assert [message["headers"]["ignore_result"] for message in redis_wire(client)[:20:10]] == [
        *(False, False),
    ]


def test_a_queue_is_declared_once_per_connection(client: redis.Redis, redis_url: str) -> None:
    app = make_app(redis_url)
    subscribe(app, "shop.mail")
    subscribe(app, "shop.ship")

    emit(order_paid(), app=app)
    first = commands(client)
    emit(order_paid(), app=app)

    assert first["SADD"] in {1, 2}  # kombu 5.7 writes down for ever which queues are permanent
    assert commands(client) == {"LPUSH": 1}
    assert client.smembers("_kombu.binding.celery") == {b"celery\x06\x16\x06\x16celery"}


def test_a_queue_that_expires(client: redis.Redis, redis_url: str) -> None:
    from kombu import Queue

    app = make_app(redis_url, task_queues=[Queue("brief", routing_key="brief", expires=600)])
    app.conf.task_default_queue = "brief"
    subscribe(app, "shop.mail")

    emit(order_paid(), app=app)
    emit(order_paid(), app=app)

    assert client.llen("brief") == 2
    if pytest.importorskip("kombu").VERSION >= (5, 7):
        assert 0 < client.pttl("brief") <= 600_000


def test_large_events(client: redis.Redis, redis_url: str) -> None:
    app = make_app(redis_url)
    for number in range(20):
        subscribe(app, f"shop.task_{number}")
    event = order_paid()
    event.data["note"] = "x" * 250_000

    emit(event, app=app)

    assert len(redis_wire(client)) == 20


class Sentinel(Process):
    """A Redis Sentinel that knows one server, by the name ``main``."""

    name = "sentinel"

    def __init__(self, server: RedisServer) -> None:
        super().__init__()
        self.port = free_port()
        self._conf = self.directory / "sentinel.conf"
        self._conf.write_text(
            f"bind 127.0.0.1\nport {self.port}\ndir {self.directory}\n"
            f"sentinel monitor main 127.0.0.1 {server.port} 1\n"
        )

    def command(self) -> list[str]:
        return [program("redis-server", "redis-server"), str(self._conf), "--sentinel"]

    def is_ready(self) -> bool:
        return is_listening(self.port)


@pytest.mark.parametrize("cls", [None, Careful], ids=["fast", "compatible"])
def test_a_server_that_sentinel_names(
    cls: type[Task] | None, client: redis.Redis, redis_server: RedisServer
) -> None:
    with Sentinel(redis_server) as sentinel:
        app = make_app(
            f"sentinel://127.0.0.1:{sentinel.port}",
            task_cls=cls,
            broker_transport_options={"master_name": "main"},
        )
        subscribe(app, "shop.mail")
        subscribe(app, "shop.ship", options={"priority": 9})

        emission = emit(order_paid(), app=app)

        assert [message["headers"]["id"] for message in redis_wire(client)] == [
            run.id for run in emission.runs
        ]
