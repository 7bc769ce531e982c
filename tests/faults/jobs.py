"""The app of the fault tests. Its tasks write down what they do, outside of the system."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from celery import Celery

from celery_fanout import current_run, on_event, step
from tests.servers import Oracle

LEASE = 2.0

#: Which worker this is, for tests with several.
NAME = os.environ.get("JOBS_NAME", "")


def make_app(broker: str, store: str, **conf: Any) -> Celery:  # noqa: C901 - small tasks
    """Return the app; the workers and the test each have one."""
    app = Celery("jobs", broker=broker, backend=store, set_as_current=False)
    app.conf.update(
        fanout_lease=LEASE,
        broker_connection_retry_on_startup=True,
        broker_transport_options={"polling_interval": 0.1, **conf.pop("transport", {})},
    )
    app.conf.update(conf)

    def task(event: str, name: str, **options: Any) -> Any:
        def add(body: Any) -> Any:
            subscription = options.pop("subscription", {})
            found = app.task(name=name, shared=False, **options)(body)
            return on_event(event, **subscription)(found)

        return add

    @app.task(name="jobs.save", shared=False)
    def save(value: Any) -> Any:
        write("save")
        return step.run("saved", noted, "saved", value)

    @task("job/steps", "jobs.steps")
    def steps(data: dict[str, Any]) -> list[str]:
        write("body")
        return [step.run(name, noted, name, name) for name in ("a", "b", "c")]

    @task("job/tail", "jobs.tail", subscription={"then": save})
    def tail(data: dict[str, Any]) -> str:
        write("body")
        return step.run("a", noted, "a", "a")

    @task("job/slow", "jobs.slow", acks_late=True)
    def slow(data: dict[str, Any]) -> list[str]:
        return [step.run(name, slowly, name, data["seconds"]) for name in ("a", "b")]

    @task("job/poison", "jobs.poison")
    def poison(data: dict[str, Any]) -> None:
        write("body")
        os._exit(1)

    @task("job/held", "jobs.held")
    def held(data: dict[str, Any]) -> str:
        write("body")
        wait_for(data["gate"])
        return step.run("a", noted, "a", "a")

    @task("job/split", "jobs.split")
    def split(data: dict[str, Any]) -> list[str]:
        write("body")
        a = step.run("a", noted, "a", NAME)
        wait_for(f"{data['gate']}{NAME}")
        return [a, *(step.run(name, noted, name, NAME) for name in ("b", "c"))]

    @task(
        "job/flaky",
        "jobs.flaky",
        autoretry_for=(ConnectionError,),
        max_retries=20,
        retry_backoff=1,
        retry_backoff_max=4,
    )
    def flaky(data: dict[str, Any]) -> str:
        write("body")
        if not Path(data["gate"]).exists():
            raise ConnectionError("the dependency is down")
        return step.run("a", noted, "a", "a")

    @task("job/echo", "jobs.echo")
    def echo(data: Any) -> Any:
        write("body")
        return data

    @task("job/nap", "jobs.nap")
    def nap(data: dict[str, Any]) -> str:
        step.sleep("nap", data["seconds"])
        return step.run("a", noted, "a", "a")

    if os.environ.get("JOBS_VERSION") != "old":

        @task("job/new", "jobs.new")
        def new(data: dict[str, Any]) -> str:
            write("body")
            return "new"

    return app


def write(what: str) -> None:
    """Write down that something begins."""
    run = current_run()
    assert run is not None
    Oracle.from_environment().write(what=what, run=run.id, pid=os.getpid(), worker=NAME)


def noted(what: str, value: Any) -> Any:
    """Be a step: write down that it begins."""
    write(what)
    return value


def slowly(what: str, seconds: float) -> str:
    """Be a step that takes its time."""
    write(what)
    threading.Event().wait(seconds)
    return what


def wait_for(gate: str) -> None:
    """Wait until a file is there."""
    while not Path(gate).exists():
        threading.Event().wait(0.02)


app = make_app(
    os.environ.get("JOBS_BROKER", "memory://"),
    os.environ.get("JOBS_STORE", "cache+memory://"),
    **json.loads(os.environ.get("JOBS_CONF", "{}")),
)
