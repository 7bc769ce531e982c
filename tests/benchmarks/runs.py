"""What a run costs on level 2, beside a plain Celery task on the same kind of worker.

CPU time of all processes of a worker, and of Redis. The queue is filled while the worker stands
still, so publishing is not in it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from celery import Celery

from celery_fanout import emit_many
from tests.benchmarks.documents import DATA
from tests.benchmarks.measure import milliseconds, ratio, table, take_turns
from tests.benchmarks.stage import LEVEL_1, Stage

COUNT = 1000

IGNORED, STORED = "task, ignore_result", "task that stores its result"
PLAIN, STEPS = "run without steps", "run of three steps"


def tasks(name: str, count: int) -> Callable[[Celery], object]:
    """Return what publishes plain tasks."""

    def publish(app: Celery) -> None:
        task = app.tasks[name]
        for _ in range(count):
            task.apply_async((DATA,))

    return publish


def events(name: str, count: int) -> Callable[[Celery], object]:
    """Return what emits events."""

    def publish(app: Celery) -> None:
        for _ in range(count // 100):
            emit_many([(name, DATA)] * 100, app=app)

    return publish


WAYS: dict[str, tuple[str, dict[str, Any], Callable[[Celery], object]]] = {
    f"{IGNORED}; prefork": ("prefork", LEVEL_1, tasks("documents.ignored", COUNT)),
    f"{STORED}; prefork": ("prefork", LEVEL_1, tasks("documents.stored", COUNT)),
    f"{PLAIN}; prefork": ("prefork", {}, events("document/plain", COUNT)),
    f"{STEPS}; prefork": ("prefork", {}, events("document/steps", COUNT)),
    f"{IGNORED}; solo": ("solo", LEVEL_1, tasks("documents.ignored", COUNT)),
    f"{STORED}; solo": ("solo", LEVEL_1, tasks("documents.stored", COUNT)),
    f"{PLAIN}; solo": ("solo", {}, events("document/plain", COUNT)),
    f"{STEPS}; solo": ("solo", {}, events("document/steps", COUNT)),
    f"{PLAIN}; fast worker": ("fast", {}, events("document/plain", COUNT)),
    f"{STEPS}; fast worker": ("fast", {}, events("document/steps", COUNT)),
}

BUDGETS = {
    f"{PLAIN}; prefork": "1.00 of stored",
    f"{PLAIN}; solo": "1.00 of stored",
    f"{PLAIN}; fast worker": "0.60 of ignored",
    f"{STEPS}; prefork": "1.67 of ignored, all",
    f"{STEPS}; solo": "1.67 of ignored, all",
    f"{STEPS}; fast worker": "0.83 of ignored, all",
}


def main(rounds: int = 5) -> None:
    """Print one table: a row for each kind of work and of worker."""
    with contextlib.ExitStack() as stack:
        turns: dict[str, Callable[[], dict[str, float]]] = {}
        for name, (pool, conf, publish) in WAYS.items():
            stage = stack.enter_context(Stage(pool, conf=conf))
            turns[name] = lambda stage=stage, publish=publish: stage.turn(publish, COUNT)
        found = take_turns(turns, rounds=rounds)
    rows = []
    for name, figures in found.items():
        pool = name.partition("; ")[2]
        like = "solo" if pool == "fast worker" else pool
        ignored, stored = found[f"{IGNORED}; {like}"], found[f"{STORED}; {like}"]
        rows.append(
            [
                name,
                milliseconds(figures["worker"], COUNT),
                milliseconds(figures["redis"], COUNT),
                milliseconds(figures["all"], COUNT),
                f"{ratio(figures['worker'], stored['worker']):.2f}",
                f"{ratio(figures['worker'], ignored['worker']):.2f}",
                f"{ratio(figures['all'], ignored['all']):.2f}",
                BUDGETS.get(name, ""),
                milliseconds(figures["wall"], COUNT),
            ]
        )
    head = [
        "what",
        "worker CPU ms",
        "Redis CPU ms",
        "together",
        "worker / stored",
        "worker / ignored",
        "all / ignored, all",
        "budget",
        "wall ms",
    ]
    table("One run, beside a plain task; the fast worker beside a stock solo one", head, rows)
