"""Which published runs have left their queue on Redis, by the oldest message still in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from celery_fanout import get_fanout
from celery_fanout.keeping.lost_messages import LostMessages
from tests.integration.inprocess import Shop
from tests.processes import free_port
from tests.servers import RedisServer

QUEUE = "celery"
#: How much later than it left its queue a run is missed: a worker may not have told yet.
MARGIN = 15.0


@pytest.fixture(params=["", "shop:"], ids=["plain", "prefix"])
def shop(
    redis_server: RedisServer, redis_url: str, request: pytest.FixtureRequest
) -> Iterator[Shop]:
    with Shop(redis_url, redis_server.url(1)) as shop:
        shop.app.conf.broker_transport_options["global_keyprefix"] = request.param
        yield shop


@pytest.fixture
def lost(shop: Shop) -> Iterator[LostMessages]:
    lost = LostMessages(shop.app, get_fanout(shop.app).ledger)
    yield lost
    lost.close()


def tell(order: object) -> None: ...


def emitted(shop: Shop) -> tuple[str, float]:
    """Emit an event; return the id of its run, and when it was published."""
    run_id = shop.emit({}).runs[0].id
    run = get_fanout(shop.app).ledger.run(run_id)
    assert run is not None
    assert run.state.value == "published"
    return run_id, run.updated


def receive(shop: Shop, queue: str = QUEUE) -> None:
    """Take the oldest message out of the queue, as a worker does that then dies."""
    with shop.app.connection_for_read() as connection:
        message = connection.SimpleQueue(queue).get(block=False)
        message.ack()


def test_what_is_younger_than_the_oldest_message_is_on_its_way(
    shop: Shop, lost: LostMessages
) -> None:
    shop.subscribe(tell)
    _, first = emitted(shop)
    emitted(shop)
    assert lost() == [(QUEUE, pytest.approx(first - MARGIN, abs=0.001))]


def test_what_is_older_has_left_the_queue(shop: Shop, lost: LostMessages) -> None:
    shop.subscribe(tell)
    emitted(shop)
    _, second = emitted(shop)
    receive(shop)
    assert lost() == [(QUEUE, pytest.approx(second - MARGIN, abs=0.001))]


def test_nothing_is_on_its_way_in_an_empty_queue(shop: Shop, lost: LostMessages) -> None:
    shop.subscribe(tell)
    emitted(shop)
    receive(shop)
    ((queue, before),) = lost()
    now = get_fanout(shop.app).ledger.time()
    assert queue == QUEUE
    assert now - MARGIN - 10 < before < now - MARGIN


def test_the_oldest_of_all_priorities_counts(shop: Shop, lost: LostMessages) -> None:
    shop.subscribe(tell)
    _, first = emitted(shop)
    urgent = {"options": {"priority": 9}}
    shop.subscribe(tell, name="urgent", event="order/urgent", subscription=urgent)
    shop.emit({}, event="order/urgent")
    assert lost() == [(QUEUE, pytest.approx(first - MARGIN, abs=0.001))]


def test_behind_an_ordinary_task_nothing_can_be_told(shop: Shop, lost: LostMessages) -> None:
    task = shop.task(tell, name="ordinary")
    task.delay({})
    shop.subscribe(tell)
    emitted(shop)
    assert lost() == []


def test_a_keeper_of_its_own_looks_at_all_queues(shop: Shop) -> None:
    shop.app.conf.fanout_queue = "fast"
    shop.app.conf.task_routes = {"routed": {"queue": "routes"}}
    shop.task(tell, name="routed")
    shop.subscribe(tell, "fast")
    shop.subscribe(tell, "slow", "order/slow", {"options": {"queue": "slow"}})
    level2 = get_fanout(shop.app).level2
    assert level2 is not None
    lost = LostMessages(shop.app, level2.ledger, level2.queues)
    assert level2.queues() == {QUEUE, "fast", "slow", "routes"}
    run_id = shop.emit({}, "order/slow").runs[0].id
    run = level2.ledger.run(run_id)
    assert run is not None
    assert ("slow", pytest.approx(run.updated - MARGIN, abs=0.001)) in lost()
    receive(shop, "slow")
    assert max(before for queue, before in lost() if queue == "slow") > run.updated - MARGIN
    lost.close()


def test_without_a_broker_nothing_is_lost(redis_url: str) -> None:
    broker = f"redis://127.0.0.1:{free_port()}/0"
    with Shop(broker, redis_url, broker_connection_timeout=0.1) as shop:
        found = LostMessages(shop.app, get_fanout(shop.app).ledger)
        assert found() == []
        found.close()


def test_other_brokers_do_not_tell(redis_url: str) -> None:
    with Shop("memory://", redis_url) as shop:
        found = LostMessages(shop.app, get_fanout(shop.app).ledger)
        assert found() == []
        found.close()
