"""Redis clients for the ledger, by URL: one per process, shared by its threads."""

from __future__ import annotations

import os
import re
import threading
from functools import lru_cache
from hashlib import sha1
from importlib import resources
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl, unquote, urlencode

import redis
from celery.utils.imports import symbol_by_name
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.cluster import RedisCluster
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisClusterException, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry
from redis.sentinel import Sentinel

from celery_fanout.exceptions import InvalidSetting, StoreUnavailable
from celery_fanout.stores.redis_urls import CLUSTER, SENTINEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ["Link", "Scripts", "connect"]


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
    url, asked = _read(url)
    chosen: dict[str, Any] = {**options, **asked}
    for foreign in ("retry_policy", "visibility_timeout", "global_keyprefix", "fanout_prefix"):
        chosen.pop(foreign, None)
    master = chosen.pop("master_name", None)
    sentinel_kwargs = chosen.pop("sentinel_kwargs", {})
    ssl = chosen.pop("ssl", False)
    if "credential_provider" in chosen:  # redis-py refuses both
        chosen.pop("username", None)
        chosen.pop("password", None)
    if isinstance(chosen.get("ssl_cert_reqs"), str):  # Celery knows CERT_NONE and none
        chosen["ssl_cert_reqs"] = chosen["ssl_cert_reqs"].lower().removeprefix("cert_")
    common: dict[str, Any] = {
        "decode_responses": True,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "health_check_interval": 0,
        **chosen,
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
    found: dict[str, Any] = {}
    left: list[tuple[str, str]] = []
    for name, value in parse_qsl(query):
        if name == "virtual_host":
            found["db"] = int(value.strip("/") or 0)
        elif name == "credential_provider":
            found[name] = symbol_by_name(value)()
        elif name == "ssl_cert_reqs":
            found[name] = value
        else:
            left.append((name, value))
    return f"{address}?{urlencode(left)}" if left else address, found


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
    found: Any = cast("Any", Sentinel)(hosts, sentinel_kwargs={**timeouts, **kwargs})
    return found.master_for(master, **common)


class Link:
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
        known = self._clients.get(pid)
        if known is None:
            known = self._clients.setdefault(pid, self._open())
        return known

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


class Scripts:
    """The named scripts, for one prefix.

    Args:
        name: what errors call the store.
        root: the prefix of all keys.
        rules: Lua that defines the rules.
        link: what they are sent over.
        clock: the time, for tests; ``None`` for the server's.
    """

    def __init__(
        self,
        name: str,
        root: str,
        rules: str,
        link: Link,
        clock: Callable[[], float] | None,
    ) -> None:
        self._name = name
        self._root = root
        self._rules = rules
        self.link = link
        self._clock = clock
        self._shas: dict[str, str] = {}

    @property
    def client(self) -> Any:
        """The client of this process."""
        return self.ask(lambda: self.link.client)

    def ask(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the client.

        Raises:
            StoreUnavailable: if Redis does not answer, or refuses.
        """
        try:
            return call(*args, **kwargs)
        except (RedisError, RedisClusterException) as exc:  # the second is none of the first
            # never the command, which has the values
            text = str(exc).rpartition(" of pipeline caused error: ")[2].split("\n", 1)[0][:500]
            raise StoreUnavailable(self._name, f"{type(exc).__name__}: {text}") from exc

    def command(self, name: str, *args: Any) -> list[Any]:
        """Return the whole command of a script."""
        sha = self._shas.get(name) or self._load(name)
        now = "" if self._clock is None else f"{self._clock():.6f}"
        return ["EVALSHA", sha, 1, self._root, now, *args]

    def run(self, name: str, *args: Any) -> Any:
        """Run a script: one round trip.

        Raises:
            StoreUnavailable: if Redis does not answer, or refuses.
        """
        return self.ask(self._run, name, args)

    def _run(self, name: str, args: Sequence[Any]) -> Any:
        command = self.command(name, *args)
        try:
            return self.link.send(command)
        except NoScriptError:  # Redis was restarted, or another one took over
            return self.link.send(["EVAL", source(name, self._rules), *command[2:]])

    def _load(self, name: str) -> str:
        text = source(name, self._rules)
        sha = self._shas[name] = sha1(text.encode(), usedforsecurity=False).hexdigest()
        return sha


@lru_cache(maxsize=1)
def _library() -> list[tuple[set[str], str]]:
    """Return the parts of lib.lua and flow.lua, each with the names that it defines."""
    text = _read_script("lib").replace("-- [flow.lua]", _read_script("flow"))
    parts = [part for part in text.split("\n\n") if _DEFINES.search(part)]
    return [(set(_names(part)), part) for part in parts]


def _names(part: str) -> Iterator[str]:
    for line in part.splitlines():
        found = _DEFINES.match(line)
        if found:
            yield from (found[1] or found[2]).replace(" ", "").split(",")


_DEFINES = re.compile(r"^local (?:function (\w+)|([\w, ]+?) *(?:=|$))", re.MULTILINE)


@lru_cache(maxsize=256)
def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text))


def _read_script(name: str) -> str:
    folder = resources.files("celery_fanout.stores.redis") / "scripts"
    return (folder / f"{name}.lua").read_text("utf-8")


@lru_cache(maxsize=256)
def source(name: str, rules: str) -> str:
    """Return a script with the parts of lib.lua that it uses.

    What a script does not use would cost each call of it, as Lua defines every function anew.

    Args:
        name: of the script.
        rules: Lua that defines the rules.
    """
    words = _words(_read_script(name))
    parts: list[str] = []
    for defined, part in reversed(_library()):
        if defined & words:
            words |= _words(part)
            parts.insert(0, part)
    return "\n\n".join([rules, *parts, _read_script(name)])
