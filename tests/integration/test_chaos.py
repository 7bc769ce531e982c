"""The proxy that breaks the line, in front of a real Redis."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.chaos import ChaosProxy
from tests.processes import is_listening, wait_until
from tests.servers import RedisServer

# redis-py speaks nothing else before 5.0, and has no such argument
RESP2: dict[str, Any] = {"protocol": 2} if redis.VERSION >= (5,) else {}
ONCE: dict[str, Any] = {"retry": Retry(NoBackoff(), 0), "single_connection_client": True}


@pytest.fixture
def server(redis_server: RedisServer, redis_url: str) -> RedisServer:
    return redis_server


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[ChaosProxy]:
    with ChaosProxy(server.port) as proxy:
        yield proxy
    assert not is_listening(proxy.port)


def connect(proxy: ChaosProxy, timeout: float = 10) -> redis.Redis:
    return redis.Redis(port=proxy.port, socket_timeout=timeout, **RESP2, **ONCE)


def test_it_passes_everything_on(proxy: ChaosProxy) -> None:
    text = b"x" * 3_000_000
    with connect(proxy) as client:
        client.set("long", text)
        assert client.get("long") == text
    assert proxy.connections == 1


def test_what_was_sent_arrives_though_its_sender_leaves(
    proxy: ChaosProxy, server: RedisServer
) -> None:
    text = b"x" * 1_000_000
    with socket.create_connection(("127.0.0.1", proxy.port)) as connection:
        connection.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\n" + text + b"\r\n")
    with server.client() as client:
        wait_until(lambda: client.get("k") == text)


def test_a_server_that_ends_is_noticed(server: RedisServer) -> None:
    with RedisServer() as own, ChaosProxy(own.port) as proxy, connect(proxy) as client:
        client.ping()
        own.kill()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        own.start()
        assert client.ping()


def test_cut(proxy: ChaosProxy, server: RedisServer) -> None:
    with connect(proxy) as client:
        client.ping()
        proxy.cut()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        assert not is_listening(proxy.port)
        proxy.mend()
        assert client.ping()


def test_in_a_black_hole_everything_is_lost(proxy: ChaosProxy, server: RedisServer) -> None:
    with connect(proxy, timeout=0.2) as client, connect(proxy, timeout=0.2) as new:
        client.ping()
        proxy.blackhole()
        for lost in (client, new):
            with pytest.raises(redis.TimeoutError):
                lost.set("key", "lost")
        proxy.mend()
        assert client.get("key") is None
        assert new.get("key") is None


def test_nobody_sees_that_the_other_has_left_a_black_hole(
    proxy: ChaosProxy, server: RedisServer
) -> None:
    with server.client() as look:
        with connect(proxy) as client:
            client.client_setname("gone")
            proxy.blackhole()
            client.connection_pool.disconnect()  # close() does not, before redis-py 5
        assert "gone" in str(look.client_list())
        proxy.mend()
        wait_until(lambda: "gone" not in str(look.client_list()))


def test_what_is_held_comes_late(proxy: ChaosProxy, server: RedisServer) -> None:
    with connect(proxy) as client, server.client() as look:
        client.ping()
        proxy.hold()
        thread = threading.Thread(target=client.set, args=("key", "late"))
        thread.start()
        look.ping()
        assert look.get("key") is None
        assert thread.is_alive()
        proxy.mend()
        thread.join()
        assert look.get("key") == b"late"


def test_what_is_held_is_lost_if_the_line_is_cut(proxy: ChaosProxy, server: RedisServer) -> None:
    failures: list[BaseException] = []

    def set_it() -> None:
        try:
            client.set("key", "lost")
        except redis.ConnectionError as exc:
            failures.append(exc)

    with connect(proxy) as client, server.client() as look:
        client.ping()
        proxy.hold()
        thread = threading.Thread(target=set_it)
        thread.start()
        proxy.cut()
        thread.join()
        assert len(failures) == 1
        assert look.get("key") is None


def test_delay(proxy: ChaosProxy) -> None:
    with connect(proxy) as client:
        client.ping()
        proxy.delay(0.05, jitter=0.01)
        began = time.monotonic()
        client.ping()
        assert time.monotonic() - began >= 0.1  # there and back


@pytest.mark.parametrize("connected", [True, False])
def test_a_reset_after_so_many_bytes(
    proxy: ChaosProxy, server: RedisServer, connected: bool
) -> None:
    """Wherever they end: the server gets half a command."""
    with connect(proxy) as client, server.client() as look:
        if connected:
            client.ping()
        proxy.reset_after(1000)
        broken = (redis.ConnectionError, ConnectionError)
        with pytest.raises(broken):  # noqa: PT012 - which of them it meets is for the proxy to say
            for _ in range(1000):
                client.set("key", "x" * 10)
        assert look.get("key") == b"x" * 10
        with pytest.raises(broken):
            client.set("key", "y" * 1000)
        assert look.get("key") == b"x" * 10
        proxy.mend()
        assert client.set("key", "y" * 1000)


def test_a_reply_is_swallowed_when_the_request_has_been_done(
    proxy: ChaosProxy, server: RedisServer
) -> None:
    with connect(proxy) as client, server.client() as look:
        proxy.swallow_replies(b"INCR", times=2)
        assert client.set("key", 0)
        for count in (1, 2):
            with pytest.raises(redis.ConnectionError):
                client.incr("key")
            assert look.get("key") == str(count).encode()
        assert client.incr("key") == 3
        assert proxy.swallowed == 2


def test_also_if_the_text_comes_in_two_parts(proxy: ChaosProxy, server: RedisServer) -> None:
    with (
        socket.create_connection(("127.0.0.1", proxy.port)) as connection,
        server.client() as look,
    ):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        proxy.swallow_replies(b"needle")
        connection.sendall(b"SET key nee")
        wait_until(lambda: proxy.connections)
        connection.sendall(b"dle\r\n")
        with pytest.raises(ConnectionResetError):
            assert connection.recv(100) == b"a reset"
        assert look.get("key") == b"needle"
