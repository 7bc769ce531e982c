"""Private servers for `make example`: a Redis and a PostgreSQL, each on a free port.

Each writes into a directory of its own and is stopped with the example. A server whose program is
not there is not started, and the example does without.
"""

from __future__ import annotations

import glob
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program(name: str, *elsewhere: str) -> str | None:
    """Return the path of a program, the newest if there are several; `None` if there is none."""
    found = [path for pattern in elsewhere for path in sorted(glob.glob(pattern), reverse=True)]  # noqa: PTH207 - absolute patterns
    return next((path for path in found if os.access(path, os.X_OK)), shutil.which(name))


class Program:
    """One program, which ends when the example does."""

    def __init__(self, name: str, command: list[str], log: Path, **options: Any) -> None:
        self.name = name
        self.log = log
        self._output: IO[bytes] = log.open("ab")
        # a session of its own: Ctrl-C is for us, and we stop what we started in its order
        self.process = subprocess.Popen(  # noqa: S603 - our own command
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )

    def wait_for(self, port: int, seconds: float = 30) -> None:
        """Wait until it accepts connections."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.check()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError(f"{self.name} does not answer. Its log is {self.log}.")

    def check(self) -> None:
        """Raise if it has ended."""
        if self.process.poll() is not None:
            end = self.log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{self.name} has ended:\n{end}")

    def stop(self, with_signal: signal.Signals = signal.SIGTERM, seconds: float = 20) -> None:
        """End it, and wait for that."""
        if self.process.poll() is None:
            self.process.send_signal(with_signal)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._output.close()


def start_redis(directory: Path) -> tuple[Program, str] | None:
    """Start a Redis, and return it with its URL; `None` if there is no such program."""
    path = program("redis-server") or program("valkey-server")
    if path is None:
        return None
    port, password = free_port(), secrets.token_urlsafe()
    settings = {
        "port": str(port),
        "bind": "127.0.0.1",
        "dir": str(directory),
        "requirepass": password,  # others have accounts on this machine
        "save": '""',
        "appendonly": "yes",
        "maxmemory-policy": "noeviction",
    }
    file = directory / "redis.conf"  # not the command line, which everybody sees
    file.write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    redis = Program("Redis", [path, str(file)], directory / "redis.log")
    redis.wait_for(port)
    return redis, f"redis://:{password}@127.0.0.1:{port}/0"


def start_postgres(directory: Path) -> tuple[Program, str] | None:
    """Start a PostgreSQL, and return it with its URL; `None` if there is none that can be used."""
    initdb = program("initdb", "/usr/lib/postgresql/*/bin/initdb")
    postgres = program("postgres", "/usr/lib/postgresql/*/bin/postgres")
    if initdb is None or postgres is None:
        return None
    home, port, password = directory / "postgres", free_port(), secrets.token_urlsafe()
    home.mkdir()
    secret = home / "password"
    secret.write_text(password)
    become: list[str] = []
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        try:
            user = pwd.getpwnam("postgres")
        except KeyError:
            return None
        for path in (home, secret):
            os.chown(path, user.pw_uid, user.pw_gid)
        directory.chmod(0o711)  # to pass through
        become = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"]
    data = home / "data"
    options: dict[str, Any] = {
        "cwd": home,
        "env": {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
    }
    initialise = [*become, initdb, "--pgdata", str(data), "--username=postgres"]
    initialise += ["--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8", "--locale=C"]
    subprocess.run(initialise, check=True, stdout=subprocess.DEVNULL, **options)  # noqa: S603
    run = [*become, postgres, "-D", str(data), "-p", str(port)]
    run += ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={home}"]
    server = Program("PostgreSQL", run, directory / "postgres.log", **options)
    server.wait_for(port)
    return server, f"postgres://postgres:{password}@127.0.0.1:{port}/postgres"
