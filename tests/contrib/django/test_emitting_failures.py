"""What becomes of events when a callback, a transaction, a process or a server fails (F30, F32)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.contrib.django.conftest import Project
from tests.processes import free_port, wait_until

#: For what Django does in Python, with whatever database: callbacks, settings, refusals.
postgresql = pytest.mark.parametrize("database", ["postgresql"], indirect=True)


@pytest.fixture
def nothing_there(project: Project) -> Project:
    """The project while neither its broker nor its ledger can be reached."""
    url = f"redis://127.0.0.1:{free_port()}/0"
    project.environment.update(TEST_BROKER=url, TEST_BACKEND=url)
    project.settings(CELERY_FANOUT_PUBLISH_TIMEOUT=0.5, LOGGING=LOGGING)
    return project


#: What a project that logs to stdout has, one line for each record of ours.
LOGGING = {
    "version": 1,
    "handlers": {"out": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout"}},
    "loggers": {"celery_fanout.emit": {"handlers": ["out"], "level": "WARNING"}},
}

#: Counts what the signal tells.
LISTEN = """
heard = []
def listen(sender, events, exception, kept, **_):
    ids = [event.id for event in events]
    heard.append([sender is app, ids, type(exception).__name__, kept])
signals.event_publish_failed.connect(listen, weak=False)
"""


def script(text: str) -> str:
    import textwrap

    return LISTEN + textwrap.dedent(text)


# --- callbacks -----------------------------------------------------------------------------------


@postgresql
def test_callbacks_of_others_that_raise_cost_no_event(project: Project) -> None:
    told = project.told(
        """
        called = []
        def fail(name):
            called.append(name)
            raise ZeroDivisionError(name)
        def block():
            with transaction.atomic():
                emit("order/placed", {}, id="before")
                transaction.on_commit(lambda: fail("first"))
                emit("order/placed", {}, id="between")
                transaction.on_commit(lambda: fail("second"))
                with rolled_back():
                    emit("order/placed", {}, id="dropped")
                emit("order/placed", {}, id="after")
        error = error_of(block)
        again = error_of(block)  # and nothing is left over on the connection
        with transaction.atomic():
            emit("order/placed", {}, id="later")
        tell(error, again, called, published())
        """
    )
    error = "ZeroDivisionError: first"
    # Django stops at the first that raises: that is theirs, ours go on
    assert told == [error, error, ["first"] * 2, ["before", "between", "after", "later"]]


# --- the broker, or the ledger, is away at the commit --------------------------------------------


@postgresql
def test_what_cannot_be_published_is_told_of(nothing_there: Project) -> None:
    out = nothing_there.run(
        script(
            """
            called = []
            with transaction.atomic():
                Order.objects.create(number="1")
                first = emit("order/placed", {"secret": 1}, id="a")
                transaction.on_commit(lambda: called.append("theirs"))
                second = emit("order/placed", {}, id="b")
            tell(heard, called, first.published, error_of(second.get).split(":")[0],
                 Order.objects.count(), OutboxEvent.objects.count())
            """
        )
    )
    *log, last = out.splitlines()
    failed = [[True, ["a"], "EmitError", False], [True, ["b"], "EmitError", False]]
    assert json.loads(last) == [failed, ["theirs"], False, "NotPublishedYet", 1, 0]
    lines = [line for line in log if "was not published" in line]
    assert [line.partition(": ")[0] for line in lines] == [
        "Event order/placed[a] was not published after the commit",
        "Event order/placed[b] was not published after the commit",
    ]
    assert "secret" not in out


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("then", "kept"), [("log", False), ("outbox", True)])
def test_opentelemetry_counts_it(nothing_there: Project, then: str, kept: bool) -> None:
    nothing_there.settings(CELERY_FANOUT_ON_PUBLISH_ERROR=then)
    told = nothing_there.told(
        """
        from opentelemetry import metrics
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader

        reader = InMemoryMetricReader()
        metrics.set_meter_provider(MeterProvider([reader]))
        for _ in range(2):
            with transaction.atomic():
                emit_many([("order/placed", {}), ("order/placed", {}), ("order/paid", {})])
        found = reader.get_metrics_data().resource_metrics[0].scope_metrics[0]
        counter, = found.metrics
        points = [[dict(p.attributes), p.value] for p in counter.data.data_points]
        tell(found.scope.name, counter.name, sorted(points, key=str))
        """
    )
    assert told == [
        "celery_fanout",
        "celery_fanout.publish_failures",
        [[{"event": "order/paid", "kept": kept}, 2], [{"event": "order/placed", "kept": kept}, 4]],
    ]


@postgresql
def test_it_is_raised_into_whoever_committed_after_all_callbacks(nothing_there: Project) -> None:
    nothing_there.settings(CELERY_FANOUT_ON_PUBLISH_ERROR="raise")
    told = nothing_there.told(
        script(
            """
            called = []
            def block():
                with transaction.atomic():
                    Order.objects.create(number="1")
                    emit("order/placed", {}, id="a")
                    transaction.on_commit(lambda: called.append("theirs"))
                    emit("order/placed", {}, id="b")
            def harmless():
                with transaction.atomic():
                    Order.objects.create(number="2")
            tell(error_of(block), heard, called, error_of(harmless), Order.objects.count())
            """
        )
    )
    assert told[0].startswith("EmitError: The event 'order/placed' was not published to all")
    assert "id='a'" in told[0]
    failed = [[True, ["a"], "EmitError", False], [True, ["b"], "EmitError", False]]
    assert told[1:] == [failed, ["theirs"], "no error", 2]


def test_it_is_kept_in_the_outbox(nothing_there: Project) -> None:
    nothing_there.settings(CELERY_FANOUT_ON_PUBLISH_ERROR="outbox")
    told = nothing_there.told(
        script(
            """
            with transaction.atomic():
                Order.objects.create(number="1")
                emit("order/placed", {"number": "1"}, id="a", delay=5)
                with rolled_back():
                    emit("order/placed", {}, id="dropped")
            emission = emit("order/placed", {}, id="at once")  # its order is committed as well
            refused = error_of(lambda: emit("order/placed", {}, id="now", delivery="now"))
            rows = [[row.event_id, json_of(row.options).get("delay")]
                    for row in OutboxEvent.objects.order_by("id")]
            tell(heard, emission.published, refused.split(":")[0], rows)
            """
        ).replace("json_of", "__import__('json').loads")
    )
    failed = [[True, ["a"], "EmitError", True], [True, ["at once"], "EmitError", True]]
    assert told == [failed, False, "EmitError", [["a", 5.0], ["at once", None]]]


@postgresql
def test_outside_of_a_transaction_the_caller_gets_the_error(nothing_there: Project) -> None:
    told = nothing_there.told(
        script('tell(error_of(lambda: emit("order/placed", {})).split(":")[0], heard)')
    )
    assert told == ["EmitError", []]


@postgresql
def test_the_outbox_needs_no_broker(nothing_there: Project) -> None:
    nothing_there.settings(CELERY_FANOUT_DELIVERY="outbox")
    nothing_there.run(
        """
        with transaction.atomic():
            emit("order/placed", {})
        """
    )
    assert nothing_there.database.names() == ["order/placed"]


@postgresql
def test_what_is_lost_is_seen_without_any_logging_set_up(project: Project) -> None:
    """A handler that does nothing would keep Python from printing it."""
    told = project.told(
        """
        import logging
        from celery_fanout.contrib.django import commits
        tell(any(isinstance(h, logging.NullHandler) for h in commits.logger.handlers))
        """
    )
    assert told == [False]


@postgresql
def test_what_the_ledger_has_has_not_failed(project: Project) -> None:
    """The keeper publishes it when the broker is back."""
    project.settings(CELERY_FANOUT_PUBLISH_TIMEOUT=0.5, CELERY_FANOUT_ON_PUBLISH_ERROR="outbox")
    told = project.told(
        script(
            """
            with transaction.atomic():
                emission = emit("order/placed", {}, id="a")
            tell(heard, emission.published, len(emission.runs), published())
            """
        ),
        TEST_BROKER=f"redis://127.0.0.1:{free_port()}/0",
    )
    assert told == [[], True, 2, ["a"]]
    assert project.database.names() == []


def test_it_is_kept_although_another_transaction_is_rolled_back(
    nothing_there: Project, tmp_path: Path
) -> None:
    if nothing_there.database.vendor == "sqlite":
        pytest.skip("SQLite has one writer: while it writes, no other connection can")
    other = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "other.sqlite3")}
    databases = {"default": nothing_there.database.settings, "other": other}
    nothing_there.environment["TEST_DATABASES"] = json.dumps(databases)
    nothing_there.settings(CELERY_FANOUT_ON_PUBLISH_ERROR="outbox")
    nothing_there.run(
        """
        with rolled_back():
            Order.objects.create(number="dropped")
            with transaction.atomic(using="other"):
                emit("order/placed", {}, using="other")
        """
    )
    assert nothing_there.database.names() == ["order/placed"]


def test_a_time_limit_reaches_the_task(project: Project) -> None:
    """Django would log it with a callback's other errors, and the task would go on."""
    told = project.told(
        """
        from celery.exceptions import SoftTimeLimitExceeded
        from celery_fanout import on_event
        get_fanout(app).load()
        record = app.tasks["tests.contrib.django.shop.tasks.record"]
        def take_too_long(event):
            raise SoftTimeLimitExceeded
        on_event("slow/filter", filter=take_too_long)(record)
        def block():
            with transaction.atomic():
                emit("slow/filter", {})
        tell(error_of(block).split(":")[0])
        """
    )
    assert told == ["SoftTimeLimitExceeded"]


# --- the transaction fails ------------------------------------------------------------------------


def test_the_loser_of_a_deadlock_emits_nothing(project: Project) -> None:
    if project.database.vendor == "sqlite":
        pytest.skip("SQLite locks the whole database: there is no deadlock")
    told = project.told(
        """
        import threading
        for number in "12":
            Order.objects.create(number=number)
        barrier = threading.Barrier(2)
        outcome = {}
        def work(name, delivery, order):
            try:
                with transaction.atomic():
                    Order.objects.filter(number=order[0]).update(status=name)
                    emit("order/paid", {}, id=name, delivery=delivery)
                    emit("order/paid", {}, id="row " + name, delivery="outbox")
                    barrier.wait()
                    Order.objects.filter(number=order[1]).update(status=name)
            except Exception as exc:
                outcome[name] = type(exc).__name__
            else:
                outcome[name] = "committed"
            finally:
                connection.close()
        threads = [threading.Thread(target=work, args=("x", None, "12")),
                   threading.Thread(target=work, args=("y", None, "21"))]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        rows = [row.event_id for row in OutboxEvent.objects.all()]
        statuses = sorted(set(Order.objects.values_list("status", flat=True)))
        tell(outcome, published(), rows, statuses)
        """
    )
    outcome, published, rows, statuses = told
    assert sorted(outcome.values()) == ["OperationalError", "committed"]
    (winner,) = (name for name, end in outcome.items() if end == "committed")
    assert (published, rows, statuses) == ([winner], [f"row {winner}"], [winner])


@postgresql
def test_a_serialisation_failure_at_the_commit(project: Project) -> None:
    """Only PostgreSQL finds out at the commit."""
    settings = {**project.database.settings, "OPTIONS": {"isolation_level": 4}}
    told = project.told(
        """
        import threading
        for number in "12":
            Order.objects.create(number=number)
        barrier = threading.Barrier(2)
        outcome = {}
        def work(name, mine, theirs):
            try:
                with transaction.atomic():
                    Order.objects.get(number=theirs)
                    barrier.wait()
                    Order.objects.filter(number=mine).update(status=name)
                    emit("order/paid", {}, id=name)
                    emit("order/paid", {}, id="row " + name, delivery="outbox")
                    barrier.wait()
            except Exception as exc:
                outcome[name] = type(exc).__name__
            else:
                outcome[name] = "committed"
            finally:
                connection.close()
        threads = [threading.Thread(target=work, args=("x", "1", "2")),
                   threading.Thread(target=work, args=("y", "2", "1"))]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        tell(outcome, published(), [row.event_id for row in OutboxEvent.objects.all()])
        """,
        TEST_DATABASES=json.dumps({"default": settings}),
    )
    outcome, published, rows = told
    assert sorted(outcome.values()) == ["OperationalError", "committed"]
    (winner,) = (name for name, end in outcome.items() if end == "committed")
    assert (published, rows) == ([winner], [f"row {winner}"])


def test_a_connection_that_is_lost_at_the_commit(project: Project) -> None:
    if project.database.vendor == "sqlite":
        pytest.skip("SQLite has no connection that could be lost")
    told = project.told(
        """
        other = connections["default"].copy()
        def kill(of):
            with of.cursor() as cursor, other.cursor() as killer:
                if connection.vendor == "postgresql":
                    cursor.execute("SELECT pg_backend_pid()")
                    killer.execute("SELECT pg_terminate_backend(%s, 10000)", cursor.fetchone())
                else:
                    cursor.execute("SELECT connection_id()")
                    killer.execute("KILL CONNECTION %s", cursor.fetchone())
        def block():
            with transaction.atomic():
                Order.objects.create(number="1")
                emit("order/placed", {}, id="a")
                emit("order/placed", {}, id="b", delivery="outbox")
                kill(connection)
        error = error_of(block).split(":")[0]
        with transaction.atomic():  # a new connection, with nothing of the old one
            emit("order/placed", {}, id="c")
        tell(error, published(), OutboxEvent.objects.count(), Order.objects.count())
        other.close()
        """
    )
    assert told == [told[0], ["c"], 0, 0]
    assert told[0] in {"OperationalError", "InterfaceError", "InternalError"}


# --- the process dies -----------------------------------------------------------------------------


def failpoints(directory: Path, points: str) -> dict[str, str]:
    directory.mkdir(exist_ok=True)
    return {
        "CELERY_FANOUT_FAILPOINTS": points,
        "CELERY_FANOUT_FAILPOINT_DIR": str(directory),
    }


BLOCK = """
with transaction.atomic():
    Order.objects.create(number="1")
    emit("order/placed", {"number": "1"}, id="a", delivery=%r)
os_kill()
""".replace("os_kill()", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")


@postgresql
def test_killed_after_the_commit_on_commit_loses_the_event(
    project: Project, tmp_path: Path
) -> None:
    """The promise of on_commit has this hole, which the documentation names."""
    killed = project.attempt(
        BLOCK % "on_commit", **failpoints(tmp_path / "points", "emit.after_commit=kill")
    )
    assert killed.returncode == -9
    left = project.told("tell(published(), Order.objects.count(), OutboxEvent.objects.count())")
    assert left == [[], 1, 0]


def test_killed_after_the_commit_the_outbox_has_it(project: Project) -> None:
    killed = project.attempt(BLOCK % "outbox")
    assert killed.returncode == -9
    project.run(
        """
        from celery_fanout.contrib.django.testing import drain_outbox
        assert len(drain_outbox()) == 1
        """
    )
    with project.worker():
        wait_until(lambda: len(project.ran()) >= 2)
    assert sorted(line["task"] for line in project.ran()) == ["invoice", "record"]
    assert {line["id"] for line in project.ran()} == {"a"}


def test_killed_before_the_commit_there_is_nothing(project: Project) -> None:
    killed = project.attempt(
        """
        import os, signal
        with transaction.atomic():
            Order.objects.create(number="1")
            emit("order/placed", {}, id="a")
            emit("order/placed", {}, id="b", delivery="outbox")
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    assert killed.returncode == -9
    left = project.told("tell(published(), Order.objects.count(), OutboxEvent.objects.count())")
    assert left == [[], 0, 0]


# --- invariants -----------------------------------------------------------------------------------

#: Transactions as they come: nested, rolled back, with callbacks that raise. A row of the table
#: says that its event was committed with it.
MIXTURE = """
import random
from contextlib import suppress
from celery_fanout.contrib.django.testing import drain_outbox
chance = random.Random({seed})

def order(name, delivery):
    Order.objects.create(number=name)
    emit("order/placed", {{"number": name}}, id=name, delivery=delivery)

def block(name, depth=0):
    with suppress(ZeroDivisionError), transaction.atomic():
        for number in range(chance.randrange(1, 3)):
            order(f"{{name}}.{{number}}", chance.choice(["on_commit", "outbox"]))
            if chance.random() < 0.2:
                transaction.on_commit(lambda: 1 / 0, robust=chance.random() < 0.5)
            if depth < 3 and chance.random() < 0.5:
                block(f"{{name}}.{{number}}", depth + 1)
        if chance.random() < 0.35:
            1 / 0

for number in range(40):
    block(str(number))
drain_outbox()
tell(sorted(Order.objects.values_list("number", flat=True)), sorted(published()))
"""


@pytest.mark.parametrize(
    ("database", "seed"), [("postgresql", 1), ("mariadb", 2), ("sqlite", 3)], indirect=["database"]
)
def test_what_was_committed_runs_once_for_each_subscriber_and_nothing_else_does(
    project: Project, seed: int
) -> None:
    orders, events = project.told(MIXTURE.format(seed=seed))
    assert len(orders) > 20  # the mixture is one
    assert events == orders  # 1 and 2: all that was committed, and nothing that was not
    with project.worker(pool="threads", concurrency=4):
        wait_until(lambda: len(project.ran()) >= 2 * len(orders), 60)
        states = project.told(
            """
            runs = get_fanout(app).runs.list(limit=10_000)
            states = sorted({run.state.value for run in runs})
            tell(states, len(runs), len({run.id for run in runs}))
            """
        )
    assert states[1:] == [2 * len(orders)] * 2
    ran = sorted((line["id"], line["task"]) for line in project.ran())
    # 4: each once, as nothing died on the way
    assert ran == sorted((name, task) for name in orders for task in ("invoice", "record"))
