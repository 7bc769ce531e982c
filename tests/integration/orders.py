"""An app for tests/integration/test_workers.py: what its runs do is written down in an oracle.

A body that is to go wrong looks up in the oracle how often it did, so that it goes wrong the right
number of times whichever process executes it.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pydantic
from celery import Celery, Task, shared_task
from celery.exceptions import SoftTimeLimitExceeded

from celery_fanout import current_event, current_run, event_type, on_event, signals, step
from tests.processes import wait_until
from tests.servers import Oracle

app = Celery(
    "orders", broker=os.environ["ORDERS_BROKER"], backend=os.environ["ORDERS_BACKEND"]
)
app.conf.update(json.loads(os.environ.get("ORDERS_CONF", "{}")))


class Boom(Exception):  # noqa: N818 - it is short
    """What goes wrong."""


def note(what: str, **more: Any) -> str:
    """Write down that something happened."""
    run = current_run()
    Oracle.from_environment().write(
        what=what, run=run and run.id, attempt=run and run.attempt, pid=os.getpid(), **more
    )
    return what


def times(what: str) -> int:
    """Return how often it happened in this run."""
    run = current_run()
    records = Oracle.from_environment().read()
    return sum(r["what"] == what and r["run"] == (run and run.id) for r in records)


def wait_for_gate(name: str) -> None:
    """Wait until the test makes the file."""
    gate = Path(os.environ["ORDERS_GATES"], name)
    wait_until(gate.exists, timeout=60, message=f"{gate} was not opened")


RETRIED: dict[str, Any] = {"autoretry_for": (Boom,), "max_retries": 5, "default_retry_delay": 0}
LATE: dict[str, Any] = {"acks_late": True, "reject_on_worker_lost": True}


# --- five steps ----------------------------------------------------------------------------------


def fourth() -> str:
    note("4")
    if times("4") <= 3:
        raise Boom
    return "4"


def five_steps(order: dict[str, Any]) -> list[Any]:
    values = [step.run(number, note, number) for number in ("1", "2", "3")]
    step.sleep("nap", 0.1)
    if order.get("kill") and times("killed") < order["kill"]:
        note("killed")
        os.kill(os.getpid(), signal.SIGKILL)
    return [*values, step.run("4", fourth), step.run("5", note, "5"), current_attempt()]


def current_attempt() -> int:
    run = current_run()
    assert run is not None
    return run.attempt


@on_event("order/placed")
@app.task(**RETRIED)
def early(order: dict[str, Any]) -> list[Any]:
    return five_steps(order)


@on_event("order/placed late")
@app.task(**RETRIED, **LATE)
def late(order: dict[str, Any]) -> list[Any]:
    return five_steps(order)


@on_event("order/held")
@app.task(**LATE)
def held(order: dict[str, Any]) -> str:
    """Hold the worker after two steps, and inside the third."""
    step.run("1", note, "1")
    step.run("2", note, "2")
    step.run("3", third)
    return step.run("4", note, "4")


def third() -> str:
    note("3")
    if times("3") == 1:
        wait_for_gate("third")
    return "3"


# --- upgrades ------------------------------------------------------------------------------------

BODIES = {
    "first": ["fetch", "parse", "index", "PAUSE", "publish"],
    "inserted": ["fetch", "scan", "parse", "index", "PAUSE", "publish"],
    "renamed": ["download", "parse", "index", "PAUSE", "publish"],
    "removed": ["fetch", "index", "PAUSE", "publish"],
    "reordered": ["index", "parse", "fetch", "PAUSE", "publish"],
}


@on_event("order/upgraded")
@app.task
def upgraded(order: dict[str, Any]) -> list[str]:
    """Do the steps of the version of the code that this worker has."""
    done = []
    for name in BODIES[os.environ.get("ORDERS_VERSION", "first")]:
        if name == "PAUSE":
            step.sleep("pause", 1.0)
        else:
            done.append(step.run(name, note, name))
    return done


# --- tails and failures --------------------------------------------------------------------------


@app.task(**RETRIED)
def failed(failure: dict[str, Any]) -> None:
    """Tell of a failure, at the third try."""
    step.run("tell", note, "failed", failure=failure)
    if current_attempt() < 3:
        raise Boom("told nobody")
    note("told")


@app.task(**RETRIED)
def save(result: Any) -> Any:
    run, event = current_run(), current_event()
    assert run is not None
    assert event is not None
    step.run("save", note, "saved", task=run.task, data=event.data)
    if run.attempt == 1:
        raise Boom
    return [result, "saved"]


@app.task(bind=True)
def mail(self: Any, result: Any) -> Any:
    event = current_event()
    assert event is not None
    step.run("mail", note, "mailed", task=self.name, data=event.data)
    if event.data.get("mail") == "fails":
        raise Boom("no mail")
    return [*result, "mailed"]


@on_event("order/shipped", then=[save, mail.s()], on_failure=failed)
@app.task
def ship(order: dict[str, Any]) -> str:
    return step.run("ship", note, "shipped")


def end_badly(how: str) -> None:
    if how == "exception":
        raise Boom("no")
    if how == "step":
        step.options(max_retries=1).run("charge", boom)
    if how == "hard limit":
        wait_for_gate("never")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        os._exit(3)


def boom() -> None:
    note("charge")
    raise Boom("no")


@on_event("order/lost", on_failure=failed)
@app.task(**RETRIED)
def lost(order: dict[str, Any]) -> None:
    note("lost")
    end_badly(order["how"])


@on_event("order/late", on_failure=failed)
@app.task(time_limit=1)
def too_late(order: dict[str, Any]) -> None:
    note("too late")
    end_badly(order["how"])


# --- what only some pools can --------------------------------------------------------------------


def a_while() -> str:
    note("a while")
    if times("a while") == 1:
        threading.Event().wait(60)
    return "a while"


@on_event("order/timed")
@app.task
def timed(order: dict[str, Any]) -> Any:
    return step.options(max_retries=1, timeout=0.3).run("a while", a_while)


@on_event("order/soft")
@app.task(soft_time_limit=1, time_limit=30)
def soft(order: dict[str, Any]) -> str:
    try:
        step.options(max_retries=5).run("a while", a_while)
    except SoftTimeLimitExceeded:
        return step.run("tidy up", note, "tidied up")
    return "in time"


# --- what a subscriber can be --------------------------------------------------------------------


@event_type("order/typed")
class Typed(pydantic.BaseModel):
    """An order with a type."""

    id: int
    lines: list[tuple[str, int]]


@on_event(Typed)
@app.task(pydantic=True)
def typed(order: Typed) -> Typed:
    assert isinstance(order, Typed)
    return step.run("same", same, order)


def same(order: Typed) -> Typed:
    assert isinstance(order, Typed)
    return order


@on_event("order/typed")
@app.task(bind=True, **RETRIED)
def bound(self: Any, order: dict[str, Any]) -> list[Any]:
    value = step.run("once", note, "bound")
    if self.request.retries == 0:
        raise self.retry(countdown=0)
    return [value, self.request.retries, times("bound")]


@on_event("order/typed")
@shared_task(**RETRIED)
def shared(order: dict[str, Any]) -> list[Any]:
    value = step.run("once", note, "shared")
    if current_attempt() == 1:
        raise Boom
    return [value, current_attempt(), times("shared")]


@on_event("order/typed")
class Class(Task):
    """A task that is a class, with a ``__call__`` of its own."""

    name = "tests.integration.orders.Class"
    autoretry_for = (Boom,)
    default_retry_delay = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return ["called", super().__call__(*args, **kwargs)]

    def run(self, order: dict[str, Any]) -> list[Any]:
        value = step.run("once", note, "class")
        if current_attempt() == 1:
            raise Boom
        return [value, current_attempt(), times("class")]


app.register_task(Class())


# --- an outage of the store ----------------------------------------------------------------------


@on_event("order/outage")
@app.task(max_retries=0)
def outage(order: dict[str, Any]) -> list[Any]:
    step.run("1", note, "1")
    note("between")
    wait_for_gate("outage")
    step.run("2", note, "2")
    return [times("1"), times("2"), current_attempt()]


# --- signals -------------------------------------------------------------------------------------


def listen(name: str) -> None:
    """Write down what a signal is sent with."""

    def receive(sender: Any, run: Any, exception: Any = None, **arguments: Any) -> None:
        arguments.pop("signal")
        arguments.pop("until", None)
        arguments.pop("runtime", None)
        if exception is not None:
            arguments["exception"] = repr(exception)
        Oracle.from_environment().write(
            what=f"signal {name}",
            run=run.id,
            attempt=run.attempt,
            sender=sender.name.rpartition(".")[2],
            task=run.task.rpartition(".")[2],
            **arguments,
        )

    getattr(signals, name).connect(receive, weak=False)


if os.environ.get("ORDERS_SIGNALS"):
    for _name in signals.__all__:
        if _name != "event_emitted":
            listen(_name)
