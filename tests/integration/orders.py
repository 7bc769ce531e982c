"""An app for tests/integration/test_workers.py, whose runs write down what they do.

A body that is to go wrong looks up in the oracle how often it did, so that it goes wrong the right
number of times, whichever process executes it.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydantic
from celery import Celery, Task, shared_task
from celery.exceptions import SoftTimeLimitExceeded

from celery_fanout import current_event, current_run, event_type, on_event, signals, step
from tests.processes import wait_until
from tests.servers import Oracle


class Boom(Exception):  # noqa: N818 - it is short
    """What goes wrong."""


RETRIED: dict[str, Any] = {"autoretry_for": (Boom,), "max_retries": 5, "default_retry_delay": 0}
LATE: dict[str, Any] = {"acks_late": True, "reject_on_worker_lost": True}


def make_app(broker: str, backend: str, conf: dict[str, Any]) -> Celery:
    """Return the app; each worker has one, and so has the test."""
    app = Celery("orders", broker=broker, backend=backend, set_as_current=False)
    app.conf.update(conf)

    def task(body: Callable[..., Any], **options: Any) -> Any:
        return app.task(body, name=body.__name__, shared=False, **options)

    on_event("order/placed")(task(early, **RETRIED))
    on_event("order/placed.late")(task(late, **RETRIED, **LATE))
    on_event("order/held")(task(held, **LATE))
    on_event("order/upgraded")(task(upgraded))

    on_failure = task(failed, **RETRIED)
    then = [task(save, **RETRIED), task(mail, bind=True).s()]
    on_event("order/shipped", then=then, on_failure=on_failure)(task(ship))
    on_event("order/lost", on_failure=on_failure)(task(lost, **RETRIED))
    on_event("order/late", on_failure=on_failure)(task(too_late, time_limit=1))

    on_event("order/timed")(task(timed))
    on_event("order/soft")(task(soft, soft_time_limit=1, time_limit=30))

    on_event("order/typed")(task(typed, pydantic=True))
    on_event("order/typed")(task(bound, bind=True))
    on_event("order/typed")(shared_task(name="shared", **RETRIED)(shared))
    on_event("order/typed")(Class)
    app.register_task(Class())

    on_event("order/outage")(task(outage, max_retries=0))
    return app


# --- what they write down ------------------------------------------------------------------------


def note(what: str, **more: Any) -> str:
    """Write down that something happened."""
    run = current_run()
    assert run is not None
    Oracle.from_environment().write(
        what=what, run=run.id, attempt=run.attempt, pid=os.getpid(), **more
    )
    return what


def times(what: str) -> int:
    """Return how often it happened in this run."""
    run = current_run()
    assert run is not None
    records = Oracle.from_environment().read()
    return sum(record["what"] == what and record["run"] == run.id for record in records)


def attempt() -> int:
    run = current_run()
    assert run is not None
    return run.attempt


def wait_for_gate(name: str) -> None:
    """Wait until the test makes the file."""
    gate = Path(os.environ["ORDERS_GATES"], name)
    wait_until(gate.exists, timeout=60, message=f"{gate} was not opened")


# --- five steps ----------------------------------------------------------------------------------


def fourth() -> str:
    note("4")
    if times("4") <= 3:
        raise Boom
    return "4"


def early(order: dict[str, Any]) -> list[Any]:
    values = [step.run(number, note, number) for number in ("1", "2", "3")]
    step.sleep("nap", 0.1)
    if times("killed") < order.get("kill", 0):
        note("killed")
        os.kill(os.getpid(), signal.SIGKILL)
    return [*values, step.run("4", fourth), step.run("5", note, "5"), attempt()]


def late(order: dict[str, Any]) -> list[Any]:
    return early(order)


def held(order: dict[str, Any]) -> list[Any]:
    """Hold the worker inside the third step, the first time."""
    step.run("1", note, "1")
    step.run("2", note, "2")
    step.run("3", third)
    step.run("4", note, "4")
    return [times(number) for number in ("1", "2", "3", "4")]


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


def upgraded(order: dict[str, Any]) -> list[str]:
    """Do the steps of that version of the code which this worker has."""
    done = []
    for name in BODIES[os.environ.get("ORDERS_VERSION", "first")]:
        if name == "PAUSE":
            step.sleep("pause", 1.0)
        else:
            done.append(step.run(name, note, name))
    return done


# --- tails and failures --------------------------------------------------------------------------


def failed(failure: dict[str, Any]) -> None:
    """Tell of a failure, at the third try."""
    step.run("tell", note, "failed", failure=failure)
    if attempt() < 3:
        raise Boom("told nobody")
    note("told")


def save(result: Any) -> Any:
    run, event = current_run(), current_event()
    assert run is not None
    assert event is not None
    step.run("save", note, "saved", task=run.task, data=event.data)
    if run.attempt == 1:
        raise Boom
    return [result, "saved"]


def mail(self: Any, result: Any) -> Any:
    event = current_event()
    assert event is not None
    step.run("mail", note, "mailed", task=self.name, data=event.data)
    if event.data.get("mail") == "fails":
        raise Boom("no mail")
    return [*result, "mailed"]


def ship(order: dict[str, Any]) -> str:
    return step.run("ship", note, "shipped")


def boom() -> None:
    note("charge")
    raise Boom("no")


def lost(order: dict[str, Any]) -> None:
    """End in the way that the order asks for."""
    note("lost")
    match order["how"]:
        case "exception":
            raise KeyError("no")
        case "exhausted":
            raise Boom("no")
        case "step":
            step.options(max_retries=1).run("charge", boom)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)


def too_late(order: dict[str, Any]) -> None:
    note("too late")
    wait_for_gate("never")


# --- what only some pools can --------------------------------------------------------------------


def a_while() -> str:
    note("a while")
    if times("a while") == 1:
        threading.Event().wait(60)
    return "a while"


def timed(order: dict[str, Any]) -> Any:
    return step.options(max_retries=1, timeout=0.5).run("a while", a_while)


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


def typed(order: Typed) -> Typed:
    assert isinstance(order, Typed)
    return step.run("same", same, order)


# `from __future__ import annotations` made texts of them, which Celery 5.5 does not read
typed.__annotations__.update({"order": Typed, "return": Typed})


def same(order: Typed) -> Typed:
    assert isinstance(order, Typed)
    return order


def bound(self: Any, order: dict[str, Any]) -> list[Any]:
    value = step.run("once", note, "bound")
    if self.request.retries == 0:
        raise self.retry(countdown=0)
    return [value, self.request.retries, times("bound")]


def shared(order: dict[str, Any]) -> list[Any]:
    value = step.run("once", note, "shared")
    if attempt() == 1:
        raise Boom
    return [value, attempt(), times("shared")]


class Class(Task):
    """A task that is a class, with a ``__call__`` of its own."""

    name = "class"
    autoretry_for = (Boom,)
    default_retry_delay = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return ["called", super().__call__(*args, **kwargs)]

    def run(self, order: dict[str, Any]) -> list[Any]:
        value = step.run("once", note, "class")
        if attempt() == 1:
            raise Boom
        return [value, attempt(), times("class")]


# --- an outage of the store ----------------------------------------------------------------------


def outage(order: dict[str, Any]) -> list[Any]:
    step.run("1", note, "1")
    note("between")
    wait_for_gate("outage")
    step.run("2", note, "2")
    return [times("1"), times("2"), attempt()]


# --- the worker ----------------------------------------------------------------------------------


def listen(name: str) -> None:
    """Write down what a signal is sent with."""

    def receive(sender: Any, run: Any, exception: Any = None, **arguments: Any) -> None:
        for argument in ("signal", "until", "runtime"):
            arguments.pop(argument, None)
        if exception is not None:
            arguments["exception"] = repr(exception)
        Oracle.from_environment().write(
            what=name, run=run.id, task=sender.name, attempt=run.attempt, **arguments
        )

    getattr(signals, name).connect(receive, weak=False)


if "ORDERS_BROKER" in os.environ:
    app = make_app(
        os.environ["ORDERS_BROKER"],
        os.environ["ORDERS_BACKEND"],
        json.loads(os.environ["ORDERS_CONF"]),
    )
    for _name in json.loads(os.environ["ORDERS_SIGNALS"]):
        listen(_name)
