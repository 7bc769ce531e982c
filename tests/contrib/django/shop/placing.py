"""Tasks that emit: for the tests of emitting only, so not autodiscovered."""

from __future__ import annotations

from celery import shared_task
from django.db import transaction

from celery_fanout import emit, on_event, step
from tests.contrib.django.shop.models import Order


@shared_task
def place(number: str, fail: bool) -> None:
    with transaction.atomic():
        Order.objects.create(number=number)
        emit("order/placed", {"number": number})
        if fail:
            raise RuntimeError("after the emit")


@on_event("step/asked")
@shared_task
def emit_in_a_step(data: object) -> None:
    # its result is stored, and so it is not emitted again, though this transaction rolls back
    with transaction.atomic():
        step.emit("tell", "order/stepped", {})
        transaction.set_rollback(True)
