"""The ledger in this process's memory, which is what it is in Redis but for where it is kept."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

from redis.commands import CoreCommands

from celery_fanout.stores.memory.database import Database
from celery_fanout.stores.memory.lua import engine
from celery_fanout.stores.redis import RedisLedger
from celery_fanout.stores.redis.client import RedisConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery_fanout.stores.records import LedgerRules


class MemoryLedger(RedisLedger):
    """A :class:`~celery_fanout.stores.ledger.Ledger` that forgets everything with its process.

    Threads may share it. A forked process has a copy of what there was.

    Args:
        rules: the settings that its decisions follow.
        clock: the time.

    Raises:
        MissingExtra: if lupa is not installed.
    """

    name = "The memory ledger"
    supports_publish = False

    def __init__(self, rules: LedgerRules, clock: Callable[[], float] = time.time) -> None:
        super().__init__("memory://", rules, clock=clock, connection=MemoryConnection(clock))


class MemoryClient(CoreCommands):
    """The methods of redis-py's client, on a database in memory.

    Args:
        database: which.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    def execute_command(self, *command: Any, **options: Any) -> Any:
        """Run a command, and return its reply as redis-py does."""
        return self.converted(command, options, engine().execute(self.database, command))

    def pipeline(self, transaction: bool = True) -> Pipeline:  # noqa: FBT001, FBT002 - redis-py's
        """Return what collects commands; nothing happens between them in any case."""
        del transaction
        make: Any = Pipeline  # redis-py's types take what it is made from for abstract
        return cast("Pipeline", make(self.database))

    def converted(self, command: Sequence[Any], options: dict[str, Any], reply: Any) -> Any:
        """Return a reply as redis-py does."""
        if command[0] == "ZSCORE":
            return None if reply is None else float(reply)
        if command[0] == "HGETALL" or options.get("withscores"):
            pairs: list[tuple[str, str]] = list(zip(reply[::2], reply[1::2], strict=True))
            if command[0] == "HGETALL":
                return dict(pairs)
            return [(member, float(score)) for member, score in pairs]
        return reply


class Pipeline(MemoryClient):
    """Commands that run together."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._commands: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def execute_command(self, *command: Any, **options: Any) -> None:
        """Add a command."""
        self._commands.append((command, options))

    def execute(self, raise_on_error: bool = True) -> list[Any]:  # noqa: FBT001, FBT002 - redis-py's
        """Run the commands, and return their replies."""
        del raise_on_error  # the first error ends it, and is raised either way
        with engine().lock:
            return [
                self.converted(command, options, engine().execute(self.database, command))
                for command, options in self._commands
            ]


class MemoryConnection(RedisConnection):
    """The way to a database in memory.

    Args:
        clock: the time.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        engine()  # without lupa this fails here, and not in the first run
        self._database = Database(clock)
        make: Any = MemoryClient  # as above
        client = make(self._database)
        super().__init__(lambda: client)

    def send(self, command: Sequence[Any]) -> Any:
        """Run a command, and return the reply."""
        return engine().execute(self._database, command)

    def close(self) -> None:
        """Do nothing: what is closed keeps what it has."""
