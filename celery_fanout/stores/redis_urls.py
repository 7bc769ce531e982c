"""URLs of Redis servers: apart from their client, so that to ask costs no import of it."""

from __future__ import annotations

#: Schemes by how this store connects to what they name.
CLUSTER = ("redis+cluster", "rediss+cluster")
SENTINEL = ("sentinel",)
PLAIN = ("redis", "rediss", "unix", "redis+socket", "socket", "valkey", "valkeys")


def is_redis_url(url: str) -> bool:
    """Whether a URL names a Redis or Valkey server, a Sentinel group, or a cluster."""
    return url.partition("://")[0] in (*PLAIN, *SENTINEL, *CLUSTER)
