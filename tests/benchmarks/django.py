"""What it costs a request in Django to tell the subscribers of an order, beside what there is.

CPU time of the process that serves the request: a transaction on PostgreSQL that writes one order,
and what tells of it. Celery's own way is one ``delay_on_commit()`` for each task;
django-celery-outbox writes one row for each task. Broker and ledger are Redis; what the database
and the relay do is not in it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from tests.benchmarks.documents import DATA
from tests.benchmarks.engines.engine import Unavailable, need
from tests.benchmarks.measure import interleave, microseconds, table
from tests.benchmarks.stage import LEVEL_1
from tests.servers import PostgresServer, RedisServer

THEM = "django-celery-outbox"

APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "celery_fanout.contrib.django",
    "tests.contrib.django.shop",
]

#: Where the rows of others and ours go, and what is emptied between turns.
TABLES = ("shop_order", "celery_fanout_outbox", "celery_outbox")

SUBSCRIBERS = (1, 5, 20)


@contextlib.contextmanager
def django_project(**settings: Any) -> Iterator[RedisServer]:
    """Set up Django in this process, which can be done once, with the project of the tests.

    Yields:
        The broker.
    """
    with PostgresServer() as postgres, RedisServer() as redis:
        database = {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": postgres.add_database(),
            "USER": "postgres",
            "HOST": "127.0.0.1",
            "PORT": str(postgres.port),
        }
        os.environ.update(
            DJANGO_SETTINGS_MODULE="tests.contrib.django.settings",
            TEST_DATABASES=json.dumps({"default": database}),
            TEST_BROKER=redis.url(0),
            TEST_BACKEND=redis.url(1),
            TEST_SETTINGS=json.dumps(settings),
        )
        import django
        from django.core.management import call_command

        django.setup()
        call_command("migrate", verbosity=0)
        yield redis


class Shop:
    """One Celery app with as many subscribers as asked for, and an app of django-celery-outbox.

    Args:
        redis: the broker, and the ledger or the result backend.
        subscribers: how many.
        their_app: the class of django-celery-outbox, if it is there.
    """

    def __init__(self, redis: RedisServer, subscribers: int, their_app: Any, **conf: Any) -> None:
        from celery import Celery
        from celery.contrib.django.task import DjangoTask

        from celery_fanout import on_event

        self.name = f"order/placed.{subscribers}.{len(conf)}"
        options = {"broker": redis.url(0), "backend": redis.url(1), "set_as_current": False}
        self.app = Celery(f"shop{subscribers}{len(conf)}", task_cls=DjangoTask, **options)
        self.app.conf.update(conf)
        apps = [self.app]
        self.theirs: list[Any] = []
        if their_app is not None:
            apps.append(their_app(f"theirs{subscribers}{len(conf)}", **options))

        def subscriber(document: dict[str, Any]) -> None: ...

        made = [
            [
                app.task(name=f"shop.subscriber_{n}", shared=False)(subscriber)
                for n in range(subscribers)
            ]
            for app in apps
        ]
        self.tasks = made[0]
        if their_app is not None:
            self.theirs = made[1]
        for task in self.tasks:
            on_event(self.name)(task)
        for app in apps:
            app.finalize()

    def contestants(self) -> dict[str, Callable[[], object]]:
        """Return what a request may do, by name."""
        from django.db import transaction

        from celery_fanout import emit
        from tests.contrib.django.shop.models import Order

        numbers = iter(range(10**9))

        def request(tell: Callable[[], object]) -> Callable[[], object]:
            def serve() -> None:
                with transaction.atomic():
                    Order.objects.create(number=str(next(numbers)))
                    tell()

            return serve

        found = {
            "the order alone": request(lambda: None),
            "a loop of delay_on_commit": request(
                lambda: [task.delay_on_commit(DATA) for task in self.tasks]
            ),
            "emit, on commit": request(lambda: emit(self.name, DATA, app=self.app)),
            "emit, outbox": request(lambda: emit(self.name, DATA, delivery="outbox", app=self.app)),
        }
        if self.theirs:
            found[f"a loop of delay, {THEM}"] = request(
                lambda: [task.delay(DATA) for task in self.theirs]
            )
        return found


def compare(redis: RedisServer, title: str, their_app: Any, rounds: int, **conf: Any) -> None:
    """Print one table: a row for each number of subscribers and each way to tell them."""
    from django.db import connection

    def empty() -> None:
        redis.flush()
        with connection.cursor() as cursor:
            for name in set(TABLES).intersection(connection.introspection.table_names()):
                cursor.execute(f"TRUNCATE {name}")

    rows = []
    for subscribers in SUBSCRIBERS:
        shop = Shop(redis, subscribers, their_app, **conf)
        found = interleave(shop.contestants(), rounds=rounds, calls=20, between=empty)
        base = found["a loop of delay_on_commit"]
        rows += [
            [
                str(subscribers),
                name,
                microseconds(samples.cpu, 1),
                microseconds(samples.wall, 1),
                f"{samples.ratio(base):.2f}",
            ]
            for name, samples in found.items()
        ]
    table(title, ["subscribers", "the request", "CPU us", "wall us", "CPU ratio"], rows)


def main(rounds: int = 25) -> None:
    """Measure requests, on both levels."""
    theirs: Any = None
    apps = list(APPS)
    try:
        print(f"Beside {need(THEM)}.")
        apps.append("django_celery_outbox")
    except Unavailable as exc:
        print(f"- {THEM}: not measured, {exc}")
    with django_project(INSTALLED_APPS=apps) as redis:
        if len(apps) > len(APPS):
            theirs = importlib.import_module("django_celery_outbox.app").OutboxCelery
        compare(redis, "A request that emits: level 2, recorded", theirs, rounds)
        compare(redis, "A request that emits: level 1", theirs, rounds, **LEVEL_1)
