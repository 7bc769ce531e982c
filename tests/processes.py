"""Processes that a test run starts, and that never outlive it.

Linux only: who belongs to whom is read from ``/proc``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, ClassVar, TypeVar

from typing_extensions import Self

from tests import forking

T = TypeVar("T")

# Below the range from which the kernel takes the local ports of clients. Otherwise, while a server
# is down, a client that keeps trying may be given that very port, and connect to itself.
PORTS = range(20_000, 32_000)


def wait_until(
    predicate: Callable[[], T],
    timeout: float = 30,
    message: str | Callable[[], str] = "the condition did not come true",
) -> T:
    """Return the first true value of the predicate; fail when the time is up.

    This is the one place where a test sleeps.
    """
    deadline = time.monotonic() + timeout
    pause = 0.005
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            text = message() if callable(message) else message
            raise AssertionError(f"after {timeout} s: {text}")
        time.sleep(pause)  # noqa: TID251 - the one place
        pause = min(pause * 1.5, 0.1)


# --- ports ---------------------------------------------------------------------------------------

_port_locks: list[IO[str]] = []  # held until this process ends, however it ends


def free_port() -> int:
    """Return a port that nobody listens on, and that no other test run on this machine is given."""
    directory = Path(tempfile.gettempdir(), f"celery-fanout-ports-{os.getuid()}")
    directory.mkdir(exist_ok=True)
    for port in random.sample(PORTS, len(PORTS)):
        lock = (directory / str(port)).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            lock.close()
            continue
        _port_locks.append(lock)
        return port
    raise AssertionError(f"no free port in {PORTS}")


def is_listening(port: int) -> bool:
    """Say whether something accepts connections on the port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


# --- who belongs to whom -------------------------------------------------------------------------


def _living() -> Iterator[tuple[int, int, int]]:
    """Yield the pid, parent and process group of each process that is not a zombie."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # gone in between
        state, parent, group = stat.rpartition(")")[2].split()[:3]
        if state not in "ZX":
            yield int(entry.name), int(parent), int(group)


def is_alive(pid: int) -> bool:
    """Say whether the process runs; a zombie does not."""
    return any(pid == living for living, _, _ in _living())


def children_of(pid: int) -> list[int]:
    """Return the pids of the direct children."""
    return sorted(child for child, parent, _ in _living() if parent == pid)


def family_of(pid: int) -> set[int]:
    """Return the process, its group and all its descendants, those in sessions of their own too."""
    processes = list(_living())
    family = {living for living, _, group in processes if pid in (living, group)}
    while True:
        more = {living for living, parent, _ in processes if parent in family} - family
        if not more:
            return family
        family |= more


# --- the guardian --------------------------------------------------------------------------------

# It reads what it is to kill from a pipe. The pipe closes when this process ends, with SIGKILL too,
# and no signal to our process group reaches the guardian. (PR_SET_PDEATHSIG would fire as soon as
# the *thread* that started a server ends.)
_GUARDIAN = """
import os, shutil, signal, sys
groups, directories = set(), set()
for line in sys.stdin:
    verb, _, what = line.rstrip("\\n").partition(" ")
    {"kill": groups.add, "spare": groups.discard, "remove": directories.add}[verb](what)
for group in groups:
    try:
        os.killpg(int(group), signal.SIGKILL)
    except ProcessLookupError:
        pass
for directory in directories:
    shutil.rmtree(directory, ignore_errors=True)
"""
_guardian: subprocess.Popen[str] | None = None


def _tell_guardian(verb: str, what: object) -> None:
    global _guardian  # noqa: PLW0603 - one for each process, started when first needed
    if _guardian is None:
        _guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARDIAN],
            stdin=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
    assert _guardian.stdin is not None
    _guardian.stdin.write(f"{verb} {what}\n")
    _guardian.stdin.flush()


def dismiss_guardian() -> None:
    """Let the guardian kill and remove what is left, and wait for it."""
    global _guardian  # noqa: PLW0603
    if _guardian is not None:
        assert _guardian.stdin is not None
        _guardian.stdin.close()
        _guardian.wait()
        _guardian = None


# --- one process ---------------------------------------------------------------------------------


class Process:
    """A program in a process group and a temporary directory of its own.

    A subclass says what to run and when it is ready. Use it as a context manager, or call
    :meth:`start` and :meth:`close`.
    """

    name: ClassVar[str]
    fork = True  # whether a Python program may be forked, see tests/forking.py
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"fanout-{self.name}-"))
        self._log = self.directory / "output.log"
        self._log_start = 0
        self._process: subprocess.Popen[bytes] | forking.Forked | None = None
        _tell_guardian("remove", self.directory)

    def __getstate__(self) -> dict[str, Any]:
        """Another process may use it: it can neither stop nor restart it."""
        return {**self.__dict__, "_process": None}

    def command(self) -> Sequence[str | Path]:
        """Return the command line."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Return the environment."""
        return dict(os.environ)

    def working_directory(self) -> Path:
        """Return the directory that it is started in."""
        return self.directory

    def is_ready(self) -> bool:
        """Say whether it does its work; asked again and again after a start."""
        raise NotImplementedError

    @property
    def log(self) -> str:
        """What it has written to stdout and stderr, over all its starts."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def log_since_start(self) -> str:
        """What it has written since it was last started."""
        return self.log[self._log_start :]

    @property
    def pid(self) -> int:
        """The pid of the running process; its process group has the same number."""
        assert self._process is not None, f"{self.name} is not running"
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        if self._process is None or self._process.returncode is not None:
            return False
        if isinstance(self._process, forking.Forked):
            return not self._process.has_ended()
        # It stays a zombie until `kill`. Otherwise its pid could be given to somebody else, whom
        # `kill` would take for it: there are 32,768 of them, and fault tests use them up.
        found = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return found is None

    def children(self) -> list[int]:
        """Return the pids of its direct children."""
        return children_of(self.pid)

    def start(self, timeout: float = 60) -> Self:
        """Start it, and wait until it is ready."""
        assert not self.alive, f"{self.name} is running already"
        self._log_start = len(self.log)
        command, environment = self.command(), self.environment()
        with self._log.open("ab") as log, Path(os.devnull).open("rb") as nothing:
            if self.fork and forking.can_fork(command, environment):
                self._process = forking.start(
                    command,
                    cwd=self.working_directory(),
                    env=environment,
                    stdin=nothing.fileno(),
                    stdout=log.fileno(),
                    stderr=log.fileno(),
                )
            else:
                self._process = subprocess.Popen(
                    command,
                    cwd=self.working_directory(),
                    env=environment,
                    stdin=nothing,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        _tell_guardian("kill", self.pid)
        try:
            wait_until(
                lambda: not self.alive or self.is_ready(),
                timeout,
                lambda: f"{self.name} is not ready\n{self.log_since_start[-5000:]}",
            )
            assert self.alive, f"{self.name} ended while starting\n{self.log_since_start[-5000:]}"
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self, timeout: float = 60) -> None:
        """Ask it to end, and wait until it and all its children have."""
        if self._process is None:
            return
        if self.alive:
            self._process.send_signal(self.stop_signal)
        try:
            wait_until(
                lambda: not self.alive,
                timeout,
                lambda: f"{self.name} did not stop\n{self.log_since_start[-5000:]}",
            )
        finally:
            self.kill()  # what is left of its group

    def kill(self) -> None:
        """Kill it and all its descendants with SIGKILL, and wait until they are gone."""
        if self._process is None:
            return
        process = self._process
        pid = process.pid
        family = family_of(pid)

        def is_gone() -> bool:
            left = family.intersection(living for living, _, _ in _living()) | family_of(pid)
            for member in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(member, signal.SIGKILL)
            return not left

        wait_until(is_gone, message=f"{self.name} survived SIGKILL")
        process.wait()
        _tell_guardian("spare", pid)
        self._process = None

    def restart(self, timeout: float = 60) -> Self:
        """Stop it and start it again."""
        self.stop()
        return self.start(timeout)

    def kill_and_restart(self, timeout: float = 60) -> Self:
        """Kill it with SIGKILL and start it again: what it kept in memory only is gone."""
        self.kill()
        return self.start(timeout)

    def pause(self) -> None:
        """Freeze it and its children: connections stay open, and nobody answers."""
        for member in family_of(self.pid):
            os.kill(member, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after :meth:`pause`."""
        for member in family_of(self.pid):
            os.kill(member, signal.SIGCONT)

    def close(self) -> None:
        """Stop it, and remove its directory."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self if self.alive else self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if error is not None:
            print(f"--- output of {self.name} ---\n{self.log[-20_000:]}")  # noqa: T201 - for pytest
        self.close()
