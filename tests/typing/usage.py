"""The public API as users write it, and the types that they get."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Iterator
from typing import Any

from celery import Celery, Task, chain, shared_task
from celery.result import AsyncResult
from pydantic import BaseModel
from typing_extensions import assert_type

from celery_fanout import (
    Batch,
    CancelOn,
    Concurrency,
    Debounce,
    Emission,
    Event,
    Explanation,
    Fanout,
    Idempotency,
    Outcome,
    RateLimit,
    Registry,
    Run,
    RunHandle,
    Singleton,
    Subscription,
    Throttle,
    aemit,
    current_event,
    current_run,
    emit,
    emit_many,
    event_type,
    explain,
    get_fanout,
    on_event,
    step,
)
from celery_fanout.emitting.emission import RunResult
from celery_fanout.stores.ledger import Ledger
from celery_fanout.stores.records import RunRecord
from celery_fanout.stores.states import RunState

app = Celery("typing")
NOON = dt.datetime(2026, 11, 22, 12, tzinfo=dt.timezone.utc)


@event_type("order/paid", dataschema="https://example.com/paid")
class Paid(BaseModel):
    id: int


assert_type(Paid(id=1), Paid)  # the class stays what it is


# -- on_event leaves the task what it is -------------------------------------------------------


@shared_task
def archive(result: str) -> None: ...


@shared_task
def apologise(failure: dict[str, Any]) -> None: ...


@on_event("order/paid")
@app.task
def of_an_app(order: dict[str, Any]) -> str:
    return str(order)


@on_event("order/*", filter=lambda event: event.data["total"] > 5)
@on_event(Paid)
@shared_task(autoretry_for=(ConnectionError,), max_retries=3, retry_backoff=True)
def shared(order: dict[str, Any]) -> str:
    return str(order)


@on_event("order/paid")
@shared_task(bind=True)
def bound(self: Task[Any, Any], order: dict[str, Any]) -> int:
    return len(order)


@on_event("order/paid")
class ByClass(Task[[dict[str, Any]], str]):
    def run(self, order: dict[str, Any]) -> str:
        return str(order)

    def own(self) -> float:
        return 0.5


def accepts(event: Event) -> bool:
    return event.subject is not None


on_event("order/paid", filter=accepts, options={"queue": "orders"})(archive)
on_event("order/paid", then=archive, on_failure=apologise)(shared)
on_event("order/paid", then=[archive, archive.s(), chain(archive.s(), archive.si("done"))])(shared)
on_event("order/paid", then=archive.s(), on_failure=ByClass)(shared)

assert_type(of_an_app, "Task[Any, Any]")  # all that Celery says of app.task
assert_type(shared.run({"id": 1}), str)
assert_type(shared({"id": 1}), str)
assert_type(shared.delay({"id": 1}), AsyncResult[str])
assert_type(ByClass().own(), float)


# -- emit --------------------------------------------------------------------------------------

assert_type(emit("order/paid"), Emission)
assert_type(emit("order/paid", {"id": 1}), Emission)
assert_type(emit("order/paid", [1, "a", None], id="e", subject="s", source="/", app=app), Emission)
assert_type(emit("order/paid", {}, time=NOON, delay=dt.timedelta(hours=1)), Emission)
assert_type(emit("order/paid", {}, time="2026-11-22T12:00:00Z", delay=1.5), Emission)
assert_type(emit(Paid(id=1), id="e-1", delay=60), Emission)
assert_type(emit(Event("order/paid", {"id": 1}, time=NOON)), Emission)
assert_type(emit_many([("order/paid", {"id": 1}), Paid(id=2), Event("a")]), list[Emission])
assert_type(explain("order/paid", {"id": 1}), list[Explanation])
assert_type(get_fanout(app), Fanout)
assert_type(get_fanout().registry, Registry)


async def view() -> Emission:
    assert_type(await aemit("order/paid", {"id": 1}, id="e-1", delay=1), Emission)
    return await aemit(Paid(id=1))


def outcomes(emission: Emission) -> None:
    assert_type(emission.event, Event)
    assert_type(emission.runs, list[RunHandle])
    assert_type(emission.runs[0].id, str)
    assert_type(emission.runs[0].subscription, Subscription)
    assert_type(emission.runs[0].result, AsyncResult[Any] | RunResult)
    assert_type(emission.runs[0].result.id, str)
    assert_type(emission.get(timeout=5), list[Outcome])
    for outcome in emission.get():
        assert_type(outcome.run, RunHandle)
        assert_type(outcome.ok, bool)
        assert_type(outcome.error, BaseException | None)


def subscriptions() -> Iterator[str]:
    for subscription in get_fanout().registry:
        yield subscription.id


# -- steps return what their functions return --------------------------------------------------


def fetch(url: str, *, retries: int = 3) -> bytes:
    return f"{url}{retries}".encode()


class Storage:
    def get(self, key: str) -> dict[str, int]:
        return {key: 1}


def body() -> None:
    assert_type(step.run("fetch", fetch, "https://example.com"), bytes)
    assert_type(step.run("fetch", fetch, url="https://example.com", retries=1), bytes)
    assert_type(step.run("get", Storage().get, "key"), dict[str, int])
    assert_type(step.run("model", Paid, id=1), Paid)
    assert_type(step.run("lambda", lambda: 1), int)
    assert_type(step.run("partial", functools.partial(fetch, "https://example.com")), bytes)
    assert_type(step.run("task", shared, {"id": 1}), str)
    assert_type(step.run("none", print, "text"), None)

    retried = step.options(max_retries=3, retry_backoff=True, retry_on=(OSError, ValueError))
    assert_type(retried.run("fetch", fetch, "https://example.com"), bytes)
    assert_type(step.options(timeout=1.5).run("lambda", lambda: "a"), str)

    step.sleep("rest", 60)
    step.sleep("rest", dt.timedelta(hours=1))
    step.sleep_until("noon", NOON)
    step.sleep_until("noon", NOON.timestamp())
    assert_type(step.emit("tell", "order/sent", {"id": 1}), str)
    assert_type(step.emit("tell", Paid(id=1), subject="s", delay=5), str)
    assert_type(step.idempotency_key, str | None)


# -- where the code is -------------------------------------------------------------------------


def hook() -> None:
    assert_type(current_event(), Event | None)
    run = current_run()
    assert_type(run, Run | None)
    if run is not None:
        assert_type((run.id, run.attempt, run.event), tuple[str, int, Event])


# -- what a ledger makes possible --------------------------------------------------------------


@shared_task
def add(left: int, right: int) -> int:
    return left + right


@app.task
def collect(outcomes: list[dict[str, Any]]) -> None: ...


def tenant_of(event: Event) -> object:
    return event.data["tenant"]


def urgency_of(event: Event) -> int:
    return 5 if event.subject else 0


@on_event(
    "order/paid",
    concurrency=[
        Concurrency(5, "tenant.id"),
        Concurrency(50, scope="app"),
        Concurrency(1, tenant_of),
    ],
    throttle=Throttle(10, per=60, burst=5, key=tenant_of),
    rate_limit=RateLimit(100, dt.timedelta(hours=1), key="tenant.id"),
    singleton=Singleton("id", mode="cancel"),
    idempotency=Idempotency("id", ttl=dt.timedelta(days=7)),
    priority=urgency_of,
    start_timeout=dt.timedelta(hours=1),
    finish_timeout=90.5,
)
@on_event("order/paid", concurrency=Concurrency(5), idempotency="id", priority=-5)
@on_event("order/paid", debounce=Debounce(5, key="id", timeout=60), idempotency=tenant_of)
@shared_task
def limited(order: dict[str, Any]) -> str:
    run = current_run()
    assert run is not None
    assert_type(run.events, tuple[str, ...])
    return str(order)


@on_event("order/paid", batch=Batch(max_size=100, timeout=dt.timedelta(seconds=5), key="tenant.id"))
@shared_task(pydantic=True)
def batched(orders: list[Paid]) -> int:
    return len(orders)


assert_type(Concurrency(5), Concurrency)
assert_type(batched.run([Paid(id=1)]), int)


@on_event("order/paid", cancel_on=[CancelOn("order/cancelled", match="id"), "shop/closed"])
@app.task
def deliver(order: dict[str, Any]) -> int:
    found = step.wait_for_event("ok", "order/approved", match={"id": 1}, timeout=60)
    assert_type(found, Event | None)
    assert_type(step.wait_for_event("ok", Paid, timeout=dt.timedelta(days=1)), Event | None)
    assert_type(step.parallel("ask", [(len, "a"), (len, "b")]), list[Any])
    total = step.invoke("add", add, 1, right=2)
    assert_type(total, int)
    return total


def with_a_ledger() -> None:
    emission = emit("order/paid", {"id": 1}, expires=60, delay=1, then=collect)
    assert_type(emit(Paid(id=1), expires=dt.timedelta(hours=1), then=archive.s()), Emission)
    assert_type(emission, Emission)
    fanout = get_fanout(app)
    assert_type(fanout.ledger, Ledger)
    assert_type(fanout.ledger.run("r-1"), RunRecord | None)
    assert_type(fanout.ledger.counts(), dict[RunState, int])
    fanout.runs.cancel(emission.runs[0].id, reason="why")
