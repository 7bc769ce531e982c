"""Rows of the outbox: the one place that writes them, and the one that reads them."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from celery import _state
from django.utils import timezone

from celery_fanout.app.fanout import get_fanout
from celery_fanout.contrib.django.exceptions import UnreadableRow
from celery_fanout.contrib.django.models import OutboxEvent
from celery_fanout.contrib.django.outbox.notify import notify
from celery_fanout.emitting.delivery import Draft
from celery_fanout.exceptions import InvalidEvent, NoApp
from celery_fanout.model.events import Event
from celery_fanout.model.tracing import current_trace
from celery_fanout.running.current import app_in_use

if TYPE_CHECKING:
    from celery import Celery

#: What the rows of this version of celery-fanout look like. A row of another one is not guessed at.
VERSION = 1


def write_rows(draft: Draft, using: str) -> list[OutboxEvent]:
    """Write a draft into the outbox, in whatever transaction is under way.

    One row per event: the event as a CloudEvent, and what else publishing it takes.

    Args:
        draft: what to publish; its trace is the current one unless it has one.
        using: the alias of the database.

    Raises:
        InvalidEvent: if a database cannot hold the id of one. Nothing was written.
        django.db.Error: what the database says.
    """
    now = timezone.now()
    options = _options(draft)
    rows = [
        OutboxEvent(
            version=VERSION,
            app=_name_of(draft.fanout.app),
            name=event.name,
            event_id=_checked_id(event),
            # in ASCII, so that it fits a database or table of any encoding
            event=json.dumps(event.to_cloudevent(), allow_nan=False, separators=(",", ":")),
            options=options,
            created_at=now,
            available_at=now,
        )
        for event in draft.events
    ]
    written = OutboxEvent.objects.using(using).bulk_create(rows)
    notify(using)
    return written


def read_row(row: OutboxEvent) -> tuple[Draft, float]:
    """Return what a row of the outbox asks to publish, and how many seconds ago it was emitted.

    ``draft, passed = read_row(row)``, then ``draft.emit(passed)``. Each row is one
    event with the id that ``emit()`` gave it, so to publish a row twice is harmless. It is
    published in the trace that it was emitted in.

    Raises:
        UnreadableRow: if it was written by a newer version, or its Celery app is not in this
            process, or it is no event. To try again helps only after something was changed.
    """
    if row.version != VERSION:
        raise UnreadableRow(
            row.pk,
            f"has version {row.version}, and this celery-fanout knows version {VERSION}",
            "Start the relay with the version of celery-fanout that the web processes have.",
        )
    fanout = get_fanout(_app_named(row))
    try:
        event = Event.from_cloudevent(row.event)
        options: dict[str, Any] = json.loads(row.options)
        emitted = float(options["emitted"])
        draft = Draft(
            fanout,
            [event],
            options.get("delay"),
            options.get("expires"),
            options.get("then", ""),
            options.get("trace", ""),
            emitted,
        )
    except (InvalidEvent, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise UnreadableRow(
            row.pk,
            f"is no event ({exc})",
            "Something else than celery-fanout has written or changed it. Delete it.",
        ) from exc
    return draft, max(0.0, time.time() - emitted)


def _options(draft: Draft) -> str:
    found: dict[str, Any] = {
        # the time of this machine, not a column: without USE_TZ those are local, and ambiguous
        "emitted": draft.emitted,
        "delay": draft.delay,
        "expires": draft.expires,
        "then": draft.then,
        "trace": draft.trace or current_trace(),
    }
    return json.dumps({key: value for key, value in found.items() if value not in (None, "")})


def _checked_id(event: Event) -> str:
    if "\0" in event.id:
        raise InvalidEvent(
            event.name,
            f"has the id {event.id!r}, and PostgreSQL has no texts with the character NUL",
            "Use another id.",
        )
    return event.id


def _name_of(app: Celery) -> str:
    return str(app.main or "")


def _app_named(row: OutboxEvent) -> Celery:
    state: Any = _state
    try:
        apps: list[Celery] = [app_in_use()]
    except NoApp:
        apps = []
    apps += list(state._get_active_apps())
    for app in apps:
        if _name_of(app) == row.app:
            return app
    raise UnreadableRow(
        row.pk,
        f"is for the Celery app {row.app!r}, which is not in this process",
        "Import the module that makes it where Django starts, as Celery's documentation has it.",
    )
