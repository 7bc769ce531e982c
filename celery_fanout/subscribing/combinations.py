"""The options of flow control of one subscription, together: their names, and which go together.

What makes no sense is refused where it is written, each combination with its reason.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from celery_fanout.exceptions import InvalidSubscription
from celery_fanout.subscribing.limits import (
    Batch,
    Concurrency,
    Debounce,
    Idempotency,
    RateLimit,
    Singleton,
    Throttle,
    check_seconds,
    seconds_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery_fanout.model.events import Event
    from celery_fanout.subscribing.limits import Key

__all__ = [
    "MAX_PRIORITY",
    "FlowOptions",
    "Limit",
    "flow_options",
    "function_name",
    "is_priority",
    "limit_name",
]

#: How many concurrency limits one subscription may have.
MAX_CONCURRENCIES = 3

#: Priorities are whole numbers from the negative of this to this.
MAX_PRIORITY = 255

Limit: TypeAlias = Concurrency | Throttle | RateLimit | Debounce | Batch | Singleton | Idempotency

_KINDS: dict[str, type[Any]] = {
    "throttle": Throttle,
    "rate_limit": RateLimit,
    "debounce": Debounce,
    "batch": Batch,
    "singleton": Singleton,
    "idempotency": Idempotency,
}


@dataclass(frozen=True)
class FlowOptions:
    """What a subscription says about flow control, as it was written.

    Attributes:
        concurrency: up to three limits.
        throttle: how often runs start.
        rate_limit: how many runs there are in a period.
        debounce: one run with the last event of a busy time.
        batch: one run for several events.
        singleton: one run at a time.
        idempotency: one run for each value.
        priority: a number, or a function of the event.
        start_timeout: seconds.
        finish_timeout: seconds.
    """

    concurrency: tuple[Concurrency, ...] = ()
    throttle: Throttle | None = None
    rate_limit: RateLimit | None = None
    debounce: Debounce | None = None
    batch: Batch | None = None
    singleton: Singleton | None = None
    idempotency: Idempotency | None = None
    priority: int | Callable[[Event], int] | None = None
    start_timeout: float | None = None
    finish_timeout: float | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What is set, by the names of ``on_event``'s arguments."""
        return tuple(name for name in self.__dataclass_fields__ if getattr(self, name) not in _NONE)

    @property
    def collects(self) -> bool:
        """Whether several events make one run."""
        return self.batch is not None or self.debounce is not None

    def limits(self, subscription: str) -> dict[str, Limit]:
        """Return the limits of a subscription by their names, see :func:`limit_name`."""
        known = self._named.get(subscription)
        if known is None:
            known = {limit_name(limit, subscription): limit for limit in self._limits()}
            self._named[subscription] = known
        return known

    @cached_property
    def flows(self) -> dict[Any, Any]:
        """What was worked out before, see :func:`~celery_fanout.subscribing.admission.flow_of`."""
        return {}

    @cached_property
    def _named(self) -> dict[str, dict[str, Limit]]:
        return {}

    def _limits(self) -> Iterator[Limit]:
        yield from self.concurrency
        for name in _KINDS:
            found: Limit | None = getattr(self, name)
            if found is not None:
                yield found


#: What stands for an option that is not set.
_NONE: tuple[Any, ...] = (None, ())


def function_name(function: Callable[[Event], object]) -> str:
    """Return what people call a function that is a key or a priority."""
    return getattr(function, "__qualname__", type(function).__name__)


def _key_name(key: Key) -> str:
    return key if isinstance(key, str) else function_name(key)


def limit_name(limit: Limit, subscription: str) -> str:
    """Return what people call a limit: its kind, whose it is, and by what."""
    kind = next((name for name, cls in _KINDS.items() if isinstance(limit, cls)), "concurrency")
    whose, by = subscription, "" if limit.key is None else f" by {_key_name(limit.key)}"
    if isinstance(limit, Concurrency) and limit.scope != "subscription":
        # those who share it may find the key in different places
        whose, by = limit.scope, by and " by key"
    return f"{kind} {whose}{by}"


def flow_options(subject: str, *, cancel_on: tuple[Any, ...], **given: Any) -> FlowOptions | None:
    """Return the options of flow control of one subscription; ``None`` if there are none.

    Args:
        subject: what errors call it.
        cancel_on: what cancels its runs.
        given: what ``on_event`` was given.

    Raises:
        InvalidSubscription: if one of them cannot be used, or not beside another.
    """
    if all(value in _NONE for value in given.values()):
        return None
    idempotency = given["idempotency"]
    if isinstance(idempotency, str) or callable(idempotency):
        given["idempotency"] = Idempotency(cast("Any", idempotency))
    kinds: dict[str, type[Any]] = {"concurrency": Concurrency, **_KINDS}
    for name, kind in kinds.items():
        found = given[name]
        for item in found if name == "concurrency" else () if found is None else (found,):
            if not isinstance(item, kind):
                raise InvalidSubscription(
                    subject,
                    f"cannot have {name}={item!r}",
                    f"Use celery_fanout.{kind.__name__}(...).",
                )
    for name in ("start_timeout", "finish_timeout"):
        if given[name] is not None:
            given[name] = check_seconds(subject, name, given[name])
    _check_priority(subject, given["priority"])
    options = FlowOptions(**given)
    for problem, remedy in _problems(options, cancel_on):
        raise InvalidSubscription(subject, f"cannot have {problem}", remedy)
    return options


def is_priority(value: object) -> bool:
    """Whether a value may be a priority."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole and -MAX_PRIORITY <= cast("int", value) <= MAX_PRIORITY


def _check_priority(subject: str, priority: Any) -> None:
    if priority is None or (callable(priority) and not inspect.iscoroutinefunction(priority)):
        return
    if not is_priority(priority):
        raise InvalidSubscription(
            subject,
            f"cannot have priority={priority!r}",
            f"Use a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}, or a function of the "
            "Event that returns one.",
        )


def _problems(options: FlowOptions, cancel_on: tuple[Any, ...]) -> Iterator[tuple[str, str]]:
    """Yield what makes no sense together, and what to do instead."""
    yield from _of_concurrency(options)
    if options.batch is not None:
        yield from _of_batch(options, cancel_on)
    if options.debounce is not None:
        yield from _of_debounce(options)
    yield from _of_start_timeout(options)


def _of_concurrency(options: FlowOptions) -> Iterator[tuple[str, str]]:
    limits, singleton = options.concurrency, options.singleton
    if len(limits) > MAX_CONCURRENCIES:
        yield (
            f"{len(limits)} concurrency limits",
            f"Use at most {MAX_CONCURRENCIES}: each costs every run a look.",
        )
    names = [limit_name(limit, "") for limit in limits]
    for limit, name in zip(limits, names, strict=True):
        if names.count(name) > 1:
            yield (
                f"two concurrency limits with scope={limit.scope!r} and "
                + ("no key" if limit.key is None else f"the key {_key_name(limit.key)}"),
                (
                    "They would be one limit with two numbers: keep one, or give the functions "
                    "different names."
                ),
            )
    if singleton is not None and singleton.mode == "queue":
        for limit in limits:
            if limit.scope == "subscription" and limit.key == singleton.key:
                yield (
                    "singleton with mode='queue' beside a concurrency limit with the same key",
                    "The singleton is the narrower limit: leave the other out.",
                )


def _of_batch(options: FlowOptions, cancel_on: tuple[Any, ...]) -> Iterator[tuple[str, str]]:
    batch = options.batch
    if options.debounce is not None:
        yield (
            "batch beside debounce",
            "One keeps all events and the other the last: choose one of them.",
        )
    if options.singleton is not None:
        yield (
            "batch beside singleton",
            (
                "A batch begins before it is known which runs there are when it starts: use "
                "concurrency=Concurrency(1)."
            ),
        )
    if cancel_on:
        yield (
            "batch beside cancel_on",
            (
                "What cancels one event would cancel the whole batch: look in the task for what is "
                "to be left out."
            ),
        )
    for name in ("rate_limit", "idempotency"):
        if getattr(options, name) is not None:
            yield (
                f"batch beside {name}",
                (
                    "It would count events, and drop some from batches: use throttle= to have "
                    "fewer batches, or leave events out with filter=."
                ),
            )
    if callable(options.priority):
        yield (
            "batch beside a function as priority",
            "A batch has many events and one priority: use a number.",
        )
    keyed = [limit for limit in (*options.concurrency, options.throttle) if limit and limit.key]
    if batch is not None and batch.key is None and keyed:
        yield (
            f"batch without a key beside {_kind_of(keyed[0])} with one",
            (
                "A batch of events with different keys counts for none of them: give the batch the "
                "same key."
            ),
        )


def _kind_of(limit: Concurrency | Throttle) -> str:
    return "throttle" if isinstance(limit, Throttle) else "concurrency"


def _of_debounce(options: FlowOptions) -> Iterator[tuple[str, str]]:
    for name in ("rate_limit", "idempotency"):
        if getattr(options, name) is not None:
            yield (
                f"debounce beside {name}",
                (
                    "What is dropped is decided with each event, before the last one is known: use "
                    "throttle= to have fewer runs, or leave events out with filter=."
                ),
            )
    singleton = options.singleton
    if singleton is not None and singleton.mode != "queue":
        yield (
            f"debounce beside singleton with mode={singleton.mode!r}",
            (
                "Whom it concerns is decided with each event, before the last one is known: use "
                "mode='queue'."
            ),
        )


def _of_start_timeout(options: FlowOptions) -> Iterator[tuple[str, str]]:
    limit = options.start_timeout
    debounce, batch = options.debounce, options.batch
    if limit is None:
        return
    if debounce is not None and debounce.timeout is None:
        yield (
            "start_timeout beside a debounce without a timeout",
            (
                "Events that keep coming would keep the run from starting until it is cancelled: "
                "give the debounce a timeout that is shorter than start_timeout."
            ),
        )
    elif debounce is not None and limit <= seconds_of(debounce.timeout or 0.0):
        yield (
            f"start_timeout={limit:g}, which is not longer than the timeout of its debounce",
            "The run would be cancelled before it may start: make it longer.",
        )
    if batch is not None and limit <= seconds_of(batch.timeout):
        yield (
            f"start_timeout={limit:g}, which is not longer than the timeout of its batch",
            "The run would be cancelled before it may start: make it longer.",
        )
