"""What publishing one event to many subscribers costs, beside what a Celery user has today.

CPU time of the publishing process; the broker's own is not in it. The subscribers differ in their
names alone, results are stored on Redis, and the event is what a web application sends. On level 1
nothing is recorded; on level 2 the event and its runs are in the ledger before ``emit`` returns.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import celery_pubsub
from celery import Celery, group

from celery_fanout import emit, on_event
from celery_fanout.app.fanout import get_fanout
from tests.benchmarks.documents import DATA
from tests.benchmarks.measure import interleave, microseconds, table
from tests.benchmarks.stage import LEVEL_1
from tests.servers import RabbitServer, RedisServer

SUBSCRIBERS = (1, 5, 20, 100)

#: The most that `emit` may use of what a loop of `apply_async` uses.
BUDGETS = {
    ("Redis", 5): 0.20,
    ("Redis", 20): 0.11,
    ("Redis", 100): 0.07,
    ("RabbitMQ", 20): 0.25,
    ("RabbitMQ with confirms", 20): 0.35,
    ("level 2, ledger on a Redis of its own", 5): 0.35,
    ("level 2, ledger on a Redis of its own", 20): 0.18,
    ("level 2, ledger on a Redis of its own", 100): 0.12,
    ("level 2, broker and ledger on one Redis", 5): 0.18,
    ("level 2, broker and ledger on one Redis", 20): 0.08,
    ("level 2, broker and ledger on one Redis", 100): 0.05,
}


class Site:
    """One app, with as many subscribers as asked for and no worker."""

    def __init__(self, broker: str, backend: str, subscribers: int, **conf: Any) -> None:
        self.name = uuid.uuid4().hex
        self.app = Celery(self.name, broker=broker, backend=backend, set_as_current=False)
        self.app.conf.update(conf)
        self.tasks = [self._subscribe(number) for number in range(subscribers)]
        for task in self.tasks:
            celery_pubsub.subscribe(self.name, task)
        self.app.finalize()
        self._group = group(task.s(DATA) for task in self.tasks)
        self._channel = self.app.connection_for_write().default_channel
        self.app.amqp.queues["celery"](self._channel).declare()

    def _subscribe(self, number: int) -> Any:
        @self.app.task(name=f"documents.tasks.subscriber_{number}", shared=False)
        def subscriber(document: dict[str, Any]) -> None: ...

        return on_event(self.name)(subscriber)

    def contestants(self) -> dict[str, Callable[[], object]]:
        return {
            "a loop of apply_async": lambda: [task.apply_async((DATA,)) for task in self.tasks],
            "group": self._group.apply_async,
            "celery-pubsub": lambda: celery_pubsub.publish(self.name, DATA),
            "emit": lambda: emit(self.name, DATA, app=self.app),
        }

    def empty(self) -> None:
        """Throw the messages and the records away, or there are more and more to keep."""
        level2 = get_fanout(self.app).level2
        if level2 is not None:
            client: Any = level2.ledger.client
            for key in client.scan_iter("{fanout}*", count=1000):
                client.unlink(key)
        self._channel.queue_purge("celery")

    def check(self) -> None:
        """Fail unless emitting publishes what it should."""
        self.empty()
        emit(self.name, DATA, app=self.app)
        waiting = self._channel.queue_purge("celery")
        assert waiting == len(self.tasks), f"{waiting} messages for {len(self.tasks)} subscribers"


def compare(broker: str, title: str, backend: str, rounds: int, **conf: Any) -> None:
    """Print one table: a row for each number of subscribers and each way to reach them."""
    rows = []
    for subscribers in SUBSCRIBERS:
        site = Site(broker, backend, subscribers, **conf)
        site.check()
        found = interleave(
            site.contestants(),
            rounds=rounds,
            calls=max(1, 50 // subscribers),
            between=site.empty,
        )
        base = found["a loop of apply_async"]
        for name, samples in found.items():
            budget = BUDGETS.get((title, subscribers)) if name == "emit" else None
            rows.append(
                [
                    str(subscribers),
                    name,
                    microseconds(samples.cpu, subscribers),
                    microseconds(samples.wall, subscribers),
                    f"{samples.ratio(base):.2f}",
                    f"{budget:.2f}" if budget else "",
                ]
            )
    head = ["subscribers", "way", "CPU us each", "wall us each", "CPU ratio", "budget"]
    table(f"Publishing one event: {title}", head, rows)


def main(rounds: int = 25) -> None:
    """Measure on both brokers, and on both levels."""
    with RedisServer() as redis, RedisServer() as other, RabbitServer() as rabbit:
        backend = redis.url(1)
        compare(redis.url(), "Redis", backend, rounds, **LEVEL_1)
        compare(redis.url(), "level 2, ledger on a Redis of its own", other.url(), rounds)
        compare(redis.url(), "level 2, broker and ledger on one Redis", redis.url(), rounds)
        compare(rabbit.url(), "RabbitMQ", backend, rounds, **LEVEL_1)
        compare(
            rabbit.url(),
            "RabbitMQ with confirms",
            backend,
            rounds,
            broker_transport_options={"confirm_publish": True},
            **LEVEL_1,
        )
