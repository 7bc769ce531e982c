"""Apps without workers, and what they put on the wire, for the tests of publishing."""

from __future__ import annotations

import base64
import datetime as dt
import itertools
import json
from collections.abc import Callable
from typing import Any

import redis
from celery import Celery, Task
from kombu.serialization import loads

from celery_fanout import Event, on_event

TIME = dt.datetime(2026, 11, 22, 10, 0, tzinfo=dt.timezone.utc)

_numbers = itertools.count(1)


def make_app(broker: str, backend: str | None = None, **conf: Any) -> Celery:
    """Return an app of its own, which shares no task with any other."""
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
    return Event("order/paid", {"order": "o-1", "total": 9900, "note": "größer"}, **{**found, **attributes})


# --- what is on the wire -------------------------------------------------------------------------

#: Fields that differ from message to message.
VOLATILE = {"delivery_tag"}


def redis_wire(client: redis.Redis) -> list[dict[str, Any]]:
    """Take all messages from a Redis broker, as kombu wrote them, with their bodies decoded."""
    found = []
    for key in sorted(client.keys()):
        if client.type(key) != b"list":
            continue
        while (raw := client.rpop(key)) is not None:
            message = json.loads(raw)
            body = message["body"]
            if message["properties"].get("body_encoding") == "base64":
                body = base64.b64decode(body)
            message["body"] = decoded(body, message)
            message["properties"] = {
                name: value
                for name, value in message["properties"].items()
                if name not in VOLATILE
            }
            found.append({"key": key.decode(), **message})
    return in_order(found)


def amqp_wire(app: Celery, *queues: str) -> list[dict[str, Any]]:
    """Take all messages from queues of an AMQP broker, and delete the queues."""
    found = []
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        for queue in {*queues, *app.amqp.queues}:
            while (message := get(channel, queue)) is not None:
                raw = {"content-encoding": message.content_encoding, "headers": message.headers}
                raw["content-type"] = message.content_type
                properties = dict(message.properties)
                properties.pop("application_headers")
                delivery = {
                    name: message.delivery_info[name] for name in ("exchange", "routing_key")
                }
                found.append(
                    {
                        "key": queue,
                        "body": decoded(message.body, raw),
                        **raw,
                        "properties": properties,
                        "delivery": delivery,
                    }
                )
    return in_order(found)


def get(channel: Any, queue: str) -> Any:
    """Take one message from a queue; ``None`` if there is none, or no such queue."""
    declared = channel.queue_declare(queue, passive=True)
    if not declared.message_count:
        return None
    return channel.message_to_python(channel.basic_get(queue, no_ack=True))


def decoded(body: Any, message: dict[str, Any]) -> Any:
    """Return the body of a message as Python data."""
    from kombu.compression import decompress

    compression = message["headers"].get("compression")
    if compression:
        body = decompress(body, compression)
    return loads(
        body,
        message["content-type"],
        message["content-encoding"],
        accept=[message["content-type"]],
    )


def in_order(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(messages, key=lambda message: (message["key"], message["headers"]["task"]))
