"""Which tasks of one app want which events: subscriptions, and the registry that knows them."""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from celery_fanout.exceptions import INTERRUPTS, DuplicateSubscription, InvalidSubscription
from celery_fanout.exceptions.describing import nearest
from celery_fanout.model.events import patterns_of
from celery_fanout.model.locks import fork_safe_lock
from celery_fanout.subscribing.on_event import declared
from celery_fanout.subscribing.resolving import resolve_signatures, resolve_task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from celery import Celery

    from celery_fanout.model.events import Event
    from celery_fanout.subscribing.cancel_on import CancelOn
    from celery_fanout.subscribing.limits import Limit, Limits
    from celery_fanout.subscribing.on_event import Declaration, Filter

# not Celery's get_logger: its loggers say nothing in a process that has no logging set up
logger = logging.getLogger(__name__)

#: How much alike an event's name and a pattern are that are taken for a typo.
NEAR = 0.85

#: How many event names are remembered with their subscriptions: names may come from outside.
MAX_NAMES = 10_000


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
        cancel_on: events that cancel a run which has not ended.
        limits: the limits of its runs, or ``None``.
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
    cancel_on: tuple[CancelOn, ...] = ()
    limits: Limits | None = None

    def __repr__(self) -> str:
        return f"<Subscription {self.id}>"

    def cancels(self, event: Event) -> tuple[tuple[str, str], ...]:
        """Return which events cancel the run of an event: names, and what they must match."""
        if not self.cancel_on:
            return ()
        pairs = ((item.event, item.match_for(event.data)) for item in self.cancel_on)
        return tuple((name, match) for name, match in pairs if match is not None)

    def limits_by_name(self) -> Mapping[str, Limit]:
        """Return the limits by their names, as the ledger knows them."""
        return {} if self.limits is None else self.limits.by_name(self.id)

    def alone(self, event: Event) -> Event:
        """Return an event as the subscriber gets it where no other has joined its run."""
        if self.limits is None or self.limits.batch is None:
            return event
        return replace(event, data=[event.data])


@dataclass(frozen=True)
class Explanation:
    """Why a subscription does or does not match an event.

    Attributes:
        subscription: the subscription.
        matches: whether it does.
        reason: why, in words.
        flow: what flow control would do with its run now, in words; ``""`` if it has no limits, or
            does not match.
    """

    subscription: Subscription
    matches: bool
    reason: str
    flow: str = ""


class Registry:
    """All subscriptions that one app knows.

    Args:
        app: the Celery app.
        wrap: called once with every task that a run may execute.
    """

    def __init__(self, app: Celery, wrap: Callable[[Any], None] | None = None) -> None:
        self._app = app
        self._wrap = wrap or _leave_alone
        self._lock = fork_safe_lock()
        self._state: tuple[Any, ...] | None = None
        self._resolved: dict[int, tuple[Declaration, Subscription]] = {}
        self._subscriptions: list[Subscription] = []
        self._by_id: dict[str, Subscription] = {}
        self._by_pattern: dict[str, list[Subscription]] = {}
        self._by_name: dict[str, list[Subscription]] = {}
        self._logged: set[str] = set()
        self._wrong: dict[str, Exception] = {}
        self.errors: list[Exception] = []
        declared.registries.add(self)

    def __iter__(self) -> Iterator[Subscription]:
        self.refresh()
        return iter(list(self._subscriptions))

    def refresh(self) -> None:
        """Open the tasks declared since the last time, if the app is finalised."""
        app: Any = self._app
        if not app.finalized or self._state == (declared.version, len(app._tasks)):
            return
        # Celery's own lock first: whoever finalises the app holds it when it comes here
        with app._finalize_mutex, self._lock:  # noqa: SLF001 - it has no public name
            state = (declared.version, len(app._tasks))
            if state == self._state:  # another thread was faster
                return
            errors: list[tuple[str, Exception]] = []
            current = {id(declaration): declaration for declaration in declared.all}
            self._resolved = {
                key: kept for key, kept in self._resolved.items() if current.get(key) is kept[0]
            }
            for order, (key, declaration) in enumerate(current.items()):
                if key not in self._resolved:
                    try:
                        subscription = self._subscription(order, declaration)
                    except Exception as exc:  # noqa: BLE001 - one must not hide the others
                        errors.append((declaration.pattern, exc))
                        continue
                    if subscription is not None:
                        self._resolved[key] = (declaration, subscription)
            self._index(errors)
            self._wrap_all()
            self._report(errors)
            self._state = state

    def _subscription(self, order: int, declaration: Declaration) -> Subscription | None:
        app = self._app
        task = resolve_task(app, declaration.task)
        if task is None:  # it belongs to another app, or is not registered yet
            return None
        _check_signature(task, declaration)
        tail = resolve_signatures(app, declaration.then, declaration.where)
        failure = None
        if declaration.on_failure is not None:
            failure = resolve_task(app, declaration.on_failure)
            if failure is None:
                raise InvalidSubscription(
                    f"The subscription of {task.name} at {declaration.where}",
                    f"names an on_failure task that the app {app.main!r} does not have",
                    "Use a task of the same app, or a shared task.",
                )
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
            cancel_on=declaration.cancel_on,
            limits=declaration.limits,
        )

    def _wrap_all(self) -> None:
        tasks: Any = self._app.tasks
        for subscription in self._subscriptions:
            self._wrap(subscription.task)
            for name in (*(link["task"] for link in subscription.tail), subscription.on_failure):
                if name in tasks:  # a signature may name a task that only other processes have
                    self._wrap(tasks[name])

    def _report(self, errors: list[tuple[str, Exception]]) -> None:
        self.errors = [error for _, error in errors]
        self._wrong = dict(reversed(errors))  # the first of each pattern
        for error in self.errors:
            if str(error) not in self._logged:  # not again with each task that is registered
                self._logged.add(str(error))
                logger.error("%s", error)

    def _index(self, errors: list[tuple[str, Exception]]) -> None:
        by_id: dict[str, Subscription] = {}
        for _, subscription in sorted(self._resolved.values(), key=lambda pair: pair[1].order):
            first = by_id.get(subscription.id)
            if first is None or first.where == subscription.where:  # a reload declares it anew
                by_id[subscription.id] = subscription
            else:
                where = subscription.where
                error = DuplicateSubscription(subscription.id, first.where, where)
                errors.append((subscription.pattern, error))
        by_pattern: dict[str, list[Subscription]] = {}
        for subscription in by_id.values():
            by_pattern.setdefault(subscription.pattern, []).append(subscription)
        self._subscriptions = list(by_id.values())
        self._by_id = by_id
        self._by_pattern = by_pattern
        self._by_name = {}

    def find(self, subscription_id: str) -> Subscription | None:
        """Return the subscription with an id, or ``None``."""
        self.refresh()
        return self._by_id.get(subscription_id)

    def candidates(self, name: str) -> Sequence[Subscription]:
        """Return the subscriptions whose pattern matches an event name, in declared order.

        Raises:
            RegistrationError: if one of them is wrong; nothing is emitted half.
        """
        self.refresh()
        for pattern in patterns_of(name) if self._wrong else ():
            if pattern in self._wrong:
                # the same object, emit after emit
                raise self._wrong[pattern].with_traceback(None)
        by_name = self._by_name  # of one index, even if another thread makes a new one
        matching = by_name.get(name)
        if matching is None:
            matching = [sub for p in patterns_of(name) for sub in self._by_pattern.get(p, ())]
            matching.sort(key=lambda subscription: subscription.order)
            if len(by_name) < MAX_NAMES:
                by_name[name] = matching
        return matching

    def match(self, event: Event) -> list[Subscription]:
        """Return the subscriptions of an event."""
        return [
            subscription
            for subscription in self.candidates(event.name)
            if subscription.filter is None or _passes(subscription, event, logged=True)[0]
        ]

    def explain(self, event: Event) -> list[Explanation]:
        """Return for every subscription of the app why it does or does not match."""
        named = {subscription.id for subscription in self.candidates(event.name)}
        return [_explain(subscription, event, named) for subscription in self._subscriptions]


def _leave_alone(_: Any) -> None:
    pass


def _explain(subscription: Subscription, event: Event, named: set[str]) -> Explanation:
    if subscription.id not in named:
        reason = f"{subscription.pattern!r} does not match {event.name!r}"
        if not named and nearest(event.name, [subscription.pattern], likeness=NEAR):
            reason += ". Did you mean it?"
        return Explanation(subscription, False, reason)
    if subscription.filter is None:
        return Explanation(subscription, True, f"{subscription.pattern!r} matches")
    return Explanation(subscription, *_passes(subscription, event))


def _passes(subscription: Subscription, event: Event, *, logged: bool = False) -> tuple[bool, str]:
    accepts: Any = subscription.filter
    name = getattr(accepts, "__qualname__", repr(accepts))
    try:
        passed = bool(accepts(event))
    except INTERRUPTS:
        raise
    except Exception as exc:  # noqa: BLE001 - one must not disturb the others
        if logged:
            _log_filter(name, subscription, event, exc)
        return False, f"its filter {name} raised {type(exc).__name__}: {exc}"
    return passed, f"its filter {name} returned {'a true' if passed else 'a false'} value"


def _log_filter(name: str, subscription: Subscription, event: Event, exc: Exception) -> None:
    # neither the message nor the traceback: they may quote the data
    logger.error(
        "The filter %s of %s raised %s at %s on the event %s: no match",
        name,
        subscription.id,
        type(exc).__name__,
        _place_of(exc),
        event.id,
    )


def _place_of(exc: BaseException) -> str:
    """Return where an exception was raised: file and line."""
    frame = exc.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame else "?"


def _check_signature(task: Any, declaration: Declaration) -> None:
    body = getattr(task, "_orig_run", task.run)  # below autoretry
    if inspect.iscoroutinefunction(body) or inspect.isgeneratorfunction(body):
        kind = "a coroutine" if inspect.iscoroutinefunction(body) else "a generator"
        raise InvalidSubscription(
            f"The subscriber {task.name} at {declaration.where}",
            f"is {kind} function, and a worker that calls it only makes {kind}",
            "Write a function that does the work, with asyncio.run(...) inside if need be.",
        )
    header = getattr(task, "__header__", None)
    if not getattr(task, "typing", False) or header is None:
        return
    try:
        header(None)  # what apply_async checks before it publishes
    except TypeError as exc:
        raise InvalidSubscription(
            f"The subscriber {task.name} at {declaration.where}",
            f"cannot be called with the event's data alone ({exc})",
            "Give it exactly one required argument, besides self, or subscribe a small task that "
            "calls it.",
        ) from exc
