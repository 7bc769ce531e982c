"""Events and runs of the ledger as models, so that Django's admin has permissions for them.

There is no table behind them: what they show is in the ledger (Redis). Their queries find nothing
and ask no database, whoever makes them, ``dumpdata`` for one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_fanout.stores.records import EventRecord, RunRecord

__all__ = ["Event", "Run"]


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
