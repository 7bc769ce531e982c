"""Relays as processes that a test can kill, and events that wait for them."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis

from tests.contrib.django.conftest import Project
from tests.processes import Process, wait_until
from tests.servers import ROOT

__all__ = ["Relay", "attempts", "deliveries", "messages", "once", "write"]

_WRITE = """
from celery_fanout import Event

events = [Event("order/" + name, {data!r}, id=f"{{name}}-{{n}}")
          for n in range({count}) for name in {names!r}]
with transaction.atomic():
    emit_many(events, delivery="outbox")
"""


def write(project: Project, count: int, *names: str, data: Any = None) -> None:
    """Commit events with the names ``order/NAME`` and the ids ``NAME-0`` and so on."""
    project.run(_WRITE.format(count=count, names=names or ("changed",), data=data))


def once(project: Project, *arguments: str, **env: str) -> tuple[int, str]:
    """Run a relay that ends by itself; return its exit code, and what it printed and logged."""
    single = ["--single"] if project.database.vendor == "sqlite" else []
    done = project.command("-m", "django", "fanout_relay", "--once", *single, *arguments, **env)
    return done.returncode, done.stdout + done.stderr


def attempts(project: Project) -> Counter[int]:
    """Return how many rows had how many attempts."""
    found = project.database.fetch("SELECT attempts FROM celery_fanout_outbox")
    return Counter(row[0] for row in found)


def messages(project: Project, queue: str = "celery") -> list[str]:
    """Return the ids of the runs whose messages lie in a queue, one for each message."""
    with redis.Redis.from_url(project.environment["TEST_BROKER"]) as client:
        found: Any = client.lrange(queue, 0, -1)
    return [json.loads(message)["headers"]["id"] for message in found]


def deliveries(project: Project) -> Counter[tuple[str, str]]:
    """Return how often which event reached which subscriber."""
    return Counter((entry["task"], entry["id"]) for entry in project.ran())


class Relay(Process):
    """``manage.py fanout_relay``.

    Args:
        project: the project.
        arguments: further arguments.
        env: further environment variables.
    """

    name = "relay"

    def __init__(self, project: Project, *arguments: str, **env: str) -> None:
        super().__init__()
        single = ["--single"] if project.database.vendor == "sqlite" else []
        self._arguments: Sequence[str] = [*single, *arguments]
        self._env = {**project.environment, **env}

    def command(self) -> list[str]:
        return [sys.executable, "-m", "django", "fanout_relay", *self._arguments]

    def environment(self) -> dict[str, str]:
        return {**os.environ, **self._env, "PYTHONUNBUFFERED": "1"}

    def working_directory(self) -> Path:
        return ROOT

    def is_ready(self) -> bool:
        return "relay ready" in self.log_since_start

    def terminate(self) -> None:
        """Ask it to end, and do not wait for it."""
        os.kill(self.pid, signal.SIGTERM)

    def wait_for_end(self) -> None:
        """Wait until it has ended, however."""
        wait_until(lambda: not self.alive, message=lambda: self.log_since_start[-5000:])

    def wait_for_log(self, text: str, timeout: float = 30) -> None:
        """Wait until it has printed or logged the text."""
        wait_until(
            lambda: text in self.log_since_start,
            timeout,
            lambda: f"{text!r} is not in the log\n{self.log_since_start[-5000:]}",
        )
