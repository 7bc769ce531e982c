"""Publisher confirms of RabbitMQ, which are awaited once for all messages of an emission."""

from __future__ import annotations

import select
from typing import Any

import pytest
from celery import Celery, Task
from kombu import Queue

from celery_fanout import EmitError, emit, emit_many
from celery_fanout.app.fanout import get_fanout
from celery_fanout.emitting.broker.confirms import confirm_window
from celery_fanout.emitting.broker.connections import Deadline
from tests.integration.publishing import (
    Careful,
    add_task,
    amqp_wire,
    make_app,
    order_paid,
    subscribe,
)
from tests.integration.test_publishing_failures import in_time, message_of
from tests.processes import wait_until
from tests.servers import RabbitServer

pytestmark = pytest.mark.matrix

CONFIRMS = {"broker_transport_options": {"confirm_publish": True}}


def make_site(broker: str, **conf: Any) -> Celery:
    return make_app(broker, **{**CONFIRMS, **conf})


def channel_of(app: Celery) -> Any:
    """Return the channel that the app's last emission went over."""
    [connections] = get_fanout(app).publisher._producers._processes.values()
    [producer] = connections.idle
    return producer.channel


@pytest.mark.parametrize("cls", [None, Careful], ids=["fast", "compatible"])
def test_all_confirms_are_awaited_after_the_last_message(
    cls: type[Task] | None, rabbit_url: str
) -> None:
    app = make_site(rabbit_url, task_cls=cls)
    for number in range(50):
        subscribe(app, f"shop.task_{number}")
    emit(order_paid(), app=app)
    channel = channel_of(app)
    answers: list[tuple[int, bool]] = []
    channel.events["basic_ack"].add(lambda tag, multiple: answers.append((tag, multiple)))

    emission = emit(order_paid(), app=app)

    assert channel is channel_of(app)
    assert channel._confirm_selected
    assert channel.fanout_published == 100
    assert answers[-1][0] == 100 or (100, False) in answers
    sent = [message["headers"]["id"] for message in amqp_wire(app, 100)]
    assert set(sent) >= {run.id for run in emission.runs}
    assert len(sent) == 100


def test_many_events(rabbit_url: str) -> None:
    app = make_site(rabbit_url)
    for number in range(10):
        subscribe(app, f"shop.task_{number}")

    emit_many([order_paid() for _ in range(200)], app=app)

    assert len(amqp_wire(app, 2000)) == 2000


def test_one_answer_for_several_messages(rabbit_url: str) -> None:
    class Chain:
        state = "unknown"

    app = make_site(rabbit_url)
    chains = [Chain() for _ in range(5)]
    publisher = get_fanout(app).publisher
    with publisher._producers.acquire(Deadline(10)) as producer:
        window = confirm_window(producer, Deadline(10))
        assert window is not None
        with window:
            window._outstanding = dict(enumerate(chains, start=1))
            # what py-amqp calls when the broker answers; RabbitMQ does it so when it likes to
            producer.channel._on_basic_ack(2, True)
            producer.channel._on_basic_nack(4, True)
            states = [chain.state for chain in chains]
            producer.channel._on_basic_ack(5, False)
            with pytest.raises(Exception, match=r"^the broker refused the message \(basic.nack\)$"):
                window.wait()

    assert states == ["published", "published", "unpublished", "unpublished", "unknown"]
    assert chains[4].state == "published"


@pytest.mark.parametrize("cls", [None, Careful], ids=["fast", "compatible"])
def test_a_queue_that_is_full(cls: type[Task] | None, rabbit_url: str) -> None:
    limits = {"x-max-length": 1, "x-overflow": "reject-publish"}
    queue = Queue("celery", routing_key="celery", queue_arguments=limits)
    app = make_site(rabbit_url, task_cls=cls, task_queues=[queue])
    for number in range(3):
        subscribe(app, f"shop.task_{number}")

    with pytest.raises(EmitError) as caught:
        emit(order_paid(), app=app)

    assert list(caught.value.states.values()) == ["published", "unpublished", "unpublished"]
    assert str(caught.value) == message_of(
        caught.value,
        "1 published, 0 unknown, 2 unpublished",
        "OperationalError: the broker refused the message (basic.nack)",
    )
    assert [message["headers"]["task"] for message in amqp_wire(app, 1)] == ["shop.task_0"]


def test_an_exchange_that_does_not_exist(rabbit_url: str) -> None:
    app = make_site(rabbit_url)
    options = {"exchange": "nowhere", "exchange_type": "topic", "routing_key": "x"}
    subscribe(app, "shop.mail")
    subscribe(app, "shop.lost", options=options)
    subscribe(app, "shop.fine", "order/fine")

    with pytest.raises(EmitError) as caught:
        emit(order_paid(), app=app)

    vhost = rabbit_url.rpartition("/")[2]
    assert caught.value.reason == (
        f"NotFound: Basic.publish: (404) NOT_FOUND - no exchange 'nowhere' in vhost '{vhost}'"
    )
    assert list(caught.value.states.values())[1] == "unknown"
    emit("order/fine", app=app)
    assert "shop.fine" in {message["headers"]["task"] for message in amqp_wire(app, 1)}


def test_a_channel_that_the_broker_has_closed(rabbit_url: str) -> None:
    app = make_site(rabbit_url, broker_transport_options={})
    options = {"exchange": "nowhere", "exchange_type": "topic", "routing_key": "x"}
    subscribe(app, "shop.lost", options=options)
    subscribe(app, "shop.fine", "order/fine")
    emit(order_paid(), app=app)  # without confirms, the broker's answer is not awaited
    channel = channel_of(app)
    # until it has come, what follows on the channel would be lost too; select() knows no descriptor
    # above 1,023
    answer = select.poll()
    answer.register(channel.connection.transport.sock, select.POLLIN)
    wait_until(lambda: answer.poll(0))

    for _ in range(5):
        emit("order/fine", app=app)

    assert channel_of(app) is not channel
    assert [message["headers"]["task"] for message in amqp_wire(app, 5)] == ["shop.fine"] * 5


@pytest.mark.parametrize("confirms", [True, False])
def test_a_queue_that_is_declared_otherwise(confirms: bool, rabbit_url: str) -> None:
    first = make_site(rabbit_url)
    subscribe(first, "shop.mail")
    emit(order_paid(), app=first)
    queue = Queue("celery", routing_key="celery", queue_arguments={"x-max-priority": 5})
    app = make_site(
        rabbit_url,
        task_queues=[queue],
        broker_transport_options={"confirm_publish": confirms},
    )
    subscribe(app, "shop.ship")

    with pytest.raises(EmitError) as caught:
        emit(order_paid(), app=app)

    vhost = rabbit_url.rpartition("/")[2]
    assert caught.value.reason == (
        "PreconditionFailed: Queue.declare: (406) PRECONDITION_FAILED - inequivalent arg "
        f"'x-max-priority' for queue 'celery' in vhost '{vhost}': received the value '5' of type "
        "'signedint' but current is none"
    )
    assert caught.value.published == []


def test_a_mandatory_message_without_a_queue(rabbit_url: str) -> None:
    app = make_site(rabbit_url)
    options = {"exchange": "amq.topic", "exchange_type": "topic", "routing_key": "nobody"}
    subscribe(app, "shop.mail", options={**options, "mandatory": True})

    with pytest.raises(EmitError) as caught:
        emit(order_paid(), app=app)

    assert "NO_ROUTE" in caught.value.reason


def test_other_publishes_are_as_ever(rabbit_url: str) -> None:
    app = make_site(rabbit_url)
    subscribe(app, "shop.mail")
    plain = add_task(app, "shop.plain")
    plain.apply_async((1,))
    emit(order_paid(), app=app)

    with app.producer_pool.acquire() as producer:
        channel = producer.channel
        assert channel.basic_publish == channel.basic_publish_confirm
        assert not channel.events["basic_ack"]
    channel = channel_of(app)
    assert channel.basic_publish == channel.basic_publish_confirm
    assert not channel.events["basic_ack"]
    plain.apply_async((2,))

    assert len(amqp_wire(app, 3)) == 3


def test_a_broker_that_runs_out_of_memory() -> None:
    with RabbitServer() as rabbit:
        app = make_app(rabbit.url(), fanout_publish_timeout=1, **CONFIRMS)
        for name in ("shop.mail", "shop.ship"):
            subscribe(app, name)
        emit(order_paid(), app=app)
        rabbit.control("set_vm_memory_high_watermark", "absolute", "1")
        try:
            error = in_time(lambda: emit(order_paid(id="e-1"), app=app))
        finally:
            rabbit.control("set_vm_memory_high_watermark", "absolute", "1GB")

        assert isinstance(error, EmitError)
        assert str(error) == message_of(
            error,
            "0 published, 2 unknown, 0 unpublished",
            "OperationalError: the broker did not take the messages within "
            "fanout_publish_timeout (1 s)",
        )
        again = emit(order_paid(id="e-1"), app=app)
        assert [run.id for run in again.runs] == list(error.states)
        assert {message["headers"]["id"] for message in amqp_wire(app, 2)} >= set(error.states)
