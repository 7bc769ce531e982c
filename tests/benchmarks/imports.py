"""What importing the package costs, beside what it builds on.

CPU time of a new interpreter, without what an interpreter that imports nothing takes.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

from tests.benchmarks.measure import table
from tests.servers import ROOT

#: The most that our import may take of what the imports of its dependencies take.
BUDGET = 1.25

#: What a process has imported that has published a task and knows a model. ``import celery,
#: pydantic`` alone opens neither: both import what is used when it is used.
DEPENDENCIES = (
    "from celery import Celery, Task, shared_task, signals; import celery.canvas, celery.result; "
    "import celery.app.amqp, celery.backends.base; "
    "from pydantic import BaseModel, TypeAdapter, ValidationError"
)

#: What a typical app imports of us.
TYPICAL = "from celery_fanout import emit, on_event, step"

USED = "what an app uses of them"
STATEMENTS = {
    "nothing": "pass",
    "import celery, pydantic": "import celery, pydantic",
    USED: DEPENDENCIES,
    "import celery_fanout": "import celery_fanout",
    TYPICAL: TYPICAL,
    "both": f"{DEPENDENCIES}; {TYPICAL}",
}


def seconds(statement: str) -> float:
    """Return the CPU time of a new interpreter that executes a statement."""
    script = f"{statement}; import time; print(time.process_time())"
    command = [sys.executable, "-c", script]
    return float(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)


def main(rounds: int = 11) -> None:
    """Print one table: a row for each statement."""
    measured: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for number in range(rounds + 1):
        for name, statement in STATEMENTS.items():
            spent = seconds(statement)
            if number:  # the first round writes the caches
                measured[name].append(spent)
    nothing = measured.pop("nothing")
    net = {
        name: [one - bare for one, bare in zip(spent, nothing, strict=True)]
        for name, spent in measured.items()
    }
    rows = []
    for name, spent in net.items():
        ratio = statistics.median(one / its for one, its in zip(spent, net[USED], strict=True))
        budget = f"{BUDGET:.2f}" if "celery_fanout" in name else ""
        rows.append([name, f"{statistics.median(spent) * 1e3:.0f}", f"{ratio:.2f}", budget])
    table("Importing the package", ["what", "CPU ms", f"in proportion to {USED!r}", "budget"], rows)
