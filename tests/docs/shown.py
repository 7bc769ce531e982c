"""The app whose runs the documentation draws: see :mod:`tests.docs.timelines`.

One task for each drawing, named after it. Nothing imports this but the worker and the process that
emits, since it has subscribers.
"""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery

from celery_fanout import (
    Batch,
    CancelOn,
    Concurrency,
    Debounce,
    Idempotency,
    RateLimit,
    Singleton,
    Throttle,
    current_run,
    on_event,
    step,
)
from tests.servers import Oracle

url = os.environ["SHOWN_REDIS"]
app = Celery("shown", broker=url, backend=url)
app.conf.broker_transport_options = {"polling_interval": 0.02}
app.conf.fanout_lease = 2  # the heartbeat comes every sixth of it: a finish_timeout is noticed then


def work(seconds: float = 1.0) -> None:
    """Take some time, and write down when."""
    oracle, run = Oracle.from_environment(), current_run()
    assert run is not None
    began = time.time()
    oracle.write(run=run.id, began=began)
    time.sleep(seconds)  # noqa: TID251 - what is drawn
    oracle.write(run=run.id, began=began, ended=time.time())


@on_event("shown/warm-up", concurrency=Concurrency(2))
@app.task
def warm_up(data: Any) -> None:
    work(0)


@on_event("shown/concurrency", concurrency=Concurrency(2))
@app.task
def concurrency(data: Any) -> None:
    work()


@on_event("shown/turns", concurrency=[Concurrency(2, scope="app"), Concurrency(1, key="tenant")])
@app.task
def turns(data: Any) -> None:
    work()


@on_event("shown/suspended", concurrency=Concurrency(1))
@app.task
def suspended(data: Any) -> None:
    step.run("first", work, 0.5)
    step.sleep("a-second", 1)
    step.run("second", work, 0.5)


@on_event("shown/kept", singleton=Singleton(mode="queue"))
@app.task
def kept(data: Any) -> None:
    step.run("first", work, 0.5)
    step.sleep("a-second", 1)
    step.run("second", work, 0.5)


@on_event("shown/priority", concurrency=Concurrency(1), priority=lambda e: e.data["urgency"])
@app.task
def priority(data: Any) -> None:
    work(0.5)


@on_event("shown/skip", singleton=Singleton(mode="skip"))
@app.task
def skip(data: Any) -> None:
    work()


@on_event("shown/cancel", singleton=Singleton(mode="cancel"))
@app.task
def cancel(data: Any) -> None:
    for number in range(4):
        step.run(f"part-{number}", work, 0.3)


@on_event("shown/cancel-on", cancel_on=CancelOn("order/cancelled", match="id"))
@app.task
def cancel_on(data: Any) -> None:
    step.run("first", work, 0.5)
    step.sleep("a-second", 1)
    step.run("second", work, 0.5)


@on_event("shown/queue", singleton=Singleton(mode="queue"))
@app.task
def queue(data: Any) -> None:
    work()


@on_event("shown/throttle", throttle=Throttle(2, per=3))
@app.task
def throttle(data: Any) -> None:
    work(0.8)


@on_event("shown/burst", throttle=Throttle(2, per=3, burst=1))
@app.task
def burst(data: Any) -> None:
    work(0.8)


@on_event("shown/rate-limit", rate_limit=RateLimit(2, per=1))
@app.task
def rate_limit(data: Any) -> None:
    work(0.3)


@on_event("shown/idempotency", idempotency=Idempotency("order", ttl=1))
@app.task
def idempotency(data: Any) -> None:
    work(0.3)


@on_event("shown/debounce", debounce=Debounce(1.2))
@app.task
def debounce(data: Any) -> None:
    work(0.3)


@on_event("shown/debounce-timeout", debounce=Debounce(1.2, timeout=2.4))
@app.task
def debounce_timeout(data: Any) -> None:
    work(0.3)


@on_event("shown/batch", batch=Batch(3, timeout=1.2))
@app.task
def batch(data: Any) -> None:
    work(0.3)


@on_event("shown/start-timeout", concurrency=Concurrency(1), start_timeout=1.5)
@app.task
def start_timeout(data: Any) -> None:
    work()


@on_event("shown/finish-timeout", concurrency=Concurrency(1), finish_timeout=1)
@app.task
def finish_timeout(data: Any) -> None:
    for number in range(data["parts"]):
        step.run(f"part-{number}", work, 0.4)
