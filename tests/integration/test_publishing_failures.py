"""What ``emit`` says when the broker refuses, goes away or falls silent; it always ends."""

from __future__ import annotations

import signal as signals_of_processes
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import kombu
import pytest
from celery import Celery, signals

from celery_fanout import EmitError, Event, emit, emit_many
from tests.integration.publishing import (
    Careful,
    add_task,
    amqp_wire,
    make_app,
    order_paid,
    redis_wire,
    subscribe,
)
from tests.processes import free_port, wait_until
from tests.servers import RabbitServer, RedisServer

pytestmark = pytest.mark.matrix

OOM = {  # in the words of redis-py since 5, and before
    "OutOfMemoryError: command not allowed when used memory > 'maxmemory'.",
    "ResponseError: OOM command not allowed when used memory > 'maxmemory'.",
}
BATCHES = kombu.VERSION >= (5, 7)


@pytest.fixture(scope="module")
def redis_of_ours() -> Iterator[RedisServer]:
    """A Redis server that tests may reconfigure and freeze."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def rabbit_of_ours() -> Iterator[RabbitServer]:
    """A RabbitMQ node that tests may freeze and stop."""
    with RabbitServer() as server:
        yield server


def in_time(call: Callable[[], Any]) -> Any:
    """Return what a call returns or raises, which it must do within half a minute."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(call())
        except Exception as exc:  # noqa: BLE001 - the test looks at it
            outcome.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert outcome, "it is still waiting"
    return outcome[0]


@contextmanager
def connected(receiver: Callable[..., Any]) -> Iterator[None]:
    signals.before_task_publish.connect(receiver, weak=False)
    try:
        yield
    finally:
        signals.before_task_publish.disconnect(receiver)


def three_subscribers(broker: str, **conf: Any) -> Celery:
    app = make_app(broker, **{"fanout_publish_timeout": 0.6, **conf})
    for name in ("shop.first", "shop.second", "shop.third"):
        subscribe(app, name)
    return app


def message_of(error: EmitError, counts: str, reason: str) -> str:
    return (
        f"The event 'order/paid' was not published to all its subscribers: {counts} ({reason}). "
        f"Emit it again with id={error.event_id!r}: that is safe."
    )


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("careful", [False, True], ids=["fast", "compatible"])
def test_redis_is_out_of_memory(careful: bool, redis_of_ours: RedisServer) -> None:
    redis_of_ours.flush()
    app = three_subscribers(redis_of_ours.url(), task_cls=Careful if careful else None)
    emit(order_paid(), app=app)
    redis_of_ours.flush()

    with redis_of_ours.client() as client:
        client.config_set("maxmemory", 1)
        try:
            with pytest.raises(EmitError) as caught:
                emit(order_paid(id="e-1"), app=app)
        finally:
            client.config_set("maxmemory", 0)

        error = caught.value
        assert error.event_id == "e-1"
        if not (careful and not BATCHES):  # then one by one, and the first is refused
            assert set(error.states.values()) == {"unknown"}
            assert str(error) == message_of(
                error, "0 published, 3 unknown, 0 unpublished", error.reason
            )
        assert error.reason in OOM
        assert redis_wire(client) == []

        again = emit(order_paid(id="e-1"), app=app)
        assert [run.id for run in again.runs] == list(error.states)
        assert len(redis_wire(client)) == 3


def test_a_message_that_cannot_be_encoded(redis_server: RedisServer, redis_url: str) -> None:
    app = three_subscribers(redis_url)

    def spoil(sender: str, headers: dict[str, Any], **kwargs: Any) -> None:
        if sender == "shop.third":
            headers["spoilt"] = object()

    with connected(spoil), pytest.raises(EmitError) as caught:
        emit(order_paid(), app=app)

    states = list(caught.value.states.values())
    with redis_server.client() as client:
        left = len(redis_wire(client))
    if BATCHES:
        assert (states, left) == (["unpublished"] * 3, 0)
        assert str(caught.value) == message_of(
            caught.value,
            "0 published, 0 unknown, 3 unpublished",
            "TypeError: Object of type object is not JSON serializable",
        )
    else:
        assert (states, left) == (["published", "published", "unknown"], 2)


def test_a_wrong_queue(redis_server: RedisServer, redis_url: str) -> None:
    app = make_app(redis_url, task_create_missing_queues=False)
    subscribe(app, "shop.first")
    subscribe(app, "shop.second", options={"queue": "nowhere"})

    with pytest.raises(EmitError) as caught:
        emit(order_paid(), app=app)

    assert caught.value.reason == "QueueNotFound: \"Queue 'nowhere' missing from task_queues\""
    assert caught.value.published == []
    assert len(caught.value.unknown) == (0 if BATCHES else 1)
    with redis_server.client() as client:
        assert redis_wire(client) == []


def test_of_several_events_the_first_is_named_that_is_concerned(rabbit_url: str) -> None:
    app = three_subscribers(rabbit_url)
    events = [order_paid(), order_paid(), order_paid()]

    def spoil(headers: dict[str, Any], sender: str, **kwargs: Any) -> None:
        if headers["ce_id"] == events[1].id and sender == "shop.second":
            headers["spoilt"] = object()

    with connected(spoil), pytest.raises(EmitError) as caught:
        emit_many(events, app=app)

    assert caught.value.event_id == events[1].id
    assert list(caught.value.states.values()) == [
        *(["published"] * 3),
        *("published", "unknown", "unpublished"),
        *(["unpublished"] * 3),
    ]
    assert caught.value.others == [events[2].id]
    assert str(caught.value).endswith(" that is safe. So it is with 1 more: see others.")
    assert [message["headers"]["ce_id"] for message in amqp_wire(app, 4)] == [
        *(events[0].id, events[1].id, events[0].id, events[0].id)
    ]


# --- brokers that go -----------------------------------------------------------------------------


def test_rabbitmq_stops_half_way(rabbit_of_ours: RabbitServer) -> None:
    app = three_subscribers(rabbit_of_ours.url())
    emit(order_paid(), app=app)

    def stop(sender: str, **kwargs: Any) -> None:
        if sender == "shop.second":
            rabbit_of_ours.stop()

    with connected(stop):
        error = in_time(lambda: emit(order_paid(id="e-1"), app=app))

    assert isinstance(error, EmitError)
    assert list(error.states.values()) == ["published", "unknown", "unpublished"]
    assert error.published + error.unknown + error.unpublished == list(error.states)
    assert str(error) == message_of(error, "1 published, 1 unknown, 1 unpublished", error.reason)
    rabbit_of_ours.start()
    again = emit(order_paid(id="e-1"), app=app)
    assert [run.id for run in again.runs] == list(error.states)
    sent = [message["headers"]["id"] for message in amqp_wire(app, 3)]
    assert set(sent) >= set(error.states)


def test_connections_that_were_cut(redis_of_ours: RedisServer) -> None:
    redis_of_ours.flush()
    app = three_subscribers(redis_of_ours.url())
    careful = three_subscribers(redis_of_ours.url(), task_cls=Careful)
    with redis_of_ours.client() as client:
        for site in (app, careful):
            emit(order_paid(), app=site)
            client.client_kill_filter(_type="normal", skipme=True)
            emit(order_paid(), app=site)
        assert len(redis_wire(client)) == 12


def test_a_redis_that_is_gone_before_a_queue_is_declared() -> None:
    """One that is broker and ledger, and knows the connection, but not this queue."""
    with RedisServer(appendonly=True) as server:
        url = server.url()
        app = make_app(url, url, fanout_store_url=None, fanout_publish_timeout=0.6)
        subscribe(app, "shop.bill")
        subscribe(app, "shop.ship", "order/shipped", options={"queue": "shipping"})
        emit("order/paid", {}, app=app)
        server.kill()
        error = in_time(lambda: emit("order/shipped", {}, id="e-1", app=app))
        assert isinstance(error, EmitError)
        assert list(error.states.values()) == ["unknown"]
        server.start()
        again = emit("order/shipped", {}, id="e-1", app=app)
        assert [run.id for run in again.runs] == list(error.states)
        with server.client() as client:
            assert [client.llen("celery"), client.llen("shipping")] == [1, 1]


@pytest.mark.parametrize("confirms", [False, True])
def test_connections_that_rabbitmq_has_closed(confirms: bool, rabbit_of_ours: RabbitServer) -> None:
    app = three_subscribers(
        rabbit_of_ours.url(), broker_transport_options={"confirm_publish": confirms}
    )
    emit(order_paid(), app=app)
    connections = rabbit_of_ours.control("list_connections", "pid").splitlines()
    assert connections

    rabbit_of_ours.control("close_all_connections", "maintenance")
    emit(order_paid(), app=app)

    assert len(amqp_wire(app, 6)) == 6


@pytest.mark.parametrize("confirms", [False, True])
def test_rabbitmq_was_started_anew(confirms: bool, rabbit_of_ours: RabbitServer) -> None:
    app = three_subscribers(
        rabbit_of_ours.url(), broker_transport_options={"confirm_publish": confirms}
    )
    emit(order_paid(), app=app)
    rabbit_of_ours.restart()

    emit(order_paid(), app=app)

    assert len(amqp_wire(app, 6)) == 6


# --- brokers that do not answer ------------------------------------------------------------------


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_broker_that_never_answers(scheme: str, deaf_port: int) -> None:
    app = three_subscribers(f"{scheme}://127.0.0.1:{deaf_port}//")

    error = in_time(lambda: emit(order_paid(), app=app))

    assert isinstance(error, EmitError)
    assert list(error.states.values()) == ["unpublished"] * 3
    assert str(error) == message_of(error, "0 published, 0 unknown, 3 unpublished", error.reason)
    assert "time" in error.reason.lower(), error.reason


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_broker_that_refuses(scheme: str) -> None:
    port = free_port()
    app = three_subscribers(f"{scheme}://127.0.0.1:{port}//")

    error = in_time(lambda: emit(order_paid(), app=app))

    assert isinstance(error, EmitError)
    assert list(error.states.values()) == ["unpublished"] * 3
    assert str(error) == message_of(error, "0 published, 0 unknown, 3 unpublished", error.reason)
    assert error.reason in {
        f"ConnectionError: Error 111 connecting to 127.0.0.1:{port}. Connection refused.",
        "ConnectionRefusedError: [Errno 111] Connection refused",
    }


def test_a_redis_that_falls_silent(redis_of_ours: RedisServer) -> None:
    redis_of_ours.flush()
    for cls in (None, Careful):
        app = three_subscribers(redis_of_ours.url(), task_cls=cls)
        emit(order_paid(), app=app)

        redis_of_ours.pause()
        try:
            error = in_time(lambda app=app: emit(order_paid(id="e-1"), app=app))
        finally:
            redis_of_ours.resume()

        assert isinstance(error, EmitError)
        assert error.unknown
        again = emit(order_paid(id="e-1"), app=app)
        assert [run.id for run in again.runs] == list(error.states)


@pytest.mark.parametrize("confirms", [False, True])
def test_a_rabbitmq_that_falls_silent(confirms: bool, rabbit_of_ours: RabbitServer) -> None:
    app = three_subscribers(
        rabbit_of_ours.url(), broker_transport_options={"confirm_publish": confirms}
    )
    emit(order_paid(), app=app)
    # more than fits on the way, or it would count as sent
    events = [order_paid(id=f"e-{number}") for number in range(40)]
    for event in events:
        event.data["note"] = "x" * 250_000

    rabbit_of_ours.pause()
    try:
        error = in_time(lambda: emit_many(events, app=app))
    finally:
        rabbit_of_ours.resume()

    assert isinstance(error, EmitError)
    assert error.unknown
    assert error.event_id in {event.id for event in events}
    again = emit_many(events, app=app)
    assert [run.id for emission in again for run in emission.runs] == list(error.states)


def test_all_connections_are_in_use(redis_url: str) -> None:
    app = three_subscribers(redis_url, broker_pool_limit=1)
    begun, go_on = threading.Event(), threading.Event()

    def hold(headers: dict[str, Any], **kwargs: Any) -> None:
        if headers["ce_id"] == "slow":
            begun.set()
            assert go_on.wait(30)

    with connected(hold):
        slow = threading.Thread(target=lambda: emit(order_paid(id="slow"), app=app))
        slow.start()
        assert begun.wait(30)
        error = in_time(lambda: emit(order_paid(id="e-1"), app=app))
        go_on.set()
        slow.join(30)

    assert isinstance(error, EmitError)
    assert error.reason == (
        "OperationalError: all connections of broker_pool_limit were in use, none was free within "
        "fanout_publish_timeout (0.6 s)"
    )
    emit(order_paid(id="e-1"), app=app)


def test_what_interrupts_an_emission_leaves_no_half_of_it(redis_of_ours: RedisServer) -> None:
    """A worker's time limit or Ctrl-C may come while a reply is awaited."""
    redis_of_ours.flush()
    app = three_subscribers(redis_of_ours.url(), fanout_publish_timeout=20)
    emit(order_paid(), app=app)

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signals_of_processes.signal(signals_of_processes.SIGUSR1, interrupt)
    redis_of_ours.pause()
    try:
        timer = threading.Timer(
            0.3,
            lambda: signals_of_processes.pthread_kill(
                threading.main_thread().ident or 0, signals_of_processes.SIGUSR1
            ),
        )
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            emit(order_paid(id="interrupted"), app=app)
    finally:
        redis_of_ours.resume()
        signals_of_processes.signal(signals_of_processes.SIGUSR1, before)

    emission = emit(order_paid(id="next"), app=app)
    with redis_of_ours.client() as client:
        wait_until(lambda: client.llen("celery") in {6, 9})
        sent = {message["headers"]["id"] for message in redis_wire(client)}
    assert sent >= {run.id for run in emission.runs}


def test_an_event_that_nobody_subscribes_to_asks_no_broker() -> None:
    app = make_app(f"redis://127.0.0.1:{free_port()}/0")
    add_task(app, "shop.mail")

    assert emit(Event("order/lost"), app=app).runs == []


@pytest.mark.parametrize("option", ["delay", "expires"])
def test_a_time_that_the_ledger_cannot_tell(option: str) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    app = Celery("late", broker=url, backend=url, set_as_current=False)

    with pytest.raises(EmitError, match=r"Emit it again with id='e-1': that is safe") as caught:
        emit("order/paid", {}, id="e-1", app=app, **{option: 60})
    assert caught.value.states == {}
