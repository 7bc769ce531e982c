"""Redis clients for the ledger, by URL: one per process, shared by its threads."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl, unquote, urlencode

import redis
from celery.utils.imports import symbol_by_name
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.cluster import RedisCluster
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry
from redis.sentinel import Sentinel

from celery_fanout.exceptions import InvalidSetting
from celery_fanout.stores.redis_urls import CLUSTER, SENTINEL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: How often a command is sent again after a connection that was cut or refused, and how long after;
#: and how often when no answer came. The second holds a caller for as long as a whole time-out.
REFUSALS, TIMEOUTS = 2, 1
BACKOFF = ExponentialBackoff(cap=0.5, base=0.02)


def connect(url: str, options: Mapping[str, Any], timeout: float) -> Any:
    """Return a client. It connects when it is first used.

    Every change of the ledger may be repeated, so a command whose answer was lost is sent again.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://``, ``sentinel://host:port;host:port/db``, or
            ``redis+cluster://host:port``.
        options: Celery's ``result_backend_transport_options``: ``master_name``,
            ``sentinel_kwargs``; and options of redis-py.
        timeout: how long an answer may take, in seconds.
    """
    url, in_url = _read(url)
    merged: dict[str, Any] = {**options, **in_url}
    for foreign in ("retry_policy", "visibility_timeout", "global_keyprefix", "fanout_prefix"):
        merged.pop(foreign, None)
    master = merged.pop("master_name", None)
    sentinel_kwargs = merged.pop("sentinel_kwargs", {})
    ssl = merged.pop("ssl", False)
    if "credential_provider" in merged:  # redis-py refuses both
        merged.pop("username", None)
        merged.pop("password", None)
    if isinstance(merged.get("ssl_cert_reqs"), str):  # Celery knows CERT_NONE and none
        merged["ssl_cert_reqs"] = merged["ssl_cert_reqs"].lower().removeprefix("cert_")
    common: dict[str, Any] = {
        "decode_responses": True,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "health_check_interval": 0,
        **merged,
    }
    scheme, _, rest = url.partition("://")
    if scheme in CLUSTER:
        plain = f"rediss://{rest}" if ssl else f"{scheme.partition('+')[0]}://{rest}"
        return RedisCluster.from_url(plain, **common)
    # redis-py's types want more than an error of this kind, which it treats as one
    errors: Any = (RedisConnectionError,)
    common["retry"] = Retry(BACKOFF, REFUSALS, errors)
    if scheme in SENTINEL:
        if not master:
            raise InvalidSetting(
                "result_backend_transport_options",
                "without master_name",
                'given for sentinel:// such as {"master_name": "mymaster"}',
            )
        return _sentinel(url, master, sentinel_kwargs, {**common, "ssl": True} if ssl else common)
    if scheme in ("redis+socket", "socket"):
        url = f"unix://{rest}"
    elif scheme in ("redis", "valkey", "valkeys"):
        url = f"redis{'s' if ssl or scheme == 'valkeys' else ''}://{rest}"
    return cast("Any", redis.Redis).from_url(url, **common)


def _read(url: str) -> tuple[str, dict[str, Any]]:
    """Take out of a URL what redis-py does not read as Celery does."""
    address, _, query = url.partition("?")
    options: dict[str, Any] = {}
    left: list[tuple[str, str]] = []
    for name, value in parse_qsl(query):
        if name == "virtual_host":
            options["db"] = int(value.strip("/") or 0)
        elif name == "credential_provider":
            options[name] = symbol_by_name(value)()
        elif name == "ssl_cert_reqs":
            options[name] = value
        else:
            left.append((name, value))
    return f"{address}?{urlencode(left)}" if left else address, options


def _sentinel(url: str, master: str, kwargs: dict[str, Any], common: dict[str, Any]) -> Any:
    hosts: list[tuple[str, int]] = []
    for part in url.split(";"):
        where = part.partition("://")[2] or part
        address, _, db = where.partition("/")
        credentials, _, address = address.rpartition("@")
        user, _, password = credentials.partition(":")
        for name, value in (("username", user), ("password", password)):
            if value:
                common.setdefault(name, unquote(value))
        if db:
            common.setdefault("db", int(db))
        host, _, port = address.partition(":")
        hosts.append((host, int(port or 26379)))
    timeouts = {key: common[key] for key in ("socket_timeout", "socket_connect_timeout")}
    group: Any = cast("Any", Sentinel)(hosts, sentinel_kwargs={**timeouts, **kwargs})
    return group.master_for(master, **common)


class RedisConnection:
    """The way to one Redis: a client, and connections of our own for scripts.

    Args:
        open_client: makes a client.
    """

    def __init__(self, open_client: Callable[[], Any]) -> None:
        self._open = open_client
        self._clients: dict[int, Any] = {}
        self._free: dict[int, list[_Line]] = {}

    @property
    def client(self) -> Any:
        """The client of this process; a forked one opens its own."""
        # no lock: the keeper's thread could hold it while the worker forks
        pid = os.getpid()
        client = self._clients.get(pid)
        if client is None:
            client = self._clients.setdefault(pid, self._open())
        return client

    def send(self, command: Sequence[Any]) -> Any:
        """Send a command that may be sent again, and return the answer.

        A client asks the operating system whether its connection is still good before each
        command, which costs as much as sending one. Ours find out when they use it.
        """
        client = self.client
        pool: Any = getattr(client, "connection_pool", None)
        if pool is None:  # a cluster: its client knows which server has the keys
            return client.execute_command(*command)
        free = self._free.setdefault(os.getpid(), [])
        try:
            line = free.pop()
        except IndexError:
            line = _Line(pool)
        tries = 0
        try:
            while True:
                tries += 1
                try:
                    return line.ask(command)  # on a new connection, after the first time
                except RedisTimeoutError:
                    if tries > TIMEOUTS:
                        raise
                except RedisConnectionError:
                    if tries > REFUSALS:
                        raise
                threading.Event().wait(BACKOFF.compute(tries))
        finally:
            free.append(line)

    def close(self) -> None:
        """Close this process's connections; the next call opens new ones."""
        for line in self._free.pop(os.getpid(), []):
            line.connection.disconnect()
        client = self._clients.pop(os.getpid(), None)
        if client is not None:
            client.close()


class _Line:
    """A connection that is used by one thread at a time."""

    __slots__ = ("connected", "connection")

    def __init__(self, pool: Any) -> None:
        self.connection: Any = pool.make_connection()
        self.connection.retry = Retry(NoBackoff(), 0)  # who uses it asks twice
        self.connected = False

    def ask(self, command: Sequence[Any]) -> Any:
        """Send a command and return the answer."""
        connection = self.connection
        try:
            if not self.connected:
                connection.connect()
                self.connected = True
            packed = connection.pack_command(*command)
            # redis-py would send the messages of an emission one by one
            connection.send_packed_command(packed if len(packed) == 1 else [b"".join(packed)])
            return connection.read_response()
        except ResponseError:
            raise
        except BaseException:  # an answer that nobody has read would be that of the next command
            self.connected = False
            connection.disconnect()
            raise
