"""Python programs without the time that their imports take: each is forked from a process that has
imported Celery, and Django where it is a Django project's, and nothing of this project.

Half of the processor time of all tests was spent on importing the same modules, once for each
worker, script and command. A forked program has its own pid, session, directory, environment and
arguments, and ends as any other. What depends on how an interpreter starts is started as usual:
see :func:`can_fork`.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

#: What the process imports before it forks: what a worker and a command import anyway. Not
#: celery.bin.celery, which imports the commands of all packages that are installed: this one's.
CELERY = (
    *("celery.bin.worker", "celery.bin.beat", "celery.bin.control", "celery.bin.events"),
    *("celery.bin.multi", "celery.bin.shell", "celery.bin.amqp", "celery.bin.upgrade"),
    *("celery.apps.worker", "celery.worker.consumer", "click_plugins", "click_didyoumean"),
    *("celery.concurrency.prefork", "celery.concurrency.solo", "celery.concurrency.thread"),
    *("celery.app.trace", "celery.backends.redis", "celery.loaders.app", "celery.events.state"),
    *("kombu.transport.redis", "kombu.transport.pyamqp", "redis", "pydantic.main"),
    *("pydantic.type_adapter", "pydantic.json_schema", "pydantic.plugin._schema_validator"),
)
#: The same of a Django project, in which there are no settings yet.
DJANGO = (
    *("django.core.management", "django.core.management.commands.migrate", "django.db.models"),
    *("django.db.migrations.executor", "django.db.backends.sqlite3.base", "django.test"),
    *("django.http", "django.urls", "django.shortcuts", "django.contrib.admin", "django.forms"),
    *("django.db.backends.postgresql.base", "django.template.defaulttags", "pymysql", "psycopg"),
    *("celery.fixups.django", "django.contrib.contenttypes.checks"),
)

#: More than this a message of the socket cannot hold.
LONGEST = 100_000

#: Variables that are read while an interpreter starts, and that a forked program can still heed.
_HEEDED = {"PYTHONDONTWRITEBYTECODE", "PYTHONFAULTHANDLER", "PYTHONPATH", "PYTHONUNBUFFERED"}


def can_fork(command: Sequence[Any], environment: Mapping[str, str]) -> bool:
    """Say whether a command line is a Python program that can be forked.

    Not with options of the interpreter or variables that it reads when it starts; nor a worker
    with greenlets, which must patch modules before anybody imports them.
    """
    words = [str(word) for word in command]
    return (
        hasattr(os, "pidfd_open")
        and len(words) > 1
        and words[0] == sys.executable
        and (words[1] in {"-c", "-m"} or not words[1].startswith("-"))
        and not {"gevent", "eventlet"} & set(words)
        and not any(key.startswith("COVERAGE_") for key in environment)
        and {key for key in environment if key.startswith("PYTHON")} <= _HEEDED
        and not any(key.startswith("LD_") for key in environment)  # read by the dynamic linker
        and sum(map(len, words)) + sum(len(k) + len(v) for k, v in environment.items()) < LONGEST
    )


class Forked:
    """A forked program, with what is needed of :class:`subprocess.Popen`."""

    def __init__(self, pid: int, server: _Server) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._server = server
        self._handle = os.pidfd_open(pid)

    def has_ended(self, timeout: float | None = 0) -> bool:
        """Say whether it has ended, once it has or after so many seconds; it stays a zombie."""
        if self.returncode is not None:
            return True
        waiting = select.poll()  # select.select takes no number above 1023
        waiting.register(self._handle, select.POLLIN)
        return bool(waiting.poll(None if timeout is None else timeout * 1000))

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit code when it has ended."""
        if self.returncode is None:
            if not self.has_ended(timeout):
                raise subprocess.TimeoutExpired(f"forked program {self.pid}", timeout or 0)
            self.returncode = int(self._server.ask({"reap": self.pid}))
            os.close(self._handle)
        return self.returncode

    def send_signal(self, which: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, which)


class _Server:
    """The process that forks, as seen from the tests."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # by -c, which sets sys.path[0] to what a forked program replaces
            code = "from tests.forking import serve; serve()"
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, str(theirs.fileno()), *modules],
                pass_fds=[theirs.fileno()],
                cwd=Path(__file__).parent.parent,
                start_new_session=True,
            )

    def ask(self, question: Mapping[str, Any], files: Sequence[int] = ()) -> Any:
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(question).encode()], list(files))
            return json.loads(self._socket.recv(LONGEST))

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


_servers: dict[bool, _Server] = {}
_starting = threading.Lock()


def start(
    command: Sequence[Any],
    *,
    cwd: Path | str,
    env: Mapping[str, str],
    stdin: int,
    stdout: int,
    stderr: int,
) -> Forked:
    """Start a program for which :func:`can_fork` is true, in a session of its own."""
    django = "DJANGO_SETTINGS_MODULE" in env or Path(command[1]).name == "manage.py"
    with _starting:
        if django not in _servers:
            _servers[django] = _Server([*CELERY, *(DJANGO if django else ())])
    server = _servers[django]
    words = [str(word) for word in command[1:]]
    pid = server.ask({"words": words, "cwd": str(cwd), "env": dict(env)}, [stdin, stdout, stderr])
    return Forked(pid, server)


def run(
    command: Sequence[Any],
    *,
    cwd: Path | str,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    timeout: float = 110,
    merge: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, as :func:`subprocess.run` does, and return what it has printed.

    Args:
        command: its command line.
        cwd: its directory.
        env: its environment; by default that of this process.
        stdin: what it can read.
        timeout: seconds until it is killed, and ``subprocess.TimeoutExpired`` raised.
        merge: whether what it prints on stderr is to be with what it prints on stdout.
    """
    env = os.environ if env is None else env
    words = [str(word) for word in command]
    if not can_fork(words, env):
        return subprocess.run(
            words,
            cwd=cwd,
            env=env,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merge else subprocess.PIPE,
            text=True,
            timeout=timeout,
            check=False,
        )
    with contextlib.ExitStack() as stack:

        def file() -> IO[str]:
            return stack.enter_context(tempfile.TemporaryFile("w+"))

        given, out = file(), file()
        err = out if merge else file()
        given.write(stdin or "")
        given.seek(0)
        process = start(
            words, cwd=cwd, env=env, stdin=given.fileno(), stdout=out.fileno(), stderr=err.fileno()
        )
        try:
            code = process.wait(timeout)
        except BaseException:
            process.send_signal(signal.SIGKILL)
            process.wait()
            raise
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(words, code, out.read(), "" if merge else err.read())


def close() -> None:
    """End the processes that fork. What they have forked goes on."""
    while _servers:
        _servers.popitem()[1].close()


# --- the process that forks ----------------------------------------------------------------------


def _fork_on_demand(connection: socket.socket) -> dict[str, Any]:
    """Fork whatever is asked for; return in each forked process what it is to do."""
    while True:
        text, files, _, _ = socket.recv_fds(connection, LONGEST * 2, 3)
        if not text:
            os._exit(0)
        question = json.loads(text)
        if "reap" in question:
            _, status = os.waitpid(question["reap"], 0)
            connection.send(str(os.waitstatus_to_exitcode(status)).encode())
            continue
        done, in_session = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            for number, file in enumerate(files):
                os.dup2(file, number)
                os.close(file)
            os.close(done)
            os.close(in_session)
            connection.close()
            return dict(question)
        for file in (*files, in_session):
            os.close(file)
        os.read(done, 1)  # its process group can be killed from now on
        os.close(done)
        connection.send(str(pid).encode())


def _become(words: list[str], cwd: str, env: dict[str, str]) -> None:
    """Run a program as the interpreter does that is started with these words."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    if env.get("PYTHONFAULTHANDLER"):
        import faulthandler

        faulthandler.enable()
    if env.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
        sys.stderr.reconfigure(write_through=True)  # type: ignore[union-attr]
    sys.dont_write_bytecode = bool(env.get("PYTHONDONTWRITEBYTECODE"))
    first, *arguments = words
    more = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    beside = {"-c": "", "-m": str(Path.cwd())}.get(first, str(Path(first).resolve().parent))
    sys.path[:] = [beside, *more, *sys.path[1:]]
    importlib.invalidate_caches()
    for module in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[module]  # a program may have another package of this name
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    if first == "-m":
        sys.argv = [first, *arguments[1:]]
        runpy._run_module_as_main(arguments[0])  # type: ignore[attr-defined]
    elif first == "-c":
        sys.argv = [first, *arguments[1:]]
        exec(compile(arguments[0], "<string>", "exec"), main.__dict__)  # noqa: S102 - what -c does
    else:
        sys.argv = [first, *arguments]
        main.__file__ = str(Path(first).absolute())
        exec(compile(Path(first).read_bytes(), first, "exec"), main.__dict__)  # noqa: S102


def serve() -> None:
    """Import, and fork, until the other end of the socket is closed."""
    number, *modules = sys.argv[1:]
    for module in modules:
        with contextlib.suppress(ImportError):  # in older versions; then programs import it
            importlib.import_module(module)
    gc.collect()
    gc.freeze()  # forked programs share the memory for as long as they do not write to it
    with socket.socket(fileno=int(number)) as connection:
        question = _fork_on_demand(connection)
    _become(**question)
