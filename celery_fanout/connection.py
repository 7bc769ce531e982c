"""Producers that cannot block for longer than ``fanout_publish_timeout``.

Celery's own pool has no such bound: a broker that accepts connections and never answers holds a
``redis://`` publisher for ever (measured on Celery 5.7, kombu 5.7).
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kombu.exceptions import OperationalError
from kombu.pools import ProducerPool as KombuProducerPool

if TYPE_CHECKING:
    from collections.abc import Generator

    from celery import Celery
    from typing_extensions import Self

__all__ = ["Deadline", "ProducerPool", "confirm_window"]


class Deadline:
    """A point in time by which publishing must be over.

    Args:
        seconds: from now.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._until = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left, never less than 0."""
        return max(0.0, self._until - time.monotonic())

    def check(self) -> None:
        """Raise if the time is over.

        Raises:
            OperationalError: if it is.
        """
        if not self.left():
            raise OperationalError(
                f"the broker did not take the messages within fanout_publish_timeout "
                f"({self.seconds:g} s)"
            )


class ProducerPool:
    """Producers on connections with timeouts, one pool per process.

    Args:
        app: the Celery app.
        timeout: ``fanout_publish_timeout``, in seconds.
    """

    def __init__(self, app: Celery, timeout: float) -> None:
        self._app = app
        self._timeout = timeout
        self._lock = threading.Lock()
        self._pool: Any = None
        self._pid = 0

    def _producers(self) -> Any:
        pid = os.getpid()
        if self._pid != pid:
            with self._lock:
                if self._pid != pid:  # a forked process must not share its parent's sockets
                    self._pool, self._pid = self._open(), pid
        return self._pool

    def _open(self) -> Any:
        app = self._app
        given = dict(app.conf.broker_transport_options or {})
        io = self._timeout / 2
        options: dict[str, Any] = {}
        connection = app.connection_for_write(connect_timeout=min(4.0, io))
        driver = connection.transport.driver_type
        if driver == "redis":
            options = {"socket_timeout": io, "socket_connect_timeout": io}
            # its ping is repeated with pauses, which would add up; a dead socket is noticed anyway
            options["health_check_interval"] = 0
        elif driver == "amqp":
            options = {"read_timeout": io, "write_timeout": io}
        options = {key: value for key, value in options.items() if given.get(key) is None}
        if options:
            connection = app.connection_for_write(
                connect_timeout=min(4.0, io), transport_options=options
            )
        limit = app.conf.broker_pool_limit or 10
        return KombuProducerPool(connection.Pool(limit), limit=limit)

    @contextmanager
    def acquire(self, deadline: Deadline) -> Generator[Any]:
        """Lend a producer whose connection is established.

        Raises:
            OperationalError: if there is none in time.
        """
        pool = self._producers()
        with pool.acquire(block=True, timeout=max(deadline.left(), 0.001)) as producer:
            connection = producer.connection
            try:
                if not connect(producer, deadline):
                    self._pid = 0  # the pool is left to the thread that still holds a connection
                    raise OperationalError(  # noqa: TRY301 - cleaned up after below
                        "the broker did not answer within fanout_publish_timeout "
                        f"({deadline.seconds:g} s)"
                    )
                with connection._reraise_as_library_errors():
                    yield producer
            except Exception:
                if self._pid:
                    connection.collect()  # whatever is half sent must not meet the next event
                raise


def connect(producer: Any, deadline: Deadline) -> bool:
    """Establish a producer's connection in half of the time, and return whether that was enough.

    Libraries retry with pauses of their own, so a connection is made in a thread that is given up
    when the time is over. Nothing of the application runs in that thread.

    Raises:
        Exception: what the transport raises if the broker cannot be reached.
    """
    connection = producer.connection
    if connection.connected and connection._default_channel is not None:
        return True
    found: list[BaseException | None] = []

    def establish() -> None:
        try:
            producer.channel  # noqa: B018 - opens the connection and its channel
            found.append(None)
        except BaseException as exc:  # noqa: BLE001 - raised in the thread that waits
            found.append(exc)

    thread = threading.Thread(target=establish, name="fanout-connect", daemon=True)
    thread.start()
    thread.join(min(deadline.left(), deadline.seconds / 2))
    if found and found[0] is not None:
        raise found[0]
    return bool(found)


class ConfirmWindow:
    """Publisher confirms of RabbitMQ, awaited once for many messages.

    py-amqp waits for the confirm of each message before it sends the next. Here the messages are
    sent first, and then their confirms are awaited: four times as fast (measured).

    Args:
        channel: an open channel of a connection with ``confirm_publish``.
        deadline: when waiting ends.
    """

    def __init__(self, channel: Any, deadline: Deadline) -> None:
        self._channel = channel
        self._deadline = deadline
        self._outstanding: dict[int, Any] = {}
        self._refused = 0
        #: What is being published: an object whose ``state`` follows the broker's answer.
        self.delivery: Any = None

    def __enter__(self) -> Self:
        channel = self._channel
        if not channel._confirm_selected:
            channel._confirm_selected = True
            channel.confirm_select()
        channel.basic_publish = self._publish  # py-amqp itself chooses the method this way
        channel.events["basic_ack"].add(self._on_ack)
        channel.events["basic_nack"].add(self._on_nack)
        return self

    def __exit__(self, *exc_info: object) -> None:
        channel = self._channel
        channel.basic_publish = channel.basic_publish_confirm
        channel.events["basic_ack"].discard(self._on_ack)
        channel.events["basic_nack"].discard(self._on_nack)

    def _publish(self, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop("confirm_timeout", None)
        # the broker numbers what is published on a channel in confirm mode, from 1
        tag = self._channel.__dict__.get("fanout_published", 0) + 1
        self._channel.fanout_published = tag
        self._outstanding[tag] = self.delivery
        return self._channel._basic_publish(*args, **kwargs)

    def _settle(self, tag: int, state: str, *, multiple: bool) -> None:
        tags = [t for t in self._outstanding if t <= tag] if multiple else [tag]
        for found in tags:
            delivery = self._outstanding.pop(found, None)
            if delivery is not None:
                delivery.state = state

    def _on_ack(self, tag: int, multiple: bool) -> None:  # noqa: FBT001 - py-amqp calls it
        self._settle(tag, "published", multiple=multiple)

    def _on_nack(self, tag: int, multiple: bool) -> None:  # noqa: FBT001 - py-amqp calls it
        self._refused += 1
        self._settle(tag, "unpublished", multiple=multiple)

    def wait(self) -> None:
        """Wait until the broker has answered for every message.

        Raises:
            OperationalError: if it refused one, or did not answer in time.
        """
        while self._outstanding:
            self._deadline.check()
            try:
                self._channel.connection.drain_events(timeout=max(self._deadline.left(), 0.001))
            except TimeoutError:
                continue  # the deadline has the better message
        if self._refused:
            raise OperationalError("the broker refused the message (basic.nack)")


def confirm_window(producer: Any, deadline: Deadline) -> ConfirmWindow | None:
    """Return a window for a producer whose channel confirms publishes; else ``None``."""
    channel = producer.channel
    if not getattr(getattr(channel, "connection", None), "confirm_publish", False):
        return None
    if not all(hasattr(channel, name) for name in ("_basic_publish", "basic_publish_confirm")):
        return None
    return ConfirmWindow(channel, deadline)
