"""Recording an event in a new generation; apart, as emitting and replaying share this loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_fanout.exceptions import ReplayContended

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_fanout.stores.ledger import Ledger
    from celery_fanout.stores.records import NewEvent, Recorded

#: How often an event is recorded anew because another generation of it was begun meanwhile.
GENERATIONS = 10


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
