"""The app of the fault tests. Its tasks write down what they do, outside of the system."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from celery import Celery

from celery_fanout import current_run, on_event, step
from tests.servers import Oracle

LEASE = 2.0

#: How many times a second one worker executes the task that is limited so.
LIMIT = 5

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

    @task("job/tells", "jobs.tells")
    def tells(data: dict[str, Any]) -> str:
        write("body")
        wait_for(data["gate"])
        step.emit("more", "job/tailless", {})
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

    @task(
        "job/storm",
        "jobs.storm",
        autoretry_for=(ConnectionError,),
        max_retries=20,
        retry_backoff=1,
        retry_backoff_max=30,  # so that a minute is no 20 retries
    )
    def storm(data: dict[str, Any]) -> str:
        return flaky(data)

    @task("job/echo", "jobs.echo")
    def echo(data: Any) -> Any:
        write("body")
        return data

    add_more(task)

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


if "JOBS_CLOCK" in os.environ:
    # a clock that is wrong, where libfaketime is not installed
    _right, _wrong = time.time, float(os.environ["JOBS_CLOCK"])
    _jump = os.environ.get("JOBS_CLOCK_FILE")

    def _clock() -> float:
        text = Path(_jump).read_text().strip().rstrip("s") if _jump else ""
        return _right() + (float(text or 0) if _jump else _wrong)

    time.time = _clock


def write(what: str) -> None:
    """Write down that something begins."""
    run = current_run()
    assert run is not None
    Oracle.from_environment().write(
        what=what, run=run.id, pid=os.getpid(), worker=NAME, t=time.time()
    )


def noted(what: str, value: Any) -> Any:
    """Be a step: write down that it begins."""
    write(what)
    return value


def add_more(task: Any) -> None:
    """Add tasks that only some tests need."""

    @task("job/bad", "jobs.bad")
    def bad(data: dict[str, Any]) -> None:
        write("body")
        step.run("a", noted, "a", "a")
        step.run("b", unfit, data["what"])

    @task("job/chatty", "jobs.chatty")
    def chatty(data: dict[str, Any]) -> str:
        write("body")
        step.emit("more", "job/tailless", {})
        return step.run("a", noted, "a", "a")

    @task("job/tailless", "jobs.tailless")
    def tailless(data: dict[str, Any]) -> str:
        write("body")
        return step.run("a", noted, "a", "a")

    @task("job/limited", "jobs.limited", rate_limit=f"{LIMIT}/s")
    def limited(data: dict[str, Any]) -> None:
        write("limited")

    @task("job/waits", "jobs.waits")
    def waits(data: dict[str, Any]) -> str:
        write("body")
        assert step.wait_for_event("w", "job/never", timeout=1) is None
        write("woken")
        return "timed out"

    def herd(name: str) -> None:
        @task("job/herd", f"jobs.herd.{name}")
        def one_of_many(data: dict[str, Any]) -> None:
            tally(Path(data["tally"], name))

    for name in ("one", "two", "three"):
        herd(name)


class TwoArgumentsError(Exception):
    """Cannot be made from its ``args``."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


class NoTextError(Exception):
    """Cannot be described."""

    def __str__(self) -> str:
        raise ValueError("no text")


def unfit(what: str) -> Any:
    """Be a step that gives what nobody can keep."""
    write("b")
    if what == "two arguments":
        raise TwoArgumentsError("one", "two")
    if what == "no text":
        raise NoTextError
    if what == "deep":
        return unfit_depth(0)
    return {"an object": object(), "too much": "x" * 2_000_000}[what]


def unfit_depth(depth: int) -> Any:
    """Exceed Python's stack."""
    return unfit_depth(depth + 1)


def tally(file: Path) -> None:
    """Count one more execution; nobody is killed, so nothing has to be synced."""
    handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(handle, b".")
    os.close(handle)


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


if os.environ.get("JOBS_EMIT") == "worker_init":
    from celery.signals import worker_init

    @worker_init.connect(weak=False)
    def emit_early(**_: Any) -> None:
        """Emit, and read, before the pool forks."""
        from celery_fanout import emit, get_fanout

        emit("job/tailless", {}, app=app)
        assert get_fanout(app).ledger.runs()


if "JOBS_COLLECT" in os.environ:
    import gc

    from celery.signals import task_postrun

    _since = [0]

    @task_postrun.connect(weak=False)
    def collect(**_: Any) -> None:
        """Collect garbage now and then, so that what grows is no garbage.

        Celery leaves half a MiB of it in a cycle for each task that is ignored or retried
        (``billiard.einfo``).
        """
        _since[0] += 1
        if _since[0] % 50 == 0:
            gc.collect()
