"""Short words for what the tests of flow control do with a ledger."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Literal

from celery_fanout.stores.limits import Collect, Flow, Gate, GateRecord, Once, Place, Rate
from celery_fanout.stores.records import NewEvent, NewRun, Recorded
from celery_fanout.stores.states import RunState
from tests.conformance.ledgers import Desk

__all__ = [
    "ERROR",
    "RATE",
    "THROTTLE",
    "WORK",
    "batch",
    "begin",
    "debounce",
    "emit",
    "finish",
    "gate",
    "once",
    "one",
    "place",
    "rate",
    "record",
    "states",
    "throttle",
    "usage",
    "waiting",
]

S = RunState

WORK, THROTTLE, RATE = "concurrency work", "throttle work", "rate_limit work"
ERROR = {"type": "Boom", "message": "no", "traceback": "T"}


def place(
    at_most: int = 1,
    limit: str = WORK,
    key: str = "",
    *,
    kept: bool = False,
    full: Literal["wait", "drop", "cancel"] = "wait",
) -> Place:
    return Place(Gate(limit, key), at_most, kept, full)


def one(mode: Literal["skip", "cancel", "queue"], key: str = "") -> Flow:
    """A flow of a singleton."""
    fulls: Any = {"skip": "drop", "cancel": "cancel", "queue": "wait"}
    return Flow((place(1, "singleton work", key, kept=True, full=fulls[mode]),))


def throttle(at_most: int, per: float, burst: int = 0, key: str = "") -> Flow:
    return Flow(throttle=Rate(Gate(THROTTLE, key), at_most, per, burst))


def rate(at_most: int, per: float, key: str = "") -> Flow:
    return Flow(rate_limit=Rate(Gate(RATE, key), at_most, per))


def once(value: str, ttl: float) -> Flow:
    return Flow(once=Once(Gate("idempotency work", value), ttl))


def debounce(period: float, timeout: float | None = None, **more: Any) -> Flow:
    return Flow(collect=Collect(Gate("debounce work"), "debounce", period, timeout), **more)


def batch(max_size: int, timeout: float, key: str = "", **more: Any) -> Flow:
    gate = Gate("batch work", key)
    return Flow(collect=Collect(gate, "batch", timeout, max_size=max_size), **more)


def record(desk: Desk, key: str, flows: Iterable[tuple[str, Flow | None]], **more: Any) -> Recorded:
    """Record an event with a run for each subscription, called ``{key}-{subscription}``."""
    data = json.dumps(more.pop("data", {"id": key}))
    generation = more.get("generation", 0)
    mark = f"-{generation}" if generation else ""
    runs = [
        NewRun(
            f"{key}-{sub}{mark}", f"{sub}@doc/up", queue="celery", flow=flow, **more.pop(sub, {})
        )
        for sub, flow in flows
    ]
    new = NewEvent(key, "doc/up", json.dumps({"id": key}), data, runs, **more)
    (found,) = desk.ledger.record([new])
    return found


def emit(desk: Desk, key: str, flow: Flow | None, **more: Any) -> str:
    """Record an event with one run, called ``{key}-a``, and return in what state it is."""
    found = record(desk, key, [("a", flow)], **more)
    assert found.status == "new", found
    ((_, state),) = found.runs
    return str(state)


def begin(desk: Desk, key: str) -> int:
    """Claim the run of an event."""
    return desk.begin(f"{key}-a")


def finish(desk: Desk, key: str, to: RunState = S.SUCCEEDED, token: int = 0) -> list[str]:
    """Execute the run of an event to its end; return whom that wakes."""
    run_id = f"{key}-a"
    token = token or desk.begin(run_id)
    more: dict[str, Any] = {"error": ERROR} if to is S.FAILED else {"result": "1"}
    if to is S.CANCELLED:
        more = {"reason": "enough"}
    found = desk.ledger.settle(run_id, token, to, **more)
    assert found.ok
    return list(found.woken)


def states(desk: Desk, *keys: str) -> list[str]:
    """Return the states of the runs of events."""
    return [desk.state(f"{key}-a") for key in keys]


def gate(desk: Desk, limit: str = WORK, key: str = "") -> GateRecord | None:
    """Return a gate as it is listed."""
    found = [record for record in desk.ledger.gates(limit=limit) if record.gate.key == key]
    return found[0] if found else None


def usage(desk: Desk, limit: str = WORK, key: str = "") -> tuple[int, int]:
    """Return how many places are taken, and how many runs wait."""
    found = gate(desk, limit, key)
    return (0, 0) if found is None else (found.used, found.waiting)


def waiting(desk: Desk, *keys: str) -> list[str]:
    """Return the names of the limits that gated runs wait for."""
    found = []
    for key in keys:
        run = desk.ledger.run(f"{key}-a")
        assert run is not None
        found.append(run.reason if run.state is S.GATED else str(run.state))
    return found
