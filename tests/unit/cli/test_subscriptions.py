"""What ``fanout subscriptions`` says."""

import datetime as dt

from celery import Celery

from celery_fanout import (
    Batch,
    Concurrency,
    Debounce,
    RateLimit,
    Singleton,
    Throttle,
    get_fanout,
    on_event,
)
from celery_fanout.cli.subscriptions import flow_control_of


def test_flow_control_in_words():
    app = Celery("words", broker="memory://", set_as_current=False)

    def urgency(event):
        return 1

    def subscribe(name, **options):
        @on_event("order/paid", **options)
        @app.task(name=name, shared=False)
        def sub(data): ...

    subscribe("none")
    subscribe(
        "many",
        concurrency=[
            Concurrency(2, key="tenant"),
            Concurrency(1000, key=urgency, scope="bank"),
            Concurrency(9, scope="app"),
        ],
        throttle=Throttle(10, per=60, burst=5, key="user.by name"),
        rate_limit=RateLimit(1, per=dt.timedelta(hours=1)),
        singleton=Singleton(mode="cancel"),
        idempotency="order.id",
        priority=urgency,
        start_timeout=90,
        finish_timeout=dt.timedelta(days=1),
        cancel_on=["order/gone"],
    )
    subscribe("quiet", debounce=Debounce(5, key="id", timeout=60), priority=-3)
    subscribe("list", batch=Batch(500, timeout=10))
    fanout = get_fanout(app)
    fanout.load()
    assert {
        sub.task.name: flow_control_of(sub) for sub in fanout.registry if sub.task.app is app
    } == {
        "none": [],
        "many": [
            "concurrency 2 by tenant",
            "concurrency bank 1,000 by key",
            "concurrency app 9",
            "throttle 10 per 1 min, burst 5 by user.by name",
            "rate_limit 1 per 1 h",
            "singleton mode cancel",
            "idempotency 1 per 1 d by order.id",
            f"priority {urgency.__qualname__}",
            "start_timeout 90 s",
            "finish_timeout 1 d",
            "cancel_on order/gone",
        ],
        "quiet": ["debounce quiet for 5 s, at most 1 min by id", "priority -3"],
        "list": ["batch 500 or 10 s"],
    }
