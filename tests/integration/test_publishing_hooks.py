"""What Celery lets an app, or a tool, change about publishing keeps working."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import kombu
import pytest
import wrapt
from celery import Celery, Task, signals
from celery.app.amqp import AMQP

from celery_fanout import emit
from tests.integration.publishing import (
    Careful,
    add_task,
    make_app,
    order_paid,
    redis_wire,
    subscribe,
)
from tests.servers import RedisServer

pytestmark = pytest.mark.matrix

SHIP = "shop.ship"
MAIL = "shop.mail"


@pytest.fixture
def wire(redis_server: RedisServer, redis_url: str) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """A function that takes all messages from the broker."""
    with redis_server.client() as client:
        yield lambda: redis_wire(client)


@contextmanager
def connected(signal: Any, receiver: Callable[..., Any]) -> Iterator[None]:
    signal.connect(receiver, weak=False)
    try:
        yield
    finally:
        assert signal.disconnect(receiver)


@contextmanager
def patched(cls: type, name: str, patch: Callable[[Any], Any]) -> Iterator[None]:
    """Replace a method as a tool would that traces it, and put it back."""
    original = cls.__dict__[name]
    setattr(cls, name, patch(original))
    try:
        yield
    finally:
        setattr(cls, name, original)


def headers_of(messages: list[dict[str, Any]], name: str) -> list[Any]:
    return [message["headers"].get(name) for message in messages]


# --- signals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [None, Careful], ids=["fast", "compatible"])
@pytest.mark.parametrize("transport", ["redis", "memory"])
def test_both_signals_once_per_message_in_order_and_in_this_thread(
    cls: type | None, transport: str, redis_url: str
) -> None:
    app = make_app(redis_url if transport == "redis" else "memory://", task_cls=cls)
    names = [subscribe(app, name, then=add_task(app, f"{name}.tail")).name for name in (MAIL, SHIP)]
    seen: list[tuple[Any, ...]] = []

    def before(sender: str, headers: dict[str, Any], body: Any, **kwargs: Any) -> None:
        assert kwargs["signal"] is signals.before_task_publish
        assert set(kwargs) == {
            *("signal", "exchange", "routing_key", "declare", "properties", "retry_policy")
        }
        assert kwargs["properties"]["correlation_id"] == headers["id"]
        assert [queue.name for queue in kwargs["declare"]] == ["celery"]
        seen.append(("before", sender, headers["id"], body[0], threading.get_ident()))

    def after(sender: str, headers: dict[str, Any], body: Any, **kwargs: Any) -> None:
        assert kwargs == {
            "signal": signals.after_task_publish,
            "exchange": "",
            "routing_key": "celery",
        }
        seen.append(("after", sender, headers["id"], body[0], threading.get_ident()))

    with (
        connected(signals.before_task_publish, before),
        connected(signals.after_task_publish, after),
    ):
        emission = emit(order_paid(), app=app)

    assert seen == [
        (when, name, run.id, (emission.event.data,), threading.get_ident())
        for name, run in zip(names, emission.runs, strict=True)
        for when in ("before", "after")
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_old_signal_is_sent_too(redis_url: str) -> None:
    app = make_app(redis_url)
    subscribe(app, MAIL)
    seen = []

    def sent(task_id: str, args: Any, **kwargs: Any) -> None:
        seen.append((task_id, args))

    with connected(signals.task_sent, sent):
        emission = emit(order_paid(), app=app)

    assert seen == [(emission.runs[0].id, (emission.event.data,))]


@pytest.mark.parametrize("cls", [None, Careful], ids=["fast", "compatible"])
def test_a_receiver_may_edit_the_message(cls: type | None, wire: Any, redis_url: str) -> None:
    app = make_app(redis_url, task_cls=cls)
    subscribe(app, MAIL)
    subscribe(app, SHIP)
    event = order_paid()
    emit(event, app=app)
    untouched = wire()

    def edit(sender: str, **message: Any) -> None:
        if sender == SHIP:
            message["headers"]["tenant"] = "t-1"
            message["headers"]["timelimit"][0] = 9
            message["headers"]["stamps"]["stamp"] = ["s-1"]
            message["properties"]["priority"] = 3
            message["body"][1]["tenant"] = "t-1"
            message["body"][2]["chord"] = "none"
            message["declare"].append(kombu.Queue("beside", channel=None, routing_key="celery"))

    with connected(signals.before_task_publish, edit):
        emit(event, app=app)
    [mail, ship] = wire()

    assert ship["key"] == "celery\x06\x163"
    assert ship["headers"]["tenant"] == "t-1"
    assert ship["headers"]["timelimit"] == [9, None]
    assert ship["headers"]["stamps"] == {"stamp": ["s-1"]}
    assert ship["properties"]["priority"] == 3
    assert ship["body"][1] == {"tenant": "t-1"}
    assert ship["body"][2]["chord"] == "none"
    emit(event, app=app)
    assert [mail, *wire()] == [untouched[0], *untouched]  # what was edited was one message


def test_a_receiver_that_raises_is_logged_by_celery(
    wire: Any, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(redis_url)
    subscribe(app, MAIL)

    def refuse(**kwargs: Any) -> None:
        raise ValueError("no")

    with connected(signals.before_task_publish, refuse), caplog.at_level(logging.ERROR):
        emit(order_paid(), app=app)

    assert len(wire()) == 1
    assert "refuse" in caplog.text
    assert "ValueError('no')" in caplog.text


# --- overrides -----------------------------------------------------------------------------------


class Tenant(Task):
    """A base class such as multi-tenant packages have."""

    abstract = True

    def apply_async(self, *args: Any, headers: Any = None, **options: Any) -> Any:
        return super().apply_async(*args, headers={**(headers or {}), "tenant": "t-1"}, **options)


def test_apply_async_of_a_base_class(wire: Any, redis_url: str) -> None:
    app = make_app(redis_url)
    subscribe(app, MAIL, task={"base": Tenant})
    subscribe(app, SHIP)

    emission = emit(order_paid(), app=app)

    sent = wire()
    assert headers_of(sent, "tenant") == ["t-1", None]
    assert headers_of(sent, "id") == [run.id for run in emission.runs]


def test_apply_async_of_all_tasks_of_an_app(wire: Any, redis_url: str) -> None:
    app = make_app(redis_url, task_cls=Tenant)
    subscribe(app, MAIL)

    emit(order_paid(), app=app)

    assert headers_of(wire(), "tenant") == ["t-1"]


def test_apply_async_of_one_task(wire: Any, redis_url: str) -> None:
    app = make_app(redis_url)
    task = subscribe(app, MAIL)
    emit(order_paid(), app=app)

    original = task.apply_async
    task.apply_async = lambda *args, **options: original(*args, **{**options, "priority": 9})
    emit(order_paid(), app=app)

    assert [message["key"] for message in wire()] == ["celery", "celery\x06\x169"]


def traced_with_functools(calls: list[str]) -> Callable[[Any], Any]:
    def patch(original: Any) -> Any:
        @functools.wraps(original)
        def traced(*args: Any, **kwargs: Any) -> Any:
            calls.append(original.__name__)
            return original(*args, **kwargs)

        return traced

    return patch


def traced_with_wrapt(calls: list[str]) -> Callable[[Any], Any]:
    def trace(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        calls.append(wrapped.__name__)
        return wrapped(*args, **kwargs)

    return lambda original: wrapt.FunctionWrapper(original, trace)


@pytest.mark.parametrize("traced", [traced_with_functools, traced_with_wrapt])
@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (Task, "apply_async"),
        (Celery, "send_task"),
        (kombu.Producer, "publish"),
        (kombu.Producer, "_publish"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_what_a_tool_has_patched_is_called(
    traced: Any, cls: type, name: str, wire: Any, redis_url: str
) -> None:
    app = make_app(redis_url)
    subscribe(app, MAIL)
    subscribe(app, SHIP)
    event = order_paid()
    emit(event, app=app)
    untraced = wire()
    calls: list[str] = []

    with patched(cls, name, traced(calls)):
        emit(event, app=app)
    assert calls == [name, name]
    assert wire() == untraced

    emit(event, app=app)
    assert calls == [name, name]


def test_what_makes_the_messages_of_an_app(wire: Any, redis_url: str) -> None:
    class Tracing(AMQP):
        def as_task_v2(self, *args: Any, **options: Any) -> Any:
            message = super().as_task_v2(*args, **options)
            message.headers["trace"] = message.headers["id"]
            return message

    app = make_app(redis_url)
    app.amqp_cls = Tracing
    subscribe(app, MAIL)

    emission = emit(order_paid(), app=app)

    assert headers_of(wire(), "trace") == [emission.runs[0].id]


def test_send_task_of_an_app_class(wire: Any, redis_url: str) -> None:
    class Site(Celery):
        def send_task(self, *args: Any, **options: Any) -> Any:
            options["headers"] = {**options["headers"], "site": self.main}
            return super().send_task(*args, **options)

    app = Site("shop", broker=redis_url, set_as_current=False)
    subscribe(app, MAIL)

    emit(order_paid(), app=app)

    assert headers_of(wire(), "site") == ["shop"]


def test_send_task_message_of_one_app(wire: Any, redis_url: str) -> None:
    app = make_app(redis_url)
    subscribe(app, MAIL)
    original = app.amqp.send_task_message

    def send(producer: Any, name: str, message: Any, **options: Any) -> Any:
        message.headers["site"] = "s-1"
        return original(producer, name, message, **options)

    app.amqp.send_task_message = send
    emit(order_paid(), app=app)

    assert headers_of(wire(), "site") == ["s-1"]


# --- routes, names -------------------------------------------------------------------------------


def by_customer(
    name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **kw: Any
) -> Any:
    return {"queue": f"customer-{args[0]['order']}", "priority": 4}


class OldRouter:
    def route_for_task(self, task: str, args: Any = None, kwargs: Any = None) -> Any:
        return {"queue": "old", "priority": 4}


@pytest.mark.parametrize(
    ("router", "queue"),
    [
        (by_customer, "customer-o-1"),
        (f"{__name__}.by_customer", "customer-o-1"),
        (OldRouter(), "old"),
        ([{"other.*": {"queue": "others"}}, by_customer], "customer-o-1"),
    ],
    ids=["function", "name", "object", "list"],
)
def test_a_router_decides_for_each_message(
    router: Any, queue: str, wire: Any, redis_url: str
) -> None:
    app = make_app(redis_url, task_routes=router)
    subscribe(app, MAIL)

    emit(order_paid(), app=app)

    assert [message["key"] for message in wire()] == [f"{queue}\x06\x163"]


def test_routes_that_change_while_the_app_runs(wire: Any, redis_url: str) -> None:
    app = make_app(redis_url, task_routes={MAIL: "first"})
    subscribe(app, MAIL)
    emit(order_paid(), app=app)

    app.conf.update(task_routes={MAIL: "second"})
    emit(order_paid(), app=app)

    assert [message["key"] for message in wire()] == ["first", "second"]


def test_events_for_monitors_that_are_switched_on_while_the_app_runs(
    redis_server: RedisServer, redis_url: str
) -> None:
    app = make_app(redis_url, main="shop")
    subscribe(app, MAIL)
    emit(order_paid(), app=app)
    app.conf.task_send_sent_event = True

    with redis_server.client() as client, client.pubsub() as monitor:
        monitor.psubscribe("*celeryev*")
        monitor.get_message(timeout=10)
        emission = emit(order_paid(), app=app)
        message = monitor.get_message(timeout=10)

    assert message is not None
    assert emission.runs[0].id.encode() not in message["data"]  # its body is base64
    assert message["channel"] == b"/0.celeryev/task.sent"


def shadow_name(task: Any, args: Any, kwargs: Any, options: Any) -> str:
    return f"{task.name} of {args[0]['order']}"


class Shadow(Task):
    abstract = True
    shadow_name = shadow_name


@pytest.mark.parametrize("option", [{"shadow_name": shadow_name}, {"base": Shadow}])
def test_a_name_for_people(option: dict[str, Any], wire: Any, redis_url: str) -> None:
    app = make_app(redis_url)
    subscribe(app, MAIL, task=option)

    emit(order_paid(), app=app)

    assert headers_of(wire(), "shadow") == ["shop.mail of o-1"]


def test_limits_that_contradict_each_other(wire: Any, redis_url: str) -> None:
    app = make_app(redis_url)
    subscribe(app, MAIL, task={"time_limit": 1, "soft_time_limit": 2})

    with pytest.raises(Exception, match="soft_time_limit must be less than or equal to time_limit"):
        emit(order_paid(), app=app)

    assert wire() == []
