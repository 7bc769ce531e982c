"""What a relay makes of the rows of its outbox, beside django-celery-outbox.

Every row is one message to one Celery task: an event with one subscriber here, a task there. The
relays stand still while the rows are written, and are measured until the table is empty. CPU time
is that of the relays alone, not of PostgreSQL and Redis.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import psycopg

from tests.benchmarks.documents import DATA
from tests.benchmarks.measure import cpu_of, ratio, table, take_turns
from tests.processes import Process, wait_until
from tests.servers import ROOT, PostgresServer, RedisServer

BATCH = 100
THEM = "django-celery-outbox"

OURS = """
from celery_fanout import Event, emit_many
events = [Event("order/changed", {data!r}) for _ in range({size})]
with transaction.atomic():
    emit_many(events, delivery="outbox")
"""

THEIRS = """
from celery import uuid
from django_celery_outbox.models import CeleryOutbox
task = "tests.contrib.django.shop.tasks.record"
with transaction.atomic():
    CeleryOutbox.objects.bulk_create(
        [CeleryOutbox(task_id=uuid(), task_name=task, args=[{data!r}]) for _ in range({size})]
    )
"""


class RelayProcess(Process):
    """A relay of either kind."""

    name = "relay"

    def __init__(self, command: str, arguments: list[str], ready: str, env: dict[str, str]) -> None:
        super().__init__()
        self._command = [command, *arguments]
        self._ready = ready
        self._env = env

    def command(self) -> list[str]:
        return [sys.executable, "-m", "django", *self._command]

    def environment(self) -> dict[str, str]:
        return {**os.environ, **self._env, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}

    def is_ready(self) -> bool:
        return self._ready in self.log_since_start


class Contestant:
    """One kind of outbox, with its relays.

    Args:
        relays: its relays, running.
        left: the statement that finds a row that is left.
        write: writes rows.
        servers: a connection to its database, and the broker.
    """

    def __init__(
        self,
        relays: list[Process],
        left: str,
        write: Callable[[], object],
        servers: tuple[Any, RedisServer],
    ) -> None:
        self._relays = relays
        self._left = left
        self._write = write
        self._connection, self._redis = servers

    def turn(self) -> dict[str, float]:
        """Fill the table, have the relays empty it, and return what that took."""
        for relay in self._relays:
            relay.pause()
        self._redis.flush()
        self._write()
        pids = [relay.pid for relay in self._relays]
        cpu, began = cpu_of(pids), time.perf_counter()
        for relay in self._relays:
            relay.resume()
        wait_until(self._empty, timeout=600)
        wall = time.perf_counter() - began
        return {"wall": wall, "cpu": cpu_of(pids) - cpu}

    def _empty(self) -> bool:
        found: Any = self._connection.execute(self._left.encode()).fetchone()
        return found is None


def main(rounds: int = 3, size: int = 4000) -> None:
    """Print the table."""
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(PostgresServer())
        server = stack.enter_context(RedisServer())
        contestants: dict[str, Callable[[], dict[str, float]]] = {}
        for name, level in (
            ("celery-fanout, level 1", 1),
            ("celery-fanout, level 2", 2),
            (THEM, 0),
        ):
            for relays in (1, 4):
                found = _contestant(stack, postgres, server, level, relays, size)
                contestants[f"{name}, {relays} relay{'s' * (relays > 1)}"] = found.turn
        figures = take_turns(contestants, rounds=rounds)
    base = figures[f"{THEM}, 1 relay"]
    table(
        f"Relays: {size:,} rows, one message each, batches of {BATCH}",
        ["", "rows/s", "of theirs", "CPU per row", "of theirs"],
        [
            [
                name,
                f"{size / statistics.median(found['wall']):,.0f}",
                f"{1 / ratio(found['wall'], base['wall']):.1f}",
                f"{statistics.median(found['cpu']) / size * 1e6:,.0f} us",
                f"{ratio(found['cpu'], base['cpu']):.2f}",
            ]
            for name, found in figures.items()
        ],
    )


def _contestant(
    stack: contextlib.ExitStack,
    postgres: PostgresServer,
    server: RedisServer,
    level: int,
    relays: int,
    size: int,
) -> Contestant:
    database = postgres.add_database()
    env = _environment(postgres, server, database, level)
    _django(env, "-m", "django", "migrate", "--verbosity=0")
    if level:
        command, ready = "fanout_relay", "relay ready"
        left = "SELECT 1 FROM celery_fanout_outbox LIMIT 1"
        arguments, script = ["--batch", str(BATCH)], OURS
    else:
        command, ready = "celery_outbox_relay", "relay_started"
        left = "SELECT 1 FROM celery_outbox LIMIT 1"
        arguments, script = ["--batch-size", str(BATCH)], THEIRS
    running: list[Process] = [
        stack.enter_context(RelayProcess(command, arguments, ready, env)) for _ in range(relays)
    ]
    script = "import django; django.setup()\nfrom django.db import transaction\n" + script.format(
        data=DATA, size=size
    )
    connection = stack.enter_context(psycopg.connect(postgres.url(database), autocommit=True))
    return Contestant(
        running,
        left,
        lambda: _django(env, "-c", script),
        (connection, server),
    )


def _environment(
    postgres: PostgresServer, server: RedisServer, database: str, level: int
) -> dict[str, str]:
    settings: dict[str, Any] = {
        "CELERY_OUTBOX_APP": "tests.contrib.django.celery_app.app",
        "INSTALLED_APPS": [
            "django.contrib.contenttypes",
            "django.contrib.auth",
            "tests.contrib.django.shop",
            "celery_fanout.contrib.django" if level else "django_celery_outbox",
        ],
        "MIDDLEWARE": [],
        "ROOT_URLCONF": "tests.benchmarks.relays",
    }
    if level == 1:
        settings["CELERY_FANOUT_STORE_URL"] = "backend"
    default = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": database,
        "USER": "postgres",
        "HOST": "127.0.0.1",
        "PORT": str(postgres.port),
    }
    return {
        "DJANGO_SETTINGS_MODULE": "tests.contrib.django.settings",
        "TEST_DATABASES": json.dumps({"default": default}),
        "TEST_BROKER": server.url(0),
        "TEST_BACKEND": server.url(0),
        "TEST_SETTINGS": json.dumps(settings),
    }


def _django(env: dict[str, str], *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


#: What Django asks a project for.
urlpatterns: list[Any] = []
