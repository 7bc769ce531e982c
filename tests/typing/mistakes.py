"""What type checkers must refuse: each comment says which error, and one too many is an error."""

from __future__ import annotations

from typing import Any

from celery import Celery, shared_task
from pydantic import BaseModel

from celery_fanout import (
    Batch,
    CancelOn,
    Concurrency,
    Event,
    Idempotency,
    Run,
    Singleton,
    Throttle,
    aemit,
    emit,
    emit_many,
    event_type,
    get_fanout,
    on_event,
    step,
)

app = Celery("typing")


class Paid(BaseModel):
    id: int


@shared_task
def archive(result: str) -> None: ...


# -- on_event ----------------------------------------------------------------------------------


@on_event("order/paid")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType, reportUntypedFunctionDecorator]
def bare_function(order: dict[str, Any]) -> None: ...


@app.task  # type: ignore[type-var]
@on_event("order/paid")  # pyright: ignore[reportArgumentType, reportUntypedFunctionDecorator]
def below_the_task_decorator(order: dict[str, Any]) -> None: ...


@on_event("order/paid")  # pyright: ignore[reportArgumentType, reportUntypedClassDecorator]
class NoTask: ...  # type: ignore[type-var]


def needs_two(event: Event, more: int) -> bool:
    return bool(event.data) and more > 0


on_event(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
on_event("order/paid", print)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
on_event("order/paid", then=print)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
on_event("order/paid", on_failure="tell")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
on_event("order/paid", filter="total > 5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
on_event("order/paid", filter=needs_two)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
on_event("order/paid", cancel_on=7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
on_event("order/paid", cancel_on=["shop/closed", 7])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
CancelOn("order/cancelled", match=7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
CancelOn("order/cancelled", match={"id": 7})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
on_event("order/paid", concurrency=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
on_event("order/paid", throttle=Concurrency(5))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
on_event("order/paid", idempotency=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
on_event("order/paid", priority="high")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
on_event("order/paid", start_timeout="1h")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Concurrency("5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Concurrency(5, key=7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Concurrency(5, key=needs_two)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Throttle(5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
Batch(max_size=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
Singleton(mode="drop")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Idempotency()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
on_event("order/paid", queue="orders")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


@event_type("order/paid")  # pyright: ignore[reportArgumentType, reportUntypedClassDecorator]
class NoModel: ...  # type: ignore[type-var]


# -- emit --------------------------------------------------------------------------------------

emit()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
emit(7)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
emit("order/paid", {}, key="e-1")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
emit("order/paid", {}, id=1)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
emit("order/paid", {}, delay="1h")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
emit("order/paid", {}, expires="1h")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
emit("order/paid", {}, then=print)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
emit("order/paid", {}, then="archive")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
emit(Paid(id=1), {"id": 2})  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
emit_many(["order/paid"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


async def view() -> None:
    await aemit("order/paid", {}, key="e-1")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await aemit("order/paid", {}, delay="1h")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# -- steps -------------------------------------------------------------------------------------


def fetch(url: str, *, retries: int = 3) -> bytes:
    return f"{url}{retries}".encode()


def body() -> str:
    step.run("fetch")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    step.run(fetch, "url")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    step.run("fetch", fetch)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    step.run("fetch", fetch, 7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    step.run("fetch", fetch, "url", 3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    step.run("fetch", fetch, "url", tries=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    step.run("fetch", fetch("url"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]

    step.options(3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    step.options(retries=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    step.options(max_retries=3).run("fetch", fetch, 7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    step.sleep("rest", "1h")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    step.emit("tell", "order/sent", id="e-1")  # type: ignore[misc]  # pyright: ignore[reportCallIssue]

    step.wait_for_event("ok", "order/approved")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    step.wait_for_event("ok", "order/approved", match="id", timeout=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    step.invoke("call", fetch, "url")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    step.invoke("call")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    step.invoke("call", archive, 7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    step.wait_for_event("ok", 7, timeout=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    step.wait_for_event("ok", "order/approved", timeout="1h")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    step.parallel("ask", 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    return step.run("fetch", fetch, "url")  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


# -- what does not change ----------------------------------------------------------------------


def change(event: Event, run: Run) -> None:
    event.id = "other"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    run.attempt = 2  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


# -- the ledger --------------------------------------------------------------------------------

get_fanout(app).ledger = None  # type: ignore[misc, assignment]  # pyright: ignore[reportAttributeAccessIssue]
get_fanout(app).ledger.run(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
