"""Running the ledger's scripts: each as one text with the parts of the library that it uses."""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import sha1
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterError,
    NoScriptError,
    RedisClusterException,
    RedisError,
    ResponseError,
)

from celery_fanout.exceptions import StoreRefused, StoreUnavailable
from celery_fanout.exceptions.describing import text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from celery_fanout.stores.redis.calls import Answer, Call
    from celery_fanout.stores.redis.client import RedisConnection


#: What a server that answers refuses with; that a cluster is down says the part that is not.
_REFUSALS = (ResponseError, AuthenticationError, AuthorizationError)


class Scripts:
    """The named scripts, and reading commands, for one prefix.

    Args:
        name: what errors call the store.
        root: the prefix of all keys.
        rules: Lua that defines the rules.
        connection: what they are sent over.
        clock: the time, for tests; ``None`` for the server's.
    """

    def __init__(
        self,
        name: str,
        root: str,
        rules: str,
        connection: RedisConnection,
        clock: Callable[[], float] | None,
    ) -> None:
        self._name = name
        self._root = root
        self._rules = rules
        self.connection = connection
        self.clock = clock
        self._shas: dict[str, str] = {}

    @property
    def client(self) -> Any:
        """The client of this process."""
        return self.ask(lambda: self.connection.client)

    def ask(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the client.

        Raises:
            StoreUnavailable: if Redis does not answer.
            StoreRefused: if it answers and refuses.
        """
        try:
            return call(*args, **kwargs)
        except (RedisError, RedisClusterException) as exc:  # the second is none of the first
            text = text_of(exc).split("\n", 1)[0][:500]
            refused = isinstance(exc, _REFUSALS) and not isinstance(exc, ClusterError)
            error = StoreRefused if refused else StoreUnavailable
            raise error(self._name, f"{type(exc).__name__}: {text}") from exc

    def command(self, call: Call[Any]) -> list[Any]:
        """Return the whole command of a call."""
        now = "" if self.clock is None else f"{self.clock():.6f}"
        return ["EVALSHA", self.sha(call.script), 1, self._root, now, *_packed(call)]

    def run(self, call: Call[Answer]) -> Answer:
        """Run a script: one round trip.

        Raises:
            StoreUnavailable: if Redis does not answer, or refuses.
        """
        return call.read(self.ask(self._send, call))

    def _send(self, call: Call[Any]) -> Any:
        command = self.command(call)
        try:
            return self.connection.send(command)
        except NoScriptError:  # Redis was restarted, or another one took over
            return self.connection.send(["EVAL", source(call.script, self._rules), *command[2:]])

    def sha(self, name: str) -> str:
        """Return what Redis calls a script."""
        sha = self._shas.get(name)
        if sha is None:
            text = source(name, self._rules).encode()
            sha = self._shas[name] = sha1(text, usedforsecurity=False).hexdigest()
        return sha

    def time(self) -> float:
        """Return the server's time."""
        if self.clock is not None:
            return self.clock()
        seconds, microseconds = self.ask(self.client.time)
        return float(seconds) + float(microseconds) / 1e6

    def many(self, commands: Sequence[tuple[Any, ...]], *, at_once: bool = False) -> list[Any]:
        """Run several reading commands, in one round trip where that is possible.

        Args:
            commands: the name of each, and its arguments.
            at_once: whether nothing may change in between.
        """
        if not commands:
            return []

        def ask() -> list[Any]:
            pipe = self.client.pipeline(transaction=at_once)
            for name, *args in commands:
                getattr(pipe, name)(*args)
            return list(pipe.execute())

        answers: list[Any] = self.ask(ask)
        return answers


@lru_cache(maxsize=1)
def _library() -> list[tuple[set[str], str]]:
    """Return the parts of lib.lua and limits.lua, each with the names that it defines."""
    text = _read_script("lib").replace("-- [limits.lua]", _read_script("limits"))
    parts = [part for part in text.split("\n\n") if _DEFINES.search(part)]
    return [(set(_names(part)), part) for part in parts]


def library_names() -> set[str]:
    """Return what lib.lua and limits.lua define, which no script may call an argument."""
    return {name for names, _ in _library() for name in names}


def _names(part: str) -> Iterator[str]:
    for line in part.splitlines():
        definition = _DEFINES.match(line)
        if definition:
            yield from (definition[1] or definition[2]).replace(" ", "").split(",")


_DEFINES = re.compile(r"^local (?:function (\w+)|([\w, ]+?) *(?:=|$))", re.MULTILINE)
_ARGUMENTS = re.compile(r"^-- args: ([\w ]+)(\.\.\.)?$", re.MULTILINE)


def _read_script(name: str) -> str:
    folder = resources.files("celery_fanout.stores.redis") / "scripts"
    return (folder / f"{name}.lua").read_text("utf-8")


def _packed(call: Call[Any]) -> Sequence[Any]:
    """Return the arguments of a call in the order of the script's header."""
    names, has_tail = arguments(call.script)
    values = [call.values[name] for name in names]
    return [*values[:-1], *values[-1]] if has_tail else values


class Arguments(NamedTuple):
    """What a script takes, as the ``-- args:`` line in its header says.

    Attributes:
        names: in the order in which they are sent.
        has_tail: whether the last one is a list of all that follow (``ids...``).
    """

    names: tuple[str, ...]
    has_tail: bool


@lru_cache(maxsize=64)
def arguments(name: str) -> Arguments:
    """Return the arguments of a script."""
    header = _ARGUMENTS.search(_read_script(name))
    assert header is not None, f"{name}.lua declares no arguments"  # noqa: S101 - ours, tested
    return Arguments(tuple(header[1].split()), header[2] is not None)


def _prelude(name: str) -> str:
    """Return Lua that gives a script its arguments by name. The first of ARGV is the time."""
    names, has_tail = arguments(name)
    single = names[:-1] if has_tail else names
    first = 2 + len(single)
    lines: list[str] = []
    if single:
        lines.append(f"local {', '.join(single)} = unpack(ARGV, 2, {first - 1})")
    if has_tail:  # there may be more of them than unpack can return
        rest = names[-1]
        lines.append(f"local {rest} = {{}}")
        lines.append(f"for i = {first}, #ARGV do {rest}[i - {first - 1}] = ARGV[i] end")
    return "\n".join(lines)


@lru_cache(maxsize=256)
def source(name: str, rules: str) -> str:
    """Return a script with its arguments by name, and the parts of lib.lua that it uses.

    What a script does not use would cost each call of it, as Lua defines every function anew.

    Args:
        name: of the script.
        rules: Lua that defines the rules.
    """
    words = _words(_read_script(name))
    parts: list[str] = []
    for defined, part in reversed(_library()):
        if defined & words:
            words |= _words(part)
            parts.insert(0, part)
    return "\n\n".join([rules, *parts, _prelude(name), _read_script(name)])


@lru_cache(maxsize=256)
def _words(text: str) -> frozenset[str]:
    """Return the words of Lua, but for those in comments."""
    return frozenset(re.findall(r"\w+", re.sub(r"--.*", "", text)))
