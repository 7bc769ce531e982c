"""Subscribers as DBOS workflows. Executed as a program it is their worker."""

from __future__ import annotations

import json
import os
import threading
from typing import Any

from dbos import DBOS, DBOSConfig

from tests.benchmarks.engines.records import STEPS, SUBSCRIBERS, no_steps, one_step

#: Environment variables by which the worker learns its database, and the limits of its queue.
URL, LIMITS = "BENCHMARK_DBOS_URL", "BENCHMARK_DBOS_LIMITS"
NAME, QUEUE, VERSION = "engines", "engines", "1"


def sqlite() -> Any:
    """Return the module that SQLite is used through: DBOS needs 3.42."""
    import sqlite3

    if sqlite3.sqlite_version_info >= (3, 42):
        return sqlite3
    import pysqlite3.dbapi2

    return pysqlite3.dbapi2


def config(url: str) -> DBOSConfig:
    """Return the configuration.

    ``max_executor_threads`` is unlimited by default, and each step of an asynchronous workflow goes
    through threads: thousands of them were seen, and a tenth of the speed.
    """
    found = DBOSConfig(
        name=NAME,
        system_database_url=url,
        application_version=VERSION,
        max_executor_threads=32,
        log_level="WARNING",
    )
    if url.startswith("sqlite"):
        found["db_engine_kwargs"] = {"module": sqlite()}
    return found


@DBOS.step()
async def _step(document: dict[str, Any], subscriber: int, number: int) -> dict[str, int]:
    return one_step(document, subscriber, number)


def _subscribe(subscriber: int) -> None:
    @DBOS.workflow(name=f"plain_{subscriber}")
    async def plain(document: dict[str, Any]) -> None:
        no_steps(document, subscriber)

    @DBOS.workflow(name=f"steps_{subscriber}")
    async def steps(document: dict[str, Any]) -> None:
        for number in range(STEPS):
            await _step(document, subscriber, number)


def main() -> None:
    """Work until the process is ended."""
    for subscriber in range(SUBSCRIBERS):
        _subscribe(subscriber)
    DBOS(config=config(os.environ[URL]))
    DBOS.launch()
    # polled once a second by default
    limits: dict[str, Any] = json.loads(os.environ.get(LIMITS, "{}"))
    DBOS.register_queue(QUEUE, **{"worker_concurrency": 50, "polling_interval_sec": 0.05, **limits})
    print("The worker is ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
