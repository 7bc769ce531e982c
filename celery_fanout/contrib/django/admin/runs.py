"""The admin's pages of runs."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, TypeVar

from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from celery_fanout.contrib.django.admin.ledger import LedgerAdmin
from celery_fanout.contrib.django.admin.parts import (
    MAX_CHOICES,
    PAGE,
    Change,
    choices_of,
    may_see_data,
    name_choices,
    pretty,
    since_choices,
    since_of,
    when,
)
from celery_fanout.contrib.django.models import Run
from celery_fanout.exceptions import EventNotFound, RunNotFound
from celery_fanout.operating.control import PARTS_OF_STEPS
from celery_fanout.operating.paging import page_of
from celery_fanout.operating.redaction import redacted_run
from celery_fanout.operating.timeline import gated, happenings, step_name, task_of
from celery_fanout.stores.checkpoints import Checkpoint
from celery_fanout.stores.states import FINAL, RunState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from django.http import HttpRequest

    from celery_fanout.app.fanout import Fanout
    from celery_fanout.operating.paging import Page
    from celery_fanout.operating.reading import RunReader
    from celery_fanout.stores.records import EventRecord, RunRecord

RecordT = TypeVar("RecordT")

#: How many child runs are listed with a run.
MAX_CHILDREN = 100

#: How many events that a run collected are listed with it.
MAX_EVENTS = 100

#: How much of an error stands in a table.
MAX_ERROR = 120

STATES = {
    "pending": _("pending"),
    "gated": _("gated"),
    "published": _("published"),
    "running": _("running"),
    "suspended": _("suspended"),
    "retrying": _("retrying"),
    "completing": _("completing"),
    "succeeded": _("succeeded"),
    "failed": _("failed"),
    "cancelled": _("cancelled"),
}


def model_of(record: RunRecord) -> Run:
    """Return the model of a run, with its record."""
    run = Run(id=record.id, subscription=record.subscription)
    run.record = record
    return run


def run_rows(
    request: HttpRequest, control: RunReader, records: Sequence[RunRecord]
) -> list[dict[str, Any]]:
    """Return runs as rows of a table; those that failed with their errors."""
    failed = [record.id for record in records if record.state is RunState.FAILED]
    errors = {o.run_id: o.error for o in control.outcomes(failed)} if failed else {}
    texts = may_see_data(request)
    return [
        {
            "id": record.id,
            "record": record,
            "state": STATES[str(record.state)],
            "updated": when(record.updated),
            "note": _error(errors.get(record.id), texts=texts) or record.reason,
        }
        for record in records
    ]


def _error(error: Mapping[str, Any] | None, *, texts: bool) -> str:
    if not error:
        return ""
    kind, lines = str(error.get("type", "")), str(error.get("message", "")).splitlines()
    return f"{kind}: {lines[0]}"[:MAX_ERROR] if texts and lines else kind


class RunAdmin(LedgerAdmin):
    """Runs: what each subscriber did with each event."""

    filters = ("state", "subscription", "name", "event", "since")
    list_template = "admin/celery_fanout/runs.html"
    detail_template = "admin/celery_fanout/run.html"
    changes: Mapping[str, Change] = {
        "retry": Change(
            "retry_run",
            _("Retry selected runs"),
            _("Retry"),
            _("Retry these runs?"),
            _(
                "Runs that failed or were cancelled are executed again. They keep the results of "
                "their finished steps."
            ),
            "Retried",
            ngettext_lazy("%(count)d run is retried.", "%(count)d runs are retried.", "count"),
            lambda control, ids, reason: control.retry_many(ids, reason),
        ),
        "cancel": Change(
            "cancel_run",
            _("Cancel selected runs"),
            _("Cancel"),
            _("Cancel these runs?"),
            _(
                "Runs that have not ended, and what they asked for, end here. One that a worker "
                "is executing may finish the step that it is in."
            ),
            "Cancelled",
            ngettext_lazy("%(count)d run is cancelled.", "%(count)d runs are cancelled.", "count"),
            lambda control, ids, reason: control.cancel_many(ids, reason),
        ),
    }

    def find(self, control: RunReader, id: str) -> Run:
        """Return a run; see :class:`LedgerAdmin`."""
        return model_of(control.get(id))

    def search(self, control: RunReader, text: str) -> str:
        """Find a run by its id or the beginning of it, or the runs of an event by its id."""
        with contextlib.suppress(RunNotFound):
            return self.address("change", control.find(text).id)
        try:
            return self.address("changelist") + f"?event={control.event(text).key}"
        except EventNotFound:
            return ""

    def page(self, control: RunReader, filters: Mapping[str, str], cursor: str) -> Page[RunRecord]:
        """Return a page of runs."""
        since = since_of(filters)

        def fetch(before: float | None, limit: int) -> Sequence[RunRecord]:
            return control.list(
                state=filters.get("state") if filters.get("state") in STATES else None,
                subscription=filters.get("subscription"),
                event=filters.get("event"),
                name=filters.get("name"),
                since=since,
                before=before,
                limit=limit,
            )

        return page_of(fetch, lambda run: (run.updated, run.id), cursor, PAGE)

    def rows(
        self, request: HttpRequest, control: RunReader, records: Sequence[RunRecord]
    ) -> list[dict[str, Any]]:
        """Return runs as rows."""
        return run_rows(request, control, records)

    def sidebar(self, fanout: Fanout, filters: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return the filters: by state, with how many runs are in each, and more."""
        counts = {str(state): count for state, count in fanout.runs.counts().items()}
        states = [(name, f"{text} ({counts.get(name, 0):,})") for name, text in STATES.items()]
        subscriptions = sorted(sub.id for sub in fanout.registry)[:MAX_CHOICES]
        sidebar = [
            choices_of(filters, "state", _("state"), states),
            since_choices(filters, _("time of change")),
            name_choices(filters, fanout.registry),
            choices_of(filters, "subscription", _("subscription"), [(s, s) for s in subscriptions]),
        ]
        if filters.get("event"):
            sidebar.append(choices_of(filters, "event", _("one event"), []))
        return sidebar

    def possible(self, model: Run) -> Sequence[str]:
        """Return what can be done with a run in its state."""
        record = model.record
        if record.state in (RunState.FAILED, RunState.CANCELLED):
            return [] if record.kind in PARTS_OF_STEPS else ["retry"]
        return [] if record.state in FINAL or record.state is RunState.COMPLETING else ["cancel"]

    def detail(self, request: HttpRequest, fanout: Fanout, model: Run) -> dict[str, Any]:
        """Return what the page of a run shows."""
        control, record = fanout.runs, model.record
        event: EventRecord | None = None
        with contextlib.suppress(EventNotFound):
            event = control.event(record.event)
        name = "" if event is None else event.name
        redact, texts = self._redact(request, fanout), may_see_data(request)
        run = redacted_run(record, name, redact, texts=texts)
        ids = list(run.detail["children"])
        children = _existing(control.get, ids[:MAX_CHILDREN])
        keys = list(run.detail.get("events", ()))
        collected = _existing(control.event, keys[:MAX_EVENTS])
        now = fanout.ledger.time()
        waits = run.state in (RunState.SUSPENDED, RunState.RETRYING) or (
            run.state is RunState.PENDING and (run.due or 0) > now
        )
        return {
            "record": run,
            "state": STATES[str(run.state)],
            "event": event,
            "event_id": "" if event is None else json.loads(event.attributes)["id"],
            "data": event and pretty(redact(name, json.loads(event.data))),
            "times": [
                (_("Recorded"), when(run.created)),
                (_("First execution began"), when(run.started)),
                (_("State changed"), when(run.updated)),
                (_("Ended"), when(run.finished)),
                (_("Waits until"), when(run.due) if waits else None),
            ],
            "waits_for": gated(run, now) if run.state is RunState.GATED else "",
            "holder": "" if run.state in FINAL else run.worker,
            "timeline": happenings(run, children, now=now),
            "events": [
                {"record": event, "id": json.loads(event.attributes)["id"]} for event in collected
            ],
            "more_events": len(keys) - len(keys[:MAX_EVENTS]),
            "steps": _steps(run, texts=texts),
            "attempts": [
                {
                    **attempt,
                    "started": when(attempt["started"]),
                    "ended": when(attempt["ended"]),
                }
                for attempt in run.detail["attempts"]
            ],
            "children": [
                {"record": child, "state": STATES[str(child.state)], "task": task_of(child)}
                for child in children
            ],
            "more_children": len(ids) - len(ids[:MAX_CHILDREN]),
            "result": None
            if run.detail["result"] is None
            else pretty(json.loads(run.detail["result"])),
            "error": run.detail["error"],
        }


def _existing(read: Callable[[str], RecordT], ids: Sequence[str]) -> list[RecordT]:
    """Return the records that have not expired."""
    records: list[RecordT] = []
    for id_ in ids:
        with contextlib.suppress(RunNotFound, EventNotFound):
            records.append(read(id_))
    return records


def _steps(run: RunRecord, *, texts: bool) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    for field, text in run.detail["checkpoints"].items():
        step = Checkpoint.loads(text)
        error: Callable[[str], Any] = (step.error or {}).get
        done = step.status == "done"
        steps.append(
            {
                "name": step_name(field),
                "status": step.status,
                "stored": when(step.stored),
                "at": step.stored or 0.0,
                "attempts": step.attempts,
                "value": pretty(step.value) if done and texts else "",
                "error": _error(step.error, texts=texts) if error("type") else "",
                "due": None if done else when(step.due),
            }
        )
    return sorted(steps, key=lambda step: float(step["at"]))
