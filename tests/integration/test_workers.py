"""Runs in real workers, which are killed, stopped, upgraded and cut off from their store."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_fanout import Event
from celery_fanout.ids import child_id, run_id
from tests.processes import wait_until
from tests.servers import Oracle, RedisServer, Worker

ORDERS = "tests.integration.orders"


@dataclass
class Orders:
    """The app in ``orders.py``, its servers, and what its workers wrote down."""

    broker: str
    backend: str
    oracle: Oracle
    gates: Path
    start: Callable[..., Worker]
    conf: dict[str, Any] = field(default_factory=dict)

    def worker(self, pool: str = "prefork", concurrency: int = 1, **env: str) -> Worker:
        """Start a worker."""
        environment = {
            **self.oracle.environment,
            "ORDERS_BROKER": self.broker,
            "ORDERS_BACKEND": self.backend,
            "ORDERS_CONF": json.dumps(self.conf),
            "ORDERS_GATES": str(self.gates),
            **env,
        }
        return self.start(ORDERS, pool=pool, concurrency=concurrency, env=environment)

    def app(self) -> Celery:
        """Return an app that sees the workers' results."""
        return Celery(broker=self.broker, backend=self.backend, set_as_current=False)

    def emit(self, name: str, data: Any = None) -> Event:
        """Emit an event from a process of its own, as the app of the workers would."""
        raise NotImplementedError

    def open(self, gate: str) -> None:
        """Let go on who waits for it."""
        (self.gates / gate).touch()

    def records(self, what: str | None = None, **more: Any) -> list[dict[str, Any]]:
        """Return what was written down."""
        return [
            record
            for record in self.oracle.read()
            if what in (None, record["what"])
            and all(record.get(key) == value for key, value in more.items())
        ]

    def counts(self) -> dict[str, int]:
        """Return how often everything happened."""
        return dict(Counter(record["what"] for record in self.records()))
