"""The app of the tests of flow control. Its tasks write down when they begin and end."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from celery import Celery

from celery_fanout import (
    Batch,
    Concurrency,
    Debounce,
    Idempotency,
    RateLimit,
    Singleton,
    Throttle,
    current_run,
    on_event,
    step,
)
from tests.faults.limits import (
    AT_ONCE,
    BURST,
    COLLECTS,
    FAIR,
    KILLED_AT_ONCE,
    KILLED_STARTS,
    LEASE,
    LET_THROUGH,
    NOT_LATER_THAN,
    PER_KEY,
    QUIET,
    SHARED,
    SIZE,
    STARTS,
    TIMEOUT,
    WINDOW,
)
from tests.servers import Oracle

#: Which worker this is.
NAME = os.environ.get("JOBS_NAME", "")

_executions = count(1)


def make_app(broker: str, store: str, **conf: Any) -> Celery:
    """Return the app; the workers and the test each have one."""
    app = Celery("limited", broker=broker, backend=store, set_as_current=False)
    app.conf.update(
        fanout_lease=LEASE,
        broker_connection_retry_on_startup=True,
        broker_transport_options={"polling_interval": 0.1, **conf.pop("transport", {})},
    )
    app.conf.update(conf)

    def task(event: str, name: str, **limits: Any) -> Any:
        """Subscribe a task, whose own options are those in ``task``."""
        options = limits.pop("task", {})

        def add(body: Any) -> Any:
            return on_event(event, **limits)(
                app.task(name=f"limited.{name}", shared=False, **options)(body)
            )

        return add

    add_concurrency(task)
    add_rates(task)
    add_singletons(task)
    add_collecting(task)
    add_others(task)
    add_killed(task)
    add_fair(task)
    return app


# --- what the tasks do ----------------------------------------------------------------------------


@contextmanager
def noted(kind: str, data: dict[str, Any]) -> Iterator[None]:
    """Write down when this execution begins, and when it ends, however it does."""
    run = current_run()
    assert run is not None
    x = f"{os.getpid()}-{next(_executions)}"
    write("begin", x=x, run=run.id, kind=kind, key=str(data.get("key", "")), n=data["n"])
    try:
        yield
    finally:
        write("end", x=x, run=run.id, kind=kind)


def write(what: str, **more: Any) -> None:
    """Write down that something happens now: by this machine's clocks."""
    Oracle.from_environment().write(
        what=what, pid=os.getpid(), worker=NAME, m=time.monotonic(), t=time.time(), **more
    )


def take_time(data: dict[str, Any]) -> None:
    """Take as long as the event says."""
    threading.Event().wait(data.get("seconds", 0))


def step_noted(name: str) -> str:
    """Be a step."""
    run = current_run()
    assert run is not None
    write(name, run=run.id)
    return name


# --- the subscribers ------------------------------------------------------------------------------


def add_concurrency(task: Any) -> None:
    """Add those of which so many run at once."""

    @task("limit/global", "global", concurrency=Concurrency(AT_ONCE))
    def over_all(data: dict[str, Any]) -> None:
        with noted("global", data):
            take_time(data)

    @task("limit/keyed", "keyed", concurrency=Concurrency(PER_KEY, key="key"))
    def keyed(data: dict[str, Any]) -> None:
        with noted("keyed", data):
            take_time(data)

    def one_of_two(name: str) -> None:
        @task("limit/app", f"app.{name}", concurrency=Concurrency(AT_ONCE, scope="app"))
        def both(data: dict[str, Any]) -> None:
            with noted(f"app.{name}", data):
                take_time(data)

    one_of_two("one")
    one_of_two("two")

    @task(
        "limit/three",
        "three",
        concurrency=[
            Concurrency(PER_KEY, key="key"),
            Concurrency(SHARED, scope="three"),
            Concurrency(AT_ONCE),
        ],
    )
    def three(data: dict[str, Any]) -> None:
        with noted("three", data):
            take_time(data)

    @task("limit/three", "beside", concurrency=Concurrency(SHARED, scope="three"))
    def beside(data: dict[str, Any]) -> None:
        with noted("beside", data):
            take_time(data)


def add_rates(task: Any) -> None:
    """Add those that start, or are let through, so often."""

    @task("limit/throttle", "throttle", throttle=Throttle(STARTS, 1))
    def throttled(data: dict[str, Any]) -> None:
        with noted("throttle", data):
            take_time(data)

    @task("limit/burst", "burst", throttle=Throttle(STARTS, 1, burst=BURST))
    def burst(data: dict[str, Any]) -> None:
        with noted("burst", data):
            take_time(data)

    @task("limit/rate", "rate", rate_limit=RateLimit(LET_THROUGH, WINDOW, key="key"))
    def rate(data: dict[str, Any]) -> None:
        with noted("rate", data):
            take_time(data)


def add_singletons(task: Any) -> None:
    """Add those of which one runs at a time."""

    @task("limit/skip", "skip", singleton=Singleton(key="key", mode="skip"))
    def skip(data: dict[str, Any]) -> None:
        with noted("skip", data):
            take_time(data)

    @task("limit/cancel", "cancel", singleton=Singleton(key="key", mode="cancel"))
    def cancel(data: dict[str, Any]) -> None:
        with noted("cancel", data):
            take_time(data)
            step.run("a", step_noted, "a")
            write("done", run=current_run().id, n=data["n"])  # type: ignore[union-attr]

    @task("limit/queue", "queue", singleton=Singleton(key="key", mode="queue"))
    def queue(data: dict[str, Any]) -> None:
        with noted("queue", data):
            take_time(data)
            step.sleep("nap", 0.05)
            step.run("a", step_noted, "a")


def add_collecting(task: Any) -> None:
    """Add those whose runs are made of several events."""

    @task("limit/debounce", "debounce", debounce=Debounce(QUIET, "key", timeout=NOT_LATER_THAN))
    def debounced(data: dict[str, Any]) -> None:
        with noted("debounce", data):
            take_time(data)

    @task("limit/batch", "batch", batch=Batch(SIZE, COLLECTS, key="key"))
    def batched(data: list[dict[str, Any]]) -> list[int]:
        with noted("batch", data[-1]):
            numbers = [each["n"] for each in data]
            write("batch", run=current_run().id, numbers=numbers)  # type: ignore[union-attr]
            return numbers


def add_others(task: Any) -> None:
    """Add one of which a value is handled once, one with an order, and those with a time-out."""

    @task("limit/once", "once", idempotency=Idempotency("key", ttl=3600))
    def once(data: dict[str, Any]) -> None:
        with noted("once", data):
            take_time(data)

    @task(
        "limit/priority",
        "priority",
        concurrency=Concurrency(1),
        priority=lambda event: event.data["priority"],
    )
    def ordered(data: dict[str, Any]) -> None:
        with noted("priority", data):
            take_time(data)

    @task("limit/late", "late", concurrency=Concurrency(1), start_timeout=TIMEOUT)
    def late(data: dict[str, Any]) -> None:
        with noted("late", data):
            take_time(data)

    @task("limit/long", "long", concurrency=Concurrency(1), finish_timeout=TIMEOUT)
    def long(data: dict[str, Any]) -> None:
        with noted("long", data):
            step.sleep("nap", data["seconds"])
            step.run("a", step_noted, "a")


def add_killed(task: Any) -> None:
    """Add those that are killed: they leave their worker, fail, and are begun again."""
    failing = {"autoretry_for": (ConnectionError,), "default_retry_delay": 0.2, "max_retries": 3}

    def body(kind: str, data: dict[str, Any]) -> None:
        run = current_run()
        assert run is not None
        with noted(kind, data):
            step.run("a", step_noted, "a")
            take_time(data)
            if data["n"] % 3 == 0:
                step.sleep("nap", 0.2)
            step.run("b", step_noted, "b")
            if data["n"] % 4 == 0 and run.attempt == 1:
                raise ConnectionError("not at the first time")
            take_time(data)
            step.run("c", step_noted, "c")

    @task(
        "killed/keyed",
        "killed.keyed",
        concurrency=[
            Concurrency(PER_KEY, key="key"),
            Concurrency(KILLED_AT_ONCE, scope="killed"),
        ],
        task=failing,
    )
    def killed(data: dict[str, Any]) -> None:
        body("killed.keyed", data)

    @task(
        "killed/queue", "killed.queue", singleton=Singleton(key="key", mode="queue"), task=failing
    )
    def queued(data: dict[str, Any]) -> None:
        body("killed.queue", data)

    @task(
        "killed/throttle",
        "killed.throttle",
        concurrency=Concurrency(KILLED_AT_ONCE, scope="killed"),
        throttle=Throttle(KILLED_STARTS, 1),
        task=failing,
    )
    def throttled(data: dict[str, Any]) -> None:
        body("killed.throttle", data)


def add_fair(task: Any) -> None:
    """Add those whose keys take turns, and neighbours."""

    @task(
        "fair/tenant", "fair", concurrency=[Concurrency(2, "key"), Concurrency(FAIR, scope="fair")]
    )
    def fair(data: dict[str, Any]) -> None:
        with noted("fair", data):
            take_time(data)

    @task(
        "lanes/tenant",
        "lanes",
        # more than anybody has: all wait for the limit that they share
        concurrency=[Concurrency(1_000_000, "key"), Concurrency(FAIR, scope="lanes")],
    )
    def lanes(data: dict[str, Any]) -> None:
        with noted("lanes", data):
            take_time(data)

    @task("slow/one", "slow", throttle=Throttle(1, 1))
    def slow(data: dict[str, Any]) -> None:
        with noted("slow", data):
            take_time(data)

    @task("slow/beside", "quick")
    def quick(data: dict[str, Any]) -> float:
        begun = time.monotonic()
        write("quick", run=current_run().id)  # type: ignore[union-attr]
        take_time(data)
        return begun


app = make_app(
    os.environ.get("JOBS_BROKER", "memory://"),
    os.environ.get("JOBS_STORE", "cache+memory://"),
    **json.loads(os.environ.get("JOBS_CONF", "{}")),
)
