"""What the fault tests share: a seed, places for broker and ledger, and a look at what is left.

``FAULT_SEED=17 make test-faults`` repeats what chance did in an earlier run.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.declaring import declarations_forgotten
from tests.faults.harness import Faults
from tests.leaks import no_leaks  # noqa: F401 - a fixture
from tests.servers import Oracle, RedisServer, Worker

SEED = int(os.environ.get("FAULT_SEED") or random.SystemRandom().randrange(1_000_000))


def pytest_report_header() -> str:
    """Say which seed it is."""
    return f"FAULT_SEED={SEED}"


@pytest.fixture(autouse=True)
def watch(no_leaks: None) -> Iterator[None]:  # noqa: F811
    """Look what every test leaves, when what it declared is forgotten."""
    with declarations_forgotten():
        yield


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Where chance comes from: the same for a test and a seed, whichever tests run besides."""
    print(f"FAULT_SEED={SEED}")  # noqa: T201 - pytest shows it if the test failed
    return random.Random(f"{SEED} {request.node.nodeid}")


@pytest.fixture
def make_faults(
    oracle: Oracle, tmp_path: Path, start_worker: Callable[..., Worker], rng: random.Random
) -> Iterator[Callable[..., Faults]]:
    """A function like :class:`~tests.faults.harness.Faults`, of broker, store and settings."""
    made: list[Faults] = []

    def make(broker: str, store: str, **conf: Any) -> Faults:
        made.append(Faults(broker, store, oracle, tmp_path, start_worker, rng, conf))
        return made[-1]

    yield make
    for faults in made:
        faults.close()


@pytest.fixture(params=["one", "redis"])
def faults(
    request: pytest.FixtureRequest,
    redis_server: RedisServer,
    redis_url: str,
    make_faults: Callable[..., Faults],
) -> Faults:
    """The app with its broker in the ledger's database, in another one, or on RabbitMQ."""
    match request.param:
        case "one":
            broker = redis_server.url(1)
        case "redis":
            broker = redis_url
        case _:
            broker = request.getfixturevalue("rabbit_url")
    return make_faults(broker, redis_server.url(1))
