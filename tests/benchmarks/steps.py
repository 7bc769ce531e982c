"""What a step costs, beside one HSET through the same client, on level 1 and on level 2.

CPU time of the process that executes the task. The runs go through Celery's own tracer, as in a
worker, without a broker; the same run without steps is taken off. On level 2 the runs were
recorded before.
"""

from __future__ import annotations

import statistics
import time
import uuid
from typing import Any

from celery import Celery
from celery.app.trace import build_tracer

from celery_fanout import Event, emit_many, on_event, step
from celery_fanout.app.fanout import get_fanout
from celery_fanout.emitting.chains import chain_for
from tests.benchmarks.documents import part
from tests.benchmarks.measure import Samples, interleave, table
from tests.benchmarks.stage import LEVEL_1
from tests.servers import RedisServer

STEPS = 50

#: How many checkpoints a run has that is resumed.
MANY = 1000

#: The most that a step of level 2 may use of what an HSET uses.
BUDGET = 2.5

#: The longest that a run with MANY checkpoints may take before its body starts, in milliseconds.
RESUME_BUDGET = 20


class Runs:
    """Executes runs of one subscriber."""

    def __init__(self, backend: str, **conf: Any) -> None:
        self.app = Celery("steps", broker="memory://", backend=backend, set_as_current=False)
        self.app.conf.update(conf)
        self.entered = 0.0
        self._prepared: list[Event] = []

        @on_event("document/uploaded")
        @self.app.task(name="documents.summarize", shared=False, ignore_result=True)
        def summarize(document: dict[str, Any]) -> None:
            for number in range(document["steps"]):
                step.run(f"part-{number}", len, document["text"])

        @on_event("document/typed")
        @self.app.task(name="documents.typed", shared=False, ignore_result=True)
        def typed(document: dict[str, Any]) -> None:
            for number in range(document["steps"]):
                step.run(f"part-{number}", part, number)

        @on_event("document/resumed")
        @self.app.task(name="documents.resumed", shared=False, bind=True, max_retries=None)
        def resumed(task: Any, document: dict[str, Any]) -> None:
            self.entered = time.perf_counter()
            for number in range(document["steps"]):
                step.run(f"part-{number}", len, document["text"])
            task.retry(countdown=0)

        self.app.finalize()
        fanout = get_fanout(self.app)
        fanout.load()
        self.level2 = fanout.level2
        self._by_name = {sub.pattern: sub for sub in fanout.registry}
        self._tracers = {
            sub.task.name: build_tracer(sub.task.name, sub.task, app=self.app)
            for sub in fanout.registry
        }

    def execute(self, event: Event, retries: int = 0) -> Any:
        """Execute the run of one event, as a worker does with its message."""
        generation = None if self.level2 is None else 0
        sub = self._by_name[event.name]
        chain = chain_for(event, event.headers(), sub, "", generation=generation)
        request = {
            "id": chain.run_id,
            "args": chain.args,
            "ignore_result": True,
            "retries": retries,
            **chain.headers,
        }
        return self._tracers[sub.task.name](chain.run_id, chain.args, {}, request)

    def prepare(self) -> None:
        """Have runs recorded that nobody has executed."""
        self._prepared = [
            event_of(name, STEPS)
            for name in ("document/uploaded", "document/typed")
            for _ in range(2)
        ]
        self._prepared += [event_of("document/uploaded", 0) for _ in range(2)]
        if self.level2 is not None:
            emit_many(self._prepared, app=self.app)
            self.app.connection_for_write().default_channel.queue_purge("celery")

    def execute_prepared(self, name: str, steps: int) -> None:
        """Execute one of those."""
        for event in self._prepared:
            if event.name == name and event.data["steps"] == steps:
                self._prepared.remove(event)
                ended = self.execute(event)
                assert ended.info is None, ended.info
                return
        raise AssertionError("none is left")


def event_of(name: str, steps: int) -> Event:
    """Return an event with an id of its own."""
    return Event(name, {"text": "x" * 100, "steps": steps}, id=uuid.uuid4().hex)


def compare(title: str, runs: Runs, client: Any, rounds: int, budget: float | None) -> None:
    """Print one table: a row for each kind of step."""
    resumed = event_of("document/resumed", STEPS)
    if runs.level2 is not None:
        emit_many([resumed], app=runs.app)
    tried = 0

    def resume() -> None:
        nonlocal tried
        runs.execute(resumed, tried)
        tried += 1

    def execute(name: str, steps: int) -> Any:
        return lambda: runs.execute_prepared(name, steps)

    contestants = {
        "HSET": lambda: [client.hset("hash", f"part-{n}", "x" * 100) for n in range(STEPS)],
        "GET": lambda: [client.get(f"part-{n}") for n in range(STEPS)],
        "no step": execute("document/uploaded", 0),
        "a fresh step": execute("document/uploaded", STEPS),
        "a fresh step, its function annotated": execute("document/typed", STEPS),
        "a resumed step": resume,
    }
    found = interleave(contestants, rounds=rounds, calls=2, between=runs.prepare)
    rows = []
    for name, samples in found.items():
        if name == "no step":
            continue
        net = samples
        if name not in ("HSET", "GET"):
            net = _less(samples, found["no step"])
        rows.append(
            [
                name,
                f"{statistics.median(net.cpu) / STEPS * 1e6:.0f}",
                f"{statistics.median(net.wall) / STEPS * 1e6:.0f}",
                f"{net.ratio(found['HSET']):.2f}",
                f"{budget:.2f}" if budget and name.startswith("a fresh") else "",
            ]
        )
    table(title, ["what", "CPU us", "wall us", "CPU ratio", "budget"], rows)


def _less(mine: Samples, other: Samples) -> Samples:
    return Samples(
        [a - b for a, b in zip(mine.cpu, other.cpu, strict=True)],
        [a - b for a, b in zip(mine.wall, other.wall, strict=True)],
    )


def resume_many(runs: Runs, rounds: int) -> None:
    """Print how long a run takes before its body starts, when it has many checkpoints."""
    rows = []
    for steps in (0, MANY):
        event = event_of("document/resumed", steps)
        emit_many([event], app=runs.app)
        runs.execute(event)
        before: list[float] = []
        for number in range(1, rounds + 2):
            started = time.perf_counter()
            runs.execute(event, number)
            before.append(runs.entered - started)
        waited = statistics.median(before[1:]) * 1e3
        budget = str(RESUME_BUDGET) if steps else ""
        rows.append([f"{steps:,}", f"{waited:.2f}", budget])
    table("Before the body of a resumed run starts", ["checkpoints", "wall ms", "budget"], rows)


def main(rounds: int = 25) -> None:
    """Measure on both levels."""
    with RedisServer() as redis:
        runs = Runs(redis.url(), **LEVEL_1)
        compare("One step on level 1", runs, runs.app.backend.client, rounds, None)
        redis.flush()
        runs = Runs(redis.url())
        assert runs.level2 is not None
        client: Any = runs.level2.ledger.client
        compare("One step on level 2", runs, client, rounds, BUDGET)
        resume_many(runs, rounds)
