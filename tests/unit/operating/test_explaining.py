"""``explain`` of subscriptions with flow control: what would happen to a run now."""

import json

import pytest
from celery import Celery

from celery_fanout import Concurrency, RateLimit, emit, explain, on_event
from celery_fanout.app.fanout import get_fanout
from celery_fanout.exceptions import StoreUnsupported
from celery_fanout.model.events import Event
from celery_fanout.model.ids import event_key, run_id
from celery_fanout.stores.records import NewEvent, NewRun
from celery_fanout.subscribing.admission import flow_of


def make_app(**settings):
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.update(**{"fanout_store_url": "memory://", **settings})

    @on_event("order/paid", concurrency=Concurrency(1, key="tenant"))
    @app.task(name="shop.ship")
    def ship(order): ...

    @on_event("order/paid")
    @app.task(name="shop.audit")
    def audit(order): ...

    @on_event("order/*", rate_limit=RateLimit(1, per=60, key=lambda event: event.data["tenant"]))
    @app.task(name="shop.log")
    def log(order): ...

    get_fanout(app).load()
    return app


@pytest.fixture
def app():
    return make_app()


def record(app, id, data):
    """Record an event as ``emit`` does, without publishing it."""
    fanout, event = get_fanout(app), Event("order/paid", data)
    runs = [
        NewRun(run_id(event.name, id, sub.id), sub.id, flow=flow_of(sub, event))
        for sub in fanout.registry.match(event)
    ]
    new = NewEvent(event_key(event.name, id), event.name, json.dumps({"id": id}), "{}", runs)
    fanout.ledger.record([new])


def said(app, data, name="order/paid"):
    return {e.subscription.task.name: e.flow for e in explain(name, data, app=app)}


def test_what_would_happen_and_why(app):
    data = {"tenant": "a"}
    assert said(app, data) == {
        "shop.ship": "would start",
        "shop.audit": "",
        "shop.log": "would start",
    }
    record(app, "o-1", data)
    record(app, "o-2", data)
    for _ in range(2):  # nothing is changed by asking
        assert said(app, data) == {
            "shop.ship": (
                "would wait: concurrency shop.ship@order/paid by tenant 'a' has 1 of 1 in use, 1 "
                "wait"
            ),
            "shop.audit": "",
            "shop.log": (
                "would be dropped: rate_limit shop.log@order/* by make_app.<locals>.<lambda> 'a' "
                "has had 1 of 1"
            ),
        }
    assert said(app, {"tenant": "b"})["shop.ship"] == "would start"


def test_the_value_of_a_key_that_is_a_secret_is_not_told():
    app = make_app()

    @on_event("order/charged", concurrency=Concurrency(1, key="card.api_key"))
    @app.task(name="shop.charge")
    def charge(order):
        """Stand for a task."""

    data = {"tenant": "a", "card": {"api_key": "sk-1"}}
    emit("order/charged", data, app=app)
    told = said(app, data, "order/charged")["shop.charge"]
    assert told.startswith("would wait: concurrency shop.charge@order/charged by card.api_key ")
    assert "[redacted]" in told
    assert "sk-1" not in told


def test_what_is_paused_waits_for_that(app):
    for sub in ("shop.ship@order/paid", "shop.log@order/*"):
        get_fanout(app).runs.pause(sub)
    data = {"tenant": "a"}
    paused = "would wait: its subscription is paused"
    assert said(app, data) == {"shop.ship": paused, "shop.audit": "", "shop.log": paused}
    record(app, "o-1", data)
    assert said(app, data)["shop.log"].startswith("would be dropped: ")


def test_what_does_not_match_has_no_outlook(app):
    assert said(app, {"tenant": "a"}, "order/sent") == {
        "shop.ship": "",
        "shop.audit": "",
        "shop.log": "would start",
    }


def test_a_key_that_cannot_be_worked_out(app):
    found = said(app, {})
    assert found["shop.ship"] == "would start"
    assert found["shop.log"].startswith("emit would refuse it: The event 'order/paid' cannot be")


def test_without_a_ledger():
    app = make_app(fanout_store_url="backend", result_backend="cache+memory://")
    assert said(app, {"tenant": "a"}) == {
        "shop.ship": "emit would refuse it: flow control needs level 2",
        "shop.audit": "",
        "shop.log": "emit would refuse it: flow control needs level 2",
    }


def test_with_several_shards():
    app = make_app(fanout_store_url="redis://127.0.0.1:1", fanout_shards=2)
    assert said(app, {"tenant": "a"}) == {
        "shop.ship": "emit would refuse it: flow control needs fanout_shards = 1",
        "shop.audit": "",
        "shop.log": "emit would refuse it: flow control needs fanout_shards = 1",
    }
    limits = get_fanout(app).limits
    for call in (
        limits.list,
        lambda: limits.get("x"),
        lambda: limits.tune("x", 1),
        lambda: limits.untune("x"),
        lambda: limits.holders("x"),
    ):
        with pytest.raises(StoreUnsupported) as caught:
            call()
        text = "The ledger does not support limits. They need fanout_shards = 1."
        assert str(caught.value) == text


def test_a_ledger_that_does_not_answer():
    app = make_app(fanout_store_url="redis://127.0.0.1:1")
    found = said(app, {"tenant": "a"})
    assert found["shop.audit"] == ""
    for name in ("shop.ship", "shop.log"):
        assert found[name].startswith("what would happen now is not known: ")
