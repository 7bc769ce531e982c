"""Tests as a user of Django writes them. Not for our own pytest: see test_testing.py."""

# ruff: noqa: PT027 - Django's users write assertRaises

from __future__ import annotations

from unittest import mock

from django.db import transaction
from django.test import TestCase, TransactionTestCase, override_settings

from celery_fanout import aemit, emit, get_fanout, step
from celery_fanout.contrib.django.exceptions import NotInTransaction
from celery_fanout.contrib.django.models import OutboxEvent
from celery_fanout.contrib.django.testing import drain_outbox
from celery_fanout.testing import capture, run, simulate
from tests.contrib.django.celery_app import app
from tests.contrib.django.limited import LONG, idempotency
from tests.contrib.django.shop import tasks
from tests.contrib.django.shop.models import Order


class PaymentError(Exception):
    pass


def place(number: str) -> None:
    """What a view does."""
    with transaction.atomic():
        Order.objects.create(number=number)
        emit("order/placed", {"number": number})


def fail(number: str) -> None:
    with transaction.atomic():
        place(number)
        raise PaymentError


class Shared:
    """What holds in a TestCase, where nothing commits, and in a TransactionTestCase."""

    def test_what_was_committed_is_captured(self):
        with capture() as events:
            place("1")
            with self.assertRaises(PaymentError):
                fail("2")
            place("3")
        assert [event.data["number"] for event in events] == ["1", "3"]
        assert events.assert_emitted("order/placed", times=2).data == {"number": "3"}

    def test_inside_the_block_too_once_its_transaction_has_ended(self):
        with capture() as events:
            assert events == []
            place("1")
            events.assert_emitted("order/placed", {"number": "1"}, times=1)
            with transaction.atomic():
                emit("order/paid", {})
                events.assert_not_emitted("order/paid")
                assert len(events) == 1
            assert "order/paid" in [event.name for event in events]
            assert len(events) == 2

    def test_requests(self):
        with capture() as events:
            assert self.client.get("/by-hand?number=1").status_code == 200
            assert events[0].data == {"number": "1"}
            with self.assertRaises(RuntimeError):
                self.client.get("/by-hand?number=2&fail=1")
        events.assert_emitted("order/placed", times=1)

    async def test_async_requests(self):
        with capture() as events:
            answer = await self.async_client.get("/async?number=1")
            assert answer.status_code == 200
            await aemit("order/paid", {})
        assert [event.name for event in events] == ["order/placed", "order/paid"]

    def test_a_capture_in_a_transaction_takes_what_was_emitted_in_it(self):
        with transaction.atomic():
            emit("order/placed", {"number": "before"}, id="before")
            with capture() as events:
                emission = emit("order/placed", {"number": "1"})
                assert not emission.published
                events.assert_emitted("order/placed", times=1)
            assert emission.published
            assert len(emission.runs) == 2
            transaction.set_rollback(True)

    def test_other_peoples_callbacks_are_not_called(self):
        called = mock.Mock()
        with transaction.atomic():
            transaction.on_commit(called)
            with capture() as events:
                place("1")
        assert len(events) == 1
        assert called.called is self.commits

    def test_the_outbox_is_captured_as_well(self):
        with capture() as events, transaction.atomic():
            emit("order/placed", {}, delivery="outbox")
        assert [event.name for event in events] == ["order/placed"]
        assert OutboxEvent.objects.count() == 0

    def test_the_outbox_asks_for_a_transaction_of_the_code_under_test(self):
        with self.assertRaises(NotInTransaction):
            emit("order/placed", {}, delivery="outbox")

    def test_draining_the_outbox(self):
        for number in ("1", "2"):
            with transaction.atomic():
                emit("order/placed", {"number": number}, delivery="outbox")
        assert OutboxEvent.objects.count() == 2
        with capture() as events:
            emissions = drain_outbox()
        assert [event.data["number"] for event in events] == ["1", "2"]
        assert [len(emission.runs) for emission in emissions] == [2, 2]
        assert OutboxEvent.objects.count() == 0
        assert drain_outbox() == []

    def test_a_simulation_runs_what_would_be_committed(self):
        with simulate() as simulation:
            place("1")
            with self.assertRaises(PaymentError):
                fail("2")
            assert simulation.work() == 2
            assert [event.data["number"] for event in simulation.events] == ["1"]
            with transaction.atomic():
                emit("order/placed", {}, delivery="outbox")
            assert simulation.work() == 2

    def test_a_simulation_keeps_limits_of_what_would_be_committed(self):
        def tell(name, *numbers):
            with transaction.atomic():
                for n in numbers:
                    emit(f"limited/{name}", {"shop": "one", "n": n})

        with simulate() as simulation:
            for name in ("idempotency", "debounce", "throttle"):
                with self.assertRaises(PaymentError), transaction.atomic():
                    tell(name, 1)
                    raise PaymentError
                tell(name, 2, 3)
            assert simulation.work() == 2  # the first of two, and the throttle's first
            assert simulation.advance(2) == 1  # both as one
            assert simulation.advance(LONG) == 1
            ends = sorted((str(run.state), run.reason) for run in simulation.runs.list())
            dropped = f"dropped: idempotency {idempotency.name}@limited/idempotency by shop"
            assert ends == [("cancelled", dropped), *[("succeeded", "")] * 4]

    def test_a_run_shows_what_its_body_emits(self):
        result = run(emit_both_ways, {}, event="both/ways")
        # a step emits at once, and the other one waits for a commit, if there is to be one
        first, last = ("order/placed", "order/stepped")[:: 1 if self.commits else -1]
        assert [event.name for event in result.events] == [first, last]

    def test_nested_captures(self):
        with capture() as outer:
            place("1")
            with capture() as inner:
                place("2")
            place("3")
        assert [event.data["number"] for event in inner] == ["2"]
        assert [event.data["number"] for event in outer] == ["1", "3"]


@app.task
def emit_both_ways(data):
    place("4")
    step.emit("tell", "order/stepped", {})


from celery_fanout import on_event  # noqa: E402 - below its task

on_event("both/ways")(emit_both_ways)


@override_settings(ROOT_URLCONF="tests.contrib.django.emitting_urls")
class InTestCase(Shared, TestCase):
    commits = False

    @classmethod
    def setUpTestData(cls):
        emit("order/placed", {"number": "fixture"})

    def test_nothing_is_published_and_nothing_captured_that_was_emitted_before(self):
        emission = emit("order/placed", {})
        with capture() as events:
            pass
        assert events == []
        assert not emission.published

    def test_capture_on_commit_callbacks(self):
        with capture() as events, self.captureOnCommitCallbacks(execute=True) as callbacks:
            place("1")
            with self.assertRaises(PaymentError):
                fail("2")
        assert len(callbacks) == 1
        assert [event.data["number"] for event in events] == ["1"]

    def test_capture_on_commit_callbacks_around_a_capture(self):
        with self.captureOnCommitCallbacks(execute=True) as callbacks, capture() as events:
            place("1")
        assert len(callbacks) == 1
        events.assert_emitted("order/placed", times=1)

    def test_capture_on_commit_callbacks_publishes_for_real(self):
        with self.captureOnCommitCallbacks(execute=True):
            place("real")
        found = get_fanout(app).runs.events()
        assert [event.name for event in found] == ["order/placed"]


@override_settings(ROOT_URLCONF="tests.contrib.django.emitting_urls")
class InTransactionTestCase(Shared, TransactionTestCase):
    commits = True


def test_the_fixture(fanout, db):
    with fanout.capture() as events:
        place("1")
    events.assert_emitted("order/placed", {"number": "1"})


def test_the_fixture_with_real_transactions(fanout, transactional_db):
    with fanout.simulate() as simulation:
        place("1")
        assert simulation.work() == 2
    assert tasks.record is not None


def test_pytest_djangos_callbacks(fanout, db, django_capture_on_commit_callbacks):
    with fanout.capture() as events, django_capture_on_commit_callbacks(execute=True) as callbacks:
        place("1")
    assert len(callbacks) == 1
    assert len(events) == 1
