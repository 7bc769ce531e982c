"""The admin: the outbox and what relays gave up; and with a ledger, events and runs.

May import what ``contrib.django`` may. Nothing but Django imports it.
Private: its modules may change without notice.
"""

from celery_fanout.contrib.django.admin.events import EventAdmin
from celery_fanout.contrib.django.admin.outbox import DeadOutboxEventAdmin, OutboxEventAdmin
from celery_fanout.contrib.django.admin.runs import RunAdmin

__all__ = ["DeadOutboxEventAdmin", "EventAdmin", "OutboxEventAdmin", "RunAdmin"]
