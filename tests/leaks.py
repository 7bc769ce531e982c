"""What must not be left behind: keys in Redis, threads and file descriptors in this process.

A fixture that all tests of a kind use asks for :func:`no_leaks`, which its conftest imports.
"""

from __future__ import annotations

import gc
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import redis

from celery_fanout.stores.states import FINAL, RunState
from tests.processes import wait_until
from tests.servers import RedisServer

__all__ = ["audit", "check_ledger", "check_ledgers", "descriptors", "no_leaks"]

#: Patterns of the keys that need no expiry: they are empty at rest, swept, or bounded by the
#: number of subscriptions.
NEVER_EXPIRE = (
    "due",
    "s:*",
    "u:*",
    "subs",
    "g:*",
    "paused",
    "wp:*",
    "wv:*",
    "untold",
    "news",
    "shards",
    "lp:*",
    "lr:*",
    "lq:*",
    "lanes",
    "lc:*",
    "gates",
    "limits",
    "tuned",
    "lseq",
)

FINAL_STATES = {state.value for state in FINAL}

#: Files that stay open as long as the process.
FILES = ("*/celery-fanout-ports-*",)  # the locks of ports, see tests/processes.py


# --- keys ----------------------------------------------------------------------------------------


def audit(client: redis.Redis, root: str = "{fanout}") -> list[str]:
    """Return what is wrong with the keys of a ledger: leaks, and indexes that contradict records.

    Args:
        client: of the server (or cluster) and database.
        root: what its keys begin with.
    """
    return list(_Audit(client, root).problems())


class _Audit:
    def __init__(self, client: redis.Redis, root: str) -> None:
        self.client: Any = client
        self.root = root
        self.keys = {_text(key) for key in self.client.scan_iter(f"{root}:*", count=1000)}
        self._expiries = self._of_each(sorted(self.keys), "ttl")
        gates = [key for key in self.keys if key.startswith((f"{root}:lp:", f"{root}:lq:"))]
        self._read = {
            key.removeprefix(f"{root}:"): {_text(member) for member in members}
            for key, members in self._of_each(gates, "zrange", 0, -1).items()
        }
        self.due = self._members("due")
        self.runs = {
            key.partition(":r:")[2]: self._hash(key)
            for key in self.keys
            if key.startswith(f"{root}:r:")
        }

    def _of_each(self, keys: list[str], command: str, *arguments: Any) -> dict[str, Any]:
        """Return what a command says of each key; of many at once, as there may be ten thousand."""
        answers: list[Any] = []
        for start in range(0, len(keys), 1000):
            pipeline = self.client.pipeline(transaction=False)
            for key in keys[start : start + 1000]:
                getattr(pipeline, command)(key, *arguments)
            answers += pipeline.execute()
        return dict(zip(keys, answers, strict=True))

    def _hash(self, key: str) -> dict[str, str]:
        return {_text(field): _text(value) for field, value in self.client.hgetall(key).items()}

    def _members(self, name: str) -> set[str]:
        if name not in self._read:
            found = self.client.zrange(f"{self.root}:{name}", 0, -1)
            self._read[name] = {_text(member) for member in found}
        return self._read[name]

    @cached_property
    def open(self) -> Counter[str]:
        """How many runs of each event have not ended; once, as there may be many of both."""
        return Counter(
            event
            for run_id, run in self.runs.items()
            if run["s"] not in FINAL_STATES
            for event in self._concerned(run_id, run)
        )

    def _expires(self, key: str) -> bool:
        return int(self._expiries[key]) >= 0

    def problems(self) -> Iterator[str]:
        for key in sorted(self.keys):
            yield from self._key(key)
        for run_id, run in self.runs.items():
            yield from self._run(run_id, run)
        yield from self._indexes()

    def _key(self, key: str) -> Iterator[str]:
        name = key.removeprefix(f"{self.root}:")
        kind, _, rest = name.partition(":")
        if any(fnmatchcase(name, pattern) for pattern in NEVER_EXPIRE) or self._expires(key):
            return
        if kind == "l" and f"{self.root}:lr:{rest}" in self.keys:
            return  # a gate where runs wait
        if kind in ("r", "d", "le"):
            run = self.runs.get(rest)
            if run is None:
                yield f"{key} has no expiry, and its run is gone"
            elif run["s"] in FINAL_STATES:
                yield f"{key} has no expiry, and its run is {run['s']}"
        elif kind == "e":
            if int(_text(self.client.hget(key, "o") or 0)) <= 0:
                yield f"{key} has no expiry, and none of its runs is open"
        elif kind == "t":
            if f"{self.root}:e:{rest}" not in self.keys or self._expires(f"{self.root}:e:{rest}"):
                yield f"{key} has no expiry, and its event is at rest"
        else:
            yield f"{key} has no expiry"

    def _run(self, run_id: str, run: dict[str, str]) -> Iterator[str]:
        state, name = run["s"], f"run {run_id} is {run['s']}"
        if state in FINAL_STATES:
            if run_id in self.due:
                yield f"{name}, and has a timer"
        elif self._expires(f"{self.root}:r:{run_id}"):
            yield f"{name}, and expires"
        elif (run_id in self.due) != (state != RunState.GATED.value or _has_time(run)):
            yield f"{name}, and has {'a' if run_id in self.due else 'no'} timer"
        yield from self._limits(run_id, run)

    def _limits(self, run_id: str, run: dict[str, str]) -> Iterator[str]:
        """What limits note of a run."""
        final, gated = run["s"] in FINAL_STATES, run["s"] == RunState.GATED.value
        name = f"run {run_id} is {run['s']}"
        for spot in ("1", "2", "3", "4", "t"):
            gate, _, mode = run.get(f"l{spot}", "").partition(" ")
            if not gate:
                continue
            holds = run_id in self._members(f"lp:{gate}")
            if holds and final:
                yield f"{name}, and has a place at {gate}"
            if run.get("la") and not holds and spot != "t":
                yield f"{name}, was admitted, and has no place at {gate}"
            if holds and not run.get("la") and mode.endswith("-w"):
                yield f"{name}, was not admitted, and has a place at {gate}"
        if "lw" in run and run_id not in self._members(f"lq:{run['lw']}"):
            yield f"{name}, and is not in its lane {run['lw']}"
        if (run.get("lw") or run.get("co")) and not gated:
            yield f"{name}, and waits"
        if run.get("la") and (final or gated):
            yield f"{name}, and admitted"

    def _indexes(self) -> Iterator[str]:
        for run_id in sorted(self.due - self.runs.keys()):
            yield f"run {run_id} has a timer, and no record"
        for state in RunState:
            listed = self._members(f"s:{state.value}")
            really = {run_id for run_id, run in self.runs.items() if run["s"] == state.value}
            for run_id in sorted(listed & self.runs.keys() ^ really):
                yield f"run {run_id} is {self.runs[run_id]['s']}; s:{state.value} contradicts"
        for key in sorted(self.keys):
            if key.startswith(f"{self.root}:e:"):
                yield from self._event(key)
            elif key.startswith(f"{self.root}:wv:"):
                yield from self._waits(key)
            else:
                yield from self._gate(key)

    def _gate(self, key: str) -> Iterator[str]:
        """What gates note of runs."""
        kind, _, gate = key.removeprefix(f"{self.root}:").partition(":")
        if kind == "lp":
            for run_id in sorted(self._members(f"lp:{gate}") - self.runs.keys()):
                yield f"{key} has a run {run_id} without a record"
        elif kind == "lr":
            yield from self._lanes(gate)
        elif kind == "lq":
            yield from self._lane(gate)
        elif kind == "lc":
            run_id = _text(self.client.get(key))
            if self.runs.get(run_id, {}).get("co") != gate:
                yield f"{key} names run {run_id}, which does not collect"

    def _lanes(self, gate: str) -> Iterator[str]:
        """What is noted of those who wait at a gate."""
        lanes = self._members(f"lr:{gate}")
        queues = {lane: self._members(f"lq:{lane}") for lane in lanes}
        for lane, queue in queues.items():
            if not queue:
                yield f"lane {lane} of {gate} is empty"
        noted, really = self._hash(f"{self.root}:l:{gate}").get("w"), sum(map(len, queues.values()))
        if noted != str(really):
            yield f"{really} runs wait at {gate}, which notes {noted}"

    def _lane(self, lane: str) -> Iterator[str]:
        """What is noted of those who wait in a lane."""
        gate = self._hash(f"{self.root}:lanes").get(lane, "")
        if lane not in self._members(f"lr:{gate}"):
            yield f"lane {lane} waits nowhere; lanes has {gate!r}"
        for run_id in sorted(self._members(f"lq:{lane}")):
            if self.runs.get(run_id, {}).get("lw") != lane:
                yield f"lane {lane} has run {run_id}, which contradicts"

    def _event(self, key: str) -> Iterator[str]:
        event = key.partition(":e:")[2]
        noted = int(_text(self.client.hget(key, "o") or 0))
        really = self.open[event]
        text = f"{self.root}:t:{event}"
        if text not in self.keys:
            yield f"event {event} has lost its text"
        elif self._expires(text) != self._expires(key):
            yield f"event {event} and its text do not expire together"
        if noted != really:
            yield f"event {event} has {really} open runs, and notes {noted}"

    def _concerned(self, run_id: str, run: dict[str, str]) -> list[str]:
        """Return the events of a run: more than one if they were collected."""
        if "cl" not in run:
            return [run.get("e", "")]
        return [_text(key) for key in self.client.lrange(f"{self.root}:le:{run_id}", 0, -1)]

    def _waits(self, key: str) -> Iterator[str]:
        for entry in map(_text, self.client.smembers(key)):
            run = self.runs.get(entry.split("|")[1])
            if run is None or run["s"] in FINAL_STATES:
                yield f"{key} has the wait {entry} of a run that has ended"


def _has_time(run: dict[str, str]) -> bool:
    """Whether a run that is held back has a timer: it collects, or is cancelled at a time."""
    return "co" in run or ("fd" in run if "a" in run else "o" in run)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def check_ledger(client: redis.Redis, root: str = "{fanout}") -> None:
    """Fail if anything is wrong with the keys of a ledger."""
    problems = audit(client, root)
    assert not problems, "\n".join(["in Redis:", *problems[:50]])


def check_ledgers(server: RedisServer) -> None:
    """Fail if anything is wrong with the keys of any ledger on a server."""
    for db in range(16):
        with server.client(db) as client:
            for root in _roots(client):
                check_ledger(client, root)


def _roots(client: Any) -> set[str]:
    """Return the prefixes of all ledgers in a database."""
    keys = (_text(key) for key in client.scan_iter("{*}:*", count=1000))
    return {key[: key.index("}:") + 2].rstrip(":") for key in keys}


# --- this process --------------------------------------------------------------------------------


def descriptors() -> Counter[str]:
    """Return what the open file descriptors of this process lead to; all sockets are one."""
    found: Counter[str] = Counter()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # that of the directory itself is gone by now
            target = str(entry.readlink())
            if any(fnmatchcase(target, pattern) for pattern in FILES):
                continue
            kind = target.partition(":")[0]
            found[kind if kind in ("socket", "pipe") else target] += 1
    found.pop(f"/proc/{os.getpid()}/fd", None)  # to list them
    return found


class _Before:
    """What there was before a test."""

    def __init__(self) -> None:
        self.threads = set(threading.enumerate())
        self.descriptors = descriptors()

    def leaks(self) -> list[str]:
        gc.collect()  # Celery and kombu leave their connections to it
        found = [
            f"the thread {thread.name!r}" for thread in set(threading.enumerate()) - self.threads
        ]
        more = descriptors() - self.descriptors
        found += [f"{count} file descriptors: {target}" for target, count in more.items()]
        return sorted(found)


@pytest.fixture
def no_leaks(redis_server: RedisServer) -> Iterator[None]:
    """Fail a test that leaves keys without an expiry, threads or file descriptors."""
    before = _Before()  # with the server, which stays
    yield
    wait_until(lambda: not before.leaks(), 5, lambda: f"left behind: {before.leaks()}")
    check_ledgers(redis_server)
