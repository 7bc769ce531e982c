"""Subscribers with options of flow control, one for each: imported by the tests of those only."""

from __future__ import annotations

from celery import shared_task

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
    on_event,
)
from tests.contrib.django.shop.tasks import note

#: So long that nothing ends because of the time that a test takes.
LONG = 3600


def work(data: object) -> None:
    event, run = current_event(), current_run()
    note("run", task=run.subscription.partition("@")[2], id=event.id, run=run.id, data=data)


@on_event("limited/concurrency", concurrency=Concurrency(1, key="shop"))
@shared_task
def concurrency(data):
    note("begins")
    work(data)
    note("ends")


@on_event("limited/throttle", throttle=Throttle(1, LONG))
@shared_task
def throttle(data):
    work(data)


@on_event("limited/rate_limit", rate_limit=RateLimit(2, LONG))
@shared_task
def rate_limit(data):
    work(data)


@on_event("limited/debounce", debounce=Debounce(2, key="shop", timeout=LONG))
@shared_task
def debounce(data):
    work(data)


@on_event("limited/batch", batch=Batch(3, LONG))
@shared_task
def batch(events):
    work(events)


@on_event("limited/singleton", singleton=Singleton("shop", mode="skip"))
@shared_task
def singleton(data):
    work(data)


@on_event("limited/idempotency", idempotency=Idempotency("shop"))
@shared_task
def idempotency(data):
    work(data)


def shop_of(event):
    return event.data["shop"]  # not every event has one


@on_event("limited/function", idempotency=Idempotency(shop_of))
@shared_task
def function(data):
    work(data)
