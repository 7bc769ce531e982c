"""Two versions of this package side by side, for tests: this one, and the one before the house.

Each process has one of them: the first ``celery_fanout`` on its ``PYTHONPATH``.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_fanout.stores.states import FINAL
from tests.faults.limiting import ALL, Limits, open_limits
from tests.processes import wait_until
from tests.servers import ROOT, Worker

__all__ = ["BEFORE", "Client", "Version", "Versions", "clients", "open_versions"]

#: The version that this one has to get along with: the last commit before the package was rebuilt
#: into rooms. Move it on to the tag of a release when that is out: the rule is that neighbouring
#: releases can be rolled out and back while work is under way.
BEFORE = "8d9e9af6c711bf844ac154c40656b71aa39f3274"


@dataclass(frozen=True)
class Version:
    """One of the two.

    Attributes:
        name: for people.
        path: the directory that has its ``celery_fanout``.
    """

    name: str
    path: Path

    def search_path(self) -> list[Path]:
        """Return what is first on the search path of its processes."""
        return [self.path, ROOT]


def unpack_version_before(directory: Path) -> Version:
    """Write the version before into a directory; skip the test where there is no history."""
    remedy = (
        f"The version before, commit {BEFORE[:10]}, is read from the history of this repository. "
        "Run this test in a clone with all of it (git fetch --unshallow), and with git installed."
    )
    git = shutil.which("git")
    if git is None:
        pytest.skip(f"git is not installed. {remedy}")
    archive = [git, "-C", str(ROOT), "archive", "--format=tar", BEFORE, "celery_fanout"]
    found = subprocess.run(archive, capture_output=True, check=False)
    if found.returncode:
        pytest.skip(f"{found.stderr.decode().strip()}. {remedy}")
    with tarfile.open(fileobj=io.BytesIO(found.stdout)) as tar:
        tar.extractall(directory, filter="data")
    return Version("before", directory)


class Client:
    """A process of one version that does what it is told; see ``versions_client.py``."""

    def __init__(self, version: Version) -> None:
        self.version = version
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.versions_client"],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(map(str, version.search_path())),
                "PYTHONWARNINGS": "ignore",
            },
            cwd=version.path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        said = self._read()
        assert said == f"celery_fanout is that of {version.path}", said

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def ask(self, name: str, **arguments: Any) -> Any:
        """Have it do something, and return what came of it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([name, arguments]) + "\n")
        self._process.stdin.flush()
        word, answer = json.loads(self._read())
        assert word == "done", f"{self.version.name}: {answer}"
        return answer

    def emit(self, name: str, data: Any = None, **options: Any) -> list[str]:
        """Emit an event, and return the ids of its runs."""
        [[_, runs]] = self.emit_all([(name, data, options)])
        found: list[str] = runs
        return found

    def emit_all(self, events: list[tuple[str, Any, dict[str, Any]]]) -> list[Any]:
        """Emit events; return the id of each and the ids of its runs."""
        found: list[Any] = self.ask("emit", events=events)
        return found

    def command(self, *arguments: str) -> Any:
        """Execute ``celery fanout ...``, and return what it prints as JSON."""
        return self.ask("command", arguments=arguments)

    def look(self) -> dict[str, Any]:
        """Return all that its commands show."""
        found: dict[str, Any] = self.ask("look")
        return found

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Client]]:
    """A process of each version, the one before first."""
    before = unpack_version_before(tmp_path_factory.mktemp("before"))
    found = {version.name: Client(version) for version in (before, Version("this", ROOT))}
    yield found
    for client in found.values():
        client.close()


class Versions(Limits):
    """The app of ``versions.py``: its servers, its workers of two versions, what they wrote."""

    @property
    def app(self) -> Any:
        # to look into the ledger alone
        if self._app is None:
            self._app = Celery("looks", broker=self.broker, backend=self.store.url())
        return self._app

    def start(self, version: Version, *, queues: str = "celery,later", **options: Any) -> Worker:
        """Start a worker of a version, and see that it has that version."""
        worker = self.worker(
            app="tests.faults.versions",
            queues=queues,
            PYTHONPATH=os.pathsep.join(map(str, version.search_path())),
            **options,
        )
        assert f"celery_fanout is that of {version.path}\n" in worker.log_since_start
        return worker

    def start_all(self, *versions: Version, **options: Any) -> list[Worker]:
        """Start workers of these versions, at the same time."""
        with ThreadPoolExecutor(len(versions)) as pool:
            return list(pool.map(lambda version: self.start(version, **options), versions))

    def connect(self, *clients: Client) -> None:
        """Have clients be processes of this app."""
        for client in clients:
            code = client.ask(
                "be",
                broker=self.broker,
                store=self.store.url(),
                conf=self.conf,
                oracle=str(self.oracle.path),
            )
            assert code == str(client.version.path)

    def wait_until_ended(self, timeout: float = 60) -> None:
        """Wait until every run has ended; say which have not."""

        def left() -> list[str]:
            return [
                f"{run.subscription} {run.kind} {run.state} {run.reason}"
                for run in self.ledger.runs(limit=ALL)
                if run.state not in FINAL
            ]

        wait_until(lambda: not left(), timeout, lambda: f"not ended: {left()}")


@contextmanager
def open_versions(path: Path, *, broker: str = "") -> Iterator[Versions]:
    """The app on a Redis server of its own; with its broker in the same database, or elsewhere."""
    with open_limits(path, broker=broker, appendonly=True, kind=Versions) as found:
        if not broker:
            found.broker = found.store.url()
        yield found
