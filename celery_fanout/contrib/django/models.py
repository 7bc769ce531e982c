"""The outbox: events that wait in the caller's database for a relay to publish them.

Also events and runs of the ledger, so that Django's admin has permissions for them. There is no
table behind those: what they show is in the ledger (Redis). Their queries find nothing and ask no
database, whoever makes them, ``dumpdata`` for one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

if TYPE_CHECKING:
    import datetime as dt
    import uuid
    from collections.abc import Sequence

    from celery_fanout.stores.records import EventRecord, RunRecord

__all__ = ["DeadOutboxEvent", "Event", "OutboxEvent", "Run"]


class OutboxEvent(models.Model):
    """One event that a committed transaction emitted and that no relay has published yet.

    A published event's row is deleted. What a relay has claimed becomes available again when its
    lease ends, and its token is what a relay that was too slow no longer has.
    """

    version: models.PositiveSmallIntegerField[int, int] = models.PositiveSmallIntegerField(
        default=1, editable=False
    )
    app: models.CharField[str, str] = models.CharField(
        _("Celery app"), max_length=200, blank=True, editable=False
    )
    name: models.CharField[str, str] = models.CharField(_("event"), max_length=200, editable=False)
    event_id: models.CharField[str, str] = models.CharField(
        _("event id"), max_length=1000, editable=False
    )
    # texts, not JSONField: PostgreSQL's jsonb changes numbers and refuses \u0000
    event: models.TextField[str, str] = models.TextField(_("CloudEvent"), editable=False)
    options: models.TextField[str, str] = models.TextField(
        _("options"), default="{}", editable=False
    )
    created_at: models.DateTimeField[dt.datetime, dt.datetime] = models.DateTimeField(
        _("emitted"), editable=False
    )
    available_at: models.DateTimeField[dt.datetime, dt.datetime] = models.DateTimeField(
        _("next attempt"), editable=False
    )
    attempts: models.PositiveIntegerField[int, int] = models.PositiveIntegerField(
        _("attempts"), default=0, editable=False
    )
    lease_token: models.UUIDField[uuid.UUID | None, uuid.UUID | None] = models.UUIDField(
        _("lease"), null=True, editable=False
    )
    last_error: models.TextField[str, str] = models.TextField(
        _("last error"), blank=True, editable=False
    )
    dead_at: models.DateTimeField[dt.datetime | None, dt.datetime | None] = models.DateTimeField(
        _("given up"), null=True, editable=False
    )

    class Meta:
        db_table = "celery_fanout_outbox"
        default_permissions = ("view",)  # only emit() and relays write and delete
        verbose_name = _("outbox event")
        verbose_name_plural = _("outbox events")
        # ordered by availability, never by id: a lower id may commit after a higher one
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["dead_at", "available_at", "id"], name="celery_fanout_due"),
        ]

    def __str__(self) -> str:
        return f"{self.name} {self.event_id}"


class _DeadManager(models.Manager["DeadOutboxEvent"]):
    def get_queryset(self) -> models.QuerySet[DeadOutboxEvent]:
        rows: Any = super().get_queryset()
        return rows.filter(dead_at__isnull=False)  # type: ignore[no-any-return]


class DeadOutboxEvent(OutboxEvent):
    """An event that the relay gave up, with its error."""

    objects = _DeadManager()

    class Meta:  # pyright: ignore[reportIncompatibleVariableOverride]
        proxy = True
        default_permissions = ("view",)
        verbose_name = _("dead outbox event")
        verbose_name_plural = _("dead outbox events")
        permissions: ClassVar[list[tuple[str, Any]]] = [
            ("requeue_outbox_event", _("Can requeue dead outbox events")),
        ]


class _NoTable(models.Manager[Any]):
    def get_queryset(self) -> models.QuerySet[Any]:
        everything: Any = super().get_queryset()
        nothing: models.QuerySet[Any] = everything.none()
        return nothing


class Event(models.Model):
    """An event of the ledger.

    Attributes:
        record: what the ledger has about it.
    """

    record: EventRecord

    key: models.CharField[str, str] = models.CharField(
        _("key"), max_length=36, primary_key=True, editable=False
    )
    name: models.CharField[str, str] = models.CharField(_("event"), max_length=200, editable=False)

    objects = _NoTable()

    class Meta:
        managed = False
        base_manager_name = "objects"
        default_permissions: ClassVar[Sequence[str]] = ("view",)
        permissions: ClassVar[list[tuple[str, Any]]] = [
            ("replay_event", _("Can replay events")),
            ("view_event_data", _("Can view the data of events, and what runs return and raise")),
        ]
        verbose_name = _("event")
        verbose_name_plural = _("events")

    def __str__(self) -> str:
        return f"{self.name} {self.key}"


class Run(models.Model):
    """A run of the ledger.

    Attributes:
        record: what the ledger has about it.
    """

    record: RunRecord

    id: models.CharField[str, str] = models.CharField(
        _("run"), max_length=36, primary_key=True, editable=False
    )
    subscription: models.CharField[str, str] = models.CharField(
        _("subscription"), max_length=500, editable=False
    )

    objects = _NoTable()

    class Meta:
        managed = False
        base_manager_name = "objects"
        default_permissions: ClassVar[Sequence[str]] = ("view",)
        permissions: ClassVar[list[tuple[str, Any]]] = [
            ("retry_run", _("Can retry runs")),
            ("cancel_run", _("Can cancel runs")),
        ]
        verbose_name = _("run")
        verbose_name_plural = _("runs")

    def __str__(self) -> str:
        return f"{self.subscription} {self.id}" if self.subscription else self.id
