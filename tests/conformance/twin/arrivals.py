"""How the twin records runs that flow control concerns: dropped, collected, or let start.

Its twin is in ``stores/redis/scripts/limits.lua``.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from celery_fanout.stores.states import RunState
from tests.conformance.twin.rows import Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_fanout.stores.limits import Collect, Flow, Gate, Once, Place, Rate
    from celery_fanout.stores.records import NewEvent, NewRun
    from tests.conformance.twin.book import Book
    from tests.conformance.twin.rows import Event

__all__ = ["arrive", "close_if_dropped", "dropped_by", "flush", "holders"]


def arrive(book: Book, new: NewRun, event: NewEvent) -> str:
    """Record a run; return its id, or that of the run that its event has joined."""
    if book.row(new.id) is not None:
        return new.id
    flow = new.flow
    if flow is None:
        _add(book, new, event)
        return new.id
    if event.replay:  # on purpose: it is neither dropped, nor does it drop another
        row = _write(book, new, flow, event)
    else:
        dropped = dropped_by(book, flow)
        if dropped is not None:
            _drop(book, new, flow, event, dropped)
            return new.id
        _note(book, flow)
        if flow.collect is not None and book.peek(flow.collect.gate).collects:
            return _join(book, flow.collect, event)
        row = _write(book, new, flow, event)
        _take_kept(book, row, flow)
        if flow.collect is not None:
            _collect(book, row, flow.collect)
            return new.id
    if row.resume is None:
        book.admit(row)
    return new.id


def _add(book: Book, new: NewRun, event: NewEvent, events: Sequence[str] = ()) -> None:
    book.add(
        new,
        event.key,
        book.now + book.rules.grace if event.resume_at is None else event.resume_at,
        event.generation,
        resume=event.resume_at,
        expires=event.expires_at,
        events=events,
    )


# -- drops --------------------------------------------------------------------------------------


def dropped_by(book: Book, flow: Flow) -> Once | Rate | Place | None:
    """Return the limit because of which a run with this flow would be dropped now."""
    if flow.once is not None and book.peek(flow.once.gate).until > book.now:
        return flow.once
    rate = flow.rate_limit
    if rate is not None and len(book.within(rate)) >= book.at_most(rate):
        return rate
    for place in flow.places:
        if place.full == "drop" and book.is_full(place):
            return place
    return None


def _drop(book: Book, new: NewRun, flow: Flow, event: NewEvent, limit: Once | Rate | Place) -> None:
    """Record a run as one that ended before it began: nobody is told, a flood of them is cheap."""
    book.orders += 1
    book.counter(limit)
    book.rows[new.id] = Row(
        new.id,
        new.kind,
        new.subscription,
        event.key,
        RunState.CANCELLED,
        event.generation,
        book.now,
        book.now,
        finished=book.now,
        reason=f"dropped: {limit.gate.limit}",
        queue=new.queue,
        gone_at=book.now + book.rules.success_retention,
        flow=flow,
        order=book.orders,
        events=[] if flow.collect is None else [event.key],
        checkpoints=dict(new.checkpoints),
        cancel_on=new.cancel_on,
    )


def _note(book: Book, flow: Flow) -> None:
    if flow.once is not None:
        book.counter(flow.once).until = book.now + flow.once.ttl
    if flow.rate_limit is not None:
        counter = book.counter(flow.rate_limit)
        counter.times = [*book.within(flow.rate_limit), book.now]


def _write(book: Book, new: NewRun, flow: Flow, event: NewEvent) -> Row:
    _add(book, new, event, () if flow.collect is None else (event.key,))
    row = book.rows[new.id]
    book.orders += 1
    row.order = book.orders
    if flow.start_timeout is not None:
        # one that is delayed cannot start before
        latest = max(book.now, event.resume_at or 0.0) + flow.start_timeout
        if row.expires is None or latest < row.expires:
            row.expires, row.impatient = latest, True
    if row.state is RunState.GATED:  # its subscription is paused
        row.due = row.timeout
    return row


# -- places that a run has before it starts -----------------------------------------------------


def holders(book: Book, gate: Gate) -> list[str]:
    """Return who has a place, those that took it first at the front."""
    held = book.peek(gate).holders
    return sorted(held, key=lambda run_id: (held[run_id], book.rows[run_id].order))


def _take_kept(book: Book, row: Row, flow: Flow) -> None:
    for place in flow.places:
        if place.full == "wait":
            continue
        counter = book.counter(place)
        others = holders(book, place.gate)
        # its own first: otherwise those who wait would get what the others give back
        counter.holders[row.id] = book.now
        for run_id in others if place.full == "cancel" else ():
            if len(counter.holders) <= book.at_most(place):
                break
            book.cancel(run_id, f"cancelled: {place.gate.limit}", [])
        if len(counter.holders) > book.at_most(place):
            del counter.holders[row.id]  # one of them is completing, and is waited for


# -- events that make one run -------------------------------------------------------------------


def _collect(book: Book, row: Row, collect: Collect) -> None:
    """Begin to collect."""
    book.counter(collect).collects = row.id
    row.reason = collect.gate.limit
    book.enter(row, RunState.GATED, None)
    _collect_until(row, book.now + collect.period)
    _flush_full(book, row, collect)


def _join(book: Book, collect: Collect, event: NewEvent) -> str:
    """Add an event to the run that collects."""
    row = book.rows[book.counter(collect).collects]
    row.events.append(event.key)
    book.open_event(row, event.key)
    if event.resume_at is not None:
        row.resume = max(event.resume_at, row.resume or 0.0)
    until = row.flush or 0.0
    if collect.kind == "debounce":
        row.event = event.key
        latest = inf if collect.timeout is None else row.created + collect.timeout
        until = min(book.now + collect.period, latest)
    _collect_until(row, until)
    _flush_full(book, row, collect)
    return row.id


def _collect_until(row: Row, flush: float) -> None:
    row.flush = max(flush, row.resume or 0.0)
    row.due = row.flush if row.expires is None else min(row.flush, row.expires)


def _flush_full(book: Book, row: Row, collect: Collect) -> None:
    full = collect.kind == "batch" and len(row.events) >= collect.max_size
    if full and flush(book, row):
        book.woken.append(row.id)


def flush(book: Book, row: Row) -> bool:
    """Take no more events, and let it start if it may."""
    book.stop_collecting(row)
    row.reason = ""
    if row.resume is not None and row.resume > book.now:
        book.enter(row, RunState.PENDING, row.resume)
        return False
    row.resume = None
    if not book.admit(row):
        return False
    book.enter(row, RunState.PENDING, book.now)
    return True


def close_if_dropped(book: Book, event: Event) -> None:
    """Close an event if all its runs were dropped: none of them will do so."""
    if event.open <= 0:
        book.expire(event)
    if event.then_id and event.open_chains <= 0:
        book.fan_in(event)
