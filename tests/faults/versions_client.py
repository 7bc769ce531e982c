"""A process of one version that emits, and executes commands, as it is told line by line.

``python -m tests.faults.versions_client`` reads requests from its standard input and answers each,
both as JSON. Both versions run it, so it uses what both have: the public names and the commands.
"""

from __future__ import annotations

import json
import sys
import traceback
from typing import Any

from celery.bin.celery import celery
from click.testing import CliRunner

from celery_fanout import emit, get_fanout
from tests.faults import versions
from tests.faults.versions_steps import CODE
from tests.servers import Oracle

MANY = "1000000"


def be(broker: str, store: str, conf: dict[str, Any], oracle: str) -> str:
    """Be a process of the app with these servers; say which version that is."""
    versions.app.close()
    versions.app = versions.make_app(broker, store, **conf)
    global _oracle  # noqa: PLW0603 - this module is the state of the process
    _oracle = Oracle(oracle)
    return CODE


_oracle: Oracle


def emit_all(events: list[tuple[str, Any, dict[str, Any]]]) -> list[Any]:
    """Emit events one after the other; return the id of each and those of its runs."""
    found: list[Any] = []
    for name, data, options in events:
        if "then" in options:
            options["then"] = versions.app.tasks[options["then"]]
        emission = emit(name, data, app=versions.app, **options)
        runs = [run.id for run in emission.runs]
        if get_fanout(versions.app).settings.store_url != "backend":
            key = get_fanout(versions.app).runs.event(emission.event.id, name).key
            _oracle.write(what="emitted", event=key, runs=runs, code=CODE)
        found.append([emission.event.id, runs])
    return found


def command(arguments: list[str]) -> Any:
    """Execute ``celery fanout ...``, and return what it prints as JSON."""
    line = ["--app", "tests.faults.versions", "fanout", *arguments, "--json"]
    result = CliRunner().invoke(celery, line)
    if result.exit_code:
        raise RuntimeError(f"{arguments}: {result.output}") from result.exception
    return json.loads(result.stdout)


def look() -> dict[str, Any]:
    """Return all that the commands show."""
    runs = command(["runs", "--limit", MANY])
    return {
        "runs": {run["id"]: command(["show", run["id"]]) for run in runs},
        "listed": runs,
        "events": command(["events", "--limit", MANY]),
        "dead letters": command(["dead-letters", "--limit", MANY]),
        "limits": command(["limits"]),
        "paused": command(["pause"]),
        "subscriptions": command(["subscriptions"]),
    }


def main() -> None:
    """Answer requests until there are no more."""
    actions = {"be": be, "emit": emit_all, "command": command, "look": look}
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer = ["done", actions[name](**arguments)]  # type: ignore[operator]
        except Exception:  # noqa: BLE001 - the test raises it
            answer = ["failed", traceback.format_exc()]
        print(json.dumps(answer), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
