"""Real servers and real workers for the tests: private, and never left behind.

Every server listens on a free port of 127.0.0.1 and writes to a temporary directory of its own, so
that test runs can go on side by side, and next to whatever the machine runs. See
:class:`tests.processes.Process` for ``start``, ``stop``, ``kill``, ``restart``, ``pause``,
``resume`` and ``log``.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import itertools
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import amqp
import psycopg
import pymysql
import pytest
import redis
from typing_extensions import Self

from tests.processes import Process, free_port, is_listening, wait_until

__all__ = [
    "MariaDBServer",
    "MemcachedServer",
    "Oracle",
    "PostgresServer",
    "RabbitServer",
    "RedisServer",
    "Worker",
    "wait_until",
]

ROOT = Path(__file__).parent.parent

#: How many virtual hosts of RabbitMQ are made at a time.
VHOSTS_AT_ONCE = 5

_numbers = itertools.count(1)


def _new_name() -> str:
    """Return a name that nobody has given to anything on a server, in another process neither."""
    return f"test_{os.getpid()}_{next(_numbers)}"


def program(name: str, package: str, *elsewhere: str) -> str:
    """Return the path of a program; fail, and say what to install, if it is not there.

    Failing, where many suites skip, keeps a gap from looking like a success.
    """
    for pattern in elsewhere:
        for path in sorted(glob.glob(pattern), reverse=True):  # noqa: PTH207 - absolute patterns
            if os.access(path, os.X_OK):
                return path
    found = shutil.which(name)
    if found is None:
        pytest.fail(
            f"{name} is not installed. Run scripts/ensure-servers, or: apt-get install {package}",
            pytrace=False,
        )
    return found


class RedisServer(Process):
    """A Redis server that keeps nothing over a restart, unless ``appendonly``.

    Args:
        appendonly: Write an append-only file, so that data survive a restart and a kill.
        options: Further settings, as in ``redis.conf``: ``{"maxmemory-policy": "allkeys-lru"}``.
    """

    name = "redis"
    binary: ClassVar[tuple[str, ...]] = ("redis-server", "redis-server")  # and its package

    def __init__(
        self, *, appendonly: bool = False, options: Mapping[str, str] | None = None
    ) -> None:
        super().__init__()
        self.port = free_port()
        self.options = {
            "appendonly": "yes" if appendonly else "no",
            "bind": "127.0.0.1",
            "dir": str(self.directory),
            "port": str(self.port),
            "repl-diskless-sync-delay": "0",  # a replica waits for no other
            "save": "",
            **(options or {}),
        }

    def command(self) -> Sequence[str]:
        settings = [word for key, value in self.options.items() for word in (f"--{key}", value)]
        return [program(*self.binary), *settings]

    def is_ready(self) -> bool:
        if not is_listening(self.port):
            return False
        # The port is open while an append-only file is still being loaded.
        with contextlib.suppress(redis.ConnectionError), self.client() as client:
            return bool(client.ping())
        return False

    def url(self, db: int = 0) -> str:
        """Return the URL of a database: for the broker, the result backend or the store."""
        return f"redis://127.0.0.1:{self.port}/{db}"

    def client(self, db: int = 0, **options: Any) -> redis.Redis:
        """Return a client of one connection, which the caller closes."""
        return redis.Redis(
            host="127.0.0.1", port=self.port, db=db, single_connection_client=True, **options
        )

    def flush(self) -> None:
        """Empty all databases."""
        with self.client() as client:
            client.flushall()


class RabbitServer(Process):
    """A RabbitMQ node with an Erlang port mapper of its own.

    Args:
        options: Further settings, as in ``rabbitmq.conf``: ``{"heartbeat": "1"}``.
    """

    name = "rabbitmq"

    def __init__(self, *, options: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.port = free_port()
        self._distribution_port = free_port()
        self._mapper = PortMapper()
        self._node = f"fanout-{self.port}@localhost"
        self._vhosts: list[str] = []  # that were made and that nobody has
        settings = {
            "loopback_users": "none",
            "log.console.level": "warning",
            "vm_memory_high_watermark.absolute": "1GB",  # by default, 40 % of the machine
            **(options or {}),
        }
        self._file("rabbitmq.conf", "".join(f"{key} = {settings[key]}\n" for key in settings))
        self._file("enabled_plugins", "[].\n")
        self._file("rabbitmq-env.conf", "")  # not the one in /etc
        (self.directory / "home").mkdir()

    def _file(self, name: str, text: str) -> Path:
        file = self.directory / name
        file.write_text(text)
        return file

    @staticmethod
    def _program(name: str) -> str:
        # Debian's wrapper in /usr/sbin insists on a user named rabbitmq, and on its home directory.
        return program(
            name,
            "rabbitmq-server",
            f"/usr/lib/rabbitmq/bin/{name}",
            f"/usr/lib/rabbitmq/lib/*/sbin/{name}",
        )

    def command(self) -> Sequence[str]:
        return [self._program("rabbitmq-server")]

    def environment(self) -> dict[str, str]:
        inherited = {key: os.environ[key] for key in ("PATH", "TMPDIR") if key in os.environ}
        return {
            **inherited,
            **self._mapper.address(),
            "HOME": str(self.directory / "home"),  # of the Erlang cookie
            "LANG": "C.UTF-8",
            "RABBITMQ_ALLOW_INPUT": "1",  # the script becomes the node, not its parent
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(self.directory / "rabbitmq-env.conf"),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "enabled_plugins"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_LOG_BASE": str(self.directory / "log"),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "mnesia"),
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_PID_FILE": str(self.directory / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-noinput"  # which RABBITMQ_ALLOW_INPUT takes away
                " -start_epmd false"
                " -kernel inet_dist_use_interface {127,0,0,1}"
                " +S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none"  # an idle node costs nothing
            ),
        }

    def start(self, timeout: float = 120) -> Self:
        if not self._mapper.alive:
            self._mapper.start()
        return super().start(timeout)

    def close(self) -> None:
        super().close()
        self._mapper.close()

    def is_ready(self) -> bool:
        if not is_listening(self.port):
            return False
        # The port is open a moment before the node lets anybody in.
        with (
            contextlib.suppress(OSError, amqp.AMQPError),
            amqp.Connection(f"127.0.0.1:{self.port}", connect_timeout=5, read_timeout=5),
        ):
            return True
        return False

    def url(self, vhost: str = "/") -> str:
        """Return the broker URL of a virtual host."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{vhost}"

    def control(self, *arguments: str) -> str:
        """Return what ``rabbitmqctl`` prints: ``control("list_queues", "name", "messages")``."""
        command = [self._program("rabbitmqctl"), "--quiet", "--node", self._node, *arguments]
        environment = self.environment()
        del environment["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"]

        def done() -> subprocess.CompletedProcess[str] | None:
            result = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=60, check=False
            )
            # a node lets clients in a moment before it has started
            return None if "requires the 'rabbit' app to be running" in result.stderr else result

        result = wait_until(done)
        assert result is not None
        assert result.returncode == 0, f"{arguments}: {result.stdout}{result.stderr}"
        return result.stdout

    def add_vhost(self) -> str:
        """Return the name of an empty virtual host, which is returned to nobody else."""
        if not self._vhosts:
            # Several at once: what takes a second is the start of rabbitmqctl.
            self._vhosts = [_new_name() for _ in range(VHOSTS_AT_ONCE)]
            everything = {"user": "guest", "configure": ".*", "write": ".*", "read": ".*"}
            definitions = {
                "vhosts": [{"name": vhost} for vhost in self._vhosts],
                "permissions": [{"vhost": vhost, **everything} for vhost in self._vhosts],
            }
            file = self._file(f"{self._vhosts[0]}.json", json.dumps(definitions))
            self.control("import_definitions", str(file))
        return self._vhosts.pop(0)


class PortMapper(Process):
    """An Erlang port mapper in the foreground; the one that a node starts itself outlives it."""

    name = "epmd"

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()

    def address(self) -> dict[str, str]:
        """Return the environment that leads a node here."""
        return {"ERL_EPMD_ADDRESS": "127.0.0.1", "ERL_EPMD_PORT": str(self.port)}

    def command(self) -> Sequence[str]:
        return [program("epmd", "rabbitmq-server", "/usr/lib/erlang/bin/epmd")]

    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.address()}

    def is_ready(self) -> bool:
        return is_listening(self.port)


class PostgresServer(Process):
    """A PostgreSQL cluster that trusts everybody.

    It never waits for the disk, so it would not survive a power cut; killing it loses nothing.
    """

    name = "postgres"
    stop_signal: ClassVar = signal.SIGINT  # "fast": SIGTERM would wait for all clients to leave

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self._data = self.directory / "data"
        if os.getuid() == 0:  # PostgreSQL refuses to run as root
            user = pwd.getpwnam("postgres")
            os.chown(self.directory, user.pw_uid, user.pw_gid)

    def _command(self, name: str, *arguments: str) -> list[str]:
        command = [program(name, "postgresql", f"/usr/lib/postgresql/*/bin/{name}"), *arguments]
        if os.getuid() == 0:
            user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"]
            return [*user, *command]
        return command

    def command(self) -> Sequence[str]:
        options = {
            "fsync": "off",
            "full_page_writes": "off",
            "listen_addresses": "127.0.0.1",
            "shared_buffers": "16MB",
            "unix_socket_directories": str(self.directory),
        }
        settings = [word for key, value in options.items() for word in ("-c", f"{key}={value}")]
        return self._command("postgres", "-D", str(self._data), "-p", str(self.port), *settings)

    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}

    def start(self, timeout: float = 60) -> Self:
        if not self._data.exists():
            subprocess.run(
                self._command(
                    *("initdb", "--pgdata", str(self._data), "--username=postgres"),
                    *("--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"),
                ),
                cwd=self.directory,
                env=self.environment(),
                check=True,
                stdout=subprocess.DEVNULL,
            )
        return super().start(timeout)

    def is_ready(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            self.execute("SELECT 1")
            return True
        return False

    def url(self, database: str = "postgres", scheme: str = "postgresql") -> str:
        """Return the URL of a database; SQLAlchemy wants the scheme ``postgresql+psycopg``."""
        return f"{scheme}://postgres@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Execute one SQL statement outside of any transaction."""
        with psycopg.connect(self.url(database), autocommit=True, connect_timeout=5) as connection:
            connection.execute(statement.encode())

    def add_database(self) -> str:
        """Create an empty database, and return its name."""
        database = _new_name()
        self.execute(f"CREATE DATABASE {database}")
        return database


class MariaDBServer(Process):
    """A MariaDB server whose user ``root`` has no password.

    It never waits for the disk, so it would not survive a power cut; killing it loses nothing.
    """

    name = "mariadb"

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self._data = self.directory / "data"

    def _options(self) -> list[str]:
        user = ["--user=root"] if os.getuid() == 0 else []
        return ["--no-defaults", f"--datadir={self._data}", *user]

    def command(self) -> Sequence[str]:
        return [
            *(program("mariadbd", "mariadb-server", "/usr/sbin/mariadbd"), *self._options()),
            *("--bind-address=127.0.0.1", f"--port={self.port}"),
            *(f"--socket={self.directory / 'socket'}", f"--pid-file={self.directory / 'pid'}"),
            *("--innodb-flush-log-at-trx-commit=2", "--innodb-buffer-pool-size=32M"),
            *("--character-set-server=utf8mb4", "--skip-log-bin", "--skip-name-resolve"),
        ]

    def start(self, timeout: float = 60) -> Self:
        if not self._data.exists():
            subprocess.run(
                [
                    *(program("mariadb-install-db", "mariadb-server"), *self._options()),
                    *("--auth-root-authentication-method=normal", "--skip-test-db"),
                ],
                cwd=self.directory,
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        return super().start(timeout)

    def is_ready(self) -> bool:
        with contextlib.suppress(pymysql.OperationalError):
            self.execute("SELECT 1")
            return True
        return False

    def execute(self, statement: str, database: str | None = None) -> None:
        """Execute one SQL statement outside of any transaction."""
        with (
            pymysql.connect(
                host="127.0.0.1",
                port=self.port,
                user="root",
                database=database,
                autocommit=True,
                connect_timeout=5,
            ) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(statement)

    def add_database(self) -> str:
        """Create an empty database, and return its name."""
        database = _new_name()
        self.execute(f"CREATE DATABASE {database}")
        return database


class MemcachedServer(Process):
    """A memcached server."""

    name = "memcached"

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()

    def command(self) -> Sequence[str]:
        command = [program("memcached", "memcached"), "-l", "127.0.0.1", "-p", str(self.port)]
        return [*command, "-U", "0", "-m", "64", *(["-u", "root"] if os.getuid() == 0 else [])]

    def is_ready(self) -> bool:
        return is_listening(self.port)

    def url(self) -> str:
        """Return what Celery's ``result_backend`` calls it."""
        return f"cache+memcached://127.0.0.1:{self.port}/"

    def flush(self) -> None:
        """Empty it."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(b"flush_all\r\n")
            assert connection.recv(64) == b"OK\r\n"


class Worker(Process):
    """A real worker: ``celery -A APP worker`` in a subprocess, in its own process group.

    Args:
        app: Where the app is, as after ``celery -A``: ``"tests.integration.tiny"``.
        pool: prefork, solo, threads, gevent.
        concurrency: The number of pool processes or threads.
        args: Further arguments: ``["--queues", "slow"]``.
        mingle: Whether it asks other workers who they are, which takes a second at the start, and
            gossips with them, as workers do by default.
        env: Further environment variables; ``None`` as a value removes one.
        fork: Whether it may be forked; not if it patches modules of Celery before their import.
        path: Directories to put on ``PYTHONPATH``, before the root of the project.
        cwd: The working directory; by default the worker's temporary directory.
    """

    name = "worker"

    def __init__(
        self,
        app: str,
        *,
        pool: str = "prefork",
        concurrency: int = 2,
        args: Sequence[str] = (),
        mingle: bool = False,
        env: Mapping[str, str | None] | None = None,
        fork: bool = True,
        path: Sequence[Path | str] = (),
        cwd: Path | str | None = None,
    ) -> None:
        super().__init__()
        self.app = app
        self.pool = pool
        self.concurrency = concurrency
        self.args = [*([] if mingle else ["--without-mingle", "--without-gossip"]), *args]
        self.env = dict(env or {})
        self.fork = fork
        self.path = [*path, ROOT]
        self.cwd = Path(cwd) if cwd else self.directory
        self.hostname = f"worker-{next(_numbers)}@test-{os.getpid()}"

    def command(self) -> Sequence[str]:
        return [
            *(sys.executable, "-m", "celery", "--app", self.app, "worker"),
            *("--hostname", self.hostname, "--loglevel", "INFO"),
            *("--pool", self.pool, "--concurrency", str(self.concurrency)),
            *self.args,
        ]

    def environment(self) -> dict[str, str]:
        environment: dict[str, str | None] = {
            **os.environ,
            "PYTHONFAULTHANDLER": "1",
            "PYTHONPATH": os.pathsep.join(map(str, self.path)),
            "PYTHONUNBUFFERED": "1",
            **self.env,
        }
        return {key: value for key, value in environment.items() if value is not None}

    def working_directory(self) -> Path:
        return self.cwd

    def is_ready(self) -> bool:
        return f"{self.hostname} ready." in self.log_since_start

    def wait_for_log(self, text: str, timeout: float = 30) -> None:
        """Wait until the worker, since it was last started, has logged the text."""
        wait_until(
            lambda: text in self.log_since_start,
            timeout,
            lambda: f"{text!r} is not in the log\n{self.log_since_start[-5000:]}",
        )


class Oracle:
    """A file outside of the system under test, where tasks write down that they ran.

    A line is appended with one write and synced before :meth:`write` returns, so it is there
    whatever happens to the process next. Hand :attr:`environment` to the workers, and call
    ``Oracle.from_environment().write(...)`` in the tasks.
    """

    VARIABLE = "FANOUT_TEST_ORACLE"

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @classmethod
    def from_environment(cls) -> Oracle:
        """Return the oracle that the test gave to this worker."""
        return cls(os.environ[cls.VARIABLE])

    @functools.cached_property
    def environment(self) -> dict[str, str]:
        """The variable by which a worker finds the file."""
        return {self.VARIABLE: str(self.path)}

    def write(self, **record: Any) -> None:
        """Append one record."""
        line = json.dumps(record).encode() + b"\n"
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            written = os.write(file, line)
            assert written == len(line), "a torn record"
            os.fsync(file)
        finally:
            os.close(file)

    def read(self) -> list[dict[str, Any]]:
        """Return all records, in the order of their writing."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text().splitlines()]
