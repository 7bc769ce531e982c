"""``on_event``: which task wants which event, as it was written.

Decorating stores the task proxy unopened, because opening it at import would load the app's
configuration early. A :class:`~celery_fanout.Registry` opens it when its app is finalised.
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast
from weakref import WeakSet

from celery import Task
from celery.canvas import Signature
from celery.local import Proxy

from celery_fanout.exceptions import (
    DuplicateSubscription,
    InvalidPattern,
    InvalidSubscription,
    NotATask,
)
from celery_fanout.exceptions.describing import did_you_mean, nearest
from celery_fanout.model.event_types import name_of
from celery_fanout.model.events import check_pattern
from celery_fanout.subscribing.cancel_on import CancelOn
from celery_fanout.subscribing.combinations import checked_limits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pydantic import BaseModel

    from celery_fanout.model.events import Event
    from celery_fanout.subscribing.limits import (
        Batch,
        Concurrency,
        Debounce,
        Duration,
        Idempotency,
        Key,
        Limits,
        RateLimit,
        Singleton,
        Throttle,
    )

    Filter = Callable[[Event], object]
    AnyTask = Task[..., Any] | type[Task[..., Any]]
    Link = AnyTask | Signature[Any]


class OtherTask(Protocol):
    """A task of something else than Celery: of ``django.tasks``; see :data:`task_adapters`."""

    @property
    def takes_context(self) -> bool:
        """Whether it wants to know what calls it."""
        ...

    @property
    def module_path(self) -> str:
        """Where its function is."""
        ...


TaskT = TypeVar("TaskT", bound="AnyTask | OtherTask")

#: Who knows how Celery calls tasks that are none of Celery's: each returns a Celery task and the
#: options that follow from the other, or ``None``. A hook, as this room cannot import ``contrib``.
task_adapters: list[Callable[[object], tuple[Any, Mapping[str, Any]] | None]] = []

#: Options of ``apply_async`` that a subscription may set.
_OPTIONS = {
    "compression",
    "confirm_timeout",
    "countdown",
    "declare",
    "delivery_mode",
    "eta",
    "exchange",
    "exchange_type",
    "expires",
    "headers",
    "ignore_result",
    "immediate",
    "mandatory",
    "priority",
    "queue",
    "reply_to",
    "retry",
    "retry_policy",
    "routing_key",
    "serializer",
    "shadow",
    "soft_time_limit",
    "stamped_headers",
    "time_limit",
    "timeout",
}

#: Options of ``apply_async`` that a subscription may not set, and what to use instead.
_REFUSED_OPTIONS = {
    "args": "A subscriber receives the event's data.",
    "kwargs": "A subscriber receives the event's data.",
    "task_id": "The task id is the run's id.",
    "link": "Use then=.",
    "chain": "Use then=.",
    "link_error": "Use on_failure=.",
    "group_id": "A run belongs to no group.",
    "chord": "A run belongs to no chord.",
    "producer": "emit() publishes with a producer of its own.",
    "publisher": "emit() publishes with a producer of its own.",
    "connection": "emit() publishes with a producer of its own.",
    "retries": "A run starts at its first attempt.",
    "argsrepr": "Monitors are shown the event's name and id.",
    "kwargsrepr": "Monitors are shown the event's name and id.",
    "add_to_parent": "A run is no part of the task that emits.",
    "root_id": "It follows from where emit() is called.",
    "parent_id": "It follows from where emit() is called.",
}


@dataclass(frozen=True)
class Declaration:
    """What one use of ``on_event`` said. The task is not opened."""

    task: Any
    pattern: str
    filter: Filter | None
    then: tuple[Any, ...]
    on_failure: Any
    options: Mapping[str, Any]
    where: str
    cancel_on: tuple[CancelOn, ...] = ()
    limits: Limits | None = None


class Refreshable(Protocol):
    """The registry of one app."""

    def refresh(self) -> None:
        """Open the tasks declared since the last time, if the app is finalised."""
        ...


class Declarations:
    """What every use of ``on_event`` in this process said, for all its apps.

    Attributes:
        all: in the order of their declaration.
        version: changes with every declaration.
        registries: those of all apps; refreshed after every declaration.
    """

    def __init__(self) -> None:
        self.all: list[Declaration] = []
        self.version = 0
        self.registries: WeakSet[Refreshable] = WeakSet()

    def add(self, new: Declaration) -> None:
        """Add one, or put it in the place of the same one from before its module was reloaded.

        Raises:
            DuplicateSubscription: if the task has one with this pattern from another place.
        """
        for index, old in enumerate(self.all):
            if old.task is new.task and old.pattern == new.pattern:
                if old.where != new.where:
                    opened = isinstance_opened(new.task)
                    name = new.task.name if opened else "a task"
                    raise DuplicateSubscription(f"{name}@{new.pattern}", old.where, new.where)
                self.all[index] = new
                break
        else:
            self.all.append(new)
        self.version += 1
        for registry in list(self.registries):
            registry.refresh()


declared = Declarations()


def _check_options(pattern: str, options: Mapping[str, Any]) -> None:
    for option in options:
        remedy = _REFUSED_OPTIONS.get(option)
        if remedy is None and option not in _OPTIONS:
            remedy = did_you_mean(nearest(option, _OPTIONS), "apply_async has no such option.")
        if remedy is not None:
            raise InvalidSubscription(
                f"A subscription to {pattern!r}", f"cannot have the option {option!r}", remedy
            )


def on_event(
    event: str | type[BaseModel],
    *,
    filter: Filter | None = None,
    then: Link | Sequence[Link] | None = None,
    on_failure: AnyTask | None = None,
    options: Mapping[str, Any] | None = None,
    cancel_on: CancelOn | str | Sequence[CancelOn | str] | None = None,
    concurrency: Concurrency | Sequence[Concurrency] | None = None,
    throttle: Throttle | None = None,
    rate_limit: RateLimit | None = None,
    debounce: Debounce | None = None,
    batch: Batch | None = None,
    singleton: Singleton | None = None,
    idempotency: Idempotency | Key | None = None,
    priority: int | Callable[[Event], int] | None = None,
    start_timeout: Duration | None = None,
    finish_timeout: Duration | None = None,
) -> Callable[[TaskT], TaskT]:
    """Subscribe a Celery task to an event.

    Stack it on top of ``@app.task``, ``@shared_task`` or a task class; the task itself stays as
    it is. With ``celery_fanout.contrib.django``, a Task of ``django.tasks`` will do as well.
    The task receives the event's data as its first argument.

    Args:
        event: an event name, a pattern such as ``"document/*"`` or ``"*"``, or a class
            registered with :func:`~celery_fanout.event_type`.
        filter: called with the :class:`~celery_fanout.Event` where it is emitted; the task is
            subscribed only to events for which it returns a true value. One that raises is
            logged and counts as no match for this subscription.
        then: a task, a signature, or a list of them, that follow the subscriber in its chain,
            each with the previous one's result as its first argument.
        on_failure: a task that is called with a description of the failure when the run, or a
            link of its tail, has failed for good.
        options: options of ``apply_async`` for this subscription: ``queue``, ``priority``, ...
        cancel_on: events that cancel a run which has not ended: names, or
            :class:`~celery_fanout.CancelOn` with a ``match``. Level 2.
        concurrency: how many runs there may be at once: a :class:`~celery_fanout.Concurrency`, or
            up to three of them. This option and those below are for level 2.
        throttle: how often runs may start: a :class:`~celery_fanout.Throttle`.
        rate_limit: how many runs there may be in a period: a :class:`~celery_fanout.RateLimit`.
        debounce: one run with the last event of a busy time: a :class:`~celery_fanout.Debounce`.
        batch: one run for several events: a :class:`~celery_fanout.Batch`.
        singleton: one run at a time: a :class:`~celery_fanout.Singleton`.
        idempotency: one run for each value of a key: an :class:`~celery_fanout.Idempotency`, or
            the key alone, for a day.
        priority: which of the runs that wait start first: a number from -255 to 255, the higher
            the earlier, or a function of the event that returns one. Also the broker's priority,
            as far as it has one, unless ``options`` have another.
        start_timeout: seconds, or a timedelta, after which a run that has not started is cancelled.
        finish_timeout: seconds, or a timedelta, after which a run that has started and not ended is
            cancelled. Retries and suspensions do not begin it anew.

    Raises:
        NotATask: if it is put on a function, or below ``@app.task`` instead of above.
        InvalidPattern: if ``event`` is neither a name nor a pattern.
        InvalidEventType: if ``event`` is a class that is the type of no event.
        InvalidSubscription: if an option cannot be set for a subscription, or not beside another.
        DuplicateSubscription: if this task already has a subscription with this pattern.
    """
    pattern = _pattern(event)
    _check_filter(pattern, filter)
    chosen = dict(options or {})
    _check_options(pattern, chosen)
    tail = _as_tuple(then)
    for item in tail:
        if not isinstance_unopened(item, (Task, Signature)):
            raise NotATask("then=", _label_of(item), "Pass tasks or signatures.")
    if on_failure is not None and not isinstance_unopened(on_failure, (Task,)):
        raise NotATask("on_failure=", _label_of(on_failure), "Pass a task.")
    cancels = tuple(
        item if isinstance(item, CancelOn) else CancelOn(item) for item in _as_tuple(cancel_on)
    )
    limits = checked_limits(
        f"A subscription to {pattern!r}",
        cancel_on=cancels,
        concurrency=_as_tuple(concurrency),
        throttle=throttle,
        rate_limit=rate_limit,
        debounce=debounce,
        batch=batch,
        singleton=singleton,
        idempotency=idempotency,
        priority=priority,
        start_timeout=start_timeout,
        finish_timeout=finish_timeout,
    )
    frame: Any = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    where = f"{frame.f_code.co_filename}:{frame.f_lineno}"

    def subscribe(task: TaskT) -> TaskT:
        subscriber: Any = task
        options = chosen
        if not isinstance_unopened(task, (Task,)):
            adapted = next((pair for adapt in task_adapters if (pair := adapt(task))), None)
            if adapted is None:
                raise NotATask(
                    "on_event",
                    _label_of(task),
                    f"Put @app.task or @shared_task between @on_event({pattern!r}) and the "
                    "function.",
                )
            subscriber, options = adapted[0], {**adapted[1], **chosen}
        declared.add(
            Declaration(
                subscriber, pattern, filter, tail, on_failure, options, where, cancels, limits
            )
        )
        return task

    return subscribe


def _check_filter(pattern: str, filter: Any) -> None:
    if filter is None or (callable(filter) and not inspect.iscoroutinefunction(filter)):
        return
    raise InvalidSubscription(
        f"A subscription to {pattern!r}",
        f"cannot have the filter {_label_of(filter)}",
        "Use a function that takes the Event and returns whether to deliver it.",
    )


def _pattern(event: Any) -> str:
    # not isinstance(), which would open a proxy: @on_event without its event
    kind = type(cast("object", event))
    if issubclass(kind, type):
        return name_of(event)[0]
    if issubclass(kind, Proxy):
        raise InvalidPattern("a task")
    if inspect.isroutine(event):
        raise InvalidPattern(_label_of(event))
    return check_pattern(event)


def _as_tuple(then: Any) -> tuple[Any, ...]:
    if then is None:
        return ()
    kind = type(cast("object", then))
    return tuple(then) if issubclass(kind, (list, tuple)) else (then,)


def isinstance_unopened(item: object, kinds: tuple[type, ...]) -> bool:
    """``isinstance`` that takes a Celery proxy for a task without opening it."""
    if issubclass(type(item), Proxy):
        return Task in kinds
    if isinstance(item, type):
        return issubclass(item, kinds)
    return isinstance(item, kinds)


def _label_of(item: object) -> str:
    """Return what an error calls an object."""
    if inspect.isroutine(item):
        return f"the function {item.__module__}.{item.__qualname__}"
    return repr(item)


def isinstance_opened(item: object) -> bool:
    """Whether an object is a task that needs no opening."""
    return not issubclass(type(item), Proxy) and isinstance(item, Task)
