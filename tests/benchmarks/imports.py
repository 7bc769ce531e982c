"""What importing the package costs, beside what it builds on.

CPU time of a new interpreter, without what an interpreter that imports nothing takes.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

from tests.benchmarks.measure import table
from tests.servers import ROOT

#: The most that the import may take of what the imports of its dependencies take.
BUDGET = 1.15

#: What a process has imported that has published a task and knows a model. ``import celery,
#: pydantic`` alone opens neither: both import what is used when it is used.
DEPENDENCIES = (
    "from celery import Celery, Task, shared_task, signals; import celery.canvas, celery.result; "
    "import celery.app.amqp, celery.backends.base; "
    "from pydantic import BaseModel, TypeAdapter, ValidationError"
)

STATEMENTS = {
    "nothing": "pass",
    "import celery, pydantic": "import celery, pydantic",
    "what an app uses of them": DEPENDENCIES,
    "import celery_fanout": "import celery_fanout",
}


def seconds(statement: str) -> float:
    """Return the CPU time of a new interpreter that executes a statement."""
    script = f"{statement}; import time; print(time.process_time())"
    command = [sys.executable, "-c", script]
    return float(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)


def main(rounds: int = 11) -> None:
    """Print one table: a row for each statement."""
    found: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for number in range(rounds + 1):
        for name, statement in STATEMENTS.items():
            spent = seconds(statement)
            if number:  # the first round writes the caches
                found[name].append(spent)
    nothing = found.pop("nothing")
    net = {
        name: [mine - bare for mine, bare in zip(spent, nothing, strict=True)]
        for name, spent in found.items()
    }
    ours = net["import celery_fanout"]
    rows = []
    for name, spent in net.items():
        ratio = statistics.median(mine / its for mine, its in zip(ours, spent, strict=True))
        budget = f"{BUDGET:.2f}" if name == "what an app uses of them" else ""
        rows.append([name, f"{statistics.median(spent) * 1e3:.0f}", f"{ratio:.2f}", budget])
    table("Importing the package", ["what", "CPU ms", "ours in proportion to it", "budget"], rows)
