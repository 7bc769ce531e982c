"""``Emission.get()``: what became of each subscriber, from real workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from celery_fanout import emit, emit_many
from celery_fanout.exceptions import EmissionTimeout
from tests.integration import answering
from tests.servers import RedisServer, Worker

pytestmark = pytest.mark.matrix

NAMES = [
    *("value", "nothing", "fails", "begins", "fails_early", "fails_late"),
    *("forgotten", "forgotten_end", "forgotten_begin"),
]


@pytest.fixture(params=["redis", "sqlite", "rpc"])
def app(
    request: pytest.FixtureRequest,
    redis_server: RedisServer,
    start_worker: Callable[..., Worker],
    tmp_path: Any,
) -> Celery:
    """An app whose worker runs in another process."""
    redis_server.flush()
    broker = redis_server.url()
    if request.param == "rpc":
        broker = request.getfixturevalue("rabbit_url")
    backend = {
        "redis": redis_server.url(1),
        "sqlite": f"db+sqlite:///{tmp_path}/results.sqlite",
        "rpc": "rpc://",
    }[request.param]
    start_worker(
        "tests.integration.answering",
        pool="threads",
        concurrency=4,
        env={
            "ANSWERING_BROKER": broker,
            "ANSWERING_BACKEND": backend,
            "ANSWERING_REDIS": redis_server.url(2),
        },
    )
    return answering.make_app(broker, backend)


def test_all_outcomes(app: Celery) -> None:
    emission = emit("all/of-them", {"n": 4}, app=app)

    outcomes = emission.get(timeout=60)

    assert [outcome.run for outcome in outcomes] == emission.runs
    assert [run.subscription.task.name for run in emission.runs] == NAMES
    found = dict(zip(NAMES, outcomes, strict=True))
    assert {name: outcome.value for name, outcome in found.items() if outcome.ok} == {
        "value": {"doubled": 8},
        "nothing": None,
        "begins": 114,
        "forgotten_begin": 14,
    }
    assert {
        name: repr(outcome.error) for name, outcome in found.items() if outcome.error is not None
    } == {
        "fails": "ValueError('no', 4)",
        "fails_early": "KeyError('early')",
        "fails_late": """TypeError("unsupported operand type(s) for +: 'int' and 'str'")""",
    }
    assert [name for name, outcome in found.items() if outcome.ignored] == [
        *("forgotten", "forgotten_end"),
    ]
    assert found["value"].run.result.get(timeout=10) == {"doubled": 8}
    assert found["value"].run.result.id == found["value"].run.id


def test_several_emissions(app: Celery) -> None:
    emissions = emit_many([("all/of-them", {"n": number}) for number in range(5)], app=app)

    values = [emission.get(timeout=60)[0].value for emission in reversed(emissions)]

    assert values == [{"doubled": number * 2} for number in reversed(range(5))]


def test_who_is_late(app: Celery, redis_server: RedisServer) -> None:
    emission = emit("some/slow", "a-key", app=app)
    fast = emission.runs[0]
    assert fast.result.get(timeout=60) == "fast"

    with pytest.raises(EmissionTimeout) as caught:
        emission.get(timeout=0.2)

    assert caught.value.pending == ["slow@some/slow", "never@some/slow"]
    assert str(caught.value) == (
        f"The event 'some/slow' ({emission.event.id}) had no outcome after 0.2 s from: "
        "slow@some/slow, never@some/slow. "
        "Wait longer, or look whether a worker serves their queues."
    )
    with redis_server.client(2) as client:
        client.rpush("a-key", "go")
    assert emission.runs[1].result.get(timeout=60) == "slow"
    with pytest.raises(EmissionTimeout) as caught:
        emission.get(timeout=0)
    assert caught.value.pending == ["never@some/slow"]


def test_nobody_subscribes(app: Celery) -> None:
    assert emit("no/body", app=app).get(timeout=0) == []
