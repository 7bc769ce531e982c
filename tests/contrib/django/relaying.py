"""Relays as processes that a test can kill, and events that wait for them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.contrib.django.conftest import Project
from tests.processes import Process, wait_until
from tests.servers import ROOT

__all__ = ["Relay", "Relays"]

#: Writes events named ``order/placed`` with the ids e-0, e-1 and so on into the outbox.
WRITE = """
with transaction.atomic():
    emit_many([Event("order/placed", {"n": n}, id=f"e-{n}") for n in range(%d)], delivery="outbox")
"""


class Relay(Process):
    """``manage.py fanout_relay``."""

    name = "relay"

    def __init__(self, project: Project, *arguments: str, **env: str) -> None:
        super().__init__()
        self._arguments = arguments
        self._env = {**project.environment, **env}

    def command(self) -> list[str]:
        return [sys.executable, "-m", "django", "fanout_relay", *self._arguments]

    def environment(self) -> dict[str, str]:
        return {**os.environ, **self._env, "PYTHONUNBUFFERED": "1"}

    def working_directory(self) -> Path:
        return ROOT

    def is_ready(self) -> bool:
        return "relay ready" in self.log_since_start

    def wait_for_log(self, text: str, timeout: float = 30) -> None:
        """Wait until it has printed or logged the text."""
        wait_until(
            lambda: text in self.log_since_start,
            timeout,
            lambda: f"{text!r} is not in the log\n{self.log_since_start[-5000:]}",
        )
