"""Engines side by side: one event, five subscribers, end to end.

First many events in a row while the workers work, for throughput and CPU time; then, on an idle
system, one after the other, for latency. CPU time is that of all processes: servers, workers, and
what emits. Each round starts every engine anew, one after the other. Every run is accounted for:
none lost, none executed twice.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tests.benchmarks.engines import celery_engines, dbos_engines, queues, restate_engine
from tests.benchmarks.engines.engine import Engine, Unavailable
from tests.benchmarks.engines.records import FIRST, LAST, SUBSCRIBERS, Records
from tests.benchmarks.measure import cpu_of, memory_of, table
from tests.processes import wait_until

ENGINES: Sequence[type[Engine]] = (
    celery_engines.Prefork,
    celery_engines.Solo,
    celery_engines.Fast,
    celery_engines.Plain,
    celery_engines.PlainSolo,
    restate_engine.Restate,
    dbos_engines.DbosPostgres,
    dbos_engines.DbosSqlite,
    queues.Dramatiq,
    queues.Huey,
)

#: How many events go before what is measured, and how many are emitted one after the other.
WARM_UP, SINGLE = 20, 100

Figures = dict[str, float]


class Trial:
    """One engine that runs, and the figures that it gives.

    Args:
        engine: the engine.
        records: what its subscribers write.
    """

    def __init__(self, engine: Engine, records: Records) -> None:
        self._engine = engine
        self._records = records
        self._number = 0

    def _wait(self, start: int, steps: int, events: int) -> None:
        """Wait until all runs since a record are done."""
        goal = start + events * SUBSCRIBERS * (2 if steps else 1)

        def stuck() -> str:
            logs = "\n".join(worker.log[-3000:] for worker in self._engine.workers)
            return f"{self._records.count()} of {goal} records\n{logs}"

        wait_until(lambda: self._records.count() >= goal, 60 + events / 2, stuck)

    def _cpu(self) -> float:
        engine = self._engine
        return cpu_of(engine.pids([*engine.servers, *engine.workers]), children=True)

    def burst(self, steps: int, events: int) -> Figures:
        """Emit events as fast as it goes, and wait until their runs are done."""
        start, before, emitting = self._records.count(), self._cpu(), time.process_time()
        began = time.monotonic()
        for _ in range(events):
            self._emit(steps)
        emitted, emitting = time.monotonic(), time.process_time() - emitting
        self._wait(start, steps, events)
        spent = self._cpu() - before
        last = max(when for *_, when in self._records.read(start))
        self._check(start, self._number - events, events)
        runs = events * SUBSCRIBERS
        engine = self._engine
        return {
            "runs/s": runs / (last - began),
            "CPU ms": (spent + emitting) / runs * 1e3,
            "emit CPU ms": emitting / events * 1e3,
            "emit wall ms": (emitted - began) / events * 1e3,
            "workers MiB": memory_of(engine.pids(engine.workers)),
            "servers MiB": memory_of(engine.pids(engine.servers)),
        }

    def single(self, steps: int, events: int) -> Figures:
        """Emit one event after the other, each when the runs of the last are done."""
        first, last = [], []
        for _ in range(events):
            start, began = self._records.count(), time.monotonic()
            self._emit(steps)
            self._wait(start, steps, 1)
            found = list(self._records.read(start))
            last += [when - began for *_, mark, when in found if mark == LAST]
            begun = FIRST if steps else LAST
            first += [when - began for *_, mark, when in found if mark == begun]
        return {
            "first p50": statistics.median(first) * 1e3,
            "first p95": _p95(first) * 1e3,
            "last p50": statistics.median(last) * 1e3,
            "last p95": _p95(last) * 1e3,
        }

    def _emit(self, steps: int) -> None:
        self._engine.emit(steps, self._number)
        self._number += 1

    def _check(self, start: int, first: int, events: int) -> None:
        done = [record[:2] for record in self._records.read(start) if record[2] == LAST]
        wanted = {(first + n, sub) for n in range(events) for sub in range(SUBSCRIBERS)}
        assert set(done) == wanted, f"{len(wanted - set(done))} runs were lost"
        assert len(done) == len(wanted), f"{len(done) - len(wanted)} runs were executed twice"


def _p95(values: Sequence[float]) -> float:
    return sorted(values)[int(len(values) * 0.95)]


def try_out(kind: type[Engine], events: int, single: int) -> dict[int, Figures]:
    """Start an engine, and return its figures for each number of steps."""
    found: dict[int, Figures] = {}
    with tempfile.TemporaryDirectory(prefix="fanout-records-") as directory:
        records = Records(Path(directory, "records"))
        with kind(records.path) as engine:
            trial = Trial(engine, records)
            for steps in kind.steps:
                trial.burst(steps, min(WARM_UP, events))
                load = os.getloadavg()[0]
                found[steps] = {**trial.single(steps, single), "load": load}
                found[steps].update(trial.burst(steps, events))
    return found


def _available(only: Sequence[str]) -> tuple[list[type[Engine]], list[str]]:
    engines: list[type[Engine]] = []
    versions: dict[str, list[str]] = {}
    missing = []
    for kind in ENGINES:
        if only and not any(part in kind.name for part in only):
            continue
        try:
            versions.setdefault(kind.versions(), []).append(kind.name)
            engines.append(kind)
        except Unavailable as why:
            missing.append(f"{kind.name}: not measured, {why}")
    found = [f"{'; '.join(names)}: {version}" for version, names in versions.items()]
    return engines, found + missing


#: Columns of the table: what they say, of which figure, with how many digits, and which is better.
COLUMNS: Sequence[tuple[str, str, str, Callable[[Iterable[float]], float]]] = (
    ("runs/s", "runs/s", ",.0f", max),
    ("CPU ms each", "CPU ms", ".2f", statistics.median),
    ("emit CPU ms", "emit CPU ms", ".2f", statistics.median),
    ("first step: median ms", "first p50", ".1f", min),
    ("p95", "first p95", ".1f", min),
    ("last step: median ms", "last p50", ".1f", min),
    ("p95", "last p95", ".1f", min),
    ("workers MiB", "workers MiB", ",.0f", statistics.median),
    ("servers MiB", "servers MiB", ",.0f", statistics.median),
)


def main(rounds: int = 3, size: int = 2000, only: Sequence[str] = ()) -> None:
    """Print two tables: runs without steps, and runs with three.

    Args:
        rounds: how often each engine is started.
        size: how many events are emitted in a row.
        only: parts of the names of the engines that are wanted; by default all.
    """
    engines, notes = _available(only)
    found: dict[tuple[str, int], list[Figures]] = {}
    for _ in range(rounds):
        for kind in engines:
            for steps, figures in try_out(kind, size, min(SINGLE, size)).items():
                found.setdefault((kind.name, steps), []).append(figures)
        engines = engines[1:] + engines[:1]  # nobody always follows the same neighbour
    engines.sort(key=ENGINES.index)
    for steps in (0, 3):
        rows = []
        for kind in engines:
            if steps in kind.steps:
                trials = found[kind.name, steps]
                rows.append([kind.name])
                for _, figure, digits, best in COLUMNS:
                    rows[-1].append(format(best(trial[figure] for trial in trials), digits))
                loads = [trial["load"] for trial in trials]
                rows[-1].append(f"{min(loads):.1f}-{max(loads):.1f}")
        words = "three steps" if steps else "no steps"
        title = f"Engines: {size:,} events, five subscribers, {words}"
        table(title, ["engine", *(head for head, *_ in COLUMNS), "load"], rows)
    print("\n" + "\n".join(f"- {note}" for note in notes))
