"""Replicas, Sentinel, clusters and Valkey: they are what they say, and take a ledger."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import redis

from celery_fanout.stores.ledger import LedgerRules, NewEvent, NewRun
from celery_fanout.stores.redis import RedisLedger
from celery_fanout.stores.states import RunState
from tests.clusters import RedisCluster, RedisReplica, RedisSentinel, ValkeyServer, single_servers
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
            client.wait(1, 10_000)  # until the replica has it all
        assert group.fail_over() is first
        assert group.master is second
        run = ledger.run("run")
        assert run is not None
        assert run.state is RunState.SUCCEEDED
        first.start()

        def is_replica() -> bool:
            with first.client() as client:
                found: Any = client.info("replication")
            return bool(found["role"] == "slave")

        wait_until(is_replica, 60)
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
