"""The leak check: it sees what it is to see."""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_fanout.stores.records import LedgerRules, NewEvent, NewRun
from celery_fanout.stores.redis import RedisLedger
from celery_fanout.stores.states import RunState
from tests.leaks import _Before, audit
from tests.processes import wait_until
from tests.servers import RedisServer


@pytest.fixture
def ledger(redis_url: str, redis_server: RedisServer) -> Iterator[RedisLedger]:
    ledger = RedisLedger(redis_url, LedgerRules())
    yield ledger
    ledger.close()
    redis_server.flush()  # what is wrong here is no leak of the tests that follow


def fill(ledger: RedisLedger) -> None:
    """Record runs in several states."""
    subs = ["a", "b", "c", "d"]
    runs = [NewRun(sub, f"{sub}@doc/up") for sub in subs]
    ledger.pause("d@doc/up")
    ledger.record([NewEvent("e", "doc/up", "{}", "{}", runs)])
    ledger.record([NewEvent("f", "doc/up", "{}", "{}", [NewRun("x", "a@doc/up")])])
    for run in ("a", "b", "x"):
        claim = ledger.claim(run, "boot", run)
        assert claim.status == "claimed"
        if run == "b":
            assert ledger.wait("b", claim.token, "s1", "doc/down", "{}", since=0, due=9e9)
        else:
            ledger.settle(run, claim.token, RunState.SUCCEEDED, result="1")


def test_a_sound_ledger(ledger: RedisLedger) -> None:
    fill(ledger)
    assert audit(ledger.client) == []


@pytest.mark.parametrize(
    ("harm", "problems"),
    [
        (
            lambda c: c.persist("{fanout}:r:a"),
            ["{fanout}:r:a has no expiry, and its run is succeeded"],
        ),
        (
            lambda c: c.persist("{fanout}:d:a"),
            ["{fanout}:d:a has no expiry, and its run is succeeded"],
        ),
        (
            lambda c: c.persist("{fanout}:e:f"),
            [
                "{fanout}:e:f has no expiry, and none of its runs is open",
                "event f and its text do not expire together",
            ],
        ),
        (
            lambda c: c.persist("{fanout}:t:f"),
            [
                "{fanout}:t:f has no expiry, and its event is at rest",
                "event f and its text do not expire together",
            ],
        ),
        (lambda c: c.delete("{fanout}:t:f"), ["event f has lost its text"]),
        (lambda c: c.set("{fanout}:new", 1), ["{fanout}:new has no expiry"]),
        (
            lambda c: c.hset("{fanout}:d:gone", "R", 1),
            ["{fanout}:d:gone has no expiry, and its run is gone"],
        ),
        (lambda c: c.zrem("{fanout}:due", "c"), ["run c is pending, and has no timer"]),
        (lambda c: c.zadd("{fanout}:due", {"d": 1}), ["run d is gated, and has a timer"]),
        (lambda c: c.zadd("{fanout}:due", {"a": 1}), ["run a is succeeded, and has a timer"]),
        (lambda c: c.zadd("{fanout}:due", {"no": 1}), ["run no has a timer, and no record"]),
        (lambda c: c.expire("{fanout}:r:c", 9), ["run c is pending, and expires"]),
        (lambda c: c.zrem("{fanout}:s:pending", "c"), ["run c is pending; s:pending contradicts"]),
        (lambda c: c.hincrby("{fanout}:e:e", "o", 1), ["event e has 3 open runs, and notes 4"]),
    ],
)
def test_what_is_wrong_with_one(
    ledger: RedisLedger, harm: Callable[[Any], object], problems: list[str]
) -> None:
    fill(ledger)
    harm(ledger.client)
    assert audit(ledger.client) == problems


def test_a_wait_that_outlived_its_run(ledger: RedisLedger) -> None:
    fill(ledger)
    (key,) = ledger.client.keys("{fanout}:wv:*")
    ledger.client.sadd(key, "w|a|s1")
    assert audit(ledger.client) == [f"{key} has the wait w|a|s1 of a run that has ended"]


def test_a_thread_and_a_file(tmp_path: Path, redis_server: RedisServer) -> None:
    gc.collect()  # what earlier tests left to it would make up for what is left here
    before = _Before()
    assert before.leaks() == []
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait, name="left", daemon=True)
    thread.start()
    file = (tmp_path / "left").open("w")
    connection = socket.create_connection(("127.0.0.1", redis_server.port))
    assert before.leaks() == [
        "1 file descriptors: " + str(tmp_path / "left"),
        "1 file descriptors: socket",
        "the thread 'left'",
    ]
    gate.set()
    thread.join()
    file.close()
    connection.close()
    wait_until(lambda: before.leaks() == [])
