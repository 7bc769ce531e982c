"""``on_failure=``: telling a task that a run has failed for good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import current_task, shared_task

from celery_fanout.exceptions import describe
from celery_fanout.model.headers import (
    ERRBACK,
    FAILURE_HEADER,
    RUN_HEADER,
    SUBSCRIPTION_HEADER,
    VERSION,
    VERSION_HEADER,
)
from celery_fanout.model.ids import child_id
from celery_fanout.model.run import event_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_fanout.model.events import Event

__all__ = ["failure_of"]


def failure_of(request: Any, event: Event, exc: BaseException, traceback: Any) -> dict[str, Any]:
    """Return what an ``on_failure`` task receives.

    Its keys: ``run``, ``subscription``, ``task``, ``attempts``, ``event`` (a CloudEvent), and
    ``error`` with ``type``, ``message`` and ``traceback``.
    """
    headers: Mapping[str, Any] = request.headers or {}
    return {
        "run": headers[RUN_HEADER],
        "subscription": headers.get(SUBSCRIPTION_HEADER, ""),
        "task": request.task,
        "attempts": (request.retries or 0) + 1,
        "event": event.to_cloudevent(),
        "error": {**describe(exc), "traceback": str(traceback or "")},
    }


@shared_task(name=ERRBACK, ignore_result=True)
def report_failure(request: Any, exc: BaseException, traceback: Any, on_failure: str) -> None:
    """Publish the user's ``on_failure`` task. Celery calls this in place, as an errback."""
    event = event_of(request)
    headers: Mapping[str, Any] = request.headers or {}
    if event is None or RUN_HEADER not in headers:
        return
    if getattr(request, "fanout_reported", False):
        return  # a hard time limit makes Celery call errbacks twice, with one request
    request.fanout_reported = True
    failed = headers[RUN_HEADER]
    task_id = child_id(failed, "on_failure")
    stamp = {
        **event.headers(),
        SUBSCRIPTION_HEADER: headers.get(SUBSCRIPTION_HEADER, ""),
        VERSION_HEADER: VERSION,
        RUN_HEADER: task_id,
        FAILURE_HEADER: 1,
    }
    # of the task that Celery calls: report_failure itself means the current app's
    task: Any = current_task.app.tasks[on_failure]
    task.apply_async(
        (failure_of(request, event, exc, traceback),),
        task_id=task_id,
        headers=stamp,
        argsrepr=f"({event.name!r} {event.id!r} run {failed!r},)",
        parent_id=request.id,
        root_id=getattr(request, "root_id", None),
        add_to_parent=False,
    )
