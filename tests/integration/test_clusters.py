"""Replicas, Sentinel, clusters and Valkey: they are what they say, and take a ledger."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import redis

from celery_fanout import CancelOn, get_fanout, step
from celery_fanout.exceptions import StoreUnavailable
from celery_fanout.model.ids import place_of
from celery_fanout.stores.records import LedgerRules, NewEvent, NewRun
from celery_fanout.stores.redis import RedisLedger
from celery_fanout.stores.redis.shards.ledger import ShardedLedger
from celery_fanout.stores.states import RunState
from tests.clusters import RedisCluster, RedisReplica, RedisSentinel, ValkeyServer, single_servers
from tests.integration.inprocess import Shop
from tests.leaks import check_ledger
from tests.processes import wait_until
from tests.servers import RedisServer


def use(url: str, options: dict[str, Any] | None = None) -> RedisLedger:
    """Take a run from its record to its end."""
    ledger = RedisLedger(url, LedgerRules(), options=options)
    ledger.record([NewEvent("e", "doc/up", "{}", "{}", [NewRun("run", "sub@doc/up")])])
    claim = ledger.claim("run", "boot", "nonce")
    assert claim.status == "claimed"
    assert ledger.store("run", claim.token, "s1", "text", final=True) == "text"
    assert ledger.settle("run", claim.token, RunState.SUCCEEDED, result="1").ok
    assert [run.state for run in ledger.runs()] == [RunState.SUCCEEDED]
    return ledger


@pytest.mark.parametrize("kind", single_servers(), ids=lambda kind: kind.name)
def test_a_single_server(kind: type[RedisServer]) -> None:
    with kind() as server, server.client() as client:
        found: Any = client.info("server")
        assert found.get("server_name", "redis") == server.name
        use(server.url()).close()


def test_valkey_is_left_out_where_it_is_missing() -> None:
    assert (ValkeyServer in single_servers()) == ValkeyServer.exists()


def test_a_server_that_is_killed_and_restarted_has_forgotten() -> None:
    with RedisServer() as server:
        pid = server.pid
        with server.client() as client:
            client.set("key", "value")
        server.kill_and_restart()
        assert server.pid != pid
        with server.client() as client:
            assert client.get("key") is None


def test_a_replica_has_what_its_master_has_and_takes_nothing_else() -> None:
    with RedisServer() as master, master.client() as client:
        client.set("key", "value")
        with RedisReplica(master.port) as replica, replica.client() as copy:
            assert copy.get("key") == b"value"
            with pytest.raises(redis.ReadOnlyError):
                copy.set("key", "other")


def test_sentinel_puts_the_replica_in_the_masters_place() -> None:
    with RedisSentinel() as group:
        ledger = use(group.url(), group.options)
        first, second = group.servers
        assert group.master is first
        with first.client() as client:
            # WAIT is for what this connection has written, and what came before
            client.set("last", 1)
            assert client.wait(1, 10_000) == 1
        assert group.fail_over() is first
        assert group.master is second
        run = ledger.run("run")
        assert run is not None
        assert run.state is RunState.SUCCEEDED
        first.start()
        group.wait_for_role(first, "slave")
        assert group.master is second
        ledger.close()


def test_a_cluster_shares_all_slots() -> None:
    with RedisCluster() as cluster:
        ledger = use(cluster.url())
        ledger.close()
        with contextlib.closing(cluster.client()) as client:
            for number in range(30):
                client.set(f"key-{number}", number)
        counts = []
        for node in cluster.nodes:
            with node.client() as client:
                counts.append(client.dbsize())
        assert all(counts)
        node = cluster.node_of("{fanout}:due")
        node.kill_and_restart()
        cluster.wait()
        again = RedisLedger(cluster.url(), LedgerRules())
        assert [run.state for run in again.runs()] == [RunState.SUCCEEDED]
        again.close()


def test_a_ledger_in_shards_is_spread_over_a_cluster(redis_url: str) -> None:
    """A real worker, and all that crosses shards: the nodes share the orders and what they need."""
    orders = 12

    def pack(item: int) -> int:
        return 10 * item

    def handle(order: dict[str, Any]) -> list[Any]:
        number = order["n"]
        packed = step.parallel("pack", [(pack, item) for item in range(3)])
        paid = step.wait_for_event("paid", "order/paid", match={"n": number}, timeout=600)
        assert paid is not None
        return [number, *packed, paid.data["total"]]

    def patient(order: dict[str, Any]) -> None:
        step.wait_for_event("never", "order/lost", timeout=600)

    totals: list[Any] = []

    def sum_up(outcomes: list[dict[str, Any]]) -> None:
        totals.append(sorted(outcome["state"] for outcome in outcomes))

    with RedisCluster() as cluster, contextlib.ExitStack() as stack:
        conf = {"fanout_store_url": cluster.url(), "fanout_shards": 6}
        shop = stack.enter_context(Shop(redis_url, None, **conf))
        shop.subscribe(handle, "handle")
        cancels = {"cancel_on": [CancelOn("order/packed", match={"n": "n"})]}
        shop.subscribe(patient, "patient", subscription=cancels)
        summing = shop.task(sum_up, "sum_up")
        ledger = get_fanout(shop.app).ledger
        stack.callback(lambda: ledger.close())  # type: ignore[attr-defined]  # noqa: PLW0108
        assert isinstance(ledger, ShardedLedger)
        with shop.worker():
            emissions = [shop.emit({"n": n}, id=f"o-{n}", then=summing) for n in range(orders)]
            wait_until(lambda: ledger.counts()[RunState.SUSPENDED] == 2 * orders, 120)
            for number in range(orders):
                shop.emit({"n": number, "total": number + 100}, "order/paid")
                shop.emit({"n": number}, "order/packed")
            outcomes = [emission.get(timeout=120) for emission in emissions]
            wait_until(lambda: len(totals) == orders, 60)
            again = get_fanout(shop.app).runs.replay("o-3", ["handle@order/placed"])
            shop.emit({"n": 3, "total": 7}, "order/paid")
            wait_until(lambda: ledger.outcomes(again)[0].state is RunState.SUCCEEDED, 60)
        for number, found in enumerate(outcomes):
            handled, waited = sorted(found, key=lambda outcome: outcome.run.subscription.id)
            assert handled.value == [number, 0, 10, 20, number + 100]
            assert "cancel_on order/packed" in str(waited.error)
        assert totals == [["cancelled", "succeeded"]] * orders
        events = ledger.events(limit=1000)
        assert len({place_of(event.key, 6) for event in events}) == 6
        counts = {state: count for state, count in ledger.counts().items() if count}
        assert counts == {RunState.SUCCEEDED: 5 * orders + 4, RunState.CANCELLED: orders}
        for node in cluster.nodes:
            with node.client() as client:
                roots = {key[: key.index(b"}") + 1] for key in client.keys("*")}
                assert len(roots) == 2
                assert client.keys("{*}:e:*")
                for root in roots:
                    check_ledger(client, root.decode())


def test_shards_of_a_node_that_is_away_do_not_keep_the_others(redis_url: str) -> None:
    rules = LedgerRules(grace=0.001)
    with RedisCluster() as cluster:
        ledger = ShardedLedger(cluster.url(), rules, 6, timeout=1)
        keys = [f"e{number}" for number in range(30)]
        for key in keys:
            ledger.record([NewEvent(key, "doc/up", "{}", "{}", [NewRun(f"run-{key}", "s@doc/up")])])
        dead = cluster.node_of("{fanout}:due")
        gone = {
            key
            for key in keys
            if cluster.node_of(f"{ledger._shards.home(key)._keys.root}:due") is dead
        }
        dead.kill()
        found: set[str] = set()
        errors: list[StoreUnavailable] = []

        def take() -> bool:
            try:
                found.update(wakeup.event for wakeup in ledger.take().wakeups)
            except StoreUnavailable as exc:
                errors.append(exc)
            return found == set(keys) - gone and bool(errors)

        wait_until(take, 120, lambda: f"{sorted(found)} {errors}")
        dead.start()
        cluster.wait()
        wait_until(lambda: take() or found == set(keys), 120)
        ledger.close()
