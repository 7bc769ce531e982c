"""Databases and processes for the tests of the Django project.

Everything runs in processes of its own, as a Django project does: this process has no settings.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest

from tests import forking
from tests.processes import Process
from tests.servers import ROOT, MariaDBServer, PostgresServer, RedisServer, Worker
from tests.sharing import shared

VENDORS = ("postgresql", "mariadb", "sqlite")

#: What every script begins with.
PREAMBLE = "import django; django.setup(); from tests.contrib.django.scripting import *\n"


@pytest.fixture(scope="session")
def mariadb_server() -> MariaDBServer:
    """A MariaDB server, which other processes of the test run use too."""
    return shared(MariaDBServer)


@dataclass
class Database:
    """One migrated database, empty at the beginning of each test.

    Attributes:
        vendor: ``"postgresql"``, ``"mariadb"`` or ``"sqlite"``.
        settings: Django's settings of it.
    """

    vendor: str
    settings: dict[str, Any]

    def fetch(self, query: str) -> list[tuple[Any, ...]]:
        """Return what a query finds, past Django. Committed data only, of course."""
        with _connect(self) as connection:
            cursor = connection.cursor()
            cursor.execute(query)
            return list(cursor.fetchall()) if cursor.description else []

    def names(self) -> list[str]:
        """Return the names of the events in the outbox."""
        return [row[0] for row in self.fetch("SELECT name FROM celery_fanout_outbox ORDER BY id")]


def _connect(database: Database) -> Any:
    settings = database.settings
    if database.vendor == "sqlite":
        import contextlib
        import sqlite3

        return contextlib.closing(sqlite3.connect(settings["NAME"], isolation_level=None))
    if database.vendor == "postgresql":
        url = f"postgresql://postgres@127.0.0.1:{settings['PORT']}/{settings['NAME']}"
        return psycopg.connect(url, autocommit=True)
    port, name = int(settings["PORT"]), settings["NAME"]
    return pymysql.connect(host="127.0.0.1", port=port, user="root", database=name, autocommit=True)


@dataclass
class Project:
    """The Django project of the tests, with its servers.

    Attributes:
        database: the default database.
        environment: what a process of the project needs.
        oracle: the file that subscribers write to.
    """

    database: Database
    oracle: Path
    environment: dict[str, str] = field(default_factory=dict)

    def settings(self, **values: Any) -> None:
        """Add Django settings, for all processes that are started from now on."""
        known = json.loads(self.environment.get("TEST_SETTINGS", "{}"))
        self.environment["TEST_SETTINGS"] = json.dumps({**known, **values})

    def command(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a Python command line in the project, to its end; whatever its exit code."""
        environment = {**os.environ, **self.environment, **env}
        return forking.run([sys.executable, *arguments], cwd=ROOT, env=environment)

    def manage(self, *arguments: str, **env: str) -> str:
        """Run a management command; return what it prints."""
        done = self.command("-m", "django", *arguments, **env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run(self, script: str, **env: str) -> str:
        """Run a script in the project, with Django set up; return what it prints."""
        done = self.attempt(script, **env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def told(self, script: str, **env: str) -> list[Any]:
        """Run a script; return what it has told last."""
        lines = self.run(script, **env).splitlines()
        found: list[Any] = json.loads(lines[-1])
        return found

    def attempt(self, script: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Like :meth:`run`, whatever comes of it."""
        return self.command("-c", PREAMBLE + textwrap.dedent(script), **env)

    def start(self, script: str, ready: str, **env: str) -> Script:
        """Return a script as a process that is ready when it has printed a text; to be started."""
        return Script(PREAMBLE + textwrap.dedent(script), ready, {**self.environment, **env})

    def worker(self, **options: Any) -> Worker:
        """Return a worker of the project, to be started."""
        env = {**self.environment, **options.pop("env", {})}
        options.setdefault("pool", "solo")
        return Worker("tests.contrib.django", env=env, **options)

    def ran(self) -> list[dict[str, Any]]:
        """Return what subscribers wrote down."""
        if not self.oracle.exists():
            return []
        return [json.loads(line) for line in self.oracle.read_text().splitlines()]


class Script(Process):
    """A script of the project, in a process that a test can kill."""

    name = "script"

    def __init__(self, script: str, ready: str, env: dict[str, str]) -> None:
        super().__init__()
        self._script = script
        self._ready = ready
        self._env = env

    def command(self) -> list[str]:
        return [sys.executable, "-c", self._script]

    def environment(self) -> dict[str, str]:
        return {**os.environ, **self._env, "PYTHONUNBUFFERED": "1"}

    def working_directory(self) -> Path:
        return ROOT

    def is_ready(self) -> bool:
        return self._ready in self.log_since_start


@pytest.fixture(scope="session")
def migrated() -> dict[str, Database]:
    """The databases that were made so far, by vendor; see :func:`make_database`."""
    return {}


def make_database(vendor: str, request: pytest.FixtureRequest, directory: Path) -> Database:
    """Make a database of a server that all tests share, and migrate it."""
    settings: dict[str, Any]
    if vendor == "sqlite":
        settings = {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(directory / "database.sqlite3"),
            "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"},
        }
    elif vendor == "postgresql":
        postgres: PostgresServer = request.getfixturevalue("shared_postgres_server")
        settings = {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": postgres.add_database(),
            "USER": "postgres",
            "HOST": "127.0.0.1",
            "PORT": str(postgres.port),
        }
    else:
        mariadb: MariaDBServer = request.getfixturevalue("mariadb_server")
        settings = {
            "ENGINE": "django.db.backends.mysql",
            "NAME": mariadb.add_database(),
            "USER": "root",
            "HOST": "127.0.0.1",
            "PORT": str(mariadb.port),
        }
    database = Database(vendor, settings)
    environment = {
        "DJANGO_SETTINGS_MODULE": "tests.contrib.django.settings",
        "TEST_DATABASES": json.dumps({"default": settings}),
    }
    Project(database, directory / "oracle.jsonl", environment).manage("migrate", "--verbosity=0")
    return database


@pytest.fixture(params=VENDORS)
def database(
    request: pytest.FixtureRequest,
    migrated: dict[str, Database],
    tmp_path_factory: pytest.TempPathFactory,
) -> Database:
    """An empty migrated database, of each vendor in turn."""
    vendor: str = request.param
    if vendor not in migrated:
        migrated[vendor] = make_database(vendor, request, tmp_path_factory.mktemp(vendor))
    found = migrated[vendor]
    found.fetch("DELETE FROM celery_fanout_outbox")
    found.fetch("DELETE FROM shop_order")
    return found


@pytest.fixture
def project(database: Database, redis_server: RedisServer, tmp_path: Path) -> Project:
    """The project on one of the databases, with Redis as its broker and ledger."""
    redis_server.flush()
    oracle = tmp_path / "oracle.jsonl"
    return Project(
        database,
        oracle,
        {
            "DJANGO_SETTINGS_MODULE": "tests.contrib.django.settings",
            "TEST_DATABASES": json.dumps({"default": database.settings}),
            "TEST_BROKER": redis_server.url(0),
            "TEST_BACKEND": redis_server.url(1),
            "TEST_ORACLE": str(oracle),
        },
    )
