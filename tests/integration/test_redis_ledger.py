"""The ledger in Redis, in what the one in memory does otherwise."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from celery import Celery

from celery_fanout.app.fanout import get_fanout
from celery_fanout.app.live_checks import live_findings
from celery_fanout.exceptions import StoreRefused, StoreUnavailable
from celery_fanout.stores.records import LedgerRules, NewEvent, NewRun
from celery_fanout.stores.redis import RedisLedger
from celery_fanout.stores.states import RunState
from tests.processes import free_port
from tests.servers import RedisServer

SUB = "tell@order/paid"


@pytest.fixture
def ledger(redis_url: str) -> RedisLedger:
    return RedisLedger(redis_url, LedgerRules())


def record(ledger: RedisLedger, *run_ids: str) -> None:
    runs = [NewRun(run_id, SUB) for run_id in run_ids]
    ledger.record([NewEvent(run_ids[0], "order/paid", "{}", "1", runs)])


def claim(ledger: RedisLedger, run_id: str, retries: int = 0) -> tuple[str, int]:
    found = ledger.claim(run_id, "w1", f"nonce {next(NONCES)}", retries=retries)
    return found.status, found.token


NONCES = itertools.count()


@pytest.mark.parametrize(("retries", "due", "status"), [(0, 0.0, "stale")], ids=["stale"])
def test_a_message_met_while_a_subscription_is_resumed_leaves_its_run_to_that(
    ledger: RedisLedger, retries: int, due: float, status: str
) -> None:
    record(ledger, "first")
    record(ledger, "second")
    token = claim(ledger, "second")[1]
    ledger.settle("second", token, RunState.RETRYING, due=ledger.time() + due, retries=1)
    ledger.pause(SUB)
    for run_id in ("first", "second"):
        assert claim(ledger, run_id, retries)[0] == "paused"
    assert ledger.resume(SUB, limit=1) == (1, True)
    assert claim(ledger, "second", retries)[0] == status
    assert ledger.resume(SUB) == (1, False)
    run = ledger.run("second")
    assert run is not None
    assert (run.state, run.due is None) == (RunState.PENDING, False)


def test_a_run_that_waits_is_not_gated(ledger: RedisLedger) -> None:
    """It is woken first: an event that comes meanwhile would not wake a gated one."""
    record(ledger, "first")
    token = claim(ledger, "first")[1]
    ledger.settle("first", token, RunState.SUSPENDED, due=ledger.time() + 60, reason="sleep")
    ledger.pause(SUB)
    assert claim(ledger, "first")[0] == "early"
    run = ledger.run("first")
    assert run is not None
    assert run.state is RunState.SUSPENDED


def test_one_that_may_start_need_not_wait_for_that(ledger: RedisLedger) -> None:
    ledger.pause(SUB)
    record(ledger, "first", "second")
    assert ledger.resume(SUB, limit=1) == (1, True)
    assert claim(ledger, "second")[0] == "claimed"
    assert ledger.resume(SUB) == (0, False)
    run = ledger.run("second")
    assert run is not None
    assert run.state is RunState.RUNNING


def test_a_server_that_is_not_there() -> None:
    port = free_port()
    with pytest.raises(StoreUnavailable) as caught:
        RedisLedger(f"redis://127.0.0.1:{port}/0", LedgerRules()).time()
    assert str(caught.value) == (
        f"The Redis ledger cannot be reached (ConnectionError: Error 111 connecting to "
        f"127.0.0.1:{port}. Connection refused.). The run continues when it can be."
    )


def test_a_server_that_was_restarted_knows_no_scripts(redis_server: RedisServer) -> None:
    redis_server.flush()
    ledger = RedisLedger(redis_server.url(), LedgerRules())
    record(ledger, "first")
    with redis_server.client() as client:
        client.script_flush()
    assert claim(ledger, "first")[0] == "claimed"


def test_what_it_refuses_is_said_without_the_values(redis_server: RedisServer) -> None:
    with redis_server.client(db=2) as client:
        client.set("{fanout}:r:secret", "x")
    ledger = RedisLedger(redis_server.url(2), LedgerRules())
    with pytest.raises(StoreUnavailable) as caught:
        claim(ledger, "secret")
    assert caught.value.reason.startswith("ResponseError: WRONGTYPE Operation against a key")
    redis_server.flush()


@pytest.fixture(params=["full", "replica", "forbidden"])
def refusing(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a server that answers, and takes nothing."""
    with RedisServer() as server, server.client() as client:
        url = server.url()
        if request.param == "full":
            client.config_set("maxmemory", "1")
        elif request.param == "replica":
            client.replicaof("127.0.0.1", free_port())
        else:
            rules = ["+@read", "+@connection", "+config", "+info", "+time", "~*", ">pw"]
            client.execute_command("ACL", "SETUSER", "guest", "on", *rules)
            url = url.replace("redis://", "redis://guest:pw@")
        yield url


def test_a_server_that_answers_and_refuses_is_not_said_to_be_away(refusing: str) -> None:
    ledger = RedisLedger(refusing, LedgerRules())
    with pytest.raises(StoreRefused, match=r"^The Redis ledger answers and refuses \("):
        record(ledger, "first")
    ledger.client.close()


@pytest.mark.parametrize("level", [1, 2])
def test_checking_finds_a_server_that_takes_nothing(refusing: str, level: int) -> None:
    options = {"fanout_store_url": "backend"} if level == 1 else {}
    app = Celery("shop", broker="memory://", backend=refusing, set_as_current=False, **options)
    found = {finding.id: finding for finding in live_findings(get_fanout(app))}
    assert "takes no " in found["fanout.E010"].message
    app.close()
