"""What the limits of a subscription come to for one event: what the ledger is told.

Keys and priorities are Python, and run where the event is emitted.
"""

from __future__ import annotations

import json
import logging
from hashlib import sha1
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from celery_fanout.exceptions import (
    INTERRUPTS,
    InvalidEvent,
    InvalidEventData,
    StoreUnsupported,
)
from celery_fanout.model.data_paths import MISSING, look_up
from celery_fanout.model.jsondata import as_json_data, encode
from celery_fanout.stores.limits import Collect, Flow, Gate, Once, Place, Rate
from celery_fanout.subscribing.combinations import MAX_PRIORITY, is_priority
from celery_fanout.subscribing.limits import (
    Concurrency,
    Idempotency,
    Limits,
    function_name,
    seconds_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_fanout.model.events import Event
    from celery_fanout.stores.ledger import Ledger
    from celery_fanout.subscribing.limits import Key, Limit, Singleton
    from celery_fanout.subscribing.registry import Subscription

# not Celery's get_logger: its loggers say nothing in a process that has no logging set up
logger = logging.getLogger(__name__)

#: The gates of an event's run, by the id() of their limits: a key may be an object without a hash.
_Gates: TypeAlias = dict[int, Gate]

#: How long the value of a key may be as it stands, in characters; of a longer one the ledger gets
#: the beginning and a checksum.
MAX_KEY = 200

#: How many values of its keys a subscription remembers what they come to.
MAX_FLOWS = 1000

#: What a second run meets at a singleton, by its mode.
_FULL: dict[str, Literal["wait", "drop", "cancel"]] = {
    "skip": "drop",
    "cancel": "cancel",
    "queue": "wait",
}


def require_limits(subscription: Subscription, ledger: Ledger | None) -> None:
    """See that the store can count the limits of a subscription.

    Args:
        subscription: one with limits.
        ledger: the app's ledger, on level 2.

    Raises:
        StoreUnsupported: if it cannot.
    """
    if ledger is not None and ledger.supports_flow:
        return
    assert subscription.limits is not None  # noqa: S101 - see above
    store = f"The store of the app {subscription.task.app.main!r}"
    options = ", ".join(f"{name}=" for name in subscription.limits.names)
    feature = f"{options} of {subscription.id}"
    if ledger is None:
        raise StoreUnsupported.on_level_1(store, feature)
    remedy = "A limit is counted in one place: leave fanout_shards at 1, or the options out."
    raise StoreUnsupported(store, feature, remedy)


def flow_of(subscription: Subscription, event: Event, priority: int | None = None) -> Flow | None:
    """Return what has to be so before the run of an event may start; ``None``: nothing.

    Args:
        subscription: whose run it is.
        event: the event.
        priority: what :func:`priority_of` says, if that is known.

    Raises:
        InvalidEvent: if a function for a key or the priority raises, or returns what cannot be
            used.
    """
    declared = subscription.limits
    if declared is None:
        return None
    if priority is None:
        priority = priority_of(subscription, event)
    limits = subscription.limits_by_name()
    if not limits and declared.start_timeout is None and declared.finish_timeout is None:
        return None  # nothing to wait for, and so no order: a priority is the broker's alone
    keys = tuple(
        [
            "" if limit.key is None else _key_of(limit.key, limit, name, subscription, event)
            for name, limit in limits.items()
        ]
    )
    flows: dict[Any, Flow] = declared.flows
    flow = flows.get((subscription.id, keys, priority))
    if flow is None:
        gates = {
            id(limit): Gate(name, key)
            for (name, limit), key in zip(limits.items(), keys, strict=True)
            if key is not None
        }
        flow = _flow(declared, gates, subscription, priority)
        if len(flows) >= MAX_FLOWS:
            flows.clear()
        flows[subscription.id, keys, priority] = flow
    return flow


def _flow(declared: Limits, gates: _Gates, subscription: Subscription, priority: int) -> Flow:
    throttle, rate, once = declared.throttle, declared.rate_limit, declared.idempotency
    flow_throttle = flow_rate = flow_once = None
    if throttle is not None:
        per = seconds_of(throttle.per)
        flow_throttle = Rate(gates[id(throttle)], throttle.limit, per, throttle.burst)
    if rate is not None:
        flow_rate = Rate(gates[id(rate)], rate.limit, seconds_of(rate.per))
    if once is not None and id(once) in gates:
        flow_once = Once(gates[id(once)], seconds_of(once.ttl))
    return Flow(
        places=_places(declared, gates),
        throttle=flow_throttle,
        rate_limit=flow_rate,
        once=flow_once,
        collect=_collect(declared, gates),
        lane=_lane(declared, gates, subscription),
        priority=priority,
        start_timeout=declared.start_timeout,
        finish_timeout=declared.finish_timeout,
    )


def _places(declared: Limits, gates: _Gates) -> tuple[Place, ...]:
    limits: list[Concurrency | Singleton] = [*declared.concurrency]
    if declared.singleton is not None:
        limits.append(declared.singleton)
    limits.sort(key=_how_many_share)  # a run waits where the fewest share first
    return tuple(
        Place(gates[id(limit)], limit.limit)
        if isinstance(limit, Concurrency)
        else Place(gates[id(limit)], 1, kept=True, full=_FULL[limit.mode])
        for limit in limits
    )


def _how_many_share(limit: Concurrency | Singleton) -> tuple[bool, int]:
    """Return what orders limits: those of one key first, then those of one subscription."""
    scope = limit.scope if isinstance(limit, Concurrency) else "subscription"
    return limit.key is None, {"subscription": 0, "app": 2}.get(scope, 1)


def _collect(declared: Limits, gates: _Gates) -> Collect | None:
    debounce, batch = declared.debounce, declared.batch
    if debounce is not None:
        timeout = None if debounce.timeout is None else seconds_of(debounce.timeout)
        return Collect(gates[id(debounce)], "debounce", seconds_of(debounce.period), timeout)
    if batch is not None:
        period = seconds_of(batch.timeout)
        return Collect(gates[id(batch)], "batch", period, max_size=batch.max_size)
    return None


def _lane(declared: Limits, gates: _Gates, subscription: Subscription) -> str:
    """Return with whom a run waits in line; lines take turns.

    Only keys of limits that runs wait for in numbers count: with an idempotency or a debounce by
    document each run would be a line of its own, and priorities would mean nothing. (The ledger
    adds what a run has still to pass. So runs that queue for singletons by document are lines of
    their own.)
    """
    limits = (*declared.concurrency, declared.throttle, declared.batch)
    keys = [gates[id(limit)].key for limit in limits if limit is not None and limit.key is not None]
    return encode([subscription.id, *keys]) if keys else subscription.id


#: Names of the limits of whose key it was logged that an event has nothing there.
_logged: set[str] = set()


def _key_of(
    key: Key, limit: Limit, name: str, subscription: Subscription, event: Event
) -> str | None:
    """Return the value of a limit's key; ``None`` if the limit does not concern the event.

    Events that have nothing at the path share one value, that of ``null``. For an idempotency that
    would be to drop all but the first, so each of them counts by itself: a typed event sends
    ``null`` for a field that was not given.
    """
    apart = isinstance(limit, Idempotency)
    if isinstance(key, str):
        value = look_up(event.data, key)
    else:
        value = _returned(key, name, subscription, event)
    if value is MISSING:
        value = None
        if name not in _logged:  # once for each limit and process: it is so for every event, mostly
            _logged.add(name)
            logger.warning(
                "The event %s has nothing at %r, the key of the limit %r. Such events count %s.",
                event.name,
                key,
                name,
                "each by itself" if apart else "as one",
            )
    return None if apart and value is None else _as_text(value)


def _returned(
    key: Callable[[Event], object], limit: str, subscription: Subscription, event: Event
) -> Any:
    """Return what the function that is a limit's key says of an event."""
    what = f"the key of the limit {limit!r} of {subscription.id}"
    value = _called(key, what, event)
    try:
        return as_json_data(event.name, value)
    except InvalidEventData as exc:
        raise InvalidEvent(
            event.name,
            f"cannot be emitted: {function_name(key)}, {what}, returned a "
            f"{type(value).__name__} that JSON cannot carry",
            "Let it return a text, a number, or a list of them.",
        ) from exc


def _as_text(value: Any) -> str:
    """Return the value of a key as text."""
    text = value if isinstance(value, str) else _canonical(value)
    if len(text) <= MAX_KEY:
        return text
    return f"{text[:MAX_KEY]}… {sha1(text.encode(), usedforsecurity=False).hexdigest()}"


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def _called(function: Callable[[Event], object], what: str, event: Event) -> object:
    try:
        return function(event)
    except INTERRUPTS:
        raise
    except Exception as exc:
        raise InvalidEvent(
            event.name,
            f"cannot be emitted: {function_name(function)}, {what}, raised {type(exc).__name__}",
            "Let it return a value for every event that the subscription matches.",
        ) from exc


def priority_of(subscription: Subscription, event: Event) -> int:
    """Return the priority of an event's run; 0 if the subscription has none.

    Raises:
        InvalidEvent: if the function for it raises, or returns what cannot be used.
    """
    priority: Any = None if subscription.limits is None else subscription.limits.priority
    if not callable(priority):
        return priority or 0
    what = f"the priority of {subscription.id}"
    returned: Any = _called(priority, what, event)
    if not is_priority(returned):
        shown = returned if isinstance(returned, int) else f"a {type(returned).__name__}"
        raise InvalidEvent(
            event.name,
            f"cannot be emitted: {function_name(priority)}, {what}, returned {shown}",
            f"Let it return a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}.",
        )
    return int(returned)
