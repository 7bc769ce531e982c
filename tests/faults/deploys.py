"""An app in several versions, for tests of deploys: ``DEPLOYED=B celery -A tests.faults.deploys``.

A run of version A stores steps a and b and waits for an event. Then the other version goes on.
"""

from __future__ import annotations

import json
import os
from typing import Any

from celery import Celery
from pydantic import BaseModel

from celery_fanout import on_event, step
from tests.faults.jobs import LEASE, noted, write


class Page(BaseModel):
    """What step a returns as of version ``typed``."""

    number: int


def page() -> Page:
    write("a")
    return Page(number=1)


def run_step(name: str) -> Any:
    """Be a step, which notes that it begins."""
    return step.run(name, noted, name, name)


def wait(name: str = "wait") -> Any:
    return step.wait_for_event(name, "deploy/done", timeout=60)


def version_a() -> list[Any]:
    found = [run_step("a"), run_step("b")]
    wait()
    return [*found, run_step("c")]


def renamed() -> list[Any]:
    found = [run_step("a"), run_step("b2")]
    wait()
    return [*found, run_step("c")]


def inserted() -> list[Any]:
    found = [run_step("a"), run_step("x"), run_step("b")]
    wait()
    return [*found, run_step("c")]


def removed() -> list[Any]:
    found = [run_step("a")]
    wait()
    return [*found, run_step("c")]


def reordered() -> list[Any]:
    found = [run_step("b"), run_step("a")]
    wait()
    return [*found, run_step("c")]


def another_wait() -> list[Any]:
    found = [run_step("a"), run_step("b")]
    wait("another")
    return [*found, run_step("c")]


def no_wait() -> list[Any]:
    return [run_step("a"), run_step("b"), run_step("c")]


def another_kind() -> list[Any]:
    """What was a wait is a step now, and the other way round."""
    found = [run_step("a"), wait("b"), run_step("wait")]
    return [str(value) for value in [*found, run_step("c")]]


def typed() -> list[Any]:
    found = [step.run("a", page), run_step("b")]
    wait()
    assert isinstance(found[0], str)  # stored before it had a type: it is what it was
    return [*found, run_step("c")]


VERSIONS = {
    "A": version_a,
    "renamed": renamed,
    "inserted": inserted,
    "removed": removed,
    "reordered": reordered,
    "another wait": another_wait,
    "no wait": no_wait,
    "another kind": another_kind,
    "typed": typed,
}


def make_app() -> Celery:
    app = Celery(
        "deploys",
        broker=os.environ.get("JOBS_BROKER", "memory://"),
        backend=os.environ.get("JOBS_STORE", "cache+memory://"),
        set_as_current=False,
    )
    app.conf.update(
        fanout_lease=LEASE,
        broker_connection_retry_on_startup=True,
        broker_transport_options={"polling_interval": 0.1},
        **json.loads(os.environ.get("JOBS_CONF", "{}")),
    )
    body = VERSIONS[os.environ.get("DEPLOYED", "A")]

    @on_event("deploy/began")
    @app.task(name="deploys.document", shared=False)
    def document(data: dict[str, Any]) -> list[Any]:
        write("body")
        return body()

    return app


app = make_app()
