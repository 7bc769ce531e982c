"""What a step costs on a Redis result backend, beside one HSET through the same client.

CPU time of the process that executes the task. The runs go through Celery's own tracer, as in a
worker, without a broker; the same run without steps is taken off.
"""

from __future__ import annotations

import statistics
import uuid
from typing import Any

from celery import Celery
from celery.app.trace import build_tracer

from celery_fanout import Event, on_event, step
from celery_fanout.app import get_fanout
from celery_fanout.canvas import freeze
from tests.benchmarks.measure import interleave, table
from tests.servers import RedisServer

STEPS = 50


class Runs:
    """Executes runs of one subscriber."""

    def __init__(self, backend: str) -> None:
        self.app = Celery("steps", broker="memory://", backend=backend, set_as_current=False)

        @on_event("document/uploaded")
        @self.app.task(name="documents.summarize", shared=False, ignore_result=True)
        def summarize(document: dict[str, Any]) -> None:
            for number in range(document["steps"]):
                step.run(f"part-{number}", len, document["text"])

        self.app.finalize()
        self.task = self.app.tasks[summarize.name]
        self.trace = build_tracer(self.task.name, self.task, app=self.app)
        [self.subscription] = get_fanout(self.app).registry

    def execute(self, event_id: str, steps: int) -> None:
        """Execute the run of one event, as a worker does with its message."""
        event = Event("document/uploaded", {"text": "x" * 100, "steps": steps}, id=event_id)
        chain = freeze(event, event.headers(), self.subscription, "")
        request = {"id": chain.run_id, "args": chain.args, "ignore_result": True, **chain.headers}
        ended = self.trace(chain.run_id, chain.args, {}, request)
        assert ended.info is None, ended.info


def main(rounds: int = 25) -> None:
    """Print one table: a row for each kind of step."""
    with RedisServer() as redis:
        runs = Runs(redis.url())
        client = runs.app.backend.client
        runs.execute("resumed", STEPS)
        contestants = {
            "HSET": lambda: [client.hset("hash", f"part-{n}", "x" * 100) for n in range(STEPS)],
            "GET": lambda: [client.get(f"part-{n}") for n in range(STEPS)],
            "no step": lambda: runs.execute(uuid.uuid4().hex, 0),
            "a fresh step": lambda: runs.execute(uuid.uuid4().hex, STEPS),
            "a resumed step": lambda: runs.execute("resumed", STEPS),
        }
        found = interleave(contestants, rounds=rounds, calls=2)
    base, without = found["HSET"].cpu, found["no step"].cpu
    rows = []
    for name, samples in found.items():
        if name == "no step":
            continue
        spent = samples.cpu
        if name.endswith("step"):
            spent = [mine - other for mine, other in zip(samples.cpu, without, strict=True)]
        ratio = statistics.median(mine / its for mine, its in zip(spent, base, strict=True))
        rows.append([name, f"{statistics.median(spent) / STEPS * 1e6:.0f}", f"{ratio:.2f}"])
    table("One step on a Redis result backend", ["what", "CPU us", "CPU ratio"], rows)
