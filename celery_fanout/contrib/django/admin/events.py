"""The admin's pages of events."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from celery_fanout.contrib.django.admin.ledger import LedgerAdmin
from celery_fanout.contrib.django.admin.parts import (
    PAGE,
    Change,
    name_choices,
    pretty,
    since_choices,
    since_of,
    when,
)
from celery_fanout.contrib.django.admin.runs import run_rows
from celery_fanout.contrib.django.models import Event
from celery_fanout.exceptions import EventNotFound
from celery_fanout.operating.paging import page_of
from celery_fanout.operating.redaction import redacted_event

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from django.http import HttpRequest

    from celery_fanout.app.fanout import Fanout
    from celery_fanout.operating.paging import Page
    from celery_fanout.operating.reading import RunReader
    from celery_fanout.stores.records import EventRecord

#: How many runs are listed with an event.
MAX_RUNS = 100


class EventAdmin(LedgerAdmin):
    """Events: what was emitted, and the runs that came of it."""

    filters = ("name", "since")
    list_template = "admin/celery_fanout/events.html"
    detail_template = "admin/celery_fanout/event.html"
    changes: Mapping[str, Change] = {
        "replay": Change(
            "replay_event",
            _("Replay selected events"),
            _("Replay"),
            _("Replay these events?"),
            _(
                "Each is delivered again to all subscribers that it matches now, in new runs that "
                "begin anew: what their steps did is done again."
            ),
            "Replayed",
            ngettext_lazy(
                "%(count)d event is replayed:", "%(count)d events are replayed:", "count"
            ),
            lambda control, ids, reason: control.replay_many(ids, None, reason),
            makes_runs=True,
        )
    }

    def find(self, control: RunReader, id: str) -> Event:
        """Return an event; see :class:`LedgerAdmin`."""
        record = control.event(id)
        event = Event(key=record.key, name=record.name)
        event.record = record
        return event

    def search(self, control: RunReader, text: str) -> str:
        """Find an event by its id or key."""
        try:
            return self.address("change", control.event(text).key)
        except EventNotFound:
            if control.events(name=text, limit=1):
                return f"{self.address('changelist')}?{urlencode({'name': text})}"
            return ""

    def page(
        self, control: RunReader, filters: Mapping[str, str], cursor: str
    ) -> Page[EventRecord]:
        """Return a page of events."""
        since = since_of(filters)

        def fetch(before: float | None, limit: int) -> Sequence[EventRecord]:
            return control.events(name=filters.get("name"), since=since, before=before, limit=limit)

        return page_of(fetch, lambda event: (event.created, event.key), cursor, PAGE)

    def rows(
        self, request: HttpRequest, control: RunReader, records: Sequence[EventRecord]
    ) -> list[dict[str, Any]]:
        """Return events as rows."""
        del request, control
        return [
            {
                "id": record.key,
                "record": record,
                "event_id": json.loads(record.attributes)["id"],
                "created": when(record.created),
                "runs": len(record.runs) + len(record.replayed),
            }
            for record in records
        ]

    def sidebar(self, fanout: Fanout, filters: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return the filters."""
        return [since_choices(filters, _("time")), name_choices(filters, fanout.registry)]

    def possible(self, model: Event) -> Sequence[str]:
        """Return what can be done: every event can be replayed."""
        del model
        return ["replay"]

    def detail(self, request: HttpRequest, fanout: Fanout, model: Event) -> dict[str, Any]:
        """Return what the page of an event shows."""
        event = redacted_event(model.record, self._redact(request, fanout))
        attributes: dict[str, Any] = json.loads(event.attributes)
        runs = fanout.runs.list(event=event.key, limit=MAX_RUNS + 1)
        return {
            "record": event,
            "attributes": [(key, value) for key, value in attributes.items() if key != "type"],
            "created": when(event.created),
            "data": pretty(json.loads(event.data)),
            "rows": run_rows(request, fanout.runs, runs[:MAX_RUNS]),
            "more": len(runs) > MAX_RUNS,
            "replayed": len(event.replayed),
        }
