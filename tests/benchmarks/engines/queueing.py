"""The same queue with the same limit on DBOS, whose queues have limits too, and here.

One subscriber that does nothing. All events are there before the workers are measured, so the limit
is all that holds them up.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from celery_fanout import emit_many
from tests.benchmarks.engines import celery_engines, dbos_engines
from tests.benchmarks.engines.celery_app import A_SECOND, AT_ONCE, LIMITED
from tests.benchmarks.engines.engine import Engine, Unavailable, document
from tests.benchmarks.engines.records import Records
from tests.benchmarks.measure import cpu_of, table
from tests.processes import wait_until

#: What the limits are called in the table, by the events of our own subscribers.
NAMES = {
    "limited/not": "none",
    "limited/at-once": f"{AT_ONCE} at once",
    "limited/a-second": f"{A_SECOND} a second",
}

#: The same for a queue of DBOS.
OF_DBOS: dict[str, dict[str, Any]] = {
    "limited/not": {},
    "limited/at-once": {"global_concurrency": AT_ONCE, "worker_concurrency": AT_ONCE},
    "limited/a-second": {"limiter": {"limit": A_SECOND, "period": 1.0}},
}

#: Our side.
OURS: Sequence[type[celery_engines.Runs]] = (celery_engines.Prefork, celery_engines.Fast)

Enqueue = Callable[[Engine, str, Sequence[dict[str, Any]]], None]


def _ours(engine: Any, event: str, documents: Sequence[dict[str, Any]]) -> None:
    for start in range(0, len(documents), 100):
        few = documents[start : start + 100]
        emit_many([(event, data) for data in few], app=engine.app)


def _theirs(engine: Any, event: str, documents: Sequence[dict[str, Any]]) -> None:
    for data in documents:
        engine.enqueue("plain", data, 1)


def _dbos(event: str) -> type[Engine]:
    kind = dbos_engines.DbosPostgres
    return type(kind.__name__, (kind,), {"limits": OF_DBOS[event], "__module__": __name__})


def trial(kind: type[Engine], event: str, enqueue: Enqueue, count: int) -> dict[str, float]:
    """Start an engine, and return how many runs a second it did and the CPU time of each.

    Args:
        kind: the engine.
        event: which limit.
        enqueue: gives it events.
        count: how many.
    """
    with tempfile.TemporaryDirectory(prefix="fanout-records-") as directory:
        records = Records(Path(directory, "records"))
        with kind(records.path) as engine:
            enqueue(engine, event, [document(0)])
            wait_until(lambda: records.count() >= 1, 30)
            for worker in engine.workers:
                worker.pause()
            enqueue(engine, event, [document(number) for number in range(1, count + 1)])
            before = _cpu(engine)
            began = time.monotonic()
            for worker in engine.workers:
                worker.resume()
            wait_until(lambda: records.count() >= count + 1, 60 + count / 20)
            spent = _cpu(engine) - before
            found = list(records.read(1))
    assert len({number for number, *_ in found}) == len(found) == count, "lost, or executed twice"
    took = max(when for *_, when in found) - began
    return {"runs/s": count / took, "CPU ms": spent / count * 1e3}


def _cpu(engine: Engine) -> float:
    return cpu_of(engine.pids([*engine.servers, *engine.workers]), children=True)


def main(rounds: int = 3, size: int = 1000) -> None:
    """Print one table.

    Args:
        rounds: how often each engine is started.
        size: how many events wait.
    """
    contestants: list[tuple[str, Callable[[str], type[Engine]], Enqueue]] = [
        (kind.name, lambda event, kind=kind: kind, _ours) for kind in OURS
    ]
    note = ""
    try:
        dbos_engines.DbosPostgres.versions()
    except Unavailable as why:
        note = f"{dbos_engines.DbosPostgres.name}: not measured, {why}"
    else:
        contestants.append((dbos_engines.DbosPostgres.name, _dbos, _theirs))
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for event in LIMITED:
            for name, kind_of, enqueue in contestants:
                figures = trial(kind_of(event), event, enqueue, size)
                found.setdefault((event, name), []).append(figures)
        contestants.append(contestants.pop(0))
    rows = []
    for event in LIMITED:
        for name in sorted({name for _, name in found}):
            trials = found[event, name]
            rate = max(each["runs/s"] for each in trials)
            used = f"{min(rate / A_SECOND, 1):.0%}" if event == "limited/a-second" else ""
            cpu = statistics.median(each["CPU ms"] for each in trials)
            rows.append([NAMES[event], name, f"{rate:,.0f}", used, f"{cpu:.2f}"])
    head = ["limit", "engine", "runs/s", "of what is allowed", "CPU ms each"]
    table(f"A queue of {size:,} with a limit", head, rows)
    if note:
        print(f"\n- {note}")
