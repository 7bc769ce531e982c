"""The servers of the project's tests."""

from tests.conftest import redis_server, redis_url

__all__ = ["redis_server", "redis_url"]
