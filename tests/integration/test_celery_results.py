"""``fanout_results = "celery"``: what an ``AsyncResult`` says of runs that Celery does not see."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError

from celery_fanout import Concurrency, RateLimit, get_fanout, step
from celery_fanout.exceptions import RunFailed
from tests.integration.inprocess import EVENT, Shop
from tests.processes import wait_until
from tests.servers import RedisServer

pytestmark = pytest.mark.matrix

ONE = {"rate_limit": RateLimit(1, per=3600)}
DROPPED = "dropped: rate_limit subscriber@order/placed"


def returned(data: Any) -> Any:
    return data


@pytest.fixture
def make(redis_server: RedisServer, redis_url: str) -> Iterator[Callable[..., Shop]]:
    """Make a shop whose ledger is Redis; its result backend is another database there."""
    shops: list[Shop] = []

    def shop(backend: str = redis_server.url(1), **conf: Any) -> Shop:
        conf = {"fanout_results": "celery", "fanout_store_url": redis_url, **conf}
        shops.append(Shop(redis_url, backend, **conf))
        return shops[-1]

    yield shop
    for each in shops:
        each.__exit__()


def kept(redis_server: RedisServer) -> list[bytes]:
    """Return the keys of the results that Celery has."""
    with redis_server.client(1) as client:
        return sorted(client.keys("celery-task-meta-*"))


@pytest.mark.parametrize("kind", ["redis", "extended", "sqlite", "rpc"])
def test_a_dropped_run_is_revoked(
    make: Callable[..., Shop], kind: str, redis_server: RedisServer, tmp_path: Any,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    backends = {"sqlite": f"db+sqlite:///{tmp_path}/results.sqlite", "rpc": "rpc://"}
    shop = make(backends.get(kind, redis_server.url(1)), result_extended=kind == "extended")
    if kind == "rpc":
        shop.app.conf.broker_url = request.getfixturevalue("rabbit_url")
    links = [shop.task(returned, name=name) for name in ("second", "third")]
    shop.subscribe(returned, subscription={**ONE, "then": links})
    shop.emit(1)

    emission = shop.emit(2)

    [outcome] = emission.get(timeout=30)
    assert isinstance(outcome.error, TaskRevokedError)
    assert str(outcome.error) == DROPPED
    assert emission.runs[0].result.state == "REVOKED"
    with pytest.raises(TaskRevokedError, match=DROPPED):
        emission.runs[0].get(timeout=30)
    if kind != "rpc":  # which delivers a result once, to who asked
        assert shop.app.AsyncResult(emission.runs[0].id).state == "REVOKED"


def test_every_link_of_a_dropped_run_is_revoked(
    make: Callable[..., Shop], redis_server: RedisServer
) -> None:
    shop = make()
    links = [shop.task(returned, name=name) for name in ("second", "third")]
    shop.subscribe(returned, subscription={**ONE, "then": links})

    shop.emit(1)
    assert kept(redis_server) == []
    shop.emit(2)
    assert len(kept(redis_server)) == 3


@pytest.mark.parametrize("ignored", ["by the task", "by the subscription"])
def test_nothing_is_stored_of_an_ignored_result(
    make: Callable[..., Shop], redis_server: RedisServer, ignored: str
) -> None:
    shop = make()
    options = {"options": {"ignore_result": True}} if ignored == "by the subscription" else {}
    shop.subscribe(
        returned, subscription={**ONE, **options}, ignore_result=ignored == "by the task"
    )
    for number in range(2):
        [outcome] = shop.emit(number).get(timeout=30)
        assert outcome.ignored
    assert kept(redis_server) == []


def test_nothing_is_stored_where_the_ledger_has_the_results(
    make: Callable[..., Shop], redis_server: RedisServer
) -> None:
    shop = make(fanout_results="ledger")
    shop.subscribe(returned, subscription=ONE)
    shop.emit(1)
    [outcome] = shop.emit(2).get(timeout=30)
    assert isinstance(outcome.error, RunFailed)
    assert kept(redis_server) == []


def test_a_backend_that_is_away_does_not_keep_from_emitting(
    make: Callable[..., Shop], tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    results = tmp_path / "results"
    results.mkdir()
    shop = make(f"file://{results}")
    shop.subscribe(returned, subscription=ONE)
    shop.emit(1)
    results.rmdir()
    with caplog.at_level(logging.WARNING, "celery_fanout"):
        [handle] = shop.emit(2).runs
    assert get_fanout(shop.app).runs.get(handle.id).reason == DROPPED
    assert "The result backend was not told of a dropped run: " in caplog.text


def test_a_run_that_has_not_started_in_time(make: Callable[..., Shop]) -> None:
    shop, go = make(), threading.Event()

    def waits(data: Any) -> bool:
        return go.wait(60)

    limits = {"concurrency": Concurrency(1), "start_timeout": 0.3}
    last = shop.task(returned, name="last")
    shop.subscribe(waits, subscription={**limits, "then": last})
    with shop.worker("threads", 2):
        first, late = shop.emit(1), shop.emit(2)
        [outcome] = late.get(timeout=60)
        go.set()
        assert first.get(timeout=60)[0].value is True
    assert repr(outcome.error) == repr(TaskRevokedError("start_timeout"))
    assert late.runs[0].result.state == "REVOKED"


def test_a_run_that_is_cancelled_by_hand(make: Callable[..., Shop]) -> None:
    shop = make()
    shop.subscribe(returned)
    emission, fanout = shop.emit(), get_fanout(shop.app)
    fanout.runs.cancel(emission.runs[0].id, "a mistake")
    assert fanout.level2 is not None
    fanout.level2.follow_ups.record(emission.runs[0].id)  # which a keeper does within a minute
    with pytest.raises(TaskRevokedError, match="a mistake"):
        emission.runs[0].get(timeout=30)


def test_a_run_whose_workers_died(make: Callable[..., Shop]) -> None:
    shop = make(fanout_max_crashes=1)
    last = shop.task(returned, name="last")
    shop.subscribe(returned, subscription={"then": last})
    emission, fanout = shop.emit(), get_fanout(shop.app)
    run_id = emission.runs[0].id
    assert fanout.ledger.claim(run_id, "boot", run_id).status == "claimed"
    error = {"type": "WorkerLostError", "message": "signal 9", "traceback": ""}
    assert fanout.ledger.abandon(run_id, "boot", error, final=False).ok
    assert fanout.level2 is not None
    fanout.level2.follow_ups.record(run_id)
    [outcome] = emission.get(timeout=30)
    assert isinstance(outcome.error, RunFailed)
    assert str(outcome.error).startswith("WorkerCrashed: The worker died 1 times ")
    assert emission.runs[0].result.state == "FAILURE"
    assert shop.app.AsyncResult(run_id).state == "FAILURE"


def test_what_a_run_has_invoked_is_cancelled_with_it(make: Callable[..., Shop]) -> None:
    shop = make(task_routes={"slow": {"queue": "nobody"}})
    slow = shop.task(returned, name="slow")

    def invokes(data: Any) -> Any:
        return step.invoke("slow", slow, data)

    shop.subscribe(invokes)
    emission, fanout = shop.emit(), get_fanout(shop.app)
    run_id = emission.runs[0].id
    assert fanout.level2 is not None
    with shop.worker():
        wait_until(lambda: fanout.runs.get(run_id).state == "suspended")
    (child,) = fanout.runs.get(run_id).detail["children"]
    fanout.runs.cancel(run_id, "enough")
    for each in (run_id, child):
        fanout.level2.follow_ups.record(each)
        with pytest.raises(TaskRevokedError, match="enough"):
            shop.app.AsyncResult(each).get(timeout=30)
    assert fanout.ledger.awaiting_follow_up(older_than=0) == []


def test_a_run_whose_subscription_is_gone(make: Callable[..., Shop]) -> None:
    shop = make()
    shop.subscribe(returned)
    emission, fanout = shop.emit(), get_fanout(shop.app)
    run_id = emission.runs[0].id
    fanout.runs.cancel(run_id, "gone")
    other = make()  # without a subscriber
    level2 = get_fanout(other.app).level2
    assert level2 is not None
    level2.follow_ups.record(run_id)
    with pytest.raises(TaskRevokedError, match="gone"):
        emission.runs[0].get(timeout=30)


def test_a_backend_that_is_away_is_told_later(
    make: Callable[..., Shop], tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    results = tmp_path / "results"
    results.mkdir()
    shop = make(f"file://{results}")
    shop.subscribe(returned)
    emission, fanout = shop.emit(), get_fanout(shop.app)
    run_id = emission.runs[0].id
    fanout.runs.cancel(run_id, "enough")
    results.rmdir()
    assert fanout.level2 is not None
    with caplog.at_level(logging.WARNING, "celery_fanout"):
        fanout.level2.follow_ups.record(run_id)
    assert f"The result backend was not told of the end of run {run_id}: " in caplog.text
    results.mkdir()
    assert fanout.ledger.awaiting_follow_up(older_than=0) == [run_id]
    fanout.level2.follow_ups.record(run_id)  # as a keeper does
    with pytest.raises(TaskRevokedError, match="enough"):
        emission.runs[0].get(timeout=30)


def test_an_error_is_stored_as_celery_stores_it(make: Callable[..., Shop]) -> None:
    def fails(data: Any) -> None:
        raise ValueError(data)

    shop = make()
    shop.subscribe(fails)
    with shop.worker():
        [outcome] = shop.emit("no").get(timeout=60)
        ledger = get_fanout(shop.app).ledger
        wait_until(lambda: not ledger.awaiting_follow_up(older_than=0))
    assert repr(outcome.error) == "ValueError('no')"


def test_a_link_that_is_cancelled(make: Callable[..., Shop]) -> None:
    shop = make()
    shop.task(returned, name="third")
    second = shop.task(returned, name="second").s().set(queue="nobody")
    shop.subscribe(returned, subscription={"then": [second, shop.app.tasks["third"]]})
    fanout = get_fanout(shop.app)
    assert fanout.level2 is not None
    with shop.worker():
        emission = shop.emit(event=EVENT)
        run = emission.runs[0].id
        wait_until(lambda: fanout.runs.get(run).state == "succeeded")
        (link,) = fanout.runs.get(run).detail["children"]
        fanout.runs.cancel(link, "not this one")
        fanout.level2.follow_ups.record(link)
        with pytest.raises(TaskRevokedError, match="not this one"):
            emission.runs[0].get(timeout=30)
