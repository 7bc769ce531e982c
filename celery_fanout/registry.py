"""Which tasks want which events: ``on_event``, subscriptions, and the registry of one app.

Decorating stores the task proxy unopened, because opening it at import would load the app's
configuration early. A :class:`Registry` opens it when its app is finalised.
"""

from __future__ import annotations

import inspect
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from celery import Task
from celery.canvas import Signature
from celery.local import Proxy
from celery.utils.log import get_logger

from celery_fanout.events import check_pattern, name_of, patterns_of
from celery_fanout.exceptions import DuplicateSubscription, InvalidSubscription, NotATask
from celery_fanout.resolve import resolve_signatures, resolve_task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from celery import Celery
    from pydantic import BaseModel

    from celery_fanout.events import Event

    Filter = Callable[[Event], object]
    AnyTask = Task[..., Any] | type[Task[..., Any]]

__all__ = ["Explanation", "Registry", "Subscription", "on_event"]

logger = get_logger(__name__)

TaskT = TypeVar("TaskT", bound="AnyTask")

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


@dataclass(frozen=True)
class Subscription:
    """One task's wish for one kind of event, in one app.

    Attributes:
        id: ``"{task name}@{pattern}"``.
        pattern: an event name, or a pattern that ends in ``*``.
        task: the subscriber.
        filter: a predicate on the event, or ``None``.
        tail: signatures of the tasks that follow the subscriber in its chain.
        on_failure: name of the task that is told when the run failed, or ``None``.
        options: ``apply_async`` options for this subscription.
        where: file and line of the declaration.
        order: position among all declarations.
    """

    id: str
    pattern: str
    task: Any
    filter: Filter | None
    tail: tuple[Mapping[str, Any], ...]
    on_failure: str | None
    options: Mapping[str, Any]
    where: str
    order: int

    def __repr__(self) -> str:
        return f"<Subscription {self.id}>"


@dataclass(frozen=True)
class Explanation:
    """Why a subscription does or does not match an event.

    Attributes:
        subscription: the subscription.
        matches: whether it does.
        reason: why, in words.
    """

    subscription: Subscription
    matches: bool
    reason: str


_declarations: list[Declaration] = []
_declared_hooks: list[Callable[[], None]] = []
_version = 0


def on_event(
    event: str | type[BaseModel],
    *,
    filter: Filter | None = None,  # noqa: A002 - the word for it
    then: Any = None,
    on_failure: Any = None,
    options: Mapping[str, Any] | None = None,
) -> Callable[[TaskT], TaskT]:
    """Subscribe a Celery task to an event.

    Stack it on top of ``@app.task``, ``@shared_task`` or a task class; the task itself stays as
    it is. The task receives the event's data as its first argument.

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

    Raises:
        NotATask: if it is put on a function, or below ``@app.task`` instead of above.
        InvalidPattern: if ``event`` is neither a name nor a pattern.
        InvalidEventType: if ``event`` is a class that is the type of no event.
        InvalidSubscription: if an option cannot be set for a subscription.
        DuplicateSubscription: if this task already has a subscription with this pattern.
    """
    pattern = check_pattern(event if isinstance(event, str) else name_of(event)[0])
    chosen = dict(options or {})
    for option in chosen:
        if option in _REFUSED_OPTIONS:
            raise InvalidSubscription(
                f"A subscription to {pattern!r}",
                f"cannot have the option {option!r}",
                _REFUSED_OPTIONS[option],
            )
    tail = tuple(then) if isinstance(then, (list, tuple)) else () if then is None else (then,)
    for item in tail:
        if not isinstance_unopened(item, (Task, Signature)):
            raise NotATask("then=", describe(item), "Pass tasks or signatures.")
    if on_failure is not None and not isinstance_unopened(on_failure, (Task,)):
        raise NotATask("on_failure=", describe(on_failure), "Pass a task.")
    frame = sys._getframe(1)
    where = f"{frame.f_code.co_filename}:{frame.f_lineno}"

    def subscribe(task: TaskT) -> TaskT:
        if not isinstance_unopened(task, (Task,)):
            raise NotATask(
                "on_event",
                describe(task),
                f"Put @app.task or @shared_task between @on_event({pattern!r}) and the function.",
            )
        _declare(Declaration(task, pattern, filter, tail, on_failure, chosen, where))
        return task

    return subscribe


def isinstance_unopened(item: object, kinds: tuple[type, ...]) -> bool:
    """``isinstance`` that takes a Celery proxy for a task without opening it."""
    if issubclass(type(item), Proxy):
        return Task in kinds
    if isinstance(item, type):
        return issubclass(item, kinds)
    return isinstance(item, kinds)


def describe(item: object) -> str:
    """Return what an error calls an object."""
    if inspect.isroutine(item):
        return f"the function {item.__module__}.{item.__qualname__}"
    return repr(item)


def _declare(new: Declaration) -> None:
    global _version
    for index, old in enumerate(_declarations):
        if old.task is new.task and old.pattern == new.pattern:
            if old.where != new.where:
                name = new.task.name if isinstance_unopened_task(new.task) else "a task"
                raise DuplicateSubscription(f"{name}@{new.pattern}", old.where, new.where)
            _declarations[index] = new  # its module was reloaded
            break
    else:
        _declarations.append(new)
    _version += 1
    for hook in _declared_hooks:
        hook()


def isinstance_unopened_task(item: object) -> bool:
    """Whether an object is a task that needs no opening."""
    return not issubclass(type(item), Proxy) and isinstance(item, Task)


class Registry:
    """All subscriptions that one app knows.

    Args:
        app: the Celery app.
        wrap: called once with every task that a run may execute.
    """

    def __init__(self, app: Celery, wrap: Callable[[Any], None] | None = None) -> None:
        self._app = app
        self._wrap = wrap or (lambda task: None)
        self._lock = threading.RLock()
        self._state: tuple[Any, ...] | None = None
        self._resolved: dict[int, tuple[Declaration, Subscription]] = {}
        self._subscriptions: list[Subscription] = []
        self._by_pattern: dict[str, list[Subscription]] = {}
        self._by_name: dict[str, list[Subscription]] = {}
        self.errors: list[Exception] = []

    def __iter__(self) -> Iterable[Subscription]:  # type: ignore[override]
        self.refresh()
        return iter(list(self._subscriptions))

    def refresh(self) -> None:
        """Open the tasks declared since the last time, if the app is finalised."""
        app = self._app
        if not app.finalized:
            return
        state = (_version, len(app._tasks))
        if state == self._state:
            return
        with self._lock:
            self.errors = []
            self._resolved = {
                key: kept
                for key, kept in self._resolved.items()
                if any(kept[0] is declaration for declaration in _declarations)
            }
            for order, declaration in enumerate(_declarations):
                if id(declaration) not in self._resolved:
                    self._resolve(order, declaration)
            self._index()
            self._state = state

    def _resolve(self, order: int, declaration: Declaration) -> None:
        task = resolve_task(self._app, declaration.task)
        if task is None:  # it belongs to another app, or is not registered yet
            return
        try:
            subscription = self._subscription(order, declaration, task)
        except Exception as exc:  # one bad declaration must not hide the others
            self.errors.append(exc)
            logger.error("%s", exc)
            return
        self._resolved[id(declaration)] = (declaration, subscription)

    def _subscription(self, order: int, declaration: Declaration, task: Any) -> Subscription:
        app = self._app
        _check_signature(task, declaration)
        tail = resolve_signatures(app, declaration.then, declaration.where)
        failure = None
        if declaration.on_failure is not None:
            failure = resolve_task(app, declaration.on_failure)
            if failure is None:
                raise InvalidSubscription(
                    f"The subscription of {task.name} at {declaration.where}",
                    "names an on_failure task of another app",
                    "Use a task of the same app, or a shared task.",
                )
        for runnable in (task, failure, *(app._tasks.get(sig["task"]) for sig in tail)):
            if runnable is not None:
                self._wrap(runnable)
        return Subscription(
            id=f"{task.name}@{declaration.pattern}",
            pattern=declaration.pattern,
            task=task,
            filter=declaration.filter,
            tail=tail,
            on_failure=None if failure is None else failure.name,
            options=declaration.options,
            where=declaration.where,
            order=order,
        )

    def _index(self) -> None:
        found: dict[str, Subscription] = {}
        for _, subscription in sorted(self._resolved.values(), key=lambda pair: pair[1].order):
            known = found.get(subscription.id)
            if known is None or known.where == subscription.where:  # a reload declares it anew
                found[subscription.id] = subscription
            else:
                error = DuplicateSubscription(subscription.id, known.where, subscription.where)
                self.errors.append(error)
                logger.error("%s", error)
        by_pattern: dict[str, list[Subscription]] = {}
        for subscription in found.values():
            by_pattern.setdefault(subscription.pattern, []).append(subscription)
        self._subscriptions = list(found.values())
        self._by_pattern = by_pattern
        self._by_name = {}

    def candidates(self, name: str) -> Sequence[Subscription]:
        """Return the subscriptions whose pattern matches an event name, in declared order.

        Raises:
            RegistrationError: if a declaration is wrong; nothing is emitted half.
        """
        self.refresh()
        if self.errors:
            raise self.errors[0]
        found = self._by_name.get(name)
        if found is None:
            found = [sub for p in patterns_of(name) for sub in self._by_pattern.get(p, ())]
            found.sort(key=lambda subscription: subscription.order)
            if len(self._by_name) < 10_000:  # names may come from outside
                self._by_name[name] = found
        return found

    def match(self, event: Event) -> list[Subscription]:
        """Return the subscriptions of an event."""
        return [
            subscription
            for subscription in self.candidates(event.name)
            if subscription.filter is None or _passes(subscription, event)[0]
        ]

    def explain(self, event: Event) -> list[Explanation]:
        """Return for every subscription of the app why it does or does not match."""
        named = {subscription.id for subscription in self.candidates(event.name)}
        return [_explain(subscription, event, named) for subscription in self._subscriptions]


def _explain(subscription: Subscription, event: Event, named: set[str]) -> Explanation:
    if subscription.id not in named:
        reason = f"{subscription.pattern!r} does not match {event.name!r}"
        return Explanation(subscription, False, reason)
    if subscription.filter is None:
        return Explanation(subscription, True, f"{subscription.pattern!r} matches")
    return Explanation(subscription, *_passes(subscription, event))


def _passes(subscription: Subscription, event: Event) -> tuple[bool, str]:
    name = getattr(subscription.filter, "__qualname__", repr(subscription.filter))
    try:
        passed = bool(subscription.filter(event))  # type: ignore[misc]
    except Exception as exc:
        # the message may quote the data, which never goes into a log
        logger.error(
            "The filter %s of %s raised %s on the event %s: no match",
            name,
            subscription.id,
            type(exc).__name__,
            event.id,
        )
        return False, f"its filter {name} raised {type(exc).__name__}: {exc}"
    return passed, f"its filter {name} returned {'a true' if passed else 'a false'} value"


def _check_signature(task: Any, declaration: Declaration) -> None:
    header = getattr(task, "__header__", None)
    if not getattr(task, "typing", False) or header is None:
        return
    try:
        header(None)  # what apply_async checks before it publishes
    except TypeError as exc:
        raise InvalidSubscription(
            f"The subscriber {task.name} at {declaration.where}",
            f"cannot be called with the event's data alone ({exc})",
            "Give it exactly one required argument, besides self.",
        ) from exc
