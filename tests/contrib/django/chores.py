"""Subscribers that are tasks of ``django.tasks``; before Django 6, of the package django-tasks."""

from __future__ import annotations

try:
    from django.tasks import task
except ImportError:
    from django_tasks import task

from celery_fanout import RetryAfter, current_event, current_run, on_event, step
from tests.contrib.django.shop.tasks import note


@on_event("chore/*")
@on_event("chore/swept")
@task
def sweep(data):
    """Sweep the floor."""
    event = current_event()
    if event is not None:
        note("run", task="sweep", name=event.name, room=data["room"])
    return f"swept {data['room']}"


@on_event("chore/counted")
@task(takes_context=True)
def count(context, data):
    result = context.task_result
    note("run", task="count", id=result.id, run=current_run().id, attempt=context.attempt)
    if context.attempt < 2:
        raise RetryAfter(0)
    return [result.status.value, result.args, result.task is count]


@on_event("chore/waited")
@task
async def wait(data):
    value = step.run("look", data["room"].upper)
    return f"waited for {value}"


@on_event("chore/slow")
@task(queue_name="slow")
def slow(data):
    return "slowly"


@on_event("chore/hurried", options={"queue": "fast"})
@task(queue_name="slow")
def hurried(data):
    return "fast"
