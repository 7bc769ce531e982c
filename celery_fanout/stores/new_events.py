"""What a ledger is told of an event; and telling it again when the event has a new generation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_fanout.exceptions import ReplayContended
from celery_fanout.model.jsondata import encode
from celery_fanout.stores.records import NewEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery_fanout.model.events import Event
    from celery_fanout.stores.ledger import Ledger
    from celery_fanout.stores.records import NewRun, Recorded

__all__ = ["new_event", "record_generation"]

#: How often an event is recorded anew because another generation of it was begun meanwhile.
GENERATIONS = 10


def new_event(key: str, event: Event, runs: Sequence[NewRun], **options: Any) -> NewEvent:
    """Return what a ledger is told of an event; ``records.recorded_event`` reads it back.

    Args:
        key: ``ids.event_key()`` of it.
        event: the event.
        runs: its runs.
        options: what else the ledger is told, see :class:`.records.NewEvent`.
    """
    return NewEvent(
        key=key,
        name=event.name,
        attributes=encode(event.attributes()),
        data=encode(event.data),
        runs=runs,
        **options,
    )


def record_generation(
    ledger: Ledger, of_generation: Callable[[int], NewEvent], generation: int
) -> tuple[NewEvent, Recorded]:
    """Record an event in a generation, or in whichever the ledger names instead.

    Args:
        ledger: the ledger.
        of_generation: returns the event with the run ids of a generation.
        generation: the first to try.

    Returns:
        What was recorded, and the ledger's answer.

    Raises:
        ReplayContended: if others begin generations of the event again and again.
        StoreUnavailable: if the ledger does not answer.
    """
    new = of_generation(generation)
    for _ in range(GENERATIONS):
        [recorded] = ledger.record([new])
        if recorded.status != "generation":
            return new, recorded
        new = of_generation(recorded.generation)
    raise ReplayContended(new.key)
