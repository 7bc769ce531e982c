"""Which limits of one subscription go together.

What makes no sense is refused where it is written, each combination with its reason.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from celery_fanout.exceptions import InvalidSubscription
from celery_fanout.subscribing.limits import (
    KINDS,
    Concurrency,
    Idempotency,
    Limits,
    Throttle,
    check_seconds,
    is_declared,
    key_name,
    limit_name,
    seconds_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

#: How many concurrency limits one subscription may have.
MAX_CONCURRENCIES = 3

#: Priorities are whole numbers from the negative of this to this.
MAX_PRIORITY = 255


def checked_limits(subject: str, *, cancel_on: tuple[Any, ...], **options: Any) -> Limits | None:
    """Return the limits of one subscription; ``None`` if it declares none.

    Args:
        subject: what errors call it.
        cancel_on: what cancels its runs.
        options: what ``on_event`` was given.

    Raises:
        InvalidSubscription: if one of them cannot be used, or not beside another.
    """
    if not any(map(is_declared, options.values())):
        return None
    idempotency = options["idempotency"]
    if isinstance(idempotency, str) or callable(idempotency):
        options["idempotency"] = Idempotency(cast("Any", idempotency))
    kinds: dict[str, type[Any]] = {"concurrency": Concurrency, **KINDS}
    for name, kind in kinds.items():
        value = options[name]
        for limit in value if name == "concurrency" else () if value is None else (value,):
            if not isinstance(limit, kind):
                raise InvalidSubscription(
                    subject,
                    f"cannot have {name}={limit!r}",
                    f"Use celery_fanout.{kind.__name__}(...).",
                )
    for name in ("start_timeout", "finish_timeout"):
        if options[name] is not None:
            options[name] = check_seconds(subject, name, options[name])
    _check_priority(subject, options["priority"])
    limits = Limits(**options)
    for problem, remedy in _problems(limits, cancel_on):
        raise InvalidSubscription(subject, f"cannot have {problem}", remedy)
    return limits


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


class _Problem(NamedTuple):
    what: str
    remedy: str


def _problems(options: Limits, cancel_on: tuple[Any, ...]) -> Iterator[_Problem]:
    """Yield what makes no sense together, and what to do instead."""
    yield from _of_concurrency(options)
    if options.batch is not None:
        yield from _of_batch(options, cancel_on)
    if options.debounce is not None:
        yield from _of_debounce(options)
    yield from _of_start_timeout(options)


def _of_concurrency(options: Limits) -> Iterator[_Problem]:
    limits, singleton = options.concurrency, options.singleton
    if len(limits) > MAX_CONCURRENCIES:
        yield _Problem(
            f"{len(limits)} concurrency limits",
            f"Use at most {MAX_CONCURRENCIES}: each costs every run a look.",
        )
    names = [limit_name(limit, "") for limit in limits]
    for limit, name in zip(limits, names, strict=True):
        if names.count(name) > 1:
            yield _Problem(
                f"two concurrency limits with scope={limit.scope!r} and "
                + ("no key" if limit.key is None else f"the key {key_name(limit.key)}"),
                "They would be one limit with two numbers: keep one, or give the functions "
                "different names.",
            )
    if singleton is not None and singleton.mode == "queue":
        for limit in limits:
            if limit.scope == "subscription" and limit.key == singleton.key:
                yield _Problem(
                    "singleton with mode='queue' beside a concurrency limit with the same key",
                    "The singleton is the narrower limit: leave the other out.",
                )


def _of_batch(options: Limits, cancel_on: tuple[Any, ...]) -> Iterator[_Problem]:
    batch = options.batch
    if options.debounce is not None:
        yield _Problem(
            "batch beside debounce",
            "One keeps all events and the other the last: choose one of them.",
        )
    if options.singleton is not None:
        yield _Problem(
            "batch beside singleton",
            "A batch begins before it is known which runs there are when it starts: use "
            "concurrency=Concurrency(1).",
        )
    if cancel_on:
        yield _Problem(
            "batch beside cancel_on",
            "What cancels one event would cancel the whole batch: look in the task for what is "
            "to be left out.",
        )
    for name in ("rate_limit", "idempotency"):
        if getattr(options, name) is not None:
            yield _Problem(
                f"batch beside {name}",
                "It would count events, and drop some from batches: use throttle= to have "
                "fewer batches, or leave events out with filter=.",
            )
    if callable(options.priority):
        yield _Problem(
            "batch beside a function as priority",
            "A batch has many events and one priority: use a number.",
        )
    keyed = [limit for limit in (*options.concurrency, options.throttle) if limit and limit.key]
    if batch is not None and batch.key is None and keyed:
        yield _Problem(
            f"batch without a key beside {_kind_of(keyed[0])} with one",
            "A batch of events with different keys counts for none of them: give the batch the "
            "same key.",
        )


def _kind_of(limit: Concurrency | Throttle) -> str:
    return "throttle" if isinstance(limit, Throttle) else "concurrency"


def _of_debounce(options: Limits) -> Iterator[_Problem]:
    for name in ("rate_limit", "idempotency"):
        if getattr(options, name) is not None:
            yield _Problem(
                f"debounce beside {name}",
                "What is dropped is decided with each event, before the last one is known: use "
                "throttle= to have fewer runs, or leave events out with filter=.",
            )
    singleton = options.singleton
    if singleton is not None and singleton.mode != "queue":
        yield _Problem(
            f"debounce beside singleton with mode={singleton.mode!r}",
            "Whom it concerns is decided with each event, before the last one is known: use "
            "mode='queue'.",
        )


def _of_start_timeout(options: Limits) -> Iterator[_Problem]:
    limit = options.start_timeout
    debounce, batch = options.debounce, options.batch
    if limit is None:
        return
    if debounce is not None and debounce.timeout is None:
        yield _Problem(
            "start_timeout beside a debounce without a timeout",
            "Events that keep coming would keep the run from starting until it is cancelled: "
            "give the debounce a timeout that is shorter than start_timeout.",
        )
    elif debounce is not None and limit <= seconds_of(debounce.timeout or 0.0):
        yield _Problem(
            f"start_timeout={limit:g}, which is not longer than the timeout of its debounce",
            "The run would be cancelled before it may start: make it longer.",
        )
    if batch is not None and limit <= seconds_of(batch.timeout):
        yield _Problem(
            f"start_timeout={limit:g}, which is not longer than the timeout of its batch",
            "The run would be cancelled before it may start: make it longer.",
        )
