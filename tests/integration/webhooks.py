"""Subscribers to GitHub's webhooks, for tests/integration/test_webhooks.py."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from celery import Celery

from celery_fanout import Event, current_event, current_run, on_event, step
from tests.servers import ROOT, Oracle


class NotTodayError(Exception):
    """What the failing subscriber always raises."""


def from_a_bot(event: Event) -> bool:
    return event.data["sender"]["login"].endswith("[bot]")


def about_number_2(event: Event) -> bool:
    return event.data["issue"]["number"] == 2  # a KeyError, in most


def note(subscriber: str) -> str:
    """Write down who handled what."""
    event, run = current_event(), current_run()
    assert event is not None
    assert run is not None
    Oracle.from_environment().write(subscriber=subscriber, event=event.id, attempt=run.attempt)
    return event.name


def make_app(broker: str, backend: str) -> Celery:  # noqa: C901 - a list of small tasks
    """Return the app; the worker and the test each have one."""
    app = Celery("webhooks", broker=broker, backend=backend, set_as_current=False)
    # what the test asks for is in the oracle; results would only slow it down
    app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=1)

    def task(name: str, **options: Any) -> Any:
        return app.task(name=name, shared=False, **options)

    @on_event("github/push")
    @task("exact")
    def exact(data: dict[str, Any]) -> None:
        assert "commits" in data
        note("exact")

    @on_event("github/*")
    @task("pattern")
    def pattern(data: dict[str, Any]) -> None:
        note("pattern")

    @on_event("github/issues.*")
    @on_event("github/pull_request.*")
    @task("twice")
    def twice(data: dict[str, Any]) -> None:
        note("twice")

    @on_event("*", filter=from_a_bot)
    @task("filtered")
    def filtered(data: dict[str, Any]) -> None:
        note("filtered")

    @on_event("github/*", filter=about_number_2)
    @task("raising filter")
    def raising_filter(data: dict[str, Any]) -> None:
        note("raising filter")

    @on_event("github/*")
    @task("durable", autoretry_for=(NotTodayError,), default_retry_delay=0)
    def durable(data: dict[str, Any]) -> None:
        step.run("note", note, "durable")
        if durable.request.retries == 0:
            raise NotTodayError

    @on_event("github/*")
    @task("failing", autoretry_for=(NotTodayError,), max_retries=1, default_retry_delay=0)
    def failing(data: dict[str, Any]) -> None:
        note("failing")
        raise NotTodayError

    @on_event("github/pull_request.*")
    @task("slow")
    def slow(data: dict[str, Any]) -> None:
        threading.Event().wait(0.2)
        note("slow")

    @on_event("gitlab/*")
    @task("elsewhere")
    def elsewhere(data: dict[str, Any]) -> None:
        note("elsewhere")

    return app


# --- what is emitted -----------------------------------------------------------------------------

#: A file with real payloads: a list of {"event": "github/<type>.<action>", "data": {...}}.
VARIABLE = "FANOUT_TEST_WEBHOOKS"

ACTIONS = {
    "create": [None],
    "issues": ["opened", "edited", "closed", "labeled"],
    "issue_comment": ["created", "deleted"],
    "ping": [None],
    "pull_request": ["opened", "closed", "synchronize", "review_requested"],
    "push": [None, None, None],
    "release": ["published"],
    "repository_dispatch": ["on-demand-test"],
    "workflow_run": ["requested", "completed"],
}


def payloads() -> list[dict[str, Any]]:
    """Return webhooks: real ones if there are any, or else such as look like them."""
    given = os.environ.get(VARIABLE)
    files = [Path(given)] if given else sorted(ROOT.parent.glob("*/data/github_webhooks.json"))
    if files:
        return list(json.loads(files[0].read_text()))
    return [payload(number) for number in range(181)]


def payload(number: int) -> dict[str, Any]:
    """Return a webhook that looks like one."""
    kinds = [(kind, action) for kind, actions in ACTIONS.items() for action in actions]
    kind, action = kinds[number % len(kinds)]
    data: dict[str, Any] = {
        "sender": {"login": "dependabot[bot]" if number % 7 == 0 else "Codertocat", "id": number},
        "repository": {"full_name": "Codertocat/Hello-World", "topics": [], "license": None},
        "text": "\U0001f600 é \\u0000 " * (number % 100),
    }
    if action:
        data["action"] = action
    if kind == "push":
        data["commits"] = [{"message": "Initial commit", "distinct": True, "size": 1.5}]
    if kind.startswith("issue"):
        data["issue"] = {"number": number % 3, "labels": [{"name": "bug"}]}
    return {"event": f"github/{kind}.{action}" if action else f"github/{kind}", "data": data}


if "WEBHOOKS_BROKER" in os.environ:
    app = make_app(os.environ["WEBHOOKS_BROKER"], os.environ["WEBHOOKS_BACKEND"])
