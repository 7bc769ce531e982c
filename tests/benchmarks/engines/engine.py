"""What the contestants have in common."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import Self

from tests.benchmarks.documents import DATA
from tests.benchmarks.engines.records import FILE
from tests.processes import Process, family_of
from tests.servers import ROOT


class Unavailable(Exception):  # noqa: N818 - named for the problem
    """An engine that is not to be had here; the message says why, and what to install."""


def need(*distributions: str) -> str:
    """Return the versions of distributions, for the table.

    Raises:
        Unavailable: if one is not installed.
    """
    try:
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in distributions)
    except importlib.metadata.PackageNotFoundError as exc:
        raise Unavailable(f"{exc.name} is not installed: make bench installs it") from None


def document(number: int) -> dict[str, Any]:
    """Return the data of an event."""
    return {**DATA, "number": number}


class Engine:
    """One way to tell five subscribers of an event, with its servers and workers.

    Args:
        records: the file that the subscribers write to.

    Attributes:
        servers: what has to be there before the workers; started in this order.
        workers: what executes the subscribers.
    """

    name: ClassVar[str]
    steps: ClassVar[Sequence[int]] = (0, 3)

    def __init__(self, records: Path) -> None:
        self.environment = {FILE: str(records)}
        self.servers: list[Process] = []
        self.workers: list[Process] = []
        self._stack = contextlib.ExitStack()

    @classmethod
    def versions(cls) -> str:
        """Return the versions of what it is made of.

        Raises:
            Unavailable: if it is not to be had here.
        """
        raise NotImplementedError

    def connect(self) -> Callable[[], object]:
        """Prepare to emit, once everything runs; return what lets go of it again."""
        raise NotImplementedError

    def emit(self, steps: int, number: int) -> None:
        """Tell the subscribers of one event, as a user of this engine would."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            for process in (*self.servers, *self.workers):
                self._stack.enter_context(process)
            self._stack.callback(self.connect())
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(None, None, None)

    def pids(self, processes: Sequence[Process]) -> list[int]:
        """Return the processes and all their children."""
        return sorted({pid for process in processes for pid in family_of(process.pid)})


class Program(Process):
    """A worker of somebody else's.

    Args:
        command: the command line, after the Python interpreter.
        ready: what it has logged when it is.
        environment: environment variables.
        times: how often it has logged that by then.
    """

    def __init__(
        self, command: Sequence[str], ready: str, environment: Mapping[str, str], times: int = 1
    ) -> None:
        self.name = command[1].rpartition(".")[2]
        super().__init__()
        self._command = list(command)
        self._ready = ready
        self._times = times
        self._environment = dict(environment)

    def command(self) -> Sequence[str]:
        return [sys.executable, *self._command]

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            **self._environment,
        }

    def is_ready(self) -> bool:
        return self.log_since_start.count(self._ready) >= self._times
