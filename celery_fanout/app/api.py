"""``emit``, ``emit_many``, ``aemit``, ``explain`` and ``step``, for whatever app is current."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from celery_fanout.app.fanout import get_fanout
from celery_fanout.emitting.delivery import installed
from celery_fanout.running.steps.step import Step

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable

    from celery import Celery, Task
    from celery.canvas import Signature
    from pydantic import BaseModel

    from celery_fanout.emitting.emission import Emission
    from celery_fanout.model.events import Event
    from celery_fanout.subscribing.registry import Explanation

Delivery: TypeAlias = Literal["on_commit", "outbox", "now"]


@overload
def emit(
    event: BaseModel | Event,
    *,
    id: str | None = None,
    subject: str | None = None,
    source: str | None = None,
    time: dt.datetime | str | None = None,
    delay: float | dt.timedelta | None = None,
    expires: float | dt.timedelta | None = None,
    then: Task[..., Any] | Signature[Any] | None = None,
    delivery: Delivery | None = None,
    using: str | None = None,
    app: Celery | None = None,
) -> Emission: ...


@overload
def emit(
    event: str,
    data: Any = None,
    *,
    id: str | None = None,
    subject: str | None = None,
    source: str | None = None,
    time: dt.datetime | str | None = None,
    delay: float | dt.timedelta | None = None,
    expires: float | dt.timedelta | None = None,
    then: Task[..., Any] | Signature[Any] | None = None,
    delivery: Delivery | None = None,
    using: str | None = None,
    app: Celery | None = None,
) -> Emission: ...


def emit(
    event: str | BaseModel | Event,
    data: Any = None,
    *,
    id: str | None = None,
    subject: str | None = None,
    source: str | None = None,
    time: dt.datetime | str | None = None,
    delay: float | dt.timedelta | None = None,
    expires: float | dt.timedelta | None = None,
    then: Task[..., Any] | Signature[Any] | None = None,
    delivery: Delivery | None = None,
    using: str | None = None,
    app: Celery | None = None,
) -> Emission:
    """Publish an event to all its subscribers, each as its own Celery chain.

    Args:
        event: an event name, an instance of a typed event, or an :class:`Event` to pass on.
        data: JSON data; what subscribers receive. Texts, numbers, lists, dicts with text keys;
            dates, UUIDs, Decimals and enums become texts.
        id: the event's id, at most 1,000 characters; a new one by default. The same name and id
            give the same runs, so a repeat after an error is safe.
        subject: what the event is about, within the source.
        source: where it happened; ``fanout_source`` by default.
        time: when it happened; now by default. A datetime with a time zone, or RFC 3339.
        delay: seconds, or a timedelta, before subscribers start.
        expires: seconds, or a timedelta, within which a run must have started; it is cancelled
            otherwise. Level 2.
        then: a task that is called once, when the last run of the event has ended, with a list of
            what became of each: ``run``, ``subscription``, ``state``, ``value`` and ``error``.
            Level 2.
        delivery: with :mod:`celery_fanout.contrib.django`: ``"on_commit"``, when the transaction
            that is under way commits; ``"outbox"``, by the relay, from a row that is part of the
            transaction; ``"now"``, whatever becomes of it. ``fanout_delivery`` by default.
        using: with :mod:`celery_fanout.contrib.django`: the alias of the database whose
            transaction counts; Django's default one by default.
        app: the Celery app; the current one by default.

    Returns:
        The event and one handle per run; no runs if nothing subscribes to it.

    Raises:
        InvalidEvent: if name, data, size or an attribute cannot be used, or a subscription's key or
            priority cannot be worked out. Nothing was published.
        RegistrationError: if a subscription is wrong. Nothing was published.
        EmitError: if publishing was cut short, or on level 2 the ledger did not answer. It says
            what is known of each run.
        StoreUnsupported: on level 1, for ``expires`` and ``then``, and for subscriptions that need
            a ledger.
        DeliveryUnsupported: for ``delivery`` and ``using`` where nothing offers them.
    """
    options: dict[str, Any] = {"id": id, "subject": subject, "source": source, "time": time}
    options.update(delivery=delivery, using=using)
    return get_fanout(app).emit(event, data, delay=delay, expires=expires, then=then, **options)


def emit_many(
    events: Iterable[tuple[str, Any] | BaseModel | Event],
    *,
    delivery: Delivery | None = None,
    using: str | None = None,
    app: Celery | None = None,
) -> list[Emission]:
    """Publish several events in one batch.

    All are validated before the first is published.

    Args:
        events: pairs of name and data, typed events, or :class:`Event` objects.
        delivery: see :func:`emit`.
        using: see :func:`emit`.
        app: the Celery app; the current one by default.

    Raises:
        InvalidEvent: if one cannot be emitted. Nothing was published.
        RegistrationError: if a subscription is wrong. Nothing was published.
        EmitError: if publishing was cut short, about the first event it concerns.
    """
    return get_fanout(app).emit_many(events, delivery=delivery, using=using)


async def aemit(
    event: str | BaseModel | Event,
    data: Any = None,
    *,
    id: str | None = None,
    subject: str | None = None,
    source: str | None = None,
    time: dt.datetime | str | None = None,
    delay: float | dt.timedelta | None = None,
    expires: float | dt.timedelta | None = None,
    then: Task[..., Any] | Signature[Any] | None = None,
    delivery: Delivery | None = None,
    using: str | None = None,
    app: Celery | None = None,
) -> Emission:
    """Like :func:`emit`, for async code: publishing happens in a thread.

    Context variables, such as the current trace, are those of the caller. With
    :mod:`celery_fanout.contrib.django` it is the thread of ``sync_to_async``, where the ORM's
    transactions are.
    """
    fanout = get_fanout(app)  # the current app is thread-local
    options: dict[str, Any] = {"id": id, "subject": subject, "source": source, "time": time}
    options.update(delivery=delivery, using=using, delay=delay, expires=expires, then=then)
    return await installed.deliverer.in_thread(partial(fanout.emit, event, data, **options))


def explain(
    event: str | BaseModel | Event, data: Any = None, *, app: Celery | None = None
) -> list[Explanation]:
    """Say for every subscription of the app whether and why an event would reach it.

    And for those with flow control what would happen to the run now. Nothing is changed.

    Args:
        event: an event name, a typed event, or an :class:`Event`.
        data: its data, for filters.
        app: the Celery app; the current one by default.

    Raises:
        InvalidEvent: if the event could not be emitted.
    """
    return get_fanout(app).explain(event, data)


#: Durable steps of the current run.
step = Step(emit)
