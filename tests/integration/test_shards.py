"""A ledger in several shards: processes that die between two of its changes, and what `check` says.

How it spreads over the nodes of a cluster is in test_clusters.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_fanout import get_fanout, step
from celery_fanout.app.live_checks import live_findings
from celery_fanout.model.ids import event_key, place_in, place_of
from celery_fanout.stores.records import LedgerRules, NewEvent, NewRun
from celery_fanout.stores.redis.shards.ledger import ShardedLedger
from tests.integration.inprocess import EVENT, Shop
from tests.processes import wait_until
from tests.servers import RedisServer

SHARDS = 3
FIELD = 's["paid",1]'


@pytest.fixture
def shop(redis_server: RedisServer, redis_url: str) -> Iterator[Shop]:
    with Shop(redis_url, redis_server.url(1), fanout_shards=SHARDS, fanout_lease=1.5) as shop:
        yield shop


def python(tmp_path: Path, failpoints: str, text: str) -> int:
    """Run a program that is broken somewhere; return how it ended."""
    env = {
        **os.environ,
        "CELERY_FANOUT_FAILPOINTS": failpoints,
        "CELERY_FANOUT_FAILPOINT_DIR": str(tmp_path),
    }
    return subprocess.run([sys.executable, "-c", text], env=env, check=False, timeout=60).returncode


def state(shop: Shop, run_id: str) -> str:
    run = get_fanout(shop.app).ledger.run(run_id)
    assert run is not None
    return str(run.state)


def id_elsewhere(name: str, run_id: str) -> str:
    """Return an id of an event that does not lie where a run lies."""
    here = place_in(run_id)
    assert here is not None
    return next(
        id_ for id_ in map(str, range(100)) if place_of(event_key(name, id_), SHARDS) != here
    )


def test_an_emitter_that_dies_before_it_has_told_the_other_shards(
    shop: Shop, redis_server: RedisServer, tmp_path: Path
) -> None:
    def body(order: dict[str, Any]) -> Any:
        found = step.wait_for_event("paid", "order/paid", match={"id": 7}, timeout=600)
        return None if found is None else found.id

    shop.subscribe(body)
    with shop.worker():
        emission = shop.emit({})
        run_id = emission.runs[0].id
        wait_until(lambda: state(shop, run_id) == "suspended")
        paid = id_elsewhere("order/paid", run_id)
        emitter = f"""
from celery import Celery
from celery_fanout import emit
app = Celery("shop", broker={redis_server.url()!r}, backend={redis_server.url(1)!r})
app.conf.fanout_shards = {SHARDS}
emit("order/paid", {{"id": 7}}, id={paid!r}, app=app)
"""
        assert python(tmp_path, "record.before_news=kill", emitter) == -signal.SIGKILL
        ledger = get_fanout(shop.app).ledger
        assert ledger.event(event_key("order/paid", paid)) is not None
        assert state(shop, run_id) == "suspended"
        (outcome,) = emission.get(timeout=60)
    assert outcome.value == paid


@pytest.mark.parametrize("first", [True, False], ids=["event first", "wait first"])
def test_a_worker_that_dies_before_its_wait_has_looked_back(
    redis_url: str, tmp_path: Path, first: bool
) -> None:
    """The next attempt asks again, and finds what came before the wait was filed, or since."""
    ledger = ShardedLedger(redis_url, LedgerRules(lease=0.2), SHARDS)
    keys = {place_of(key, SHARDS): key for key in map(str, range(20))}
    (key, other) = list(keys.values())[:2]
    ledger.record([NewEvent(key, "order/placed", "{}", "null", [NewRun("run", "a@order/placed")])])
    claim = ledger.claim("run", "w1", "first")
    paid = NewEvent(other, "order/paid", "{}", '{"id":7}')
    if first:
        ledger.record([paid])
    worker = f"""
from celery_fanout.stores.records import LedgerRules
from celery_fanout.stores.redis.shards.ledger import ShardedLedger
ledger = ShardedLedger({redis_url!r}, LedgerRules(), {SHARDS})
ledger.wait("run", 1, {FIELD!r}, "order/paid", '{{"id":7}}', since={claim.created}, due=9e9)
"""
    assert python(tmp_path, "wait.before_look_back=kill", worker) == -signal.SIGKILL
    if not first:
        ledger.record([paid])
    wait_until(lambda: ledger.take().wakeups)  # its lease is over
    again = ledger.claim("run", "w2", "second")
    assert (again.token, FIELD in again.checkpoints) == (2, not first)
    text = ledger.wait("run", 2, FIELD, "order/paid", '{"id":7}', since=again.created, due=9e9)
    assert text is not None
    assert json.loads(text)["r"]["d"] == {"id": 7}
    ledger.cancel(["run"], "enough")
    ledger.client.close()


def test_a_process_with_fewer_shards_is_found(shop: Shop, redis_server: RedisServer) -> None:
    def findings(shards: int) -> list[str]:
        with Shop(redis_server.url(), redis_server.url(1), fanout_shards=shards) as other:
            found = live_findings(get_fanout(other.app))
            return [f"{f.message} {f.remedy}" for f in found if f.id == "fanout.E008"]

    assert findings(1) == findings(6) == []

    def body(order: Any) -> None:
        """Have a run, so that there is something to look after."""

    shop.subscribe(body)
    with shop.worker():
        shop.emit({}, EVENT).get(timeout=60)
    ledger: Any = get_fanout(shop.app).ledger
    wait_until(lambda: ledger.stored_shards() == SHARDS)
    assert findings(SHARDS) == findings(2 * SHARDS) == []
    (found,) = findings(1)
    assert found == (
        "The ledger has 3 shards, and fanout_shards is 1 here: some are not looked after, and "
        "waits miss events. Set fanout_shards to 3, or a multiple of it, in every process. For "
        "fewer, let all runs end first, then delete the key {fanout}:shards."
    )
    assert len(findings(4)) == 1
