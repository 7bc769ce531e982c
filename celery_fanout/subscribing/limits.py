"""The limits that a subscription may declare: frozen, and checked where they are written."""

from __future__ import annotations

import datetime as dt
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from celery_fanout.exceptions import InvalidSubscription
from celery_fanout.model.data_paths import is_path
from celery_fanout.model.events import NAME, Event

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What tells apart the runs that share a limit: a dotted path into the event's data, or a function
#: of the event. It is worked out where the event is emitted.
Key: TypeAlias = str | Callable[[Event], object]

#: Seconds, or a timedelta.
Duration: TypeAlias = float | dt.timedelta


def _check_whole(option: str, name: str, value: Any, least: int, most: float = math.inf) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not least <= value <= most:
        bounds = f"of at least {least}" if most == math.inf else f"from {least} to {most:,}"
        raise InvalidSubscription(
            option, f"cannot have {name}={value!r}", f"It takes a whole number {bounds}."
        )


#: The longest duration, in seconds: 100 years. Redis takes no expiry that is very much longer.
MAX_SECONDS = 100 * 365.25 * 86_400


def check_seconds(option: str, name: str, value: Any) -> float:
    """Return a duration in seconds.

    Raises:
        InvalidSubscription: if it is none, or not longer than nothing.
    """
    number = isinstance(value, (int, float, dt.timedelta)) and not isinstance(value, bool)
    if not number or not 0 < seconds_of(value) <= MAX_SECONDS:
        raise InvalidSubscription(
            option,
            f"cannot have {name}={value!r}",
            "It takes seconds, as a number above 0, or a timedelta; at most 100 years.",
        )
    return seconds_of(value)


def seconds_of(value: Duration) -> float:
    """Return a duration in seconds."""
    return value.total_seconds() if isinstance(value, dt.timedelta) else float(value)


def _check_key(option: str, value: Any, *, needed: bool = False) -> None:
    if value is None and not needed:
        return
    is_function = callable(value) and not inspect.iscoroutinefunction(value)
    if not is_path(value) and not is_function:
        raise InvalidSubscription(
            option,
            f"cannot have key={value!r}",
            "Use a dotted path into the data, such as 'document.id', or a function of the Event.",
        )


@dataclass(frozen=True)
class Concurrency:
    """At most so many runs at once, over all workers.

    A run that finds no place waits in the ledger, without a message and without a worker. A
    suspension or a retry gives the place back, and takes one on the way back; the place of a dead
    worker is free when its lease is over, if the run cannot go on.

    Args:
        limit: how many, 1 or more.
        key: a limit for each of its values: a dotted path into the event's data, such as
            ``"tenant.id"``, or a function of the :class:`~celery_fanout.Event`. A path that the
            data does not have counts as ``None``.
        scope: whose runs are counted: ``"subscription"``, ``"app"``, or a name that several
            subscriptions share. They should have the same ``limit``: what counts is that of the
            run that wants to start.

    Raises:
        InvalidSubscription: if one of them cannot be used.
    """

    limit: int
    key: Key | None = None
    scope: str = "subscription"

    def __post_init__(self) -> None:
        _check_whole("Concurrency", "limit", self.limit, 1)
        _check_key("Concurrency", self.key)
        scope: Any = self.scope
        if not isinstance(scope, str) or NAME.fullmatch(scope) is None:
            raise InvalidSubscription(
                "Concurrency",
                f"cannot have scope={scope!r}",
                "Use 'subscription', 'app', or a name of letters, digits, '.', '_', '/' and '-'.",
            )


@dataclass(frozen=True)
class Throttle:
    """At most so many starts in a period, spread evenly over it; the rest waits.

    A run is counted once, when it is first let go: retries and resumed suspensions are not.

    Args:
        limit: how many starts, 1 or more.
        per: in how many seconds, or a timedelta.
        burst: how many more may start at once after a quiet time.
        key: a limit for each of its values, as in :class:`~celery_fanout.Concurrency`.

    Raises:
        InvalidSubscription: if one of them cannot be used.
    """

    limit: int
    per: Duration
    burst: int = 0
    key: Key | None = None

    def __post_init__(self) -> None:
        _check_whole("Throttle", "limit", self.limit, 1)
        check_seconds("Throttle", "per", self.per)
        _check_whole("Throttle", "burst", self.burst, 0)
        _check_key("Throttle", self.key)


@dataclass(frozen=True)
class RateLimit:
    """At most so many runs in a period; what is more is dropped.

    A dropped run is kept in the ledger as cancelled, with the limit as its reason. Only new events
    are counted: retries, resumed suspensions and replays are neither counted nor dropped.

    Args:
        limit: how many runs, 1 or more.
        per: in how many seconds, or a timedelta: in any stretch of that length.
        key: a limit for each of its values, as in :class:`~celery_fanout.Concurrency`.

    Raises:
        InvalidSubscription: if one of them cannot be used.
    """

    limit: int
    per: Duration
    key: Key | None = None

    def __post_init__(self) -> None:
        _check_whole("RateLimit", "limit", self.limit, 1)
        check_seconds("RateLimit", "per", self.per)
        _check_key("RateLimit", self.key)


@dataclass(frozen=True)
class Debounce:
    """One run for the events of a busy time, with the last of them, when it is quiet again.

    The run exists from its first event on, and has one id. Retries and resumed suspensions do not
    wait again; an event that comes when the run has been let go begins the next one.

    Args:
        period: for how many seconds, or a timedelta, no event must have come.
        key: one run for each of its values, as in :class:`~celery_fanout.Concurrency`.
        timeout: after how many seconds, or a timedelta, it starts though it is not quiet; not
            shorter than ``period``.

    Raises:
        InvalidSubscription: if one of them cannot be used.
    """

    period: Duration
    key: Key | None = None
    timeout: Duration | None = None

    def __post_init__(self) -> None:
        period = check_seconds("Debounce", "period", self.period)
        _check_key("Debounce", self.key)
        if self.timeout is not None and check_seconds("Debounce", "timeout", self.timeout) < period:
            raise InvalidSubscription(
                "Debounce",
                f"cannot have timeout={self.timeout!r}, which is shorter than period="
                f"{self.period!r}",
                "It would always start at the timeout: make that longer, or the period shorter.",
            )


@dataclass(frozen=True)
class Batch:
    """One run for several events: the task receives the list of their data, oldest first.

    The run exists from its first event on, and has one id; ``current_run().events`` are the ids
    of all. Retries and resumed suspensions have the same list.

    Args:
        max_size: with how many events it starts at once, from 2 to 1,000.
        timeout: after how many seconds, or a timedelta, it starts with fewer.
        key: a batch for each of its values, as in :class:`~celery_fanout.Concurrency`.

    Raises:
        InvalidSubscription: if one of them cannot be used.
    """

    max_size: int
    timeout: Duration
    key: Key | None = None

    def __post_init__(self) -> None:
        _check_whole("Batch", "max_size", self.max_size, 2, 1000)
        check_seconds("Batch", "timeout", self.timeout)
        _check_key("Batch", self.key)


#: What a Singleton may do with a second run.
MODES = ("skip", "cancel", "queue")


@dataclass(frozen=True)
class Singleton:
    """One run at a time, from its start to its end.

    It has its place also while it is suspended or waits for a retry, unlike that of a
    :class:`~celery_fanout.Concurrency`.

    Args:
        key: one run for each of its values, as in :class:`~celery_fanout.Concurrency`.
        mode: what happens to a second run: ``"skip"``: it is dropped, and kept in the ledger as
            cancelled; ``"cancel"``: the first is cancelled; ``"queue"``: it waits.

    Raises:
        InvalidSubscription: if one of them cannot be used.
    """

    key: Key | None = None
    mode: Literal["skip", "cancel", "queue"] = "skip"

    def __post_init__(self) -> None:
        _check_key("Singleton", self.key)
        if self.mode not in MODES:
            raise InvalidSubscription(
                "Singleton", f"cannot have mode={self.mode!r}", "Use 'skip', 'cancel' or 'queue'."
            )


@dataclass(frozen=True)
class Idempotency:
    """At most one run for each value; a later one is dropped.

    A dropped run is kept in the ledger as cancelled, with the limit as its reason. However the
    first run ended, its value is taken: retries and resumed suspensions are the same run.

    Args:
        key: of what there is one, as in :class:`~celery_fanout.Concurrency`.
        ttl: for how many seconds, or a timedelta; a day by default.

    Raises:
        InvalidSubscription: if one of them cannot be used.
    """

    key: Key
    ttl: Duration = 86_400

    def __post_init__(self) -> None:
        _check_key("Idempotency", self.key, needed=True)
        check_seconds("Idempotency", "ttl", self.ttl)


Limit: TypeAlias = Concurrency | Throttle | RateLimit | Debounce | Batch | Singleton | Idempotency

#: What ``on_event`` takes of each, by the names of its arguments, besides ``concurrency``.
KINDS: dict[str, type[Any]] = {
    "throttle": Throttle,
    "rate_limit": RateLimit,
    "debounce": Debounce,
    "batch": Batch,
    "singleton": Singleton,
    "idempotency": Idempotency,
}


@dataclass(frozen=True)
class Limits:
    """The limits that a subscription declares, together, as they were written.

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
        """What is declared, by the names of ``on_event``'s arguments."""
        return tuple(name for name in self.__dataclass_fields__ if is_declared(getattr(self, name)))

    @property
    def collects(self) -> bool:
        """Whether several events make one run."""
        return self.batch is not None or self.debounce is not None

    def by_name(self, subscription: str) -> Mapping[str, Limit]:
        """Return the limits by the names that the ledger counts them by, see :func:`limit_name`.

        Args:
            subscription: id of the subscription that declares them.
        """
        if subscription not in self._named:
            limits: list[Limit | None] = [*self.concurrency, *(getattr(self, k) for k in KINDS)]
            self._named[subscription] = {
                limit_name(limit, subscription): limit for limit in limits if limit is not None
            }
        return self._named[subscription]

    @cached_property
    def flows(self) -> dict[Any, Any]:
        """What :func:`~celery_fanout.subscribing.admission.flow_of` has worked out before."""
        return {}

    @cached_property
    def _named(self) -> dict[str, dict[str, Limit]]:
        return {}


def is_declared(value: Any) -> bool:
    """Whether an option of ``on_event`` has a value."""
    return value not in (None, ())


def function_name(function: Callable[[Event], object]) -> str:
    """Return what people call a function that is a key or a priority."""
    return getattr(function, "__qualname__", type(function).__name__)


def key_name(key: Key) -> str:
    """Return what people call a key."""
    return key if isinstance(key, str) else function_name(key)


def limit_name(limit: Limit, subscription: str) -> str:
    """Return what people call a limit: its kind, whose it is, and by what."""
    kind = next((name for name, cls in KINDS.items() if isinstance(limit, cls)), "concurrency")
    whose, by = subscription, "" if limit.key is None else f" by {key_name(limit.key)}"
    if isinstance(limit, Concurrency) and limit.scope != "subscription":
        # those who share it may find the key in different places
        whose, by = limit.scope, by and " by key"
    return f"{kind} {whose}{by}"
