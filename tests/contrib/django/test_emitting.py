"""When an event is published that was emitted in a Django project, on three databases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.contrib.django.conftest import Project
from tests.processes import wait_until

#: For what Django does in Python, with whatever database: callbacks, settings, refusals.
postgresql = pytest.mark.parametrize("database", ["postgresql"], indirect=True)


# --- on_commit -----------------------------------------------------------------------------------


@postgresql
def test_outside_of_a_transaction_it_is_published_at_once(project: Project) -> None:
    told = project.told(
        """
        emission = emit("order/placed", {}, id="a")
        tell(emission.published, len(emission.runs), published())
        """
    )
    assert told == [True, 2, ["a"]]


@postgresql
def test_inside_of_one_when_it_commits(project: Project) -> None:
    told = project.told(
        """
        with transaction.atomic():
            data = {"number": "1", "lines": []}
            emission = emit("order/placed", data, id="a")
            data["lines"].append("too late")
            before = [emission.published, list(emission.runs), published(), error_of(emission.get)]
        after = [emission.published, len(emission.runs), published()]
        event = get_fanout(app).runs.event("a")
        tell(before, after, event.data)
        """
    )
    error = (
        "NotPublishedYet: The event 'order/placed' (a) is not published yet: that happens when its "
        "transaction commits, or from the outbox. Wait for its runs after that, and where it was "
        "in the outbox look for them by the event's id."
    )
    assert told == [[False, [], [], error], [True, 2, ["a"]], '{"number":"1","lines":[]}']


def test_a_worker_runs_what_was_committed_and_nothing_else(project: Project) -> None:
    told = project.told(
        """
        with transaction.atomic():
            Order.objects.create(number="kept")
            kept = emit("order/placed", {"number": "kept"})
        with rolled_back():
            Order.objects.create(number="dropped")
            emit("order/placed", {"number": "dropped"})
        tell(kept.event.id, [run.id for run in kept.runs])
        """
    )
    event, runs = told
    with project.worker():
        wait_until(lambda: len(project.ran()) >= 2)
    assert {(line["id"], line["run"]) for line in project.ran()} == {(event, run) for run in runs}
    assert project.database.fetch("SELECT number FROM shop_order") in ([("kept",)], (("kept",),))


def test_the_roll_back_of_a_savepoint_drops_its_own_events_alone(project: Project) -> None:
    told = project.told(
        """
        with transaction.atomic():
            emit("order/placed", {}, id="1")
            with rolled_back():
                emit("order/placed", {}, id="2")
                with transaction.atomic():
                    emit("order/placed", {}, id="3")
            with transaction.atomic():
                emit("order/placed", {}, id="4")
                with rolled_back():
                    emit("order/placed", {}, id="5")
                with transaction.atomic(savepoint=False):
                    emit("order/placed", {}, id="6")
            emit("order/placed", {}, id="7")
        tell(published())
        """
    )
    assert told == [["1", "4", "6", "7"]]


@postgresql
def test_now_goes_out_whatever_becomes_of_the_transaction(project: Project) -> None:
    told = project.told(
        """
        with rolled_back():
            emission = emit("order/placed", {}, id="a", delivery="now")
            tell(emission.published, len(emission.runs), published())
        tell(emission.published, len(emission.runs), published())
        """
    )
    assert told == [True, 2, ["a"]]


@postgresql
def test_emit_many_waits_as_one(project: Project) -> None:
    told = project.told(
        """
        with transaction.atomic():
            events = emit_many([("order/placed", {}), ("order/paid", {})])
            before = [published(), [e.published for e in events]]
        tell(before, [len(e.runs) for e in events], published() == [e.event.id for e in events])
        """
    )
    assert told == [[[], [False, False]], [2, 1], True]


@postgresql
def test_time_counts_from_the_emit_on(project: Project) -> None:
    told = project.told(
        """
        import time
        with transaction.atomic():
            emission = emit("order/placed", {}, delay=3600)
            at = time.time()
        run = get_fanout(app).runs.get(emission.runs[0].id)
        tell(run.state.value, run.due - at)
        """
    )
    assert told[0] == "pending"
    assert 3590 < told[1] < 3601  # the ledger counts from when it was asked


@postgresql
def test_what_cannot_be_published_is_refused_where_it_is_emitted(project: Project) -> None:
    told = project.told(
        """
        from celery_fanout import on_event

        @app.task
        def two_arguments(a, b):
            pass

        on_event("wrong/subscriber")(two_arguments)
        with transaction.atomic():
            tell(
                error_of(lambda: emit("wrong/subscriber", {})).split(":")[0],
                error_of(lambda: emit("order/placed", {1: 2})).split(":")[0],
                error_of(lambda: emit("order/placed", {}, then="a task")),
                error_of(lambda: emit("order/placed", {}, then=two_arguments.s(object(), 1))),
                error_of(lambda: emit("order/placed", {}, delay=-1)),
                error_of(lambda: emit("order/placed", {}, delivery="later")),
            )
        """
    )
    assert told[:3] == [
        "InvalidSubscription",
        "InvalidEventData",
        "InvalidEvent: The event 'order/placed' has then='a task'. Use a task or a signature.",
    ]
    assert told[3].startswith("InvalidEvent: The event 'order/placed' has then=")
    assert "two_arguments, whose arguments JSON cannot carry" in told[3]
    assert told[4:] == [
        "InvalidEvent: The event 'order/placed' has the delay -1.0. Use seconds, 0 or more.",
        (
            "InvalidEvent: The event 'order/placed' has the delivery 'later'. "
            'Use "on_commit", "outbox" or "now".'
        ),
    ]


@postgresql
def test_requests_that_are_atomic_and_those_that_are_not(project: Project) -> None:
    project.settings(ROOT_URLCONF="tests.contrib.django.emitting_urls")
    databases = {"default": {**project.database.settings, "ATOMIC_REQUESTS": True}}
    told = project.told(
        """
        from django.test import Client
        client = Client(raise_request_exception=False)
        answers = [
            client.get("/place?number=1"), client.get("/place?number=2&fail=1"),
            client.get("/by-hand?number=3"), client.get("/by-hand?number=4&fail=1"),
            client.get("/async?number=5"),
        ]
        good = [a.content.decode().split() for a in answers if a.status_code == 200]
        orders = sorted(Order.objects.values_list("number", flat=True))
        tell(orders, published() == [id for id, _ in good], [runs for _, runs in good])
        """,
        TEST_DATABASES=json.dumps(databases),
    )
    # a request that is atomic has no run before it ends; an async view has no transaction
    assert told == [["1", "3", "5"], True, ["0", "0", "2"]]


@postgresql
def test_from_async_code_it_joins_the_transaction_of_its_thread(project: Project) -> None:
    told = project.told(
        """
        from asgiref.sync import async_to_sync
        with rolled_back():
            async_to_sync(aemit)("order/placed", {}, id="dropped")
        with transaction.atomic():
            emission = async_to_sync(aemit)("order/placed", {}, id="kept")
            before = published()
        tell(before, published(), len(emission.runs))
        """
    )
    assert told == [[], ["kept"], 2]


def test_on_a_connection_that_commits_by_hand(project: Project) -> None:
    told = project.told(
        """
        transaction.set_autocommit(False)
        refused = error_of(lambda: emit("order/placed", {}))
        emit("order/placed", {}, id="now", delivery="now")
        emit("order/placed", {}, id="dropped", delivery="outbox")
        transaction.rollback()
        emit("order/placed", {}, id="kept", delivery="outbox")
        transaction.commit()
        transaction.set_autocommit(True)
        tell(refused, published(), [row.event_id for row in OutboxEvent.objects.all()])
        """
    )
    assert told == [
        (
            "NoCommitToWaitFor: The event 'order/placed' was to be published when the "
            "transaction on "
            "the database 'default' commits, but autocommit is off there, and Django tells "
            "nobody of "
            "such commits. Turn it on and emit in a block of "
            "transaction.atomic(using='default'), or "
            'emit with delivery="outbox"; or with delivery="now" after the commit.'
        ),
        ["now"],
        ["kept"],
    ]


@postgresql
def test_to_emit_opens_no_connection_and_waits_for_none(project: Project) -> None:
    told = project.told(
        """
        emit("order/placed", {}, id="a")
        tell(published(), connection.connection is None)
        """
    )
    assert told == [["a"], True]


@postgresql
def test_the_first_event_does_not_run_the_system_checks(project: Project) -> None:
    told = project.told(
        """
        import os
        from django.core import checks
        called = []
        checks.register(lambda **_: called.append(1) or [])
        emission = emit("order/placed", {})
        tell(len(emission.runs), called, "CELERY_SKIP_CHECKS" in os.environ)
        """
    )
    assert told == [2, [], False]


@postgresql
def test_durable_blocks_and_management_commands(project: Project) -> None:
    told = project.told(
        """
        from django.core.management import BaseCommand, call_command

        class Command(BaseCommand):
            def handle(self, *args, **options):
                with transaction.atomic(durable=True):
                    emit("order/placed", {}, id="a")
                emit("order/placed", {}, id="b")

        call_command(Command())
        tell(published())
        """
    )
    assert told == [["a", "b"]]


@postgresql
def test_a_task_that_emits_in_a_transaction(project: Project) -> None:
    script = """
        from tests.contrib.django.shop import placing
        placing.place.delay("kept", False)
        placing.place.delay("dropped", True)
    """
    project.settings(CELERY_INCLUDE=["tests.contrib.django.shop.placing"])
    project.run(script)
    with project.worker() as worker:
        worker.wait_for_log("after the emit")
        wait_until(lambda: len(project.ran()) >= 2)
    assert {line["data"]["number"] for line in project.ran()} == {"kept"}


# --- several databases ---------------------------------------------------------------------------


@pytest.fixture
def second(project: Project, tmp_path: Path) -> dict[str, object]:
    """Another database beside the default one."""
    other = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "other.sqlite3")}
    databases = {"default": project.database.settings, "other": other}
    project.environment["TEST_DATABASES"] = json.dumps(databases)
    project.manage("migrate", "--database=other", "--verbosity=0")
    return other


@postgresql
@pytest.mark.usefixtures("second")
def test_the_transaction_of_the_database_that_using_names_counts(project: Project) -> None:
    told = project.told(
        """
        with transaction.atomic():
            with transaction.atomic(using="other"):
                emit("order/placed", {}, id="default")
                emit("order/placed", {}, id="other", using="other")
            first = published()
        second = published()
        with rolled_back("other"):
            emit("order/placed", {}, id="dropped", using="other")
            emit("order/placed", {}, id="at once")
        tell(first, second, published())
        """
    )
    assert told == [["other"], ["other", "default"], ["other", "default", "at once"]]


@postgresql
@pytest.mark.usefixtures("second")
def test_the_outbox_of_another_database(project: Project) -> None:
    told = project.told(
        """
        with transaction.atomic():
            refused = error_of(lambda: emit("order/placed", {}, delivery="outbox", using="other"))
            with transaction.atomic(using="other"):
                emit("order/placed", {}, id="a", delivery="outbox", using="other")
                emit("order/placed", {}, id="b", delivery="outbox")
        rows = [[r.event_id for r in OutboxEvent.objects.using(u)] for u in ("default", "other")]
        tell(refused.split(":")[0], rows)
        """
    )
    assert told == ["NotInTransaction", [["b"], ["a"]]]


@postgresql
@pytest.mark.usefixtures("second")
def test_the_outbox_is_where_the_setting_says(project: Project) -> None:
    project.settings(CELERY_FANOUT_OUTBOX_DATABASE="other", CELERY_FANOUT_DELIVERY="outbox")
    told = project.told(
        """
        with transaction.atomic(using="other"):
            emit("order/placed", {}, id="a")
        with transaction.atomic():
            emit("order/placed", {}, id="b", using="default")
        rows = [[r.event_id for r in OutboxEvent.objects.using(u)] for u in ("default", "other")]
        tell(rows)
        """
    )
    assert told == [[["b"], ["a"]]]


# --- the outbox ----------------------------------------------------------------------------------


def test_a_row_is_part_of_the_transaction(project: Project) -> None:
    told = project.told(
        """
        with transaction.atomic():
            Order.objects.create(number="1")
            emission = emit("order/placed", {"number": "1"}, id="a", delivery="outbox")
            with rolled_back():
                emit("order/placed", {"number": "2"}, id="b", delivery="outbox")
            seen = [row.event_id for row in OutboxEvent.objects.all()]
        with rolled_back():
            emit("order/placed", {"number": "3"}, id="c", delivery="outbox")
        tell(seen, emission.published, emission.runs, published())
        """
    )
    assert told == [["a"], False, [], []]
    rows = project.database.fetch("SELECT event_id, name, app FROM celery_fanout_outbox")
    assert [tuple(row) for row in rows] == [("a", "order/placed", "shop")]


def test_a_row_becomes_what_was_emitted(project: Project) -> None:
    told = project.told(
        r"""
        import time
        from celery_fanout.contrib.django.outbox.rows import read_row
        data = {"text": "\0 \u00e9 \U0001f6a2 \" \\ '", "number": 1e300,
                "whole": 12345678901234567890, "none": None, "list": [True, [], {}]}
        with transaction.atomic():
            emission = emit("order/placed", data, id="\u00e9\U0001f6a2", subject="\u00e9", delay=60,
                            expires=600, then=app.tasks["celery.accumulate"].s(1, a={"b": 2}),
                            time="2026-01-02T03:04:05.000006+05:30", delivery="outbox")
        row = OutboxEvent.objects.get()
        draft, passed = read_row(row)
        same = draft.events == [emission.event]
        runs = draft.emit(passed)[0].runs
        run = get_fanout(app).runs.get(runs[0].id)
        due = run.due - time.time()
        again = [r.id for r in read_row(row)[0].emit()[0].runs] == [r.id for r in runs]
        tell(same, 0 <= passed < 50, 0 < due <= 60, again, len(published()), row.attempts,
             str(row), draft.then)
        """
    )
    assert told[:6] == [True, True, True, True, 1, 0]
    assert told[6] == "order/placed é🚢"
    signature = json.loads(told[7])["signature"]
    assert (signature["args"], signature["kwargs"]) == ([1], {"a": {"b": 2}})


@postgresql
def test_outside_of_a_transaction_the_outbox_refuses(project: Project) -> None:
    told = project.told(
        'tell(error_of(lambda: emit("order/placed", {}, delivery="outbox")), '
        "OutboxEvent.objects.count())"
    )
    assert told == [
        (
            "NotInTransaction: The event 'order/placed' was emitted into the outbox outside of a "
            "transaction on the database 'default', where it could be kept though what it "
            "tells of is "
            "not. Emit it in a block of transaction.atomic(using='default'), together with what "
            "happened; or set fanout_outbox_require_atomic to False."
        ),
        0,
    ]


def test_into_an_outbox_that_is_not_there(project: Project) -> None:
    project.manage("migrate", "celery_fanout", "zero")
    told = project.told(
        "with transaction.atomic():\n"
        '    tell(error_of(lambda: emit("order/placed", {}, delivery="outbox")))\n'
        "    transaction.set_rollback(True)"
    )
    project.manage("migrate", "celery_fanout")
    assert told == [
        (
            "NoOutbox: The event 'order/placed' was emitted into the outbox of the database "
            "'default', which has no table for it. Run: manage.py migrate celery_fanout "
            "--database default"
        )
    ]


@postgresql
def test_unless_the_setting_allows_it(project: Project) -> None:
    project.settings(CELERY_FANOUT_OUTBOX_REQUIRE_ATOMIC=False)
    project.run('emit("order/placed", {}, delivery="outbox")')
    assert project.database.names() == ["order/placed"]


@postgresql
def test_the_outbox_is_checked_as_strictly(project: Project) -> None:
    told = project.told(
        r"""
        with transaction.atomic():
            tell(
                error_of(lambda: emit("order/placed", {}, id="a\0", delivery="outbox")),
                error_of(lambda: emit("order/placed", {1: 2}, delivery="outbox")).split(":")[0],
                error_of(lambda: emit("order/placed", {}, then=1, delivery="outbox")).split(":")[0],
            )
        """
    )
    assert told == [
        (
            "InvalidEvent: The event 'order/placed' has the id 'a\\x00'. Leave out control "
            "characters, as CloudEvents asks: logs and terminals obey them."
        ),
        "InvalidEventData",
        "InvalidEvent",
    ]
    assert project.database.names() == []


def test_rows_that_cannot_be_read(project: Project) -> None:
    told = project.told(
        """
        from celery_fanout.contrib.django.outbox.rows import read_row
        with transaction.atomic():
            emit("order/placed", {}, delivery="outbox")
        def change(**values):
            row = OutboxEvent.objects.get()
            for name, value in values.items():
                setattr(row, name, value)
            row.pk = 7
            return error_of(lambda: read_row(row))
        tell(change(version=2), change(app="other"), change(event="{}"), change(options="[]"))
        """
    )
    assert told[:3] == [
        (
            "UnreadableRow: Row 7 of the outbox has version 2, and this celery-fanout knows "
            "version 1. "
            "Start the relay with the version of celery-fanout that the web processes have."
        ),
        (
            "UnreadableRow: Row 7 of the outbox is for the Celery app 'other', which is not "
            "in this "
            "process. Import the module that makes it where Django starts, as Celery's "
            "documentation "
            "has it."
        ),
        (
            "UnreadableRow: Row 7 of the outbox is no event (The event '?' has specversion "
            "None. Send "
            "CloudEvents 1.0.). Something else than celery-fanout has written or changed it. "
            "Delete it."
        ),
    ]
    assert told[3].startswith("UnreadableRow: Row 7 of the outbox is no event (")


# --- steps ---------------------------------------------------------------------------------------


@postgresql
def test_a_step_emits_at_once(project: Project) -> None:
    project.settings(CELERY_INCLUDE=["tests.contrib.django.shop.placing"])
    project.run('emit("step/asked", {})')
    with project.worker():
        wait_until(lambda: len(project.ran()) >= 1)
    assert [line["name"] for line in project.ran()] == ["order/stepped"]
