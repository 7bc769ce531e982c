"""A Celery app for tests/integration/test_servers.py."""

from __future__ import annotations

import os

import redis
from celery import Celery

from tests.servers import Oracle

app = Celery("tiny", broker=os.environ["TINY_BROKER"], backend=os.environ["TINY_BACKEND"])


@app.task
def add(x: int, y: int) -> int:
    Oracle.from_environment().write(task="add", pid=os.getpid(), sum=x + y)
    return x + y


@app.task
def hold(key: str) -> str:
    """Begin, and end when somebody pushes to the key."""
    with redis.Redis.from_url(os.environ["TINY_BACKEND"]) as client:
        client.rpush(f"{key}-begun", os.getpid())
        return str(client.blpop([key], timeout=60))
