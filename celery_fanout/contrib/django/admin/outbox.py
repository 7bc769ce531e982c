"""The admin's pages of the outbox, and of what relays gave up."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.template.response import TemplateResponse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from celery_fanout.app.fanout import get_fanout
from celery_fanout.contrib.django.admin.ledger import MAX_REASON
from celery_fanout.contrib.django.admin.parts import ReadOnlyAdmin, may_see_data, pretty
from celery_fanout.contrib.django.outbox.requeueing import dead_rows, requeue
from celery_fanout.exceptions import FanoutError
from celery_fanout.operating.redaction import redactor_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django.db.models import QuerySet
    from django.http import HttpRequest

    from celery_fanout.contrib.django.models import OutboxEvent

#: How much of an error stands in a list.
MAX_ERROR = 100


class OutboxEventAdmin(ReadOnlyAdmin):
    """Events that no relay has published yet.

    Attributes:
        using: the alias of the database whose outbox is shown; ``""``: ``fanout_outbox_database``.
    """

    using = ""

    list_display: Any = ("name", "event_id", "created_at", "available_at", "attempts")
    list_per_page = 50
    show_full_result_count = False  # it scans the table
    search_fields = ("=event_id", "=name")
    search_help_text = _("The event's id or name, as it is.")
    ordering = ("available_at", "id")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Return the rows of the database that has the outbox."""
        rows: Any = super().get_queryset(request)
        live: QuerySet[Any] = self._live(rows.using(self._alias()))
        return live

    def _alias(self) -> str:
        return self.using or _alias()

    def _live(self, rows: Any) -> Any:
        return rows.filter(dead_at__isnull=True)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return what a row's page shows; its data and error only with the permission."""
        del obj
        fields = ["name", "event_id", "app", "created_at", "available_at", "attempts", "dead_at"]
        hidden = ["shown_event", "shown_error"] if may_see_data(request) else []
        return [*fields, *hidden]

    @admin.display(description=_("CloudEvent"))
    def shown_event(self, row: OutboxEvent) -> str:
        """Return the event, without its secrets."""
        return format_html("<pre>{}</pre>", _shown(row))

    @admin.display(description=_("last error"))
    def shown_error(self, row: OutboxEvent) -> str:
        """Return why it could not be published."""
        return format_html("<pre>{}</pre>", row.last_error or "-")


class DeadOutboxEventAdmin(OutboxEventAdmin):
    """Events that relays gave up."""

    list_display = ("name", "event_id", "created_at", "dead_at", "attempts", "error")
    ordering = ("-dead_at", "id")
    actions = ("requeue",)

    def _live(self, rows: Any) -> Any:
        return rows  # the model's manager has dead rows only

    def has_requeue_permission(self, request: HttpRequest) -> bool:
        """Whether the user may requeue dead rows."""
        user: Any = request.user
        return bool(user.has_perm("celery_fanout.requeue_outbox_event"))

    @admin.display(description=_("error"))
    def error(self, row: OutboxEvent) -> str:
        """Return the class of the error: its message may quote the data."""
        return row.last_error.partition(":")[0][:MAX_ERROR]

    @admin.action(permissions=["requeue"], description=_("Requeue selected dead outbox events"))
    def requeue(self, request: HttpRequest, queryset: QuerySet[Any]) -> TemplateResponse | None:
        """Let relays publish rows again, after a question."""
        rows = list(queryset)
        if not request.POST.get("post"):
            return self._ask(request, rows)
        text = " ".join(request.POST.get("reason", "").split())[:MAX_REASON]
        done = 0
        for row in rows:
            # one by one, so that the log has those that it was true for
            if requeue(dead_rows(self._alias()).filter(pk=row.pk)):
                self.log_change(request, row, f"Requeued. {text}" if text else "Requeued.")
                done += 1
        words = ngettext("%(count)d event is requeued.", "%(count)d events are requeued.", done)
        self.message_user(request, words % {"count": done}, messages.SUCCESS)
        return None

    def _ask(self, request: HttpRequest, rows: Sequence[Any]) -> TemplateResponse:
        context = {
            **self._context(request, _("Requeue these events?")),
            "explanation": _("Relays publish them again, with all their attempts."),
            "action": "requeue",
            "chosen": [{"id": str(row.pk), "text": str(row), "url": ""} for row in rows],
            "back": request.get_full_path(),
            "max_reason": MAX_REASON,
        }
        return TemplateResponse(request, "admin/celery_fanout/confirm.html", context)


def _alias() -> str:
    """Return the database of the outbox; the default one where the settings are wrong."""
    try:
        return get_fanout().settings.outbox_database
    except FanoutError:  # the checks say so
        return "default"


def _shown(row: OutboxEvent) -> str:
    try:
        redact = redactor_of(get_fanout().settings)
        event: dict[str, Any] = json.loads(row.event)
    except (FanoutError, ValueError) as exc:
        return f"[{type(exc).__name__}]"
    return pretty({**event, "data": redact(row.name, event.get("data"))})
