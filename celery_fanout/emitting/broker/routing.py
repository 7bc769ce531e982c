"""Where Celery's routes send the messages of a task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery import Celery


def routed_to(app: Celery, name: str, options: Mapping[str, Any]) -> str:
    """Return the queue that messages of a task go to with these options.

    ``""`` if that is not simple: an exchange or a routing key may lead anywhere.
    """
    options = chosen_options(app, name, options)
    if not options.get("queue") and (options.get("exchange") or options.get("routing_key")):
        return ""
    route = {"queue": options["queue"]} if options.get("queue") else {}
    task: Any = app.tasks.get(name)
    queue: Any = app.amqp.router.route(route, name, (), {}, task).get("queue")
    return "" if queue is None else str(getattr(queue, "name", queue))


def chosen_options(app: Celery, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a task's message: the task's own, and over them those given."""
    task: Any = app.tasks.get(name)
    defaults: Mapping[str, Any] = {} if task is None else task._get_exec_options()
    return {**defaults, **options}
