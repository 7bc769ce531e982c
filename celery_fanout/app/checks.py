"""What may go wrong with an app's configuration, each with what to do about it.

Nothing here connects to a server; :mod:`celery_fanout.app.live_checks` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import celery

from celery_fanout.exceptions import ConfigurationError
from celery_fanout.operating.redaction import redactor_of
from celery_fanout.running.suspending import VISIBILITY_TIMEOUT
from celery_fanout.subscribing.limits import Concurrency

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_fanout.app.fanout import Fanout

Level = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Finding:
    """One thing to know about an app's configuration.

    Attributes:
        id: stable, such as ``"fanout.W003"``.
        level: ``"error"``: something does not work; ``"warning"``: something may be lost or done
            twice; ``"info"``: how things are.
        message: the problem.
        remedy: what to do about it.
    """

    id: str
    level: Level
    message: str
    remedy: str


LEVELS: dict[str, Level] = {"E": "error", "W": "warning", "I": "info"}


def finding(id: str, message: str, remedy: str) -> Finding:
    """Return a finding, whose id says its level."""
    return Finding(id, LEVELS[id.removeprefix("fanout.")[0]], message, remedy)


def findings(fanout: Fanout) -> list[Finding]:
    """Return what is to be said about an app, errors first."""
    result: list[Finding] = []
    try:
        fanout.load()
        redactor_of(fanout.settings)
    except ConfigurationError as exc:
        return [finding("fanout.E001", str(exc), "Correct the setting.")]
    # in eager mode nothing is sent, or kept beyond the call
    servers = () if fanout.app.conf.task_always_eager else (_store, _broker, _acks)
    for check in (_registrations, _content, *servers, _others):
        result.extend(check(fanout))
    order = list(LEVELS.values())
    return sorted(result, key=lambda each: order.index(each.level))


def _names(names: list[str], most: int = 5) -> str:
    shown, rest = sorted(names)[:most], len(names) - most
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "")


def _subscribers(fanout: Fanout) -> list[Any]:
    """Return the tasks that runs execute: subscribers, the links of their tails, on_failure."""
    tasks: Any = fanout.app.tasks
    subscribers: dict[str, Any] = {}
    for sub in fanout.registry:
        for name in (sub.task.name, *(link["task"] for link in sub.tail), sub.on_failure):
            if name is not None and name in tasks:  # another process may have it
                subscribers[name] = tasks[name]
    return list(subscribers.values())


def _registrations(fanout: Fanout) -> Iterator[Finding]:
    fanout.registry.refresh()
    for error in fanout.registry.errors:
        yield finding("fanout.E002", str(error), "emit() refuses until this is mended.")
    if not fanout.registry.errors and not list(fanout.registry):
        yield finding(
            "fanout.W001",
            "No task of this app subscribes to an event.",
            "Decorate a task with @on_event, and list its module in include= or imports=.",
        )


def _content(fanout: Fanout) -> Iterator[Finding]:
    conf: Any = fanout.app.conf
    for setting in ("accept_content", "result_accept_content"):
        accepted = conf.get(setting) or ()
        if any("pickle" in str(kind) or "python-serialize" in str(kind) for kind in accepted):
            yield finding(
                "fanout.E003",
                f"{setting} accepts pickle: whoever can write to the broker or result backend can "
                "execute code in every worker.",
                'Accept ["json"] only.',
            )


def _store(fanout: Fanout) -> Iterator[Finding]:
    if fanout.level2 is not None:
        yield from _ledger(fanout)
        return
    for sub in fanout.registry:
        options = [
            *(["cancel_on"] if sub.cancel_on else []),
            *(sub.limits.names if sub.limits else ()),
        ]
        if options:
            yield finding(
                "fanout.E007",
                f"{sub.id} has {', '.join(options)}, which needs a ledger.",
                "Use a Redis result backend, or set fanout_store_url to a Redis URL.",
            )
    try:
        store = fanout.store
    except ConfigurationError as exc:
        yield finding("fanout.E004", str(exc), "Until then step.* raises this error.")
        return
    url = store_url(fanout)
    if url.startswith(("memory://", "cache+memory://")):
        yield finding(
            "fanout.W002",
            "Step results are kept in the memory of one process: another worker, or this one after "
            "a restart, runs every step again.",
            "Use a result backend that all workers share.",
        )
    wanted = fanout.settings.checkpoint_expires
    if store.keeps is not None and store.keeps < wanted:
        yield finding(
            "fanout.W003",
            f"Step results may be dropped after {store.keeps:,.0f} s, although "
            f"fanout_checkpoint_expires is {wanted:,.0f} s: {store.name} has no expiry per value.",
            f"Raise {store.keeps_setting}, or keep step results elsewhere with fanout_store_url.",
        )
    for task in _subscribers(fanout):
        horizon = retry_horizon(task)
        if store.keeps is not None and horizon > store.keeps:
            yield finding(
                "fanout.W004",
                f"{task.name} may be retried for {_seconds(horizon)}, and step results may be "
                f"dropped after {store.keeps:,.0f} s, so finished steps would run again.",
                f"Raise {store.keeps_setting}, or retry for a shorter time.",
            )


def store_url(fanout: Fanout) -> str:
    """Return where the store is: a setting, or the result backend."""
    chosen = fanout.settings.store_url
    return str((None if chosen == "backend" else chosen) or fanout.app.conf.result_backend or "")


def _ledger(fanout: Fanout) -> Iterator[Finding]:
    if fanout.settings.store_url == "memory://":
        yield finding(
            "fanout.W002",
            "The ledger is kept in the memory of one process: no other worker sees its runs, and "
            "they are gone after a restart.",
            "Use a Redis result backend, or set fanout_store_url to a Redis URL.",
        )
    lease, least = fanout.settings.lease, 2 * fanout.settings.publish_timeout
    if lease < least and fanout.settings.store_url != "memory://":
        yield finding(
            "fanout.W014",
            f"fanout_lease is {lease:g} s: a Redis that hangs for longer looks like a dead worker.",
            f"Raise it to {least:g} s, twice fanout_publish_timeout, or lower that.",
        )
    for sub in fanout.registry:
        if sub.limits is not None and not fanout.ledger.supports_flow:
            yield finding(
                "fanout.E009",
                f"{sub.id} has {', '.join(sub.limits.names)}, and fanout_shards is "
                f"{fanout.ledger.shards}: a limit is counted in one place.",
                "Set fanout_shards to 1, or leave the options out: until then emit() refuses.",
            )
    yield from _shared_limits(fanout)
    if not fanout.settings.keeper:
        yield finding(
            "fanout.I003",
            "fanout_keeper is off: workers wake no run that sleeps, and send none again.",
            "Run `celery fanout keeper`, at least once and better twice.",
        )


def _shared_limits(fanout: Fanout) -> Iterator[Finding]:
    """Yield the limits that subscriptions share, and which are not the same for all of them."""
    shared: dict[str, dict[int, list[str]]] = {}
    for sub in fanout.registry:
        for name, limit in sub.limits_by_name().items():
            if isinstance(limit, Concurrency) and limit.scope != "subscription":
                shared.setdefault(name, {}).setdefault(limit.limit, []).append(sub.id)
    for name, numbers in shared.items():
        if len(numbers) > 1:
            each = "; ".join(f"{number} for {_names(ids)}" for number, ids in numbers.items())
            yield finding(
                "fanout.W015",
                f"The limit {name!r} is one for all that share it, and has several numbers: "
                f"{each}. What counts is that of the run which wants to start.",
                "Give them the same number, or scopes of different names.",
            )


def _seconds(value: float) -> str:
    return "ever" if value == float("inf") else f"{value:,.0f} s"


def _broker(fanout: Fanout) -> Iterator[Finding]:
    driver = str(fanout.app.connection_for_write().transport.driver_type)
    options: dict[str, Any] = dict(fanout.app.conf.broker_transport_options or {})
    if driver == "amqp" and not options.get("confirm_publish"):
        yield finding(
            "fanout.W005",
            "RabbitMQ does not confirm what is published: an event may be lost while the broker "
            "restarts or is out of memory or disk, and emit() would not know.",
            'Set broker_transport_options = {"confirm_publish": True}.',
        )
    # on level 2 a message that comes again is refused, and nothing waits in one
    if driver == "redis" and fanout.level2 is None:
        yield from _visibility(
            fanout, float(options.get("visibility_timeout") or VISIBILITY_TIMEOUT)
        )
    if driver == "memory":
        yield finding(
            "fanout.W006",
            "The broker memory:// reaches the workers of this process only.",
            "Use Redis or RabbitMQ outside of tests and demos.",
        )


def _visibility(fanout: Fanout, timeout: float) -> Iterator[Finding]:
    conf: Any = fanout.app.conf
    slow: list[str] = []
    late: list[str] = []
    for task in _subscribers(fanout):
        limit = task.time_limit or conf.task_time_limit
        if task.acks_late and (limit is None or limit >= timeout):
            slow.append(task.name)
        if longest_delay(task) >= timeout:
            late.append(task.name)
    remedy = (
        f'raise broker_transport_options["visibility_timeout"] (now {timeout:,.0f} s), for all '
        "apps that share the broker: the shortest counts"
    )
    if slow:
        yield finding(
            "fanout.W007",
            f"Redis delivers a message again that was not acknowledged in time, and these "
            f"subscribers acknowledge late and may run longer: {_names(slow)}.",
            f"Give them a time_limit below it, or {remedy}.",
        )
    if late:
        yield finding(
            "fanout.W008",
            f"Redis delivers a waiting retry to several workers if it waits too long, as with: "
            f"{_names(late)}.",
            f"Lower retry_backoff_max or default_retry_delay, or {remedy}.",
        )
    if timeout < VISIBILITY_TIMEOUT / 60:
        yield finding(
            "fanout.I001",
            f"visibility_timeout is {timeout:,.0f} s, so step.sleep goes in hops of "
            f"{timeout / 2:,.0f} s.",
            "Raise it if that makes too many messages.",
        )


def _acks(fanout: Fanout) -> Iterator[Finding]:
    if fanout.level2 is not None:
        return  # the ledger runs again what a dead worker had, whatever was acknowledged
    early: list[str] = []
    lost: list[str] = []
    for task in _subscribers(fanout):
        if not task.acks_late:
            early.append(task.name)
        elif not (
            task.reject_on_worker_lost or getattr(task, "retry_on_worker_lost", False) is True
        ):
            lost.append(task.name)
    if early:
        yield finding(
            "fanout.W009",
            f"A run is lost when its worker dies, because its message is acknowledged before it "
            f"starts: {_names(early)}.",
            "Set acks_late=True on the task, or task_acks_late; steps make the second execution "
            "cheap and safe.",
        )
    if lost:
        setting = (
            "retry_on_worker_lost=True (bounded by max_retries, after default_retry_delay)"
            if hasattr(celery.Task, "retry_on_worker_lost")
            else "reject_on_worker_lost=True (not bounded: a run that kills its worker loops)"
        )
        yield finding(
            "fanout.W010",
            f"A run fails when its pool process is killed, although it acknowledges late: "
            f"{_names(lost)}.",
            f"Set {setting}.",
        )


def _others(fanout: Fanout) -> Iterator[Finding]:
    conf: Any = fanout.app.conf
    version = tuple(int(part) for part in celery.__version__.split(".")[:2])
    tails = [sub.id for sub in fanout.registry if sub.tail]
    if conf.worker_deduplicate_successful_tasks and version < (5, 7) and tails:
        yield finding(
            "fanout.W011",
            "worker_deduplicate_successful_tasks drops the tail of a redelivered run before Celery "
            f"5.7 (celery#9835): {_names(tails)}.",
            "Turn it off, or use Celery 5.7.",
        )
    if conf.task_always_eager:
        yield finding(
            "fanout.I002",
            "task_always_eager is on: emit() runs every subscriber in place.",
            "Turn it off outside of tests.",
        )


def longest_delay(task: Any) -> float:
    """Return the longest countdown of a retry, in seconds."""
    if getattr(task, "retry_backoff", False):
        return float(getattr(task, "retry_backoff_max", 600))
    return float(task.default_retry_delay or 0)


def retry_horizon(task: Any) -> float:
    """Return how long after its start a run may still be retried, in seconds."""
    retries = task.max_retries
    if retries is None:
        return float("inf") if getattr(task, "autoretry_for", ()) else 0.0
    count = float(min(retries, 10**100))  # Celery has no bound, and a float has one
    wait, longest = float(getattr(task, "retry_backoff", False) or 0), longest_delay(task)
    total = 0.0
    while count > 0 and 0 < wait < longest:
        total, wait, count = total + wait, 2 * wait, count - 1
    return total + (count * longest if count > 0 else 0.0)
