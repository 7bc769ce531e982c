"""A process that emits, and writes down what became of each event: for tests that break it.

``python -m tests.faults.producing NAME NUMBER [PAUSE]`` emits events ``NAME-0`` and so on, one
after the other with a pause between them. Each is emitted once: what raises is not repeated.
"""

from __future__ import annotations

import sys
import threading

from celery_fanout import emit
from celery_fanout.exceptions import EmitError
from celery_fanout.model.ids import event_key
from tests.faults.jobs import app
from tests.servers import Oracle


def main(name: str, number: int, pause: float) -> None:
    oracle = Oracle.from_environment()
    print("producing", flush=True)  # noqa: T201 - the test waits for it
    for count in range(number):
        key = event_key("job/steps", f"{name}-{count}")
        try:
            emission = emit("job/steps", {}, id=f"{name}-{count}", app=app)
        except EmitError as exc:
            oracle.write(what="refused", event=key, states=sorted(set(exc.states.values())))
        else:
            oracle.write(what="emitted", event=key, runs=[run.id for run in emission.runs])
        threading.Event().wait(pause)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 0.0)
