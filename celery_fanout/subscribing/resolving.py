"""From what a user wrote to the tasks and signatures of one app."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from celery import Task, _state
from celery.canvas import (
    Signature,
    _chain,  # pyright: ignore[reportPrivateUsage] - what chain() returns
    chord,
    group,
)
from celery.local import PromiseProxy, Proxy

from celery_fanout.exceptions import InvalidSubscription

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    from celery import Celery


def resolve_task(app: Celery, item: Any) -> Any:
    """Return the task of ``app`` that ``item`` means, or ``None``.

    ``None`` means that it belongs to another app or is not registered yet. Opens only proxies
    that Celery has already opened, and those of shared tasks, which every app has.
    """
    kind = type(cast("object", item))
    if issubclass(kind, PromiseProxy):  # @app.task before its app was finalised
        if not item.__evaluated__():
            return None
        item = item._get_current_object()
    elif issubclass(kind, Proxy):  # @shared_task: the task of whatever app is current
        with _current(app):
            try:
                item = item._get_current_object()
            except KeyError:
                return None
    elif issubclass(kind, type):  # a class, registered later with app.register_task
        name = item.name or app.gen_task_name(item.__name__, item.__module__)
        item = app.tasks.get(name)
    is_own = issubclass(type(item), Task) and item.app is app
    return item if is_own else None


@contextmanager
def _current(app: Celery) -> Generator[None]:
    # reading it through celery.current_app would create a default app where there is none
    state: Any = _state
    before = state._tls.current_app
    app.set_current()
    try:
        yield
    finally:
        state._tls.current_app = before


def resolve_signatures(
    app: Celery, items: tuple[Any, ...], where: str
) -> tuple[Mapping[str, Any], ...]:
    """Return the links that ``then=`` means as plain signatures, chains flattened.

    Raises:
        InvalidSubscription: for a group or chord, and for a task of another app.
    """
    links: list[Mapping[str, Any]] = []
    for item in items:
        if issubclass(type(item), Signature):  # isinstance() would open a proxy
            links.extend(_flatten(item, where))
            continue
        task = resolve_task(app, item)
        if task is None:
            raise InvalidSubscription(
                f"then= at {where}",
                f"names {item!r}, which is no task of the app {app.main!r}",
                "Use a task of the same app, a shared task, or a signature.",
            )
        links.append(dict(task.s()))
    return tuple(links)


def _flatten(signature: Any, where: str) -> Iterator[Mapping[str, Any]]:
    if isinstance(signature, (group, chord)):
        raise InvalidSubscription(
            f"then= at {where}",
            f"contains a {type(signature).__name__.lstrip('_')}",
            "A tail is one chain: emit an event from its last task to fan out again.",
        )
    if isinstance(signature, _chain):
        for link in signature.tasks:
            yield from _flatten(link, where)
        return
    yield dict(signature.clone())
