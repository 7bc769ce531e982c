"""Draws the timelines in the documentation, each from real runs::

    python -m tests.docs.timelines            # draws all of them anew, into the pages
    python -m tests.docs.timelines throttle   # prints one

A page has ``<!-- timeline: NAME -->`` before, and ``<!-- end of timeline -->`` after each. Events
are emitted at the times of :data:`PLANS`, a worker runs the tasks of :mod:`tests.docs.shown` on a
Redis of its own, and what the tasks wrote down is drawn, one character for a tenth of a second.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from math import floor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from typing_extensions import Self

from tests.docs.blocks import PAGES
from tests.processes import wait_until
from tests.servers import Oracle, RedisServer, Worker

#: How long one character is, in seconds.
STEP = 0.1

NAME = "the event's name"

Plan = Sequence[tuple[float, str, Mapping[str, Any]]]
#: What a line is about, what happened, and why.
Row = tuple[str, str, str]


def _at(*times: float, **data: Any) -> Plan:
    return [(at, f"e{number}", data) for number, at in enumerate(times, start=1)]


#: When which event is emitted: seconds, its id, its data; in the order of the seconds. Under NAME
#: is the name of one that the drawing's task does not subscribe to.
PLANS: Mapping[str, Plan] = {
    "concurrency": _at(0, 0, 0, 0, 0.5),
    "turns": [
        *[(0.0, f"a{n}", {"tenant": "a"}) for n in range(1, 5)],
        *[(0.2, f"b{n}", {"tenant": "b"}) for n in range(1, 3)],
    ],
    "suspended": _at(0, 0),
    "kept": _at(0, 0),
    "priority": [
        (0.0, "e1", {"urgency": 0}),
        (0.1, "e2", {"urgency": 0}),
        (0.2, "e3", {"urgency": 5}),
        (0.3, "e4", {"urgency": 0}),
    ],
    "skip": _at(0, 0.5, 1.2),
    "cancel": _at(0, 0.5),
    "cancel_on": [
        (0.0, "e1", {"id": 1}),
        (0.2, "e2", {"id": 2}),
        (0.9, "e3", {NAME: "order/cancelled", "id": 1}),
    ],
    "queue": _at(0, 0.5),
    "throttle": _at(0, 0, 0, 0),
    "burst": _at(0, 0, 0, 0),
    "rate_limit": _at(0, 0.3, 0.6, 1.1, 1.2, 1.4),
    "idempotency": [
        (0.0, "e1", {"order": 17}),
        (0.2, "e2", {"order": 18}),
        (0.4, "e3", {"order": 17}),
        (1.2, "e4", {"order": 17}),
    ],
    "debounce": _at(0, 0.6, 1.2, 3),
    "debounce_timeout": _at(0, 0.7, 1.4, 2.1, 2.8),
    "batch": _at(0, 0.2, 0.4, 0.8, 0.9),
    "start_timeout": _at(0, 0, 0),
    "finish_timeout": [(0.0, "e1", {"parts": 2}), (0.0, "e2", {"parts": 5})],
}

_DRAWN = re.compile(
    r"(?P<before><!-- timeline: (?P<name>\w+) -->\n).*?(?P<after><!-- end of timeline -->)",
    re.DOTALL,
)


def declaration(name: str) -> str:
    """Return the decorator of a drawing's task, in one line and for a page's reader."""
    source = Path(__file__).with_name("shown.py").read_text()
    [task] = [
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    options = next(item for item in task.decorator_list if isinstance(item, ast.Call)).keywords
    return ", ".join(f"{item.arg}={ast.get_source_segment(source, item.value)}" for item in options)


class Stage:
    """A Redis and a worker for the runs that are drawn."""

    def __init__(self, directory: Path) -> None:
        self._redis = RedisServer()
        self._oracle = Oracle(directory / "oracle")

    def __enter__(self) -> Self:
        self._redis.start()
        os.environ.update(self._oracle.environment, SHOWN_REDIS=self._redis.url())
        self._worker = Worker(
            "tests.docs.shown", pool="threads", concurrency=10, env=dict(self._oracle.environment)
        )
        self._worker.start()
        from celery_fanout.app.fanout import get_fanout

        self.fanout = get_fanout(importlib.import_module("tests.docs.shown").app)
        # imports, connects, and sends the scripts
        self.fanout.emit("shown/warm-up", {}).get(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.close()
        self._redis.close()

    def play(self, name: str) -> str:
        """Emit the events of a plan, wait for their runs, and return the drawing."""
        event = f"shown/{name.replace('_', '-')}"
        begun = time.time() + 0.2
        runs: dict[str, str] = {}
        emitted: dict[str, float] = {}
        for at, id_, data in PLANS[name]:
            time.sleep(max(0.0, begun + at - time.time()))  # noqa: TID251 - this is the plan
            emitted[id_] = time.time()
            given = dict(data)
            for run in self.fanout.emit(given.pop(NAME, event), given, id=id_).runs:
                runs[id_] = run.id
        control = self.fanout.runs
        final = ("succeeded", "failed", "cancelled")
        wait_until(lambda: all(control.get(run).state in final for run in runs.values()), 30)
        work = wait_until(self._work, 30)
        shared = len(set(runs.values())) < len(runs)
        rows: list[Row] = []
        for _, id_, data in PLANS[name]:
            if shared or id_ not in runs:
                text = _text({_column(emitted[id_] - begun): "+"})
                rows.append((id_, text, data.get(NAME, "")))
            else:
                rows.append((id_, *self._row(runs[id_], emitted[id_], begun, work)))
        if shared:
            for run in dict.fromkeys(runs.values()):
                ids = [id_ for id_, its in runs.items() if its == run]
                label = f"run of {ids[0]}" + (f" to {ids[-1]}" if len(ids) > 1 else "")
                rows.append((label, *self._row(run, emitted[ids[0]], begun, work)))
        return _drawing(name, rows)

    def _work(self) -> list[dict[str, Any]]:
        """Return when runs were executed; nothing while one is, since a cancelled one may go on."""
        entries = self._oracle.read()
        ended = [entry for entry in entries if "ended" in entry]
        return ended if len(ended) * 2 == len(entries) else []

    def _row(
        self, run: str, emitted: float, begun: float, work: Sequence[Mapping[str, Any]]
    ) -> tuple[str, str]:
        record = self.fanout.runs.get(run)
        marks: dict[int, str] = {}
        spans = [(e["began"], e["ended"]) for e in work if e["run"] == run]
        last = max([record.finished or emitted, *[end for _, end in spans]])
        for column in range(_column(emitted - begun), _column(last - begun)):
            marks[column] = "."
        for began, ended in spans:
            for column in range(_column(began - begun), _column(ended - begun)):
                marks[column] = "#"
        if record.state != "cancelled":
            return _text(marks), ""
        assert record.finished is not None
        marks[_column(record.finished - begun)] = "x"
        return _text(marks), _why(record.reason)


def _column(seconds: float) -> int:
    # the 50 ms that a message takes to its worker are not what is shown
    return max(0, floor(seconds / STEP + 0.3))


def _text(marks: Mapping[int, str]) -> str:
    return "".join(marks.get(column, " ") for column in range(max(marks, default=-1) + 1))


def _why(reason: str) -> str:
    """Return a reason without the name of the subscription."""
    return re.sub(r" tests\.docs\.shown\.\S+", "", reason)


def _drawing(name: str, rows: Sequence[Row]) -> str:
    width = max(len(label) for label, _, _ in rows) + 2
    length = max(len(text) for _, text, _ in rows)
    scale = "".join(f"{f'{second} s':<10}" for second in range(length // 10 + 1))
    lines = [declaration(name), "", f"{'':{width}}{scale}"]
    lines += [f"{label:<{width}}{text:<{length}}  {note}" for label, text, note in rows]
    return "\n".join(f"    {line}".rstrip() for line in lines)


def main() -> None:
    """Draw what was asked for, or everything, into the pages."""
    asked = sys.argv[1:]
    with TemporaryDirectory() as directory, Stage(Path(directory)) as stage:
        if asked:
            for name in asked:
                print(stage.play(name))  # noqa: T201 - for whoever looks at it
            return
        for page in PAGES.values():
            text = page.read_text()
            drawn = _DRAWN.sub(
                lambda m: f"{m['before']}\n{stage.play(m['name'])}\n\n{m['after']}", text
            )
            if drawn != text:
                page.write_text(drawn)


if __name__ == "__main__":
    main()
