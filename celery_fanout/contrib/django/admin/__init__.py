"""The admin: the outbox and what relays gave up; and with a ledger, events and runs.

All of it is read-only, apart from actions that have permissions of their own.

May import what ``contrib.django`` may. Nothing but Django imports it.
Private: its modules may change without notice.
"""

from django.contrib import admin

from celery_fanout.contrib.django.admin.events import EventAdmin
from celery_fanout.contrib.django.admin.outbox import DeadOutboxEventAdmin, OutboxEventAdmin
from celery_fanout.contrib.django.admin.runs import RunAdmin
from celery_fanout.contrib.django.models import DeadOutboxEvent, Event, OutboxEvent, Run

__all__ = ["DeadOutboxEventAdmin", "EventAdmin", "OutboxEventAdmin", "RunAdmin"]

admin.site.register(Event, EventAdmin)
admin.site.register(Run, RunAdmin)
admin.site.register(OutboxEvent, OutboxEventAdmin)
admin.site.register(DeadOutboxEvent, DeadOutboxEventAdmin)
