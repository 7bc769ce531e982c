"""Pages of what a ledger lists by time: no record twice, and none left out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Page", "page_of"]

#: The ledger's times are as fine as this, in seconds.
TICK = 1e-6

RecordT = TypeVar("RecordT")


@dataclass(frozen=True)
class Page(Generic[RecordT]):
    """One page of records.

    Attributes:
        records: the records, the latest first.
        older: the cursor of the next page; ``""`` if there is none.
    """

    records: Sequence[RecordT]
    older: str


def page_of(
    fetch: Callable[[float | None, int], Sequence[RecordT]],
    place: Callable[[RecordT], tuple[float, str]],
    cursor: str,
    size: int,
) -> Page[RecordT]:
    """Return a page of records.

    What one emit recorded has one time, and may be more than a page. So a cursor is the time and
    the id of the last record of a page, and records of one time are in the order of their ids.

    Args:
        fetch: returns the latest records before a time, at most as many as asked for.
        place: returns the time and the id of a record.
        cursor: where the page before ended; anything else begins at the latest.
        size: how many.
    """
    after = _read(cursor)
    before = None if after is None else after[0] + TICK
    ask = size + 1
    while True:
        found = fetch(before, ask)
        left = sorted(
            (record for record in found if after is None or place(record) < after),
            key=place,
            reverse=True,
        )
        whole = len(found) < ask  # there is no more
        # those of the page's last time must all be known, to be in order
        if whole or (len(left) > size and place(found[-1])[0] < place(left[size - 1])[0]):
            page = left[:size]
            last = place(page[-1]) if len(left) > size else None
            return Page(page, "" if last is None else f"{last[0]!r},{last[1]}")
        ask *= 2


def _read(cursor: str) -> tuple[float, str] | None:
    time, comma, id_ = cursor.partition(",")
    try:
        found = float(time)
    except ValueError:
        return None
    return (found, id_) if comma and math.isfinite(found) else None
