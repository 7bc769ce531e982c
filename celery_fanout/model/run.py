"""A run, and how it is read from the headers of a message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery_fanout.model.events import Event
from celery_fanout.model.headers import (
    DATA_HEADER,
    EVENTS_HEADER,
    FAILURE_HEADER,
    RUN_HEADER,
    SUBSCRIPTION_HEADER,
)

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Run:
    """One subscription's handling of one event.

    Attributes:
        id: the same over retries, redeliveries and suspensions; also the Celery task id.
        subscription: id of the subscription, ``"{task name}@{pattern}"``.
        task: name of the task that is running: the subscriber, or a link of its tail.
        attempt: 1 for the first execution; Celery's retries count up, suspensions do not.
        event: the event that is handled; the last of several, with the list of their data if it is
            a batch.
        events: for a run that collected events the ledger's keys of them, in their order, at most
            the last 1,000; ``get_fanout(app).runs.event()`` takes them. Only in the subscriber.
    """

    id: str
    subscription: str
    task: str
    attempt: int
    event: Event
    events: tuple[str, ...] = ()


def event_of(request: Any) -> Event | None:
    """Rebuild the event from the headers of a task's request; ``None`` if there is none.

    The subscriber has the data as its first argument; later links carry it in a header.
    """
    headers: Mapping[str, Any] = request.headers or {}
    if DATA_HEADER in headers:
        import json  # only links of a tail get here

        return Event.from_headers(headers, json.loads(headers[DATA_HEADER]))
    args = request.args or ()
    if FAILURE_HEADER in headers:
        return Event.from_headers(headers, args[0]["event"].get("data") if args else None)
    return Event.from_headers(headers, args[0] if args else None)


def run_of(task: Any, request: Any) -> Run | None:
    """Return the run that a task's request belongs to; ``None`` for an ordinary call.

    For receivers of Celery's own signals, such as ``task_retry``, whose ``request`` it takes.

    Args:
        task: the task.
        request: its request, in the process that executes it.
    """
    known: tuple[Any, Run | None] | None = request.__dict__.get("fanout_run")
    # a request is reused: Celery's Context.update() changes it in place
    if known is None or known[0] is not request.headers:
        known = request.fanout_run = (request.headers, _run_of(task, request))
    return known[1]


def _run_of(task: Any, request: Any) -> Run | None:
    headers: Mapping[str, Any] = request.headers or {}
    run_id = headers.get(RUN_HEADER)
    if run_id is None or run_id != request.id:
        return None
    event = event_of(request)
    if event is None:
        return None
    return Run(
        id=run_id,
        subscription=headers.get(SUBSCRIPTION_HEADER, ""),
        task=task.name,
        attempt=(request.retries or 0) + 1,
        event=event,
        events=tuple(headers.get(EVENTS_HEADER) or ()),
    )
