"""A process that emits: ``python -m tests.faults.producer NAME COUNT DATA``.

What became of each event it writes down: before, and when ``emit`` returned or raised.
"""

from __future__ import annotations

import json
import sys
import uuid
from typing import Any

from celery_fanout import EmitError, emit
from celery_fanout.exceptions import FanoutError
from tests.servers import Oracle

__all__ = ["emit_and_note"]


def emit_and_note(app: Any, oracle: Oracle, name: str, data: Any, **options: Any) -> Any:
    """Emit an event, and write down what became of it; return the emission or the error."""
    id_ = options.pop("id", None) or str(uuid.uuid4())
    oracle.write(what="emitting", event=id_, name=name)
    try:
        emission = emit(name, data, app=app, id=id_, **options)
    except FanoutError as exc:
        # of an EmitError it is not known what the ledger has
        what = "maybe" if isinstance(exc, EmitError) else "raised"
        oracle.write(what=what, event=id_, name=name, error=str(exc))
        return exc
    oracle.write(what="emitted", event=id_, name=name, runs=[run.id for run in emission.runs])
    return emission


if __name__ == "__main__":
    from tests.faults.jobs import app

    name, count, data = sys.argv[1:]
    for number in range(int(count)):
        emit_and_note(app, Oracle.from_environment(), name, {"n": number, **json.loads(data)})
