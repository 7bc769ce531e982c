"""DBOS, a library that keeps its runs in a database."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from tests.benchmarks.engines.engine import Engine, Program, document, need
from tests.benchmarks.engines.records import SUBSCRIBERS
from tests.servers import PostgresServer


class _Dbos(Engine):
    limits: ClassVar[dict[str, Any]] = {}  # of its queue

    def __init__(self, records: Path) -> None:
        super().__init__(records)
        self._client: Any = None
        self._database: Any = None
        self.workers = [
            Program(
                ["-m", "tests.benchmarks.engines.dbos_app"],
                "The worker is ready",
                {
                    "BENCHMARK_DBOS_URL": self.url(),
                    "BENCHMARK_DBOS_LIMITS": json.dumps(self.limits),
                    **self.environment,
                },
            )
        ]

    def url(self) -> str:
        """Return the database of the runs."""
        raise NotImplementedError

    def connect(self) -> Callable[[], object]:
        import sqlalchemy
        from dbos import DBOSClient

        from tests.benchmarks.engines.dbos_app import config

        url = self.url()
        options: dict[str, Any] = dict(config(url).get("db_engine_kwargs") or {})
        self._database = sqlalchemy.create_engine(
            url.replace("postgresql:", "postgresql+psycopg:"), **options
        )
        self._client = DBOSClient(system_database_engine=self._database)

        def close() -> None:
            self._client.destroy()
            self._database.dispose()

        return close

    def emit(self, steps: int, number: int) -> None:
        kind = "steps" if steps else "plain"
        self.enqueue(kind, document(number), SUBSCRIBERS)

    def enqueue(self, kind: str, data: dict[str, Any], subscribers: int) -> None:
        """Enqueue a run for each subscriber."""
        with self._database.begin() as transaction:
            for subscriber in range(subscribers):
                options = {
                    "workflow_name": f"{kind}_{subscriber}",
                    "queue_name": "engines",
                    "app_version": "1",
                }
                self._client.enqueue_in_transaction(transaction, options, data)


class DbosPostgres(_Dbos):
    """DBOS on a PostgreSQL that does not wait for the disk."""

    name = "DBOS, PostgreSQL"

    def __init__(self, records: Path) -> None:
        self._postgres = PostgresServer()
        super().__init__(records)
        self.servers = [self._postgres]

    @classmethod
    def versions(cls) -> str:
        return need("dbos")

    def url(self) -> str:
        return self._postgres.url()


class DbosSqlite(_Dbos):
    """DBOS on a file, its default."""

    name = "DBOS, SQLite"

    def __init__(self, records: Path) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="fanout-dbos-")
        super().__init__(records)
        self._stack.enter_context(self._directory)

    @classmethod
    def versions(cls) -> str:
        found = need("dbos")
        if sqlite3.sqlite_version_info < (3, 42):  # its tables have defaults that are NULL there
            found += f", {need('pysqlite3-binary')}"
        return found

    def url(self) -> str:
        return f"sqlite:///{self._directory.name}/engines.sqlite"
