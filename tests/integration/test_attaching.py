"""Any import of the package makes a worker one that executes runs and has a keeper.

The workers are not started by the ``celery`` command: that imports the package by itself, for its
``fanout`` commands.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from typing_extensions import override

from celery_fanout import emit, on_event
from tests.processes import wait_until
from tests.servers import ROOT, Oracle, Worker

APP = """\
import sys
import threading

from celery import Celery
{imports}
from tests.servers import Oracle

app = Celery("proj", broker={url!r}, backend={url!r})
app.conf.task_routes = {{"mail": "mails"}}


def note(what):
    threads = [thread.name for thread in threading.enumerate()]
    cli = "celery_fanout.cli" in sys.modules
    Oracle.from_environment().write(what=what, keeper="celery-fanout-keeper" in threads, cli=cli)


{body}

if __name__ == "__main__":
    app.Worker(hostname=sys.argv[1], pool="solo", loglevel="INFO", queues=sys.argv[2]).start()
"""

INDEX = """\
@app.task(name="index")
def index(data):
    note("index")
    return data
"""

SUBSCRIBER = """\
@on_event("document/uploaded", then=app.signature("mail"))
@app.task(name="index")
def index(data):
    note("index")
    return data
"""

TAIL = """\
@app.task(name="mail")
def mail(value):
    step.sleep("a while", 0.3)
    note("mail")
    return ["mailed", value]
"""


class Plain(Worker):
    """A worker that is started from Python, and consumes one queue."""

    queue = "celery"

    @override
    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", self.app, self.hostname, self.queue]


@pytest.fixture
def start(tmp_path: Path, redis_url: str, oracle: Oracle) -> Iterator[Callable[..., Plain]]:
    """A function that starts a worker with some code."""
    with ExitStack() as stack:

        def start(name: str, imports: str, body: str, queue: str = "celery") -> Plain:
            (tmp_path / f"{name}.py").write_text(
                APP.format(imports=imports, body=body, url=redis_url)
            )
            worker = Plain(name, env=oracle.environment, path=[tmp_path])
            worker.queue = queue
            return stack.enter_context(worker)

        yield start


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    """The app of the process that emits, which has no keeper."""
    app = Celery("proj", broker=redis_url, backend=redis_url, set_as_current=False)
    app.conf.task_routes = {"mail": "mails"}
    yield app
    app.close()


def unused(data: Any) -> None:
    """Stand for the body of a task that another process has."""


def noted(oracle: Oracle) -> list[str]:
    """Return what ran, in workers that have a keeper, although nothing imported the commands."""
    records = oracle.read()
    assert {(record["keeper"], record["cli"]) for record in records} <= {(True, False)}
    return [record["what"] for record in records]


def test_a_worker_whose_code_imports_signals_only(
    start: Callable[..., Plain], app: Celery, oracle: Oracle
) -> None:
    start("watching", "import celery_fanout.signals", INDEX)
    on_event("document/uploaded")(app.task(unused, name="index", shared=False))
    emission = emit("document/uploaded", {"id": 1}, app=app)
    (outcome,) = emission.get(timeout=30)
    assert outcome.value == {"id": 1}
    assert noted(oracle) == ["index"]


def test_a_worker_that_has_only_a_tail_task(
    start: Callable[..., Plain], app: Celery, oracle: Oracle
) -> None:
    subscriber = start("subscriber", "from celery_fanout import on_event", SUBSCRIBER)
    task: Any = app.task(unused, name="index", shared=False)
    on_event("document/uploaded", then=app.signature("mail"))(task)
    emission = emit("document/uploaded", {"id": 1}, app=app)
    wait_until(lambda: noted(oracle) == ["index"])
    subscriber.stop()
    start("tail", "from celery_fanout import step", TAIL, "mails")
    (outcome,) = emission.get(timeout=30)  # whoever sleeps is woken by a keeper
    assert outcome.value == ["mailed", {"id": 1}]
    assert noted(oracle) == ["index", "mail"]


# --- what an import imports ----------------------------------------------------------------------


def imported_by(statement: str) -> tuple[set[str], set[str]]:
    """Return which modules of the package a new interpreter has imported, and which others."""
    script = f"{statement}\nimport json, sys; print(json.dumps(list(sys.modules)))"
    command = [sys.executable, "-c", script]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    modules = set(json.loads(printed.stdout))
    ours = {module for module in modules if module.partition(".")[0] == "celery_fanout"}
    return ours, modules - ours


ATTACHED = {"celery_fanout", "celery_fanout.app", "celery_fanout.app.attaching"}
ENTRY_POINT = """
from importlib.metadata import entry_points
[plugin] = [each for each in entry_points(group="pytest11") if each.name == "celery_fanout"]
plugin.load()
"""


@pytest.mark.parametrize(
    ("statement", "besides"),
    [
        ("import celery_fanout", set()),
        ("import celery_fanout.signals", {"celery_fanout.signals"}),
        ("import celery_fanout.testing", {"celery_fanout.testing"}),
        (ENTRY_POINT, {"celery_fanout.testing", "celery_fanout.testing.pytest_plugin"}),
    ],
    ids=["package", "signals", "testing", "pytest"],
)
def test_an_import_attaches_and_imports_nothing_else(statement: str, besides: set[str]) -> None:
    ours, others = imported_by(statement)
    assert ours == ATTACHED | besides
    assert "pydantic" not in others
