"""The app of the tests with two versions of this package side by side.

Both versions import this module, so it uses what both have: ``celery_fanout``'s public names. Its
tasks write down what they do, outside of the system, and with which version.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from celery import Celery

from celery_fanout import (
    Batch,
    CancelOn,
    Concurrency,
    Debounce,
    Idempotency,
    RateLimit,
    Singleton,
    Throttle,
    current_event,
    current_run,
    on_event,
    step,
)
from tests.faults.versions_steps import (
    AT_ONCE,
    CODE,
    LATER,
    LEASE,
    LONG,
    SHORT,
    TRIES,
    execution_noted,
    large,
    noted,
    page,
    retried_step,
    steps,
    unless_open,
    wait_for,
    write,
)

print(f"celery_fanout is that of {CODE}", flush=True)  # noqa: T201 - the test looks for it


def make_app(broker: str, store: str, **conf: Any) -> Celery:
    """Return the app; each process has one."""
    app = Celery("versions", broker=broker, backend=store, set_as_current=False)
    app.conf.update(
        fanout_lease=LEASE,
        fanout_max_crashes=50,  # what is killed by chance is no poison
        broker_connection_retry_on_startup=True,
        broker_transport_options={"polling_interval": 0.1},
        worker_prefetch_multiplier=1,
    )
    app.conf.update(conf)

    def task(event: str, name: str, **subscription: Any) -> Any:
        """Subscribe a task, whose own options are those in ``task``."""
        options = subscription.pop("task", {})

        def add(body: Any) -> Any:
            made = app.task(name=f"versions.{name}", shared=False, **options)(body)
            return on_event(event, **subscription)(made)

        return add

    plain = Plain(app)
    add_steps(task)
    add_cancelled(task)
    add_failures(task, plain)
    add_children(task, plain)
    add_tails(task, plain)
    add_limits(task)
    add_collecting(task)
    return app


# --- the tasks that are no subscribers ------------------------------------------------------------


class Plain:
    """Tasks that others call; those of the queue ``later`` wait for a worker that serves it."""

    def __init__(self, app: Celery) -> None:
        def task(name: str, **options: Any) -> Any:
            return app.task(name=f"versions.{name}", shared=False, **options)

        @task("save")
        def save(value: Any) -> Any:
            return {"saved": step.run("saved", noted, "saved", value)}

        @task("save_later", queue=LATER)
        def save_later(value: Any) -> Any:
            return step.run("saved", noted, "saved", value)

        @task("double_later", queue=LATER)
        def double_later(value: int, *, plus: int) -> int:
            write("double")
            return value * 2 + plus

        @task("double")
        def double(value: int, *, plus: int) -> int:
            write("double")
            return value * 2 + plus

        @task("tell_later", queue=LATER)
        def tell_later(failure: dict[str, Any]) -> str:
            write("told")
            message: str = failure["error"]["message"]
            return message

        @task("sum_up")
        def sum_up(outcomes: list[dict[str, Any]]) -> list[Any]:
            write("summed up")
            return [[outcome["state"], outcome["value"]] for outcome in outcomes]

        self.save, self.save_later, self.tell_later, self.sum_up = (
            save,
            save_later,
            tell_later,
            sum_up,
        )
        self.double, self.double_later = double, double_later


# --- the subscribers ------------------------------------------------------------------------------


def add_steps(task: Any) -> None:
    """Add those that store steps and leave their worker."""

    @task("v/plain", "plain")
    def plain(data: dict[str, Any]) -> list[str]:
        write("body")
        return steps("a", "b", "c")

    @task("v/options", "options", options={"queue": LATER, "priority": 3, "headers": {"x": [1]}})
    def with_options(data: dict[str, Any]) -> list[str]:
        return steps("a")

    @task("v/sleeps", "sleeps")
    def sleeps(data: dict[str, Any]) -> list[str]:
        done = steps("a")
        step.sleep("nap", data["seconds"])
        return done + steps("b", "c")

    @task("v/waits", "waits")
    def waits(data: dict[str, Any]) -> list[Any]:
        done = steps("a")
        answer = step.wait_for_event("w", "v/answer", match={"to.n": data["n"]}, timeout=LONG)
        assert answer is not None
        return done + steps("b") + [answer.data["text"], answer.id]

    @task("v/times-out", "times_out")
    def times_out(data: dict[str, Any]) -> list[Any]:
        done: list[Any] = steps("a")
        done.append(step.wait_for_event("w", "v/never", timeout=data["seconds"]))
        return done + steps("b")

    @task("v/typed", "typed")
    def typed(data: dict[str, Any]) -> list[Any]:
        first, second = step.run("a", page), step.run("b", large)
        assert step.wait_for_event("w", "v/answer", match={"to.n": data["n"]}, timeout=LONG)
        again = step.run("c", noted, "c", {"1": None, "f": 0.1, "n": -1, "t": [True, ""]})
        return [type(first).__name__, first.model_dump(mode="json"), len("".join(second)), again]

    @task("v/held", "held")
    def held(data: dict[str, Any]) -> list[str]:
        done = steps("a")
        wait_for(data["gate"])
        return done + steps("b")

    @task("v/emits", "emits")
    def emits(data: dict[str, Any]) -> list[str]:
        step.emit("e", "v/plain", {"from": data["n"]})
        assert step.wait_for_event("w", "v/answer", match={"to.n": data["n"]}, timeout=LONG)
        return steps("b")


def add_cancelled(task: Any) -> None:
    """Add those that are cancelled: by an event, or since they take too long."""

    @task("v/stopped", "stopped", cancel_on=CancelOn("v/stop", match="n"))
    def stopped(data: dict[str, Any]) -> None:
        steps("a")
        step.sleep("nap", LONG)

    @task("v/late", "late", finish_timeout=4)
    def late(data: dict[str, Any]) -> None:
        steps("a")
        step.sleep("nap", LONG)


def add_failures(task: Any, plain: Plain) -> None:
    """Add those that fail, for a while or for good."""

    @task("v/retries", "retries", task=TRIES)
    def retries(data: dict[str, Any]) -> list[str]:
        done = steps("a")
        unless_open(data["gate"])
        return done + steps("b")

    @task("v/step-retries", "step_retries")
    def step_retries(data: dict[str, Any]) -> list[str]:
        patient = step.options(max_retries=1000, retry_backoff=2, retry_backoff_max=2)
        again = patient.run("again", retried_step, "again", data["gate"])
        return [*steps("a"), again, *steps("b")]

    @task("v/fails", "fails", on_failure=plain.tell_later)
    def fails(data: dict[str, Any]) -> list[str]:
        done = steps("a")
        if not Path(data["gate"]).exists():
            raise ValueError(f"{data['n']} is wrong")
        return done + steps("b")


def add_children(task: Any, plain: Plain) -> None:
    """Add those that call others and wait for them."""

    @task("v/invokes", "invokes")
    def invokes(data: dict[str, Any]) -> list[Any]:
        done = steps("a")
        doubled = step.invoke("i", plain.double_later, data["n"], plus=1)
        return [*done, doubled, *steps("b")]

    @task("v/parallel", "parallel", task=TRIES)
    def parallel(data: dict[str, Any]) -> list[Any]:
        (done,) = steps("a")

        def item(number: int) -> str:
            write("item", number=number)
            if number > 1:
                unless_open(data["gate"])
            return f"{done}{number}"

        found = step.parallel("p", [(item, number) for number in range(4)])
        return [*found, *steps("b")]

    @task("v/calls", "calls")
    def calls(data: dict[str, Any]) -> list[Any]:
        done = steps("a")
        doubled = step.invoke("i", plain.double, data["n"], plus=1)

        def item(number: int) -> int:
            write("item", number=number)
            return doubled + number

        found = step.parallel("p", [(item, number) for number in range(3)])
        return [*done, *found, *steps("b")]


def add_tails(task: Any, plain: Plain) -> None:
    """Add those that something follows."""

    @task("v/tail", "tail", then=[plain.save_later, plain.save])
    def tail(data: dict[str, Any]) -> str:
        return "".join(steps("a"))

    @task("v/quick-tail", "quick_tail", then=plain.save)
    def quick_tail(data: dict[str, Any]) -> str:
        return "".join(steps("a"))

    @task("v/fan", "fan.quick")
    def quick(data: dict[str, Any]) -> str:
        return "".join(steps("a"))

    @task("v/fan", "fan.later", task={"queue": LATER})
    def later(data: dict[str, Any]) -> str:
        return "".join(steps("a"))

    @task("v/fan", "fan.tail", then=plain.save)
    def third(data: dict[str, Any]) -> str:
        return "".join(steps("a"))


def add_limits(task: Any) -> None:
    """Add those that wait for limits, or are dropped by them."""

    @task(
        "v/limited", "limited", concurrency=[Concurrency(1, key="key"), Concurrency(3, scope="v")]
    )
    def limited(data: dict[str, Any]) -> list[str]:
        done = steps("a")
        wait_for(data["gate"])
        return done + steps("b")

    @task("v/busy", "busy", concurrency=Concurrency(AT_ONCE, key="key"), task=TRIES)
    def busy(data: dict[str, Any]) -> list[str]:
        run = current_run()
        assert run is not None
        with execution_noted("busy", data):
            done = steps("a")
            if run.attempt == 1 and data["n"] % 3 == 0:
                raise ConnectionError("not at the first time")
            return done + steps("b", "c")

    @task("v/one", "one", singleton=Singleton(key="key", mode="queue"))
    def one(data: dict[str, Any]) -> list[str]:
        done = steps("a")
        assert step.wait_for_event("w", "v/answer", match={"to.n": data["n"]}, timeout=LONG)
        return done + steps("b")

    @task("v/throttled", "throttled", throttle=Throttle(1, 2 * SHORT, key="key"))
    def throttled(data: dict[str, Any]) -> list[str]:
        return steps("a")

    @task("v/rated", "rated", rate_limit=RateLimit(1, LONG, key="key"))
    def rated(data: dict[str, Any]) -> list[str]:
        return steps("a")

    @task("v/once", "once", idempotency=Idempotency("key", ttl=LONG))
    def once(data: dict[str, Any]) -> list[str]:
        return steps("a")

    @task("v/paused", "paused")
    def paused(data: dict[str, Any]) -> list[str]:
        return steps("a")


def add_collecting(task: Any) -> None:
    """Add those whose runs are made of several events."""

    def collected(data: list[dict[str, Any]]) -> list[Any]:
        event = current_event()
        assert event is not None
        steps("a")
        return [[each["n"] for each in data], event.id.rpartition("-")[2]]

    @task("v/batch", "batch", batch=Batch(3, LONG, key="key"))
    def batch(data: list[dict[str, Any]]) -> list[Any]:
        return collected(data)

    @task("v/soon", "soon", batch=Batch(10, SHORT, key="key"))
    def soon(data: list[dict[str, Any]]) -> list[Any]:
        return collected(data)

    @task("v/quiet", "quiet", debounce=Debounce(SHORT, "key"))
    def quiet(data: dict[str, Any]) -> list[Any]:
        steps("a")
        return [data["n"]]


app = make_app(
    os.environ.get("JOBS_BROKER", "memory://"),
    os.environ.get("JOBS_STORE", "cache+memory://"),
    **json.loads(os.environ.get("JOBS_CONF", "{}")),
)
