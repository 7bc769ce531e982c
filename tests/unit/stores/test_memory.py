"""The ledger in memory: without its extra, in threads, after a fork, and when a script fails."""

import subprocess
import sys
import threading

import pytest
from celery import Celery

from celery_fanout import get_fanout, on_event
from celery_fanout.exceptions import MissingExtra, StoreUnavailable
from celery_fanout.stores.memory import lua
from celery_fanout.stores.memory.ledger import MemoryLedger
from celery_fanout.stores.records import LedgerRules, NewEvent, NewRun
from celery_fanout.stores.states import RunState
from celery_fanout.testing import capture, run, simulate

RULES = LedgerRules()
NOWHERE = "redis://127.0.0.1:1"
MISSING = (
    "The ledger in memory needs lupa, which is not installed. Install it with pip install "
    "'celery-fanout[memory]'."
)


def event(number: int) -> NewEvent:
    return NewEvent(f"e{number}", "doc/up", "{}", "null", [NewRun(f"r{number}", "a@doc/up")])


# --- without its extra ---------------------------------------------------------------------------


@pytest.fixture
def no_lupa(monkeypatch):
    monkeypatch.setattr(lua, "_engines", {})
    monkeypatch.setitem(sys.modules, "lupa.lua51", None)


@pytest.fixture
def app():
    return Celery("shop", broker=NOWHERE, backend=NOWHERE, set_as_current=False)


def test_memory_asks_for_the_extra(no_lupa, app):
    app.conf.fanout_store_url = "memory://"
    with pytest.raises(MissingExtra) as caught:
        assert get_fanout(app).level2
    assert str(caught.value) == MISSING


def test_the_test_kit_asks_for_it(no_lupa, app):
    @on_event("doc/up")
    @app.task(shared=False)
    def work(data):
        pass

    with pytest.raises(MissingExtra) as caught, simulate(app):
        pass
    assert str(caught.value) == MISSING
    with pytest.raises(MissingExtra):
        run(work, 1)


def test_events_are_captured_without_it(no_lupa, app):
    with capture(app) as events:
        get_fanout(app).emit("doc/up", {"id": 1})
    assert len(events) == 1


# --- sharing it ----------------------------------------------------------------------------------


def test_threads_share_a_ledger_and_the_engine():
    shared, own = MemoryLedger(RULES), [MemoryLedger(RULES) for _ in range(4)]
    gate = threading.Barrier(len(own))
    won: list[int] = []

    def work(ledger):
        gate.wait()
        for number in range(50):
            ledger.record([event(number)])
            shared.record([event(number)])
            if shared.claim(f"r{number}", "w", str(id(ledger))).status == "claimed":
                won.append(number)

    threads = [threading.Thread(target=work, args=[ledger]) for ledger in own]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list(range(50))
    assert shared.counts()[RunState.RUNNING] == 50
    assert [ledger.counts()[RunState.PENDING] for ledger in own] == [50] * 4


FORK = """
import os
from celery_fanout.stores.memory.lua import engine
from tests.unit.stores.test_memory import RULES, MemoryLedger, event

ledger = MemoryLedger(RULES)
ledger.record([event(1)])
with engine().lock:  # as another thread may hold it
    child = os.fork()
    if child == 0:
        ledger.record([event(2)])
        os._exit(len(ledger.runs()))
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), len(ledger.runs()))
"""


def test_a_forked_process_has_a_copy():
    done = subprocess.run(
        [sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["2", "1"]


# --- when a script fails -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "text"), [('"no object"', "bad argument #1 to 'pairs'"), ("{", "JSONDecodeError")]
)
def test_what_lua_says_is_told(match, text):
    ledger = MemoryLedger(RULES)
    new = NewRun("r", "a@doc/up", cancel_on=(("doc/gone", match),))
    with pytest.raises(StoreUnavailable) as caught:
        ledger.record([NewEvent("e1", "doc/up", "{}", "null", [new])])
    assert str(caught.value).startswith("The memory ledger answers and refuses (ResponseError: ")
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_has_expired_is_dropped_from_time_to_time(monkeypatch):
    now = 1_800_000_000.0
    ledger = MemoryLedger(RULES, lambda: now)
    for number in range(300):
        ledger.record([event(number)])
    ledger.cancel([f"r{number}" for number in range(300)], "enough")
    now += 2 * RULES.event_retention
    for number in range(300, 600):
        ledger.record([event(number)])
    ledger.cancel([f"r{number}" for number in range(300, 600)], "enough")
    keys = list(ledger.client.database._values)
    assert not [key for key in keys if key.startswith(b"{fanout}:r:r1")]
