"""Each option of flow control with a real worker: on one Redis, and with a broker of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pydantic
import pytest
from kombu import Queue

from celery_fanout import (
    Batch,
    Concurrency,
    Debounce,
    Idempotency,
    RateLimit,
    Singleton,
    Throttle,
    current_event,
    current_run,
    emit_many,
    get_fanout,
    step,
)
from celery_fanout.model.ids import event_key
from celery_fanout.stores.records import RunRecord
from tests.integration.inprocess import EVENT, Shop
from tests.processes import wait_until
from tests.servers import RedisServer

LIMITED = "subscriber@order/placed"


class Counting(Shop):
    """A shop whose subscriber notes what it gets, and how many of its bodies ran at once."""

    def __init__(self, *args: Any, **conf: Any) -> None:
        super().__init__(*args, **conf)
        self.got: list[Any] = []
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def limited(self, body: Callable[[Any], Any] | None = None, **subscription: Any) -> None:
        """Subscribe a task with options of flow control."""

        def subscriber(data: Any) -> Any:
            with self._lock:
                self.got.append(data)
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
            try:
                return data if body is None else body(data)
            finally:
                with self._lock:
                    self.at_once -= 1

        self.subscribe(subscriber, subscription=subscription)

    def run(self, data: Any = None, **options: Any) -> str:
        """Emit an event, and return the id of its run."""
        (handle,) = self.emit(data, **options).runs
        return handle.id

    def look(self, run_id: str) -> RunRecord:
        """Return what the ledger has of a run."""
        return get_fanout(self.app).runs.get(run_id)

    def ended(self, *run_ids: str) -> list[tuple[str, str]]:
        """Wait until runs have ended; return their states and reasons."""
        final = ("succeeded", "failed", "cancelled")
        ledger = get_fanout(self.app).ledger

        def is_final(run_id: str) -> bool:
            run = ledger.run(run_id)
            return run is not None and run.state in final

        wait_until(lambda: all(map(is_final, run_ids)))
        return [(str(found.state), found.reason) for found in map(self.look, run_ids)]


def until_woken(data: Any) -> None:
    step.wait_for_event("woken", "order/woken", timeout=600)


@pytest.fixture(params=["one Redis", "two databases"])
def shop(
    redis_server: RedisServer, redis_url: str, request: pytest.FixtureRequest
) -> Iterator[Counting]:
    broker = request.getfixturevalue("rabbit_url") if request.param == "RabbitMQ" else redis_url
    ledger = redis_url if request.param == "one Redis" else redis_server.url(1)
    with Counting(broker, ledger) as shop:
        yield shop


#: A worker takes ten seconds to leave RabbitMQ: there only what has to do with messages is tried.
everywhere = pytest.mark.parametrize(
    "shop", ["one Redis", "two databases", "RabbitMQ"], indirect=True
)

SUCCEEDED = ("succeeded", "")


def test_a_run_that_sleeps_gives_its_place_to_the_next(shop: Counting) -> None:
    awake = threading.Event()

    def body(data: Any) -> None:
        if data == 0:
            step.wait_for_event("woken", "order/woken", timeout=60)
        awake.set()

    shop.limited(body, concurrency=Concurrency(1))
    first, second = shop.run(0), shop.run(1)
    assert shop.look(second).state == "gated"
    assert shop.look(second).reason == f"concurrency {LIMITED}"
    with shop.worker():
        assert shop.ended(second) == [SUCCEEDED]
        assert shop.look(first).state == "suspended"
        shop.emit(event="order/woken")
        assert shop.ended(first) == [SUCCEEDED]
    assert shop.got == [0, 1, 0]


@pytest.mark.parametrize("shop", ["two databases"], indirect=True)
def test_runs_that_redis_has_lost_have_their_limits_again(
    shop: Counting, redis_server: RedisServer
) -> None:
    """Their messages are there, and say whose they are; what they waited for the code says."""
    met = threading.Event()
    shop.limited(lambda data: met.wait(0.05), concurrency=Concurrency(3, "key"))
    runs = [shop.run({"key": "a"}) for _ in range(3)]
    with redis_server.client(1) as ledger:
        ledger.flushdb()
    get_fanout(shop.app).limits.tune(f"concurrency {LIMITED} by key", 1)
    with shop.worker("threads", concurrency=3):
        assert shop.ended(*runs) == [SUCCEEDED] * 3
    assert shop.most_at_once == 1


@everywhere
def test_no_more_at_once_than_the_limit_and_no_fewer(shop: Counting) -> None:
    both = threading.Barrier(2)
    shop.limited(lambda data: both.wait(30) >= 0, concurrency=Concurrency(2, "key"))
    runs = [shop.run({"key": "a"}) for _ in range(6)]
    assert [shop.look(run).state for run in runs].count("gated") == 4
    with shop.worker("threads", concurrency=4):
        assert shop.ended(*runs) == [SUCCEEDED] * 6
    assert shop.most_at_once == 2


def test_starts_are_spread_over_time(shop: Counting) -> None:
    shop.limited(throttle=Throttle(1, 0.3))
    runs = [shop.run(number) for number in range(3)]
    assert [shop.look(run).reason for run in runs[1:]] == [f"throttle {LIMITED}"] * 2
    with shop.worker():
        assert shop.ended(*runs) == [SUCCEEDED] * 3
    assert shop.got == [0, 1, 2]


@everywhere
def test_a_dropped_run_is_seen_with_its_reason(shop: Counting) -> None:
    shop.limited(rate_limit=RateLimit(2, 3600, "key"), idempotency=Idempotency("id", 3600))
    data = [{"key": "a", "id": number} for number in (1, 1, 2, 3)] + [{"key": "b", "id": 4}]
    runs = [shop.run(item) for item in data]
    with shop.worker():
        assert shop.ended(*runs) == [
            SUCCEEDED,
            ("cancelled", f"dropped: idempotency {LIMITED} by id"),
            SUCCEEDED,
            ("cancelled", f"dropped: rate_limit {LIMITED} by key"),
            SUCCEEDED,
        ]
    assert [item["id"] for item in shop.got] == [1, 2, 4]


def test_a_debounced_run_has_the_last_event(shop: Counting) -> None:
    def body(data: Any) -> Any:
        run, event = current_run(), current_event()
        assert run is not None
        assert event is not None
        return [event.id, list(run.events)]

    shop.limited(body, debounce=Debounce(0.5, "key"))
    emissions = [shop.emit({"key": 1, "n": number}, id=f"e{number}") for number in range(3)]
    assert len({emission.runs[0].id for emission in emissions}) == 1
    with shop.worker():
        (outcome,) = emissions[0].get(timeout=60)
    assert outcome.value == ["e2", [event_key(EVENT, f"e{number}") for number in range(3)]]
    assert shop.got == [{"key": 1, "n": 2}]


@everywhere
def test_a_batch_is_full_or_its_time_is_over(shop: Counting) -> None:
    follower: list[Any] = []

    def follow(value: Any) -> Any:
        event = current_event()
        assert event is not None
        follower.append(event.data)
        return value

    then = shop.task(follow, name="follow")
    shop.limited(lambda data: [item["n"] for item in data], batch=Batch(3, 0.5, "key"), then=then)
    events = [(EVENT, {"key": number % 2, "n": number}) for number in range(5)]
    emissions = emit_many(events, app=shop.app)
    with shop.worker():
        values = [emission.get(timeout=60)[0].value for emission in emissions]
    assert values == [[0, 2, 4], [1, 3], [0, 2, 4], [1, 3], [0, 2, 4]]
    assert [len(batch) for batch in shop.got] == [3, 2]
    assert follower == shop.got


def test_all_that_belongs_to_a_batch_sees_all_of_it(shop: Counting) -> None:
    told: list[Any] = []

    def body(data: list[int]) -> None:
        found = step.parallel("each", [(lambda n=n: data[n] * 2,) for n in range(len(data))])
        step.sleep("rest", 0.1)
        raise ValueError(found)

    def failed(failure: Any) -> None:
        told.append(failure)

    on_failure = shop.task(failed, name="failed")
    shop.limited(body, batch=Batch(3, 60), on_failure=on_failure)
    runs = [shop.run(number, id=f"e{number}") for number in range(3)]
    assert runs == [runs[0]] * 3
    assert shop.run(1, id="e1") == runs[0]  # the event again
    with shop.worker():
        assert shop.ended(runs[0]) == [("failed", "error")]
        wait_until(lambda: told)
        (replayed,) = get_fanout(shop.app).runs.replay("e1", name=EVENT)
        assert shop.ended(replayed) == [("failed", "error")]
        wait_until(lambda: len(told) == 2)
    assert [(found["event"]["id"], found["event"]["data"]) for found in told] == [
        ("e2", [0, 1, 2]),
        ("e1", [1]),
    ]
    assert [found["error"]["message"] for found in told] == ["[0, 2, 4]", "[2]"]
    assert [batch for batch in shop.got if batch not in ([0, 1, 2], [1])] == []


@pytest.mark.parametrize("shop", ["two databases"], indirect=True)
def test_a_batch_that_redis_has_lost_comes_back_with_its_message(
    shop: Counting, redis_server: RedisServer
) -> None:
    shop.limited(lambda data: step.sleep("rest", 0.1), batch=Batch(2, 60))
    runs = [shop.run(number) for number in range(2)]
    with redis_server.client(1) as client:
        client.flushdb()
    with shop.worker():
        wait_until(lambda: len(shop.got) == 2)
        assert shop.ended(runs[0]) == [SUCCEEDED]
    assert shop.got == [[0, 1], [0, 1]]


class Order(pydantic.BaseModel):
    id: int


def test_a_batch_of_models(shop: Counting) -> None:
    def subscriber(orders: list[Order]) -> list[str]:
        return [type(order).__name__ for order in orders]

    shop.subscribe(subscriber, subscription={"batch": Batch(2, 60)}, pydantic=True)
    emissions = [shop.emit({"id": number}) for number in range(2)]
    with shop.worker():
        assert emissions[0].get(timeout=60)[0].value == ["Order", "Order"]


@pytest.mark.parametrize(
    ("mode", "states"),
    [
        ("skip", [SUCCEEDED, ("cancelled", f"dropped: singleton {LIMITED} by key")]),
        ("cancel", [("cancelled", f"cancelled: singleton {LIMITED} by key"), SUCCEEDED]),
        ("queue", [SUCCEEDED, SUCCEEDED]),
    ],
)
def test_one_run_at_a_time(shop: Counting, mode: Any, states: list[tuple[str, str]]) -> None:
    shop.limited(until_woken, singleton=Singleton("key", mode))
    with shop.worker():
        first = shop.run({"key": 1})
        wait_until(lambda: shop.look(first).state == "suspended")
        second = shop.run({"key": 1})
        other = shop.run({"key": 2})
        waiting = {"skip": [first, other], "cancel": [second, other], "queue": [first, other]}[mode]
        for run in waiting:
            wait_until(lambda run=run: shop.look(run).state == "suspended")
        if mode == "queue":
            assert shop.look(second).state == "gated"
        shop.emit(event="order/woken")  # also for what has yet to wait for it
        assert shop.ended(first, second) == states


def test_the_highest_priority_starts_first(shop: Counting) -> None:
    shop.limited(concurrency=Concurrency(1), priority=lambda event: event.data["p"])
    runs = [shop.run({"n": n, "p": p}) for n, p in enumerate([0, 0, 5, -5, 5])]
    with shop.worker():
        assert shop.ended(*runs) == [SUCCEEDED] * 5
    assert [data["n"] for data in shop.got] == [0, 2, 4, 1, 3]


@pytest.mark.parametrize("hooked", [False, True], ids=["template", "apply_async"])
def test_on_redis_a_low_priority_is_the_brokers(
    shop: Counting, redis_server: RedisServer, hooked: bool
) -> None:
    shop.limited(priority=lambda event: event.data, options={"shadow": "x"} if hooked else None)
    runs = [shop.run(priority) for priority in (-200, -1, 0, 200, -4)]
    assert {str(shop.look(run).state) for run in runs} == {"published"}
    queue = "celery"
    with redis_server.client() as client:
        found = {key.decode(): client.llen(key) for key in client.keys(f"{queue}*")}
    assert found == {queue: 3, f"{queue}\x06\x163": 1, f"{queue}\x06\x169": 1}
    with shop.worker():
        assert shop.ended(*runs) == [SUCCEEDED] * 5
    assert shop.got == [-1, 0, 200, -4, -200]


@pytest.mark.parametrize("shop", ["RabbitMQ"], indirect=True)
def test_on_rabbitmq_a_high_priority_is_the_brokers(shop: Counting) -> None:
    shop.app.conf.task_queues = [Queue("ranked", max_priority=10)]
    shop.app.conf.worker_prefetch_multiplier = 1
    shop.limited(priority=lambda event: event.data, options={"queue": "ranked"})
    runs = [shop.run(priority) for priority in (-200, 3, 0, 200, 5)]
    with shop.worker():
        assert shop.ended(*runs) == [SUCCEEDED] * 5
    assert shop.got == [200, 5, 3, -200, 0]


def test_runs_that_start_or_finish_too_late(shop: Counting) -> None:
    shop.limited(
        until_woken,
        singleton=Singleton(mode="queue"),
        start_timeout=0.5,
        finish_timeout=2,
    )
    with shop.worker():
        runs = [shop.run(number) for number in range(2)]
        assert shop.ended(*runs) == [
            ("cancelled", "finish_timeout"),
            ("cancelled", "start_timeout"),
        ]
    assert shop.got == [0]


def test_a_delayed_run_is_admitted_when_it_is_due(shop: Counting) -> None:
    shop.limited(concurrency=Concurrency(1))
    with shop.worker():
        runs = [shop.run(0, delay=0.3), shop.run(1)]
        assert shop.ended(*runs) == [SUCCEEDED] * 2
    assert sorted(shop.got) == [0, 1]


@pytest.mark.parametrize("shop", ["one Redis"], indirect=True)
def test_on_one_redis_a_run_and_its_message_are_one_script(
    shop: Counting, redis_server: RedisServer
) -> None:
    shop.limited(concurrency=Concurrency(2))
    shop.subscribe(nothing, name="plain")
    shop.subscribe(nothing, name="collected", subscription={"batch": Batch(2, 60)})
    trips: list[int] = []
    states: list[dict[str, str]] = []
    with redis_server.client() as client:
        for number in range(4):
            before = client.info("stats")["total_reads_processed"]
            emission = shop.emit(number)
            trips.append(client.info("stats")["total_reads_processed"] - before - 1)
            runs = {run.subscription.task.name: run.id for run in emission.runs}
            states.append({name: str(shop.look(run).state) for name, run in runs.items()})
        assert client.llen("celery") == 8  # four plain ones, two limited ones, two batches
    # the first one loads the script and declares the queue; a full batch is taken with its list
    assert trips[2] == 1
    assert states == [
        {"subscriber": "published", "plain": "published", "collected": "gated"},
        {"subscriber": "published", "plain": "published", "collected": "published"},
        {"subscriber": "gated", "plain": "published", "collected": "gated"},
        {"subscriber": "gated", "plain": "published", "collected": "published"},
    ]


def nothing(data: Any) -> None: ...
