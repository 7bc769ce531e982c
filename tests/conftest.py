"""Fixtures for all tests: real servers, started when first asked for and shared from then on.

A test that stops, kills or reconfigures a server starts one of its own, from :mod:`tests.servers`.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from celery.signals import setup_logging

from tests import forking
from tests.processes import dismiss_guardian
from tests.servers import (
    MemcachedServer,
    Oracle,
    PostgresServer,
    RabbitServer,
    RedisServer,
    Worker,
)
from tests.sharing import release, shared

HERE = Path(__file__).parent

#: The files that take longest, longest first: otherwise, at the end of a run, one process would
#: be at work on one of them while the others have nothing to do. All other files follow.
LONGEST = (
    *("test_pages", "test_relay", "test_ledger_flow_machine", "test_ledger_machine"),
    *("test_workers", "test_clicking", "test_emitting", "test_steps", "test_emitting_failures"),
    *("test_runs", "test_flow_options", "test_webhooks", "test_limited", "test_commands"),
    *("test_publishing_failures", "test_checkpoint_store", "test_servers", "test_durable_steps"),
    *("test_clusters", "test_cli_runs", "test_cli_limits", "test_cli_ledger", "test_admin"),
    *("test_benchmarks", "test_publishing_results", "test_publishing_tracing", "test_cli"),
)

#: How many files and sockets the process of the tests may have open.
FILES = 10_000


def pytest_configure() -> None:
    """Allow for the sockets of all apps: one with subscriptions is known until the process ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, hard), hard))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that are marked by where they are, and begin with the longest files."""
    for item in items:
        if HERE / "faults" in item.path.parents:
            item.add_marker("faults")
    turn = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: turn.get(item.path.stem, len(turn)))


@setup_logging.connect
def leave_logging_alone(**_: Any) -> None:
    """Keep a worker inside the test process from setting the root logger to ERROR for good."""


def pytest_sessionfinish() -> None:
    """Wait, with no time limit of a test, until others need the servers of this process no more."""
    release()


def pytest_unconfigure() -> None:
    """Leave nothing behind."""
    forking.close()
    dismiss_guardian()


# --- servers, one of each for the whole run ------------------------------------------------------


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis server without persistence."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def rabbit_server() -> RabbitServer:
    """A RabbitMQ node, which other processes of the test run use too."""
    return shared(RabbitServer)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def shared_postgres_server() -> PostgresServer:
    """One that other processes of the test run use too."""
    return shared(PostgresServer)


@pytest.fixture(scope="session")
def memcached_server() -> Iterator[MemcachedServer]:
    """A memcached server."""
    with MemcachedServer() as server:
        yield server


# --- a clean place on a server, for each test ----------------------------------------------------


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of database 0; all databases are empty."""
    redis_server.flush()
    return redis_server.url()


@pytest.fixture
def rabbit_url(rabbit_server: RabbitServer) -> str:
    """The URL of a new virtual host."""
    return rabbit_server.url(rabbit_server.add_vhost())


@pytest.fixture
def postgres_url(shared_postgres_server: PostgresServer) -> str:
    """The URL of a new database, with the scheme ``postgresql``."""
    return shared_postgres_server.url(shared_postgres_server.add_database())


@pytest.fixture
def memcached_url(memcached_server: MemcachedServer) -> str:
    """The URL of the server as a Celery result backend; it is empty."""
    memcached_server.flush()
    return memcached_server.url()


# --- workers -------------------------------------------------------------------------------------


@pytest.fixture
def start_worker() -> Iterator[Callable[..., Worker]]:
    """A function like :class:`~tests.servers.Worker`, whose workers are killed after the test."""
    with ExitStack() as stack:

        def end(worker: Worker) -> None:
            worker.kill()
            print(f"--- {worker.hostname} ---\n{worker.log[-20_000:]}")  # noqa: T201 - pytest shows it if the test failed
            worker.close()

        def start(app: str, **options: Any) -> Worker:
            worker = Worker(app, **options)
            stack.callback(end, worker)
            return worker.start()

        yield start


@pytest.fixture
def oracle(tmp_path: Path) -> Oracle:
    """A file where tasks write down what they did."""
    return Oracle(tmp_path / "oracle.jsonl")


@pytest.fixture(scope="session")
def bounded() -> bool:
    """Whether to look for trouble for a short time only: ``make test-faults FAULTS=bounded``."""
    return os.environ.get("FAULTS") == "bounded"
