"""What ``emit`` puts on the wire is what Celery itself would, whichever way it goes there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis
from celery import Celery, chain, signature
from celery.app.trace import build_tracer
from kombu import Exchange, Queue
from pydantic import BaseModel

from celery_fanout import Event, emit, emit_many, on_event
from celery_fanout.app.fanout import get_fanout
from celery_fanout.emitting.chains import chain_for
from tests.integration.publishing import (
    Careful,
    add_task,
    amqp_wire,
    make_app,
    order_paid,
    redis_wire,
    subscribe,
)
from tests.servers import RabbitServer, RedisServer

pytestmark = [
    pytest.mark.matrix,
    # they are, but tasks have them, and so they count
    pytest.mark.filterwarnings(r"ignore:\s*The '\w+' task attribute is deprecated"),
]


# --- what is subscribed --------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    """Subscriptions to ``order/paid``, and the settings of their app."""

    build: Callable[[Celery], None]
    conf: dict[str, Any]
    templates: bool  # whether the fast way can be used at all

    def app(self, broker: str, **conf: Any) -> Celery:
        app = make_app(broker, "cache+memory://", **{**self.conf, **conf})
        self.build(app)
        app.finalize()
        return app


SCENARIOS: dict[str, Scenario] = {}


def scenario(*, templates: bool = True, **conf: Any) -> Callable[..., Any]:
    def register(build: Callable[[Celery], None]) -> Callable[[Celery], None]:
        SCENARIOS[build.__name__] = Scenario(build, conf, templates)
        return build

    return register


@scenario()
def plain(app: Celery) -> None:
    subscribe(app, "shop.mail")
    subscribe(app, "shop.ship")
    subscribe(app, "shop.count", "order/*")


@scenario()
def options_of_tasks(app: Celery) -> None:
    subscribe(app, "shop.queue", task={"queue": "slow"})
    subscribe(app, "shop.priority", task={"priority": 3})
    subscribe(app, "shop.lowest_priority", task={"priority": 0})
    subscribe(app, "shop.limits", task={"time_limit": 60, "soft_time_limit": 50})
    subscribe(app, "shop.serializer", task={"serializer": "yaml"})
    subscribe(app, "shop.compression", task={"compression": "zlib"})
    subscribe(app, "shop.forgotten", task={"ignore_result": True})
    subscribe(app, "shop.transient", task={"delivery_mode": 1})
    subscribe(app, "shop.mandatory", task={"mandatory": True})
    subscribe(app, "shop.key", task={"routing_key": "special"})


@scenario(templates=False)
def expiring_tasks(app: Celery) -> None:
    subscribe(app, "shop.expires", task={"expires": 60})
    subscribe(app, "shop.expires_too", options={"expires": 90.5})


@scenario()
def options_of_subscriptions(app: Celery) -> None:
    subscribe(app, "shop.queue", options={"queue": "fast"}, task={"queue": "slow"})
    subscribe(app, "shop.priority", options={"priority": 9}, task={"priority": 1})
    subscribe(app, "shop.limits", options={"time_limit": 6, "soft_time_limit": 5})
    subscribe(app, "shop.no_limits", options={"time_limit": None}, task={"time_limit": 60})
    subscribe(app, "shop.serializer", options={"serializer": "yaml"})
    subscribe(app, "shop.compression", options={"compression": "zlib"})
    subscribe(app, "shop.forgotten", options={"ignore_result": True})
    subscribe(app, "shop.kept", options={"ignore_result": False}, task={"ignore_result": True})


@scenario(templates=False)
def rarer_options_of_subscriptions(app: Celery) -> None:
    subscribe(app, "shop.headers", options={"headers": {"tenant": "t-1"}})
    subscribe(app, "shop.shadow", options={"shadow": "a name for people"})
    subscribe(app, "shop.policy", options={"retry_policy": {"max_retries": 1}})
    subscribe(app, "shop.later", options={"countdown": 30})


@scenario(
    task_routes={
        "shop.exact": {"queue": "exact", "priority": 5},
        "shop.glob_*": {"queue": "globbed"},
        "shop.text": "text",
        "shop.keyed": {"routing_key": "keyed"},
    }
)
def routes(app: Celery) -> None:
    for name in ("exact", "glob_a", "glob_b", "text", "keyed", "unrouted"):
        subscribe(app, f"shop.{name}")
    subscribe(app, "shop.glob_own", task={"queue": "own"})


@scenario(task_routes=([("shop.a*", {"queue": "first"})], {"shop.*": {"queue": "second"}}))
def several_routers(app: Celery) -> None:
    subscribe(app, "shop.apple")
    subscribe(app, "shop.pear")


@scenario(task_default_queue="jobs")
def default_queue(app: Celery) -> None:
    subscribe(app, "shop.mail")


@scenario(
    task_default_queue="jobs",
    task_default_exchange="tasks",
    task_default_exchange_type="topic",
    task_default_routing_key="task.default",
)
def default_topic_exchange(app: Celery) -> None:
    subscribe(app, "shop.mail")


@scenario(
    task_queues=(
        Queue("jobs", Exchange("jobs"), routing_key="jobs"),
        Queue("urgent", Exchange("tasks", type="topic"), routing_key="urgent.#"),
        Queue("brief", Exchange("brief", delivery_mode=1), routing_key="brief", expires=600),
    ),
    task_default_queue="jobs",
    task_routes={
        "shop.urgent": {"queue": "urgent", "routing_key": "urgent.mail"},
        "shop.brief": {"queue": "brief"},
        "shop.exchanged": {
            "exchange": "tasks",
            "exchange_type": "topic",
            "routing_key": "urgent.x",
        },
    },
)
def declared_queues(app: Celery) -> None:
    for name in ("mail", "urgent", "brief", "exchanged"):
        subscribe(app, f"shop.{name}")


@scenario(
    task_queues=(
        Queue(
            "ranked",
            routing_key="ranked",
            queue_arguments={"x-max-priority": 10, "x-max-length": 1000},
        ),
    ),
    task_default_queue="ranked",
    task_default_priority=4,
)
def queue_arguments(app: Celery) -> None:
    subscribe(app, "shop.mail")
    subscribe(app, "shop.ship", task={"priority": 8})


@scenario()
def tails(app: Celery) -> None:
    bill = add_task(app, "shop.bill", queue="slow")
    tell = add_task(app, "shop.tell", ignore_result=True)
    subscribe(app, "shop.mail", then=[bill, tell])
    subscribe(
        app,
        "shop.ship",
        then=[bill.s(1).set(priority=2), tell.si("done").set(headers={"tenant": "t-1"})],
    )


@scenario()
def failures(app: Celery) -> None:
    apologise = add_task(app, "shop.apologise")
    bill = add_task(app, "shop.bill")
    subscribe(app, "shop.mail", on_failure=apologise)
    subscribe(app, "shop.ship", on_failure=apologise, then=bill)


@scenario(task_serializer="yaml", accept_content=["yaml", "json"])
def yaml(app: Celery) -> None:
    subscribe(app, "shop.mail", then=add_task(app, "shop.bill"))


@scenario(task_serializer="msgpack", accept_content=["msgpack", "json"])
def msgpack(app: Celery) -> None:
    subscribe(app, "shop.mail", then=add_task(app, "shop.bill"))


@scenario(task_serializer="pickle", accept_content=["pickle", "json"])
def pickle(app: Celery) -> None:
    subscribe(app, "shop.mail", then=add_task(app, "shop.bill"))


@scenario(task_compression="bzip2", task_ignore_result=True, task_default_delivery_mode="transient")
def settings_of_messages(app: Celery) -> None:
    subscribe(app, "shop.mail")


@scenario(
    task_annotations={"shop.mail": {"queue": "annotated", "time_limit": 95}},
    task_time_limit=100,
    task_soft_time_limit=90,
)
def annotations(app: Celery) -> None:
    subscribe(app, "shop.mail")


class Order(BaseModel):
    order: str
    total: int


def take_order(order: Order) -> None: ...


@scenario()
def models(app: Celery) -> None:
    on_event("order/paid")(add_task(app, "shop.mail", take_order, pydantic=True))


@scenario(task_publish_retry_policy={"max_retries": None, "interval_start": 0.1})
def retries_without_end(app: Celery) -> None:
    subscribe(app, "shop.mail")


@scenario(templates=False, task_send_sent_event=True)
def sent_events(app: Celery) -> None:
    subscribe(app, "shop.mail")


@scenario(enable_utc=False, timezone="Europe/Zurich", task_publish_retry=False)
def other_time(app: Celery) -> None:
    subscribe(app, "shop.mail")


# --- brokers -------------------------------------------------------------------------------------

Wire = Callable[[Celery, int], list[dict[str, Any]]]


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> Iterator[tuple[str, Wire]]:
    """A broker's URL, and a function that takes what an app has published there."""
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        server.flush()
        with server.client() as client:
            yield server.url(), lambda app, count: redis_wire(client)
        return
    rabbit: RabbitServer = request.getfixturevalue("rabbit_server")
    apps: list[Celery] = []

    def take(app: Celery, count: int) -> list[dict[str, Any]]:
        apps.append(app)
        return amqp_wire(app, count)

    yield rabbit.url(), take
    for app in apps:
        with app.connection_for_write() as connection:
            for queue in app.amqp.queues.values():
                connection.default_channel.queue_delete(queue.name)
                if queue.exchange.name:
                    connection.default_channel.exchange_delete(queue.exchange.name)


def uses_templates(app: Celery) -> bool:
    """Say whether the fast way is taken for all of an app's subscriptions."""
    fanout = get_fanout(app)
    return all(fanout.templates.get(sub) is not None for sub in fanout.registry)


#: Texts of times at which a message was made.
TIMES = ("eta", "expires", "expiration")


def comparable(value: Any, app: Celery) -> Any:
    """Return messages without what differs from app to app and from moment to moment."""
    if isinstance(value, dict):
        return {
            key: item is not None if key in TIMES else comparable(item, app)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [comparable(item, app) for item in value]
    return "the app's own queue for results" if value == app.thread_oid else value


def sent_by(app: Celery, event: Event, wire: Wire) -> list[dict[str, Any]]:
    """Emit an event, and return what is on the wire, one message for each subscription."""
    emit(event, app=app)
    count = len(list(get_fanout(app).registry))
    found = comparable(wire(app, count), app)
    assert len(found) == count
    return found


@pytest.mark.parametrize("name", SCENARIOS)
def test_both_ways_are_equal_on_the_wire(name: str, broker: tuple[str, Wire]) -> None:
    url, wire = broker
    found = SCENARIOS[name]
    event = order_paid()

    fast, careful = found.app(url), found.app(url, task_cls=Careful)

    assert sent_by(fast, event, wire) == sent_by(careful, event, wire)
    assert uses_templates(fast) is found.templates
    assert uses_templates(careful) is False


# --- beside plain Celery -------------------------------------------------------------------------


def without_ours(value: Any) -> Any:
    """Return messages without what only celery-fanout writes."""
    if isinstance(value, list):
        return [without_ours(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {
        key: without_ours(item)
        for key, item in value.items()
        if not key.startswith(("ce_", "fanout_")) and key not in {"argsrepr", "kwargsrepr"}
    }
    if kept.get("headers") == {}:  # of a link that has none of its own
        del kept["headers"]
    return kept


def publish_plainly(app: Celery, event: Event) -> None:
    """Publish what a Celery user would for each subscription, with the same task ids."""
    for subscription in get_fanout(app).registry:
        frozen = chain_for(event, event.headers(), subscription, app.thread_oid)
        ids = [link["options"]["task_id"] for link in reversed(frozen.links or ())]
        links = [subscription.task.s(event.data).set(task_id=frozen.run_id, **subscription.options)]
        for link, task_id in zip(subscription.tail, ids, strict=True):
            links.append(signature(dict(link), app=app).set(task_id=task_id))
        whole = chain(*links) if len(links) > 1 else links[0]
        for errback in frozen.errbacks or ():
            whole.link_error(signature(errback, app=app))
        whole.apply_async()


# Celery cannot send a chain as YAML: its encoder refuses signatures
@pytest.mark.parametrize("name", sorted(SCENARIOS.keys() - {"yaml"}))
def test_the_messages_are_those_of_a_plain_chain(name: str, broker: tuple[str, Wire]) -> None:
    url, wire = broker
    event = order_paid()
    app = SCENARIOS[name].app(url)

    ours = sent_by(app, event, wire)
    publish_plainly(app, event)

    assert without_ours(ours) == without_ours(comparable(wire(app, len(ours)), app))


def test_what_only_celery_fanout_writes(redis_server: RedisServer, redis_url: str) -> None:
    app = make_app(redis_url)
    subscribe(app, "shop.mail", then=add_task(app, "shop.bill"))

    with redis_server.client() as client:
        [message] = sent_by(app, order_paid(id="e-1", subject=None), lambda *_: redis_wire(client))

    attributes = {
        "ce_specversion": "1.0",
        "ce_id": "e-1",
        "ce_source": "/shop",
        "ce_type": "order/paid",
        "ce_time": "2026-11-22T10:00:00Z",
        "fanout_subscription": "shop.mail@order/paid",
        "fanout_version": 1,
    }
    run = "0b5afee5-8fab-540d-8939-65a2f93887fc"
    assert {
        key: value
        for key, value in message["headers"].items()
        if key.startswith(("ce_", "fanout_")) or key in {"id", "argsrepr", "kwargsrepr"}
    } == {
        **attributes,
        "id": run,
        "fanout_run": run,
        "argsrepr": "('order/paid' 'e-1',)",
        "kwargsrepr": "{}",
    }
    [link] = message["body"][2]["chain"]
    tail = "ed8d88e4-446b-5997-85e4-c82aeafea263"
    assert link["options"]["headers"] == {
        **attributes,
        "fanout_run": tail,
        "fanout_data": '{"order":"o-1","total":9900,"note":"größer"}',
    }
    assert link["options"]["task_id"] == tail


# --- where and how it is emitted -----------------------------------------------------------------


def run_task(app: Celery, body: Callable[[], Any], **request: Any) -> None:
    """Execute a body as a worker would execute a task."""

    def outer() -> None:
        body()

    task = add_task(app, "shop.outer", outer)
    app.finalize()
    trace = build_tracer(task.name, task, app=app)
    result = trace("outer-id", (), {}, {"id": "outer-id", **request})
    assert result.info is None, result.info


@pytest.mark.parametrize(
    ("request_", "root"), [({"root_id": "root-id"}, "root-id"), ({}, "outer-id")]
)
def test_emitted_by_a_task(
    request_: dict[str, Any], root: str, redis_server: RedisServer, redis_url: str
) -> None:
    event = order_paid()
    wires = []
    for cls in (None, Careful):
        app = make_app(redis_url, task_cls=cls)
        subscribe(app, "shop.mail")
        run_task(app, lambda app=app: emit(event, app=app), **request_)
        with redis_server.client() as client:
            wires.append(comparable(redis_wire(client), app))

    fast, careful = wires
    assert fast == careful
    assert fast[0]["headers"]["parent_id"] == "outer-id"
    assert fast[0]["headers"]["root_id"] == root
    assert uses_templates(app) is False


@pytest.mark.parametrize("inherits", [True, False])
def test_the_priority_of_the_task_that_emits(
    inherits: bool, redis_server: RedisServer, redis_url: str
) -> None:
    app = make_app(redis_url, task_inherit_parent_priority=inherits)
    subscribe(app, "shop.mail")

    run_task(app, lambda: emit(order_paid(), app=app), delivery_info={"priority": 6})

    with redis_server.client() as client:
        [message] = redis_wire(client)
    assert message["properties"]["priority"] == (6 if inherits else 0)


def test_emitted_with_a_delay(redis_server: RedisServer, redis_url: str) -> None:
    event = order_paid()
    wires = []
    for cls in (None, Careful):
        app = make_app(redis_url, task_cls=cls)
        subscribe(app, "shop.mail")
        emit(event, app=app, delay=30)
        with redis_server.client() as client:
            [message] = redis_wire(client)
        assert message["headers"].pop("fanout_resume_at") > 0
        wires.append(comparable([message], app))

    assert wires[0] == wires[1]
    assert wires[0][0]["headers"]["eta"] is True


def test_emitted_together(broker: tuple[str, Wire]) -> None:
    url, wire = broker
    events = [order_paid(), order_paid(), Event("order/seen", {"n": 1}), order_paid()]
    found = SCENARIOS["plain"]
    fast, careful = found.app(url), found.app(url, task_cls=Careful)
    wires = []
    for app in (fast, careful):
        emit_many(events, app=app)
        wires.append(sorted(comparable(wire(app, 10), app), key=lambda sent: sent["headers"]["id"]))

    assert wires[0] == wires[1]
    assert len(wires[0]) == 10
    assert {sent["headers"]["ce_id"] for sent in wires[0]} == {event.id for event in events}


def test_two_events_that_differ_in_nothing_but_their_ids(
    redis_server: RedisServer, redis_url: str
) -> None:
    app = make_app(redis_url)
    subscribe(app, "shop.mail", "*")

    emit_many([Event("a", None, id="1"), Event("b", None, id="2")], app=app)

    with redis_server.client() as client:
        sent = redis_wire(client)
    assert sorted(message["headers"]["argsrepr"] for message in sent) == [
        "('a' '1',)",
        "('b' '2',)",
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"global_keyprefix": "shop:"},
        {"priority_steps": [0, 5], "sep": ":"},
        {"queue_order_strategy": "priority"},
        {"retry_on_timeout": True},
        {"retry_on_error": [redis.ConnectionError]},
        {"socket_timeout": 30, "health_check_interval": 10, "client_name": "shop"},
        {"master_name": "unused"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_of_the_redis_transport(
    options: dict[str, Any], redis_server: RedisServer, redis_url: str
) -> None:
    event = order_paid()
    wires = []
    for cls in (None, Careful):
        app = make_app(redis_url, task_cls=cls, broker_transport_options=options)
        subscribe(app, "shop.mail")
        subscribe(app, "shop.ship", options={"priority": 7})
        with redis_server.client() as client:
            wires.append(sent_by(app, event, lambda *_: redis_wire(client)))

    assert wires[0] == wires[1]


@pytest.mark.parametrize("cls", [None, Careful])
def test_results_that_come_back_as_messages(cls: type | None, rabbit_server: RabbitServer) -> None:
    app = make_app(rabbit_server.url(), "rpc://", task_cls=cls)
    subscribe(app, "shop.mail")

    emit(order_paid(), app=app)

    [message] = amqp_wire(app, 1)
    assert message["properties"]["reply_to"] == app.thread_oid
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        channel.queue_declare(app.thread_oid, passive=True)  # it exists
        channel.queue_delete(app.thread_oid)
        channel.queue_delete("celery")
