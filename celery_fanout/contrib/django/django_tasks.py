"""A ``django.tasks`` Task as a subscriber: ``@on_event("...")`` above ``@task``.

A Celery task of ours calls it, so it is a run like any other. Django itself is not imported here:
the app's configuration does this before anybody's models exist.
"""

from __future__ import annotations

import datetime as dt
import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any

from celery import shared_task

from celery_fanout.exceptions import InvalidSubscription
from celery_fanout.running.current import current_event, current_run

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Where the class is: in Django since 6.0, and in the package django-tasks before.
MODULES = ("django.tasks.base", "django_tasks.base")

#: Which Celery task calls which Task, by its path: one Task may have several subscriptions.
_adapted: dict[str, tuple[Any, Any]] = {}


def adapt(task: object) -> tuple[Any, Mapping[str, Any]] | None:
    """Return a Celery task that calls a Task, and the options that follow; ``None`` for others.

    Raises:
        InvalidSubscription: if it has something that Celery cannot do.
    """
    # not isinstance(), which would open a proxy
    base = next((kind for kind in type(task).__mro__ if kind.__name__ == "Task"), None)
    if base is None or base.__module__ not in MODULES:
        return None
    source: Any = task
    _check(source)
    adapted = _adapted.get(source.module_path)
    if adapted is None or adapted[0] is not source:
        adapted = source, _celery_task(source, base.__module__)
        _adapted[source.module_path] = adapted
    queue = source.queue_name
    return adapted[1], {} if queue == "default" else {"queue": queue}


def _celery_task(task: Any, module: str) -> Any:
    def call(data: Any) -> Any:
        if task.takes_context:
            return task.call(_context(task, module, data), data)
        return task.call(data)  # which runs a coroutine function to its end

    call.__doc__ = task.func.__doc__
    call.__module__ = task.func.__module__
    return shared_task(name=task.module_path)(call)


def _check(task: Any) -> None:
    subject = f"The subscriber {task.module_path}"
    if task.priority != 0:
        raise InvalidSubscription(
            subject,
            f"has the priority {task.priority}, and Celery's are others",
            "Give it none, and use on_event(..., options={'priority': ...}).",
        )
    if task.run_after is not None:
        raise InvalidSubscription(
            subject, "has run_after", "Use emit(delay=), or step.sleep_until() in the task."
        )
    arguments = (None, None) if task.takes_context else (None,)
    try:
        inspect.signature(task.func).bind(*arguments)
    except TypeError as exc:
        problem = f"cannot be called with the event's data alone ({exc})"
        remedy = "Give it exactly one required argument"
        if task.takes_context:
            remedy += ", after the context"
        raise InvalidSubscription(subject, problem, f"{remedy}.") from exc


def _context(task: Any, module: str, data: Any) -> Any:
    """Return what a task that takes its context gets: that of a result which is being made.

    Its id is the run's, and it counts one worker per attempt. No backend of Django's knows it, so
    it cannot be refreshed or looked up: the run is in the ledger.
    """
    base = import_module(module)
    now = dt.datetime.now(dt.timezone.utc)
    run, event = current_run(), current_event()
    result = base.TaskResult(
        task=task,
        id="" if run is None else run.id,
        status=base.TaskResultStatus.RUNNING,
        enqueued_at=now if event is None else event.time,
        started_at=now,
        finished_at=None,
        last_attempted_at=now,
        args=[data],
        kwargs={},
        backend=task.backend,
        errors=[],
        worker_ids=["celery"] * (1 if run is None else run.attempt),
    )
    return base.TaskContext(task_result=result)
