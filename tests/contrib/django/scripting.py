"""What the scripts of the Django tests use: see :mod:`tests.contrib.django.conftest`."""

from __future__ import annotations

from django.db import connection, connections, transaction

from celery_fanout import emit, emit_many, get_fanout
from celery_fanout.contrib.django.models import DeadOutboxEvent, OutboxEvent
from tests.contrib.django.celery_app import app
from tests.contrib.django.shop.models import Order

__all__ = [
    "DeadOutboxEvent",
    "Order",
    "OutboxEvent",
    "app",
    "connection",
    "connections",
    "emit",
    "emit_many",
    "get_fanout",
    "transaction",
]
