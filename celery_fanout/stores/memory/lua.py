"""The Lua that runs the ledger's scripts: the version that Redis has, once per process.

Made and filled with all scripts it costs 50 milliseconds, so all ledgers in memory share it.
"""

from __future__ import annotations

import json
import os
import threading
from hashlib import sha1
from importlib import import_module, resources
from itertools import count, takewhile
from typing import TYPE_CHECKING, Any, cast

from redis.exceptions import NoScriptError, ResponseError

from celery_fanout.exceptions import MissingExtra
from celery_fanout.stores.memory.database import COMMANDS, to_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_fanout.stores.memory.database import Database

#: How many scripts are kept. Their rules are part of them, so each app may have its own.
MAX_SCRIPTS = 500

_engines: dict[int, Engine] = {}


def engine() -> Engine:
    """Return the engine of this process; a forked one makes its own.

    Raises:
        MissingExtra: if lupa is not installed.
    """
    # no lock: another thread could hold it while this process forks
    pid = os.getpid()
    found = _engines.get(pid)
    return found if found is not None else _engines.setdefault(pid, Engine())


class Engine:
    """A Lua 5.1 with what Redis gives to scripts, as far as ours use it.

    Attributes:
        lock: held by everything that reads or changes a ledger in memory, in this process.
    """

    def __init__(self) -> None:
        try:
            lua51: Any = import_module("lupa.lua51")
        except ImportError as exc:
            raise MissingExtra("The ledger in memory", "lupa", "memory") from exc
        self.lock = threading.RLock()
        lua: Any = lua51.LuaRuntime(encoding=None, register_eval=False, register_builtins=False)
        self._lua = lua
        self._error: Any = lua51.LuaError
        self._globals: Any = lua.globals()
        self._table: Any = lua.table_from
        self._null: Any = lua.eval(b"newproxy()")
        self._globals[b"redis"] = self._table({b"call": self._call, b"sha1hex": _sha1hex})
        cjson = resources.files("celery_fanout.stores.memory") / "cjson.lua"
        self._globals[b"cjson"] = lua.compile(cjson.read_bytes())(self._decode, self._null)
        self._scripts: dict[str, Any] = {}
        self._database: Database | None = None

    def execute(self, database: Database, command: Sequence[Any]) -> Any:
        """Run a command, ``EVAL`` and ``EVALSHA`` included; texts of the reply are decoded.

        Raises:
            ResponseError: if Redis would refuse it; of a script, what Lua says.
        """
        name, *args = command
        with self.lock:
            database.tick()
            if name == "EVALSHA":
                return self._run(database, args[0], args[2:])
            if name == "EVAL":
                return self._run(database, self._load(args[0]), args[2:])
            return _decoded(COMMANDS[to_bytes(name)](database, *map(to_bytes, args)))

    # -- scripts --------------------------------------------------------------------------------

    def _load(self, text: str) -> str:
        sha = sha1(text.encode(), usedforsecurity=False).hexdigest()
        if len(self._scripts) >= MAX_SCRIPTS:
            self._scripts.clear()
        self._scripts[sha] = self._lua.compile(text.encode())
        return sha

    def _run(self, database: Database, sha: str, args: Sequence[Any]) -> Any:
        """Run a script on a database. The first argument is its only key."""
        script = self._scripts.get(sha)
        if script is None:
            raise NoScriptError
        key, *texts = map(to_bytes, args)
        self._globals[b"KEYS"] = self._table([key])
        self._globals[b"ARGV"] = self._table(texts)
        self._database = database
        try:
            return self._reply(script())
        except self._error as exc:
            raise ResponseError(str(exc)) from exc

    def _reply(self, value: Any) -> Any:
        """Return what Redis makes of what a script returns."""
        if isinstance(value, bytes):
            return value.decode()
        if value is None or isinstance(value, bool):
            return 1 if value else None
        if isinstance(value, (int, float)):
            return int(value)
        items = map(value.__getitem__, count(1))  # up to the first nil
        return [self._reply(item) for item in takewhile(lambda item: item is not None, items)]

    # -- what scripts call ----------------------------------------------------------------------

    def _call(self, name: bytes, *args: Any) -> Any:
        reply = COMMANDS[name](
            self._database, *[arg if type(arg) is bytes else to_bytes(arg) for arg in args]
        )
        if type(reply) is list:
            return self._table([False if item is None else item for item in reply])
        return False if reply is None else reply

    def _decode(self, text: bytes) -> Any:
        try:
            return self._to_lua(json.loads(text, parse_int=float))
        except (TypeError, ValueError, RecursionError) as exc:
            raise ResponseError(f"{type(exc).__name__}: {exc}") from exc

    def _to_lua(self, value: Any) -> Any:
        kind = cast("Any", type(value))
        if kind is str:
            return value.encode()  # refuses half a surrogate pair, as cjson does
        if kind is list:
            return self._table([self._to_lua(item) for item in value])
        if kind is dict:
            return self._table({name.encode(): self._to_lua(value[name]) for name in value})
        return self._null if value is None else value


def _decoded(reply: Any) -> Any:
    kind = cast("Any", type(reply))
    if kind is bytes:
        return reply.decode()
    return [_decoded(item) for item in reply] if kind is list else reply


def _sha1hex(text: Any) -> bytes:
    return sha1(to_bytes(text), usedforsecurity=False).hexdigest().encode()
