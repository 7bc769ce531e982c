"""Producers that cannot block for longer than ``fanout_publish_timeout``.

Celery's own pool has no such bound: a broker that accepts connections and never answers holds a
``redis://`` publisher for ever (measured on Celery 5.7, kombu 5.7).
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

from kombu import Producer
from kombu.exceptions import OperationalError
from kombu.utils.functional import retry_over_time

if TYPE_CHECKING:
    from collections.abc import Generator

    from celery import Celery

#: How often a connection is tried again when the app's own policy has no bound.
MAX_RETRIES = 3


class Deadline:
    """A point in time by which the broker must have answered.

    Args:
        seconds: from now.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._until = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left, never less than 0."""
        return max(0.0, self._until - time.monotonic())

    def renew(self) -> None:
        """Begin again: the broker has answered, or was not asked anything."""
        self._until = time.monotonic() + self.seconds

    def check(self) -> None:
        """Raise if the time is over.

        Raises:
            OperationalError: if it is.
        """
        if not self.left():
            raise self.error("the broker did not take the messages")

    def error(self, problem: str) -> OperationalError:
        """Return the error that says what did not happen in time."""
        return OperationalError(f"{problem} within fanout_publish_timeout ({self.seconds:g} s)")


class ProducerPool:
    """Producers on connections with timeouts, which are kept open.

    Args:
        app: the Celery app.
        timeout: ``fanout_publish_timeout``, in seconds.
    """

    def __init__(self, app: Celery, timeout: float) -> None:
        self._app = app
        self._timeout = timeout
        self._processes: dict[int, Connections] = {}

    def _connections(self) -> Connections:
        # a forked process must share neither its parent's sockets nor its locks
        pid = os.getpid()
        connections = self._processes.get(pid)
        if connections is None:
            connections = self._processes.setdefault(pid, Connections(self._app, self._timeout))
        return connections

    @property
    def retries(self) -> int:
        """How often the app wants a publish to be tried again; never for ever."""
        return self._connections().retries

    @contextmanager
    def acquire(self, deadline: Deadline) -> Generator[Any]:
        """Lend a producer whose connection is established.

        Raises:
            OperationalError: if there is none in time.
        """
        connections = self._connections()
        if not connections.free.acquire(timeout=deadline.left()):
            raise deadline.error("all connections of broker_pool_limit were in use, none was free")
        producer = None
        try:
            producer = connections.connected(deadline)
            with producer.connection._reraise_as_library_errors():
                yield producer
            connections.idle.append(producer)
        except BaseException:
            # whatever is half sent must not meet the next event
            if producer is not None:
                discard(producer.connection)
            raise
        finally:
            connections.free.release()


class Connections:
    """The connections of one process to the broker.

    Attributes:
        free: lets as many use a connection at a time as ``broker_pool_limit`` says.
        idle: producers whose connection nobody uses.
        retries: how often a connection or a publish is tried again.
    """

    def __init__(self, app: Celery, timeout: float) -> None:
        self._timeout = timeout / 2
        self._connection = self._configured(app)
        policy: dict[str, Any] = dict(app.conf.task_publish_retry_policy or {})
        retries = policy.get("max_retries", MAX_RETRIES) if app.conf.task_publish_retry else 0
        self.retries = MAX_RETRIES if retries is None else int(retries)
        self._policy = {
            "max_retries": self.retries,
            "interval_start": policy.get("interval_start", 0),
            "interval_step": policy.get("interval_step", 0.2),
            "interval_max": policy.get("interval_max", 0.2),
        }
        self.free = threading.BoundedSemaphore(app.conf.broker_pool_limit or 10)
        self.idle: list[Any] = []

    def _configured(self, app: Celery) -> Any:
        timeout = self._timeout
        connection = app.connection_for_write()
        limits: dict[str, float] = {}
        if driver_of(connection) == "redis":
            limits = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
        elif driver_of(connection) == "py-amqp":
            limits = {"read_timeout": timeout, "write_timeout": timeout}
        transport_options: dict[str, Any] = connection.transport_options or {}
        options: dict[str, Any] = {
            name: min(limit, transport_options.get(name) or limit) for name, limit in limits.items()
        }
        if driver_of(connection) == "redis":
            # its ping is repeated with pauses, which would add up; a dead socket is noticed anyway
            options["health_check_interval"] = 0
        return app.connection_for_write(
            connect_timeout=min(connection.connect_timeout or timeout, timeout),
            transport_options=options,
        )

    def connected(self, deadline: Deadline) -> Any:
        """Return a producer on an idle or a new connection, established.

        Raises:
            Exception: what the transport raises if the broker cannot be reached.
        """
        with suppress(IndexError):
            while True:
                producer = self.idle.pop()
                if is_alive(producer.connection):
                    return producer
                discard(producer.connection)
        return self._connect(deadline)

    def _connect(self, deadline: Deadline) -> Any:
        """Return a producer on a new connection.

        Libraries retry with pauses of their own, so a connection is made in a thread that is
        given up when the time is over. Nothing of the application runs in that thread.
        """
        producer = Producer(self._connection.clone())
        failures: list[BaseException] = []
        made, given_up = threading.Event(), threading.Event()

        def establish() -> None:
            try:
                self._establish(producer, failures)
            except BaseException as exc:  # noqa: BLE001 - raised in the thread that waits
                failures.append(exc)
            else:
                failures.clear()
            made.set()
            if failures or given_up.is_set():
                discard(producer.connection)

        threading.Thread(target=establish, name="fanout-connect", daemon=True).start()
        if not made.wait(deadline.left()):
            given_up.set()
            if not failures:
                raise deadline.error("the broker did not answer")
        if failures:
            raise failures[-1]
        return producer

    def _establish(self, producer: Any, failures: list[BaseException]) -> None:
        connection = producer.connection
        errors = connection.recoverable_connection_errors

        def open_channel() -> Any:
            # the virtual transports first talk to their server here
            try:
                return producer.channel
            except errors as exc:
                failures.append(exc)
                raise

        def failed(error: BaseException, _interval: float) -> None:
            failures.append(error)

        policy: Any = {**self._policy, "timeout": self._timeout}
        connection.ensure_connection(**policy, errback=failed)
        with connection._reraise_as_library_errors():
            channel = retry_over_time(open_channel, errors, **policy)
        if driver_of(connection) == "redis":
            keep_client(channel)
        elif driver_of(connection) == "py-amqp":
            # py-amqp sets its timeouts on the socket alone, where gevent does not see them, and
            # waits for ever for the second half of a frame
            connection.connection.transport.sock.settimeout(self._timeout)


def driver_of(connection: Any) -> str:
    """Return the name of the library that a connection is made with."""
    return str(connection.transport.driver_name)


def is_alive(connection: Any) -> bool:
    """Whether an idle connection can be used."""
    if not connection.connected:
        return False
    if driver_of(connection) != "py-amqp":
        return True  # redis-py looks for itself, and the others have no connection
    try:
        while True:  # heartbeats, or the broker's close frame
            connection.drain_events(timeout=0)
    except TimeoutError:
        return True
    except Exception:  # noqa: BLE001 - whatever it is, it is not alive
        return False


def hurry(producer: Any, deadline: Deadline, retries: int) -> None:
    """Leave the retries that kombu makes of one message no more than the time that is left."""
    producer.connection.connect_timeout = max(deadline.left() / (retries + 1), 0.1)


def discard(connection: Any) -> None:
    """Drop a connection without asking the broker, which may be the reason for it."""
    with suppress(Exception):
        if driver_of(connection) == "py-amqp":
            connection.collect()
        else:
            connection.release()


def keep_client(channel: Any) -> None:
    """Keep the Redis client of a channel.

    kombu makes a new one for every batch, which costs more than one message (measured on kombu
    5.7 and redis-py 8.1).
    """
    with suppress(AttributeError):  # another version of kombu
        client = channel._create_client()

        def conn_or_acquire(client_in_use: Any = None) -> Any:
            return nullcontext(client_in_use or client)

        channel.conn_or_acquire = conn_or_acquire
