"""The servers that all other tests stand on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import amqp
import psycopg
import pytest
import redis
from celery import Celery
from kombu import Connection
from pymemcache.client.base import Client as MemcacheClient
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests import servers
from tests.processes import Process, family_of, free_port, is_alive, is_listening, wait_until
from tests.servers import (
    ROOT,
    MemcachedServer,
    Oracle,
    PostgresServer,
    RabbitServer,
    RedisServer,
    Worker,
)

DEFAULT_PORTS = {4369, 5432, 5672, 6379, 11211, 25672}


def addresses_of(pid: int) -> set[tuple[str, int]]:
    """Return the IPv4 addresses on which the process and its descendants listen."""
    sockets = set()
    for member in family_of(pid):
        with suppress(OSError):  # the process, or the file, is gone by now
            for link in Path(f"/proc/{member}/fd").iterdir():
                sockets.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
    addresses = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and fields[9] in sockets:
            ip, port = fields[1].split(":")
            octets = reversed([int(ip[i : i + 2], 16) for i in range(0, 8, 2)])
            addresses.add((".".join(map(str, octets)), int(port, 16)))
    return addresses


@pytest.mark.parametrize("kind", [RedisServer, RabbitServer, PostgresServer, MemcachedServer])
def test_a_server_is_private_and_leaves_nothing(kind: type[Process]) -> None:
    server = kind()
    with server:
        pid = server.pid
        addresses = addresses_of(pid)
        family = family_of(pid)
        assert is_listening(server.port)  # type: ignore[attr-defined]

    assert {host for host, _ in addresses} == {"127.0.0.1"}
    assert not {port for _, port in addresses} & DEFAULT_PORTS
    assert not server.alive
    assert not any(is_alive(member) for member in family)
    assert not any(is_listening(port) for _, port in addresses)
    assert not server.directory.exists()


def test_two_of_a_kind_side_by_side() -> None:
    with RedisServer() as one, RedisServer() as other:
        with one.client() as client:
            client.set("key", "value")
        with other.client() as client:
            assert client.get("key") is None


class TestRedis:
    def test_it_forgets_over_a_restart(self) -> None:
        with RedisServer() as server:
            with server.client() as client:
                client.set("key", "value")
            server.restart()
            with server.client() as client:
                assert client.get("key") is None

    @pytest.mark.parametrize("end", [RedisServer.stop, RedisServer.kill])
    def test_with_an_append_only_file_it_does_not(self, end: Callable[[RedisServer], None]) -> None:
        with RedisServer(appendonly=True) as server:
            with server.client() as client:
                client.set("key", "value")
            end(server)
            assert not is_listening(server.port)
            server.start()
            with server.client() as client:
                assert client.get("key") == b"value"

    def test_it_takes_options(self) -> None:
        with (
            RedisServer(options={"maxmemory-policy": "allkeys-lru"}) as server,
            server.client() as client,
        ):
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "allkeys-lru"}

    def test_paused_it_does_not_answer(self) -> None:
        options = {"socket_timeout": 0.2, "retry": Retry(NoBackoff(), 0)}
        with RedisServer() as server, server.client(**options) as client:
            client.ping()
            server.pause()
            with pytest.raises(redis.TimeoutError):
                client.ping()
            server.resume()
            with server.client() as patient:
                assert patient.ping()

    @pytest.mark.parametrize("db", [0, 1])
    def test_each_test_gets_empty_databases(
        self, redis_server: RedisServer, redis_url: str, db: int
    ) -> None:
        assert redis_url == redis_server.url(0)
        for number in (0, 1):
            with redis_server.client(number) as client:
                assert client.dbsize() == 0
        with redis_server.client(db) as client:
            client.set("left", "behind")


class TestRabbit:
    def test_a_persistent_message_survives(self) -> None:
        with RabbitServer() as server:
            address = f"127.0.0.1:{server.port}"
            with amqp.Connection(address, confirm_publish=True) as connection:
                channel = connection.channel()
                channel.queue_declare("kept", durable=True, auto_delete=False)
                message = amqp.Message("here", delivery_mode=2)
                channel.basic_publish(message, routing_key="kept")
            for end in (server.kill, server.stop):
                end()
                assert not is_listening(server.port)
                server.start()
            with amqp.Connection(address) as connection:
                assert connection.channel().basic_get("kept").body == "here"

    @pytest.mark.parametrize("time", [1, 2])
    def test_each_test_gets_a_vhost(
        self, rabbit_server: RabbitServer, rabbit_url: str, time: int
    ) -> None:
        with Connection(rabbit_url) as connection:
            connection.connect()
            vhost = connection.virtual_host
            assert rabbit_server.control("list_queues", "--vhost", vhost, "name") == ""
            connection.SimpleQueue("mine").put("here")
            assert "mine" in rabbit_server.control("list_queues", "--vhost", vhost, "name")


class TestPostgres:
    @pytest.mark.parametrize("end", [PostgresServer.stop, PostgresServer.kill])
    def test_data_survive(self, end: Callable[[PostgresServer], None]) -> None:
        with PostgresServer() as server:
            with psycopg.connect(server.url()) as connection:
                connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
                connection.commit()
                end(server)
            server.start()
            with psycopg.connect(server.url()) as connection:
                assert connection.execute("SELECT one FROM kept").fetchall() == [(1,)]

    @pytest.mark.parametrize("time", [1, 2])
    def test_each_test_gets_a_database(self, postgres_url: str, time: int) -> None:
        with psycopg.connect(postgres_url) as connection:
            connection.execute("CREATE TABLE taken ()")


class TestMemcached:
    @pytest.mark.parametrize("time", [1, 2])
    def test_each_test_gets_it_empty(
        self, memcached_server: MemcachedServer, memcached_url: str, time: int
    ) -> None:
        assert memcached_url == f"cache+memcached://127.0.0.1:{memcached_server.port}/"
        with closing(MemcacheClient(("127.0.0.1", memcached_server.port))) as client:
            assert client.get("key") is None
            client.set("key", "value", noreply=False)
            assert client.get("key") == b"value"


def test_a_missing_program_fails_and_says_what_to_install() -> None:
    with pytest.raises(pytest.fail.Exception) as caught:
        servers.program("no-such-server", "some-package")

    assert str(caught.value) == (
        "no-such-server is not installed. "
        "Run scripts/ensure-servers, or: apt-get install some-package"
    )


def test_a_server_that_cannot_start_says_why() -> None:
    server = RedisServer(options={"maxmemory-policy": "nonsense"})
    with pytest.raises(AssertionError, match=r"(?s)redis ended while starting.*nonsense"), server:
        pass
    assert not server.directory.exists()


def test_a_port_is_given_once() -> None:
    ports = {free_port() for _ in range(20)}
    program = "from tests.processes import free_port; print(*(free_port() for _ in range(20)))"
    output = subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True)
    assert len(ports | set(map(int, output.split()))) == 40


def test_servers_die_with_a_killed_test_run() -> None:
    program = textwrap.dedent("""\
        import threading
        from tests.servers import RedisServer

        servers = []
        starter = threading.Thread(target=lambda: servers.append(RedisServer().start()))
        starter.start()
        starter.join()
        print(servers[0].pid, servers[0].directory, flush=True)
        threading.Event().wait()
    """)
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        pid, directory = run.stdout.readline().split()
        assert is_alive(int(pid))  # although the thread that started it has ended
        run.kill()
        wait_until(lambda: not is_alive(int(pid)), message="redis-server outlived its test run")
        wait_until(lambda: not Path(directory).exists(), message="its directory is still there")


class TestWorker:
    @pytest.fixture
    def app(self, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
        monkeypatch.setenv("TINY_BROKER", redis_url)
        monkeypatch.setenv("TINY_BACKEND", redis_url)
        with Celery("test", broker=redis_url, backend=redis_url, set_as_current=False) as app:
            yield app

    @pytest.mark.parametrize("pool", ["prefork", "solo", "threads", "gevent"])
    def test_it_runs_tasks(
        self, app: Celery, start_worker: Callable[..., Worker], oracle: Oracle, pool: str
    ) -> None:
        worker = start_worker("tests.integration.tiny", pool=pool, env=oracle.environment)
        assert app.send_task("tests.integration.tiny.add", (1, 2)).get(timeout=30) == 3
        (record,) = oracle.read()
        assert record["sum"] == 3
        assert record["pid"] in ([worker.pid] if pool != "prefork" else worker.children())

    def test_stop_is_warm(
        self, app: Celery, start_worker: Callable[..., Worker], redis_server: RedisServer
    ) -> None:
        worker = start_worker("tests.integration.tiny")
        result = app.send_task("tests.integration.tiny.hold", ("gate",))
        with redis_server.client() as client:
            client.blpop(["gate-begun"], timeout=30)
            os.kill(worker.pid, signal.SIGTERM)
            worker.wait_for_log("Warm shutdown")
            client.rpush("gate", "go")
        worker.stop()
        assert result.state == "SUCCESS"
        assert not worker.alive

    def test_kill_is_not(
        self, app: Celery, start_worker: Callable[..., Worker], redis_server: RedisServer
    ) -> None:
        worker = start_worker("tests.integration.tiny", concurrency=3)
        result = app.send_task("tests.integration.tiny.hold", ("gate",))
        with redis_server.client() as client:
            client.blpop(["gate-begun"], timeout=30)
        family = family_of(worker.pid)
        assert len(worker.children()) == 3
        worker.kill()
        assert not any(map(is_alive, family))
        assert result.state == "PENDING"

    def test_it_starts_again(self, app: Celery, start_worker: Callable[..., Worker]) -> None:
        worker = start_worker("tests.integration.tiny", pool="solo")
        worker.kill()
        worker.start()
        assert worker.log.count("ready.") == 2
        assert worker.log_since_start.count("ready.") == 1

    def test_an_app_that_cannot_be_imported_says_so(self) -> None:
        worker = Worker("tests.integration.no_such_app")
        with pytest.raises(AssertionError, match=r"(?s)worker ended while starting.*no_such_app"):
            worker.start()
        worker.close()


class TestOracle:
    def test_it_is_empty_at_first(self, oracle: Oracle) -> None:
        assert oracle.read() == []

    def test_many_processes_append_whole_records(self, oracle: Oracle) -> None:
        program = (
            "from tests.servers import Oracle\n"
            "for n in range(50): Oracle.from_environment().write(n=n, text='x' * 500)\n"
        )
        env = {**os.environ, **oracle.environment}
        command = [sys.executable, "-c", program]
        writers = [subprocess.Popen(command, cwd=ROOT, env=env) for _ in range(4)]
        assert [writer.wait() for writer in writers] == [0, 0, 0, 0]
        assert sorted(record["n"] for record in oracle.read()) == sorted([*range(50)] * 4)


class TestWaitUntil:
    def test_it_returns_what_came_true(self) -> None:
        values = iter([None, [], "now"])
        assert wait_until(lambda: next(values)) == "now"

    def test_it_fails_with_the_message(self) -> None:
        with pytest.raises(AssertionError, match=r"^after 0.01 s: the door stayed shut$"):
            wait_until(lambda: False, timeout=0.01, message="the door stayed shut")
