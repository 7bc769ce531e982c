"""An app whose runs write down what they do. What goes wrong in them is said by the event's data.

=========== =====================================================================================
``steps``   how many steps, ``s0`` and so on; by default 3
``takes``   how long each step takes, in seconds
``hold``    the step that waits, the first time, until the test opens the gate of that name
``fails``   how often the body raises ``Boom`` after its steps
``dies``    how often its process dies, in the step ``at``, and ``how``: kill, exit, segv
``sleeps``  seconds of ``step.sleep`` after the first step
=========== =====================================================================================

The names of its events: ``one`` and ``late`` have one subscriber, ``three`` has three; ``tail`` is
followed by two links; ``dead`` has an ``on_failure``; ``wait`` waits for ``fault/answer``;
``spread`` uses ``step.parallel`` and ``step.invoke``.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery

from celery_fanout import current_run, on_event, step
from tests.processes import wait_until
from tests.servers import Oracle


class Boom(Exception):  # noqa: N818 - it is short
    """What goes wrong."""


RETRIED: dict[str, Any] = {"autoretry_for": (Boom,), "max_retries": 5, "default_retry_delay": 0}
LATE: dict[str, Any] = {"acks_late": True, "reject_on_worker_lost": True}


def make_app(broker: str, store: str, conf: dict[str, Any]) -> Celery:
    """Return the app; each worker has one, and so has the test."""
    app = Celery("faults", broker=broker, set_as_current=False)
    conf = {"fanout_store_url": store, **conf}
    without = set(conf.pop("without", ()))  # subscribers that this version of the code lacks
    app.conf.update(conf)

    def task(body: Callable[..., Any], name: str = "", **options: Any) -> Any:
        name = name or body.__name__
        return app.task(body, name=name, shared=False, **options)

    def subscribe(event: str, body: Callable[..., Any], name: str = "", **options: Any) -> None:
        declared = {key: options.pop(key) for key in ("then", "on_failure") if key in options}
        if (name or body.__name__) not in without:
            on_event(f"fault/{event}", **declared)(task(body, name, **options))

    subscribe("one", one, **RETRIED)
    subscribe("late", one, "late", **RETRIED, **LATE)
    for letter in "abc":
        subscribe("three", one, f"three_{letter}", **RETRIED)
    links = [task(link, "first", **RETRIED), task(link, "second", **RETRIED).s()]
    subscribe("tail", one, "tail", then=links, **RETRIED)
    subscribe("dead", one, "dead", on_failure=task(told), **RETRIED)
    subscribe("wait", wait, **RETRIED)
    invoked = task(invoke, **RETRIED)

    def spread(order: dict[str, Any]) -> list[Any]:
        note("begin")
        items = step.parallel("items", [(effect, f"item{n}", order) for n in range(3)])
        value = step.invoke("other", invoked, order)
        note("read", step="other", value=value)
        note("end")
        return [items, value]

    subscribe("spread", spread, **RETRIED)
    return app


# --- what they write down ------------------------------------------------------------------------


def note(what: str, **more: Any) -> None:
    """Write down that something happened."""
    run = current_run()
    assert run is not None
    Oracle.from_environment().write(
        what=what,
        run=run.id,
        sub=run.subscription,
        attempt=run.attempt,
        pid=os.getpid(),
        at=time.monotonic(),  # one clock for all processes of a machine
        **more,
    )


def times(what: str, **more: Any) -> int:
    """Return how often it happened in this run."""
    run = current_run()
    assert run is not None
    wanted = {"what": what, "run": run.id, **more}
    return sum(wanted.items() <= record.items() for record in Oracle.from_environment().read())


# --- what goes wrong -----------------------------------------------------------------------------


def die(how: str) -> None:
    """End this process."""
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        os._exit(3)
    if how == "segv":
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        ctypes.string_at(0)
    raise AssertionError(how)


def wait_for_gate(name: str) -> None:
    """Wait until the test makes the file."""
    gate = Path(os.environ["FAULTS_GATES"], name)
    wait_until(gate.exists, timeout=100, message=f"{gate} was not opened")


def effect(name: str, order: dict[str, Any]) -> str:
    """Be a step: what it returns is another value each time it is executed."""
    first = times("step", step=name) == 0 if name == order.get("hold") else False
    note("step", step=name)
    if name == order.get("at", "s1") and times("died") < order.get("dies", 0):
        note("died")
        die(order.get("how", "kill"))
    if first:
        wait_for_gate(name)
    if "takes" in order:
        threading.Event().wait(order["takes"])
    return uuid.uuid4().hex


# --- the bodies ----------------------------------------------------------------------------------


def do(name: str, order: dict[str, Any]) -> str:
    value = step.run(name, effect, name, order)
    note("read", step=name, value=value)
    return value


def one(order: dict[str, Any]) -> list[str]:
    note("begin")
    values = [do("s0", order)]
    if "sleeps" in order:
        step.sleep("nap", order["sleeps"])
    values += [do(f"s{number}", order) for number in range(1, order.get("steps", 3))]
    if times("failed") < order.get("fails", 0):
        note("failed")
        raise Boom
    note("end")
    return values


def link(values: list[str]) -> list[str]:
    note("begin")
    value = step.run("link", effect, "link", {})
    note("read", step="link", value=value)
    note("end")
    return [*values, value]


def told(failure: dict[str, Any]) -> None:
    note("told", failed=failure["run"], error=failure["error"])


def wait(order: dict[str, Any]) -> Any:
    note("begin")
    do("s0", order)
    found = step.wait_for_event(
        "answer", "fault/answer", match={"id": order["id"]}, timeout=order.get("timeout", 60)
    )
    value = None if found is None else found.data
    note("read", step="answer", value=value)
    do("s1", order)
    note("end")
    return value


def invoke(order: dict[str, Any]) -> str:
    note("begin")
    return do("inner", order)


# --- the worker ----------------------------------------------------------------------------------

if "FAULTS_BROKER" in os.environ:
    app = make_app(
        os.environ["FAULTS_BROKER"],
        os.environ["FAULTS_STORE"],
        json.loads(os.environ["FAULTS_CONF"]),
    )
