"""Doing what a page says: writing its files, running its Python and its commands.

=============================  =====================================================================
block                          what is done with it
=============================  =====================================================================
``python title="proj/x.py"``   written to that file, below the page's directory; with ``At the end
                               of proj/x.py`` added to what is there
``python``                     executed; all such blocks of a page share one namespace
``pycon``                      executed in the same namespace, output and exceptions compared
``text``                       compared with what the ``python`` block before it printed
``text title="The worker's     among what the worker that was started last logs, sooner or later
log"``
``console``                    ``$`` commands executed by a shell, output and exit codes compared;
                               a worker goes on in the background until the page ends or starts the
                               next, and by then what the block says it logs has to be in its log;
                               a keeper, ``manage.py runserver`` and ``manage.py fanout_relay`` go
                               on beside it, from when they have said what the block says
``conf title="redis.conf"``    a Redis server is started with it
``conf title="rabbitmq.conf"`` parsed, as are ``supervisor.conf``, ``*.service`` and ``*.yaml``
=============================  =====================================================================

At the end every module that the page wrote is imported, every test file is run, and what
``tests/docs/expect/<page>.py`` says is executed in the page's namespace, to which ``WORKER_LOG`` is
added: what the last worker has logged.

A page that has the line ``<!-- django: proj.settings -->`` is about Django: its Python blocks run
as in ``manage.py shell`` with these settings. A how-to guide finds the project in
``tests/docs/django`` around it, where its ``proj/settings.py`` and ``proj/urls.py`` are added to
the ends of those files, and tables are made for whatever models it writes.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import celery
import yaml
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from tests import forking
from tests.docs.blocks import PAGES, ROOT, Block, blocks_of
from tests.docs.matching import appears, matches, normal
from tests.processes import Process, wait_until
from tests.servers import RedisServer

HERE = Path(__file__).parent
PROJECT = HERE / "project"  # what how-to guides take for granted
DJANGO = HERE / "django"  # the same, for pages about Django
EXPECT = HERE / "expect"

#: The languages of the table above.
KINDS = {"conf", "console", "pycon", "python", "text"}

_WORKER = re.compile(r"^celery\s.*\bworker\b")
_KEEPER = re.compile(r"^celery\s.*\bfanout keeper\b")
_BESIDE = re.compile(r"^python manage\.py (runserver|fanout_relay(?!.* --once))\b")
#: What only a shell understands.
_SHELL = re.compile(r"[$`|&;<>()*?~#\n\\!\[\]{}]")
_AT_THE_END = "At the end of "
_SETTINGS = re.compile(r"^<!-- django: (\S+) -->$", re.MULTILINE)
#: What the pages were written with: ``check`` has more to say about earlier versions.
_NEWEST = (5, 7)
#: Commands that would change this machine, or take long: their arguments are looked at instead.
_EXAMINED = ("make", "pip")


def _version() -> tuple[int, ...]:
    return tuple(int(part) for part in celery.__version__.split(".")[:2])


def _examine(command: str, where: str) -> None:
    program, *arguments = shlex.split(command)
    if program == "make":
        subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, check=True, capture_output=True)
        return
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert arguments[0] == "install", where
    for argument in arguments[1:]:
        if argument in {"-e", "."}:
            continue
        requirement = Requirement(argument)
        if requirement.name == project["name"]:
            assert requirement.extras <= set(project["optional-dependencies"]), where


def _program(command: str) -> list[str] | None:
    """Return the Python program that a shell would start, if it had nothing else to do."""
    words = shlex.split(command)
    if _SHELL.search(command) or "=" in words[0]:
        return None
    if words[0] == "celery":
        return [sys.executable, str(Path(sys.executable).with_name("celery")), *words[1:]]
    if words[:2] == ["python", "manage.py"]:
        return [sys.executable, *words[1:]]
    return None


class Background(Process):
    """A command of a page that goes on while the page does."""

    name = "docs-worker"

    def __init__(self, command: str, directory: Path, environment: dict[str, str]) -> None:
        super().__init__()
        self._command = command
        self._cwd = directory
        self._environment = {**environment, "PYTHONUNBUFFERED": "1"}

    def command(self) -> Sequence[str]:
        faster = " --without-gossip --without-mingle" if _WORKER.match(self._command) else ""
        command = f"{self._command}{faster}"
        return _program(command) or ["bash", "-c", f"exec {command}"]

    def environment(self) -> dict[str, str]:
        return self._environment

    def working_directory(self) -> Path:
        return self._cwd

    def is_ready(self) -> bool:
        if _KEEPER.match(self._command):
            return "keeper ready." in self.log
        # Otherwise it does not say. What is published before it listens waits in the queue.
        return " ready." in self.log if "--loglevel info" in self._command else True


@dataclass
class _Worker:
    block: Block
    expected: str
    process: Background


class Page:
    """One page, done in a directory of its own.

    Args:
        name: the page's path from the project's root.
        directory: an empty directory.
        localise: replaces the addresses of servers in a text by those of private ones.
        globalise: replaces them back in what a program printed.
    """

    def __init__(
        self,
        name: str,
        directory: Path,
        localise: Callable[[str], str],
        globalise: Callable[[str], str],
    ) -> None:
        self.name = name
        self.directory = directory
        self.blocks = blocks_of(name)
        self._localise = localise
        self._globalise = globalise
        self._workers: list[_Worker] = []
        self._beside: list[Background] = []
        self._written: dict[str, Block] = {}
        self._tested: set[str] = set()
        self._session: subprocess.Popen[str] | None = None
        found = _SETTINGS.search(PAGES[name].read_text())
        self._django = found[1] if found else None
        self._in_django = self._lacks_tables = False
        self._environment = {
            **os.environ,
            "COLUMNS": "80",
            "NO_COLOR": "1",
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTEST_ADDOPTS": "-p no:cacheprovider",
            "PYTHONDONTWRITEBYTECODE": "1",  # files change within one second
        }
        self._environment.pop("PYTHONPATH", None)

    # -- the whole page ----------------------------------------------------------------------------

    def play(self) -> None:
        """Do everything that the page says."""
        if self.name.startswith("docs/") and not self.name.startswith("docs/tutorial/"):
            self._in_django = self._lacks_tables = self._django is not None
            shutil.copytree(
                DJANGO if self._in_django else PROJECT, self.directory, dirs_exist_ok=True
            )
            for file in self.directory.rglob("*.py"):
                file.write_text(self._localise(file.read_text()))
        try:
            before: Block | None = None
            printed = ""
            for block in self.blocks:
                if block.language == "text" and block.title:
                    self._wait_for_log(block.source, block.where)
                    continue
                if block.language == "text":
                    assert before is not None, f"{block.where}: is the output of nothing"
                    assert before.language == "python", f"{block.where}: is the output of nothing"
                    self._compare(block.where, block.source, printed)
                    printed = ""
                    continue
                assert not printed, f"{self.name}: nothing says that this is printed:\n{printed}"
                printed = self._do(block)
                before = block
            assert not printed, f"{self.name}: nothing says that this is printed:\n{printed}"
            self._finish()
        finally:
            self._close()

    def _do(self, block: Block) -> str:
        """Do one block, and return what it printed if somebody should compare that."""
        if block.language == "console":
            self._console(block)
        elif block.language == "conf":
            self._configuration(block)
        elif block.language == "pycon":
            self._ask("pycon", self._localise(block.source), block.where)
        elif block.language == "python" and block.title:
            self._write(block)
        elif block.language == "python":
            return self._ask("python", self._localise(block.padded), self.name)
        else:
            raise AssertionError(f"{block.where}: nobody can execute {block.language!r}")
        return ""

    def _finish(self) -> None:
        """Import, test and expect what no block of the page itself did."""
        tests = [name for name in self._written if Path(name).name.startswith("test_")]
        left = [name for name in tests if name not in self._tested]
        if left:
            self._run(f"pytest -q {' '.join(left)}", self.name)
        modules = [
            name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            for name in self._written
            if name.endswith(".py") and name not in tests and Path(name).name != "conftest.py"
        ]
        if modules:
            self._ask("python", "".join(f"import {module}\n" for module in modules), self.name)
        expect = EXPECT / Path(self.name).relative_to("docs") if "docs/" in self.name else None
        if expect is not None and (file := expect.with_suffix(".py")).exists():
            log = self._globalise(self._workers[-1].process.log) if self._workers else ""
            self._ask("python", f"WORKER_LOG = {log!r}", str(file))
            self._ask("python", file.read_text(), str(file))
        self._settle_worker()

    def _close(self) -> None:
        if self._session is not None:
            self._session.kill()
            self._session.communicate()
        for process in [*(worker.process for worker in self._workers), *self._beside]:
            process.kill()
            process.close()

    # -- files and Python --------------------------------------------------------------------------

    def _write(self, block: Block) -> None:
        assert block.title is not None
        name = block.title.removeprefix(_AT_THE_END)
        file = self.directory / name
        assert file.resolve().is_relative_to(self.directory.resolve()), block.where
        file.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".py"):
            compile(block.source, block.where, "exec")
        source = self._localise(block.source)
        in_part = self._in_django and name in {"proj/settings.py", "proj/urls.py"}
        if in_part or name != block.title:
            source = f"{file.read_text()}\n{source}"
        file.write_text(source)
        self._written[name] = block
        self._lacks_tables = self._in_django

    def _make_tables(self) -> None:
        if self._lacks_tables:
            self._lacks_tables = False
            self._run("python manage.py migrate --run-syncdb --verbosity 0", self.name)

    def _configuration(self, block: Block) -> None:
        if block.title == "redis.conf":
            options = dict(line.split(maxsplit=1) for line in block.source.splitlines())
            with RedisServer(options=options) as server, server.client() as client:
                for option, value in options.items():
                    assert client.config_get(option) == {option: value}, block.where
        elif str(block.title).endswith((".service", "supervisor.conf")):
            configparser.ConfigParser(interpolation=None).read_string(block.source, block.where)
        elif str(block.title).endswith(".yaml"):
            yaml.safe_load(block.source)
        else:
            assert block.title == "rabbitmq.conf", block.where
            for line in block.source.splitlines():
                assert re.fullmatch(r"[\w.]+ = \S.*", line), block.where

    def _ask(self, kind: str, source: str, name: str) -> str:
        self._make_tables()
        if self._session is None:
            settings = {"DJANGO_SETTINGS_MODULE": self._django} if self._django else {}
            self._session = subprocess.Popen(
                [sys.executable, "-c", "from tests.docs.session import main; main()"],
                cwd=self.directory,
                env={**self._environment, **settings, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            if self._django:
                self._request("python", "import django\n\ndjango.setup()", self.name)
        return self._request(kind, source, name)

    def _request(self, kind: str, source: str, name: str) -> str:
        assert self._session is not None
        assert self._session.stdin is not None
        assert self._session.stdout is not None
        request = json.dumps({"kind": kind, "source": source, "name": name})
        self._session.stdin.write(f"{request}\n")
        self._session.stdin.flush()
        answer = json.loads(self._session.stdout.readline())
        assert answer["error"] is None, f"{name}\n{answer['printed']}{answer['error']}"
        return str(answer["printed"])

    # -- commands ----------------------------------------------------------------------------------

    def _console(self, block: Block) -> None:
        commands: list[tuple[str, str]] = []
        for line in block.source.splitlines():
            if line.startswith("$ "):
                commands.append((line[2:], ""))
            elif commands and commands[-1][0].endswith("\\") and not commands[-1][1]:
                commands[-1] = (f"{commands[-1][0]}\n{line}", "")
            else:
                assert commands, f"{block.where}: begins with no command"
                commands[-1] = (commands[-1][0], f"{commands[-1][1]}{line}\n")
        self._make_tables()
        status = 0
        for number, (command, expected) in enumerate(commands):
            if command.split()[0] in _EXAMINED:
                _examine(command, block.where)
            elif _KEEPER.match(command) or _BESIDE.match(command):
                self._start_beside(block, command, expected)
            elif _WORKER.match(command):
                self._start_worker(block, command, expected)
            else:
                asked = any("$?" in later for later, _ in commands[number + 1 : number + 2])
                status = self._run(command, block.where, expected, status, may_fail=asked)

    def _run(
        self,
        command: str,
        where: str,
        expected: str = "...\n",
        status: int = 0,
        *,
        may_fail: bool = False,
    ) -> int:
        local = self._localise(command)
        result = forking.run(
            _program(local) or ["bash", "-c", f"(exit {status})\n{local}"],
            cwd=self.directory,
            env=self._environment,
            timeout=60,
            merge=True,
        )
        if "fanout check" in command and _version() < _NEWEST:
            expected = "...\n"
        self._compare(f"{where}: {command}", expected, result.stdout)
        if not may_fail:
            assert result.returncode == 0, f"{where}: {command}\n{result.stdout}"
        if command.startswith("pytest"):
            self._tested.update(name for name in self._written if name in command)
        return result.returncode

    def _compare(self, where: str, expected: str, found: str) -> None:
        found = self._globalise(found)
        if not matches(expected, found):
            raise AssertionError(
                f"{where}\n--- says\n{normal(expected)}--- prints\n{normal(found)}---"
            )

    # -- workers -----------------------------------------------------------------------------------

    def _start_worker(self, block: Block, command: str, expected: str) -> None:
        self._settle_worker()
        for earlier in self._workers:
            earlier.process.stop()
        process = Background(self._localise(command), self.directory, self._environment)
        self._workers.append(_Worker(block, expected, process))
        process.start()

    def _start_beside(self, block: Block, command: str, expected: str) -> None:
        process = Background(self._localise(command), self.directory, self._environment)
        self._beside.append(process)
        process.start()
        if _KEEPER.match(command):
            self._compare(f"{block.where}: {command}", expected, process.log)
        else:
            self._wait_until_logged(process, expected, f"{block.where}: {command}")

    def _wait_for_log(self, expected: str, where: str) -> None:
        self._wait_until_logged(self._workers[-1].process, expected, where)

    def _wait_until_logged(self, process: Background, expected: str, where: str) -> None:
        wait_until(
            lambda: appears(expected, self._globalise(process.log)),
            60,
            lambda: f"{where}\n--- says\n{expected}--- logs\n{self._globalise(process.log)}---",
        )

    def _settle_worker(self) -> None:
        """See that the last worker logged what the page says."""
        if self._workers:
            worker = self._workers[-1]
            self._wait_for_log(worker.expected, worker.block.where)
