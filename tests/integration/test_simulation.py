"""A simulated app leaves the same ledger behind as one with a broker and a worker."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from celery_fanout import StepFailed, current_run, get_fanout, step
from celery_fanout.stores.ledger import Ledger
from celery_fanout.stores.states import FINAL, RunState
from celery_fanout.testing import simulate
from tests.integration.inprocess import EVENT, Boom, Shop
from tests.processes import wait_until
from tests.servers import RedisServer

ORDER = {"id": 7, "items": ["a", "b", "late"]}


def attempt() -> int:
    run = current_run()
    assert run is not None
    return run.attempt


def open_shop(shop: Shop) -> None:  # noqa: C901 - small tasks
    """Subscribe tasks that do all that a run can do."""

    def archive(value: Any) -> Any:
        return {"archived": step.run("archive", lambda: value)}

    def report(failure: dict[str, Any]) -> str:
        return str(failure["error"]["type"])

    def total(outcomes: list[dict[str, Any]]) -> list[str]:
        return sorted(outcome["state"] for outcome in outcomes)

    def charge(amount: int, fails: int = 0) -> int:
        if attempt() <= fails:
            raise Boom("the bank is down")
        return step.run("charge", lambda: amount)

    def serve(order: dict[str, Any]) -> Any:
        fetched = step.run("fetch", lambda: order["items"])

        def pack(item: str) -> str:
            if item == "late" and attempt() == 1:
                raise Boom("not there yet")
            return item.upper()

        packed = step.parallel("pack", [(pack, item) for item in fetched])
        step.sleep("rest", 0.01)
        paid = step.wait_for_event("paid", "order/paid", match={"id": order["id"]}, timeout=60)
        try:
            charged = step.invoke("charge", tasks["charge"], 5, fails=1)
            step.invoke("again", tasks["charge"], 6, fails=9)
        except StepFailed as failed:
            charged = f"{charged} and {failed.error_type}"
        step.emit("tell", "order/served", {"id": order["id"]})
        return [packed, paid.data if paid else None, charged]

    def check(order: dict[str, Any]) -> None:
        step.run("look", lambda: "seen")
        raise Boom("it is bad")

    def listen(data: Any) -> Any:
        return data["id"]

    retried: dict[str, Any] = {"autoretry_for": (Boom,), "max_retries": 1}
    tasks = {
        "archive": shop.task(archive, "archive"),
        "report": shop.task(report, "report"),
        "total": shop.task(total, "total"),
        "charge": shop.task(charge, "charge", **retried),
    }
    shop.subscribe(serve, "serve", subscription={"then": tasks["archive"]}, **retried)
    shop.subscribe(check, "check", subscription={"on_failure": tasks["report"]}, **retried)
    shop.subscribe(listen, "listen", event="order/served")


def play(shop: Shop, go_on: Callable[[Callable[[], bool]], object]) -> Any:
    """Emit events, and return all that the ledger has in the end."""
    parts = get_fanout(shop.app)
    ledger = parts.ledger
    shop.emit(ORDER, id="o-1", then=shop.app.tasks["total"])
    go_on(lambda: bool(ledger.runs(state=RunState.SUSPENDED, limit=1)) and waits(ledger))
    shop.emit({"id": 8}, event="order/paid", id="p-0")
    shop.emit({"id": 7}, event="order/paid", id="p-1")
    go_on(lambda: all(run.state in FINAL for run in ledger.runs(limit=1000)))
    return snapshot(ledger)


def waits(ledger: Ledger) -> bool:
    (serving,) = ledger.runs(subscription=f"serve@{EVENT}", state=RunState.SUSPENDED, limit=1)
    return serving.reason == "event"


def snapshot(ledger: Ledger) -> dict[str, Any]:
    """Return what a ledger has, without times and the ids of workers."""
    found: dict[str, Any] = {}
    for listed in ledger.runs(limit=1000):
        run = ledger.run(listed.id)
        assert run is not None
        detail = run.detail
        checkpoints = {key: json.loads(text) for key, text in detail["checkpoints"].items()}
        for checkpoint in checkpoints.values():
            if isinstance(checkpoint.get("r"), dict):  # an event
                checkpoint["r"]["a"].pop("time")
        error = detail["error"] or {}
        found[run.id] = {
            "is": (run.kind, run.subscription, run.event, run.parent, run.generation),
            "state": (run.state.value, run.reason, run.reopened),
            "counts": (run.token, run.retries, run.crashes),
            "steps": {key: (c["s"], c.get("r"), c.get("e")) for key, c in checkpoints.items()},
            "end": (detail["result"], error.get("type"), error.get("message")),
            "attempts": [attempt["outcome"] for attempt in detail["attempts"]],
            "children": detail["children"],
        }
    return found


def test_a_simulation_leaves_what_a_worker_leaves(
    redis_server: RedisServer, redis_url: str
) -> None:
    with Shop(redis_url, redis_server.url(1), fanout_store_url="memory://") as shop:
        open_shop(shop)
        with shop.worker():
            real = play(shop, lambda done: wait_until(done, timeout=60))

        with simulate(shop.app) as world:

            def go_on(done: Callable[[], bool]) -> None:
                world.advance(1)
                assert done()

            simulated = play(shop, go_on)
    assert simulated == real
    kinds = sorted(run["is"][0] for run in real.values())
    assert kinds == [
        *["event"] * 3,
        "fan-in",
        *["invoke"] * 2,
        "on_failure",
        *["parallel"] * 3,
        "then",
    ]
