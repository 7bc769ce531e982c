"""Apps without workers, and what they put on the wire, for the tests of publishing."""

from __future__ import annotations

import base64
import datetime as dt
import itertools
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import amqp
import redis
from celery import Celery, Task
from kombu.compression import decompress
from kombu.message import Message
from kombu.serialization import loads

from celery_fanout import Event, on_event
from tests.processes import wait_until

TIME = dt.datetime(2026, 11, 22, 10, 0, tzinfo=dt.timezone.utc)

_numbers = itertools.count(1)


def make_app(broker: str, backend: str | None = None, **conf: Any) -> Celery:
    """Return an app of its own, which shares no task with any other; on level 1 by default."""
    conf.setdefault("fanout_store_url", "backend")
    app = Celery(
        conf.pop("main", "shop"),
        broker=broker,
        backend=backend,
        task_cls=conf.pop("task_cls", None),
        set_as_current=False,
    )
    app.conf.update(conf)
    return app


class Careful(Task):
    """A task whose ``apply_async`` is not Celery's own, so that no template may be used."""

    abstract = True

    def apply_async(self, *args: Any, **options: Any) -> Any:
        return super().apply_async(*args, **options)


def add_task(app: Celery, name: str, body: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Add a task to the app; by default one that returns what it is given."""

    def give_back(data: Any) -> Any:
        return data

    return app.task(body or give_back, name=name, shared=False, **options)


def subscribe(app: Celery, name: str, pattern: str = "order/paid", **subscription: Any) -> Any:
    """Add a task that is subscribed; options of the task are given as ``task``."""
    task = add_task(app, name, **subscription.pop("task", {}))
    return on_event(pattern, **subscription)(task)


def order_paid(**attributes: Any) -> Event:
    """Return an event that is the same every time but for its id."""
    found = {"id": f"e-{next(_numbers)}", "source": "/shop", "time": TIME, "subject": "o-1"}
    return Event(
        "order/paid", {"order": "o-1", "total": 9900, "note": "größer"}, **{**found, **attributes}
    )


# --- what is on the wire -------------------------------------------------------------------------

#: Properties that differ from message to message, or that Celery writes by accident: what it was
#: given as ``argsrepr`` reaches the headers, where it is read, and the properties.
NO_MATTER = {"delivery_tag", "argsrepr", "kwargsrepr"}


def redis_wire(client: redis.Redis) -> list[dict[str, Any]]:
    """Take all messages from a Redis broker, as kombu wrote them, with their bodies decoded."""
    found = []
    for key in sorted(client.keys()):
        if client.type(key) != b"list":
            continue
        while (raw := client.rpop(key)) is not None:
            message = json.loads(raw)
            body = base64.b64decode(message["body"])
            if "compression" in message["headers"]:
                body = decompress(body, message["headers"]["compression"])
            kind, encoding = message["content-type"], message["content-encoding"]
            message["body"] = loads(body, kind, encoding, accept=[kind])
            assert message["properties"]["body_encoding"] == "base64"
            for name in NO_MATTER:
                message["properties"].pop(name, None)
            found.append({"key": key.decode(), **message})
    return in_order(found)


def amqp_wire(app: Celery, count: int) -> list[dict[str, Any]]:
    """Take all messages from the queues of an AMQP broker that the app knows, so many at least.

    Without confirms a message may still be on its way when another connection looks for it.
    """
    found: list[dict[str, Any]] = []
    with app.connection_for_read() as connection:

        def take() -> bool:
            for queue in sorted(app.amqp.queues):
                with suppress(amqp.NotFound), connection.channel() as channel:
                    while (raw := channel.basic_get(queue, no_ack=True)) is not None:
                        found.append({"key": queue, **fields_of(channel.message_to_python(raw))})
            return len(found) >= count

        wait_until(take, message=lambda: f"{len(found)} messages of {count}")
    return in_order(found)


def fields_of(message: Message) -> dict[str, Any]:
    """Return what a message consists of; kombu has decompressed its body already."""
    properties = dict(message.properties)
    del properties["application_headers"]
    return {
        "content-encoding": message.content_encoding,
        "content-type": message.content_type,
        "delivery": {key: message.delivery_info[key] for key in ("exchange", "routing_key")},
        "headers": message.headers,
        "body": loads(
            message.body,
            message.content_type,
            message.content_encoding,
            accept=[message.content_type],
        ),
        "properties": properties,
    }


def in_order(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(messages, key=lambda message: (message["key"], message["headers"]["task"]))
