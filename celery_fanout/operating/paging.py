"""Reading what a ledger lists by time page by page: no record twice, and none left out.

What one change of the ledger wrote has one time, and may be more than a page: so a time alone does
not say where a page ended.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

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


def pages(
    fetch: Callable[[float | None, int], Sequence[RecordT]],
    place: Callable[[RecordT], tuple[float, str]],
    before: float | None,
    size: int,
) -> Iterator[Sequence[RecordT]]:
    """Read a list from its end, page by page; no page is empty.

    Each page begins at the time at which the one before ended, without what was read already.

    Args:
        fetch: returns the latest records before a time, at most as many as asked for.
        place: returns the time and the id of a record.
        before: only what is before this POSIX time.
        size: how many records are fetched at a time, 1 or more.
    """
    read: set[tuple[float, str]] = set()
    while True:
        records = fetch(before, size)
        new = [record for record in records if place(record) not in read]
        read.update(map(place, new))
        if new:
            yield new
        if len(records) < size:
            return
        first, last = place(records[0])[0], place(records[-1])[0]
        if not new or first == last:
            size *= 2
        before = last + TICK


def page_of(
    fetch: Callable[[float | None, int], Sequence[RecordT]],
    place: Callable[[RecordT], tuple[float, str]],
    cursor: str,
    size: int,
) -> Page[RecordT]:
    """Return one page, and a cursor for the next one.

    A cursor is the time and the id of the last record of a page, and records of one time are in
    the order of their ids.

    Args:
        fetch: as in :func:`pages`.
        place: as in :func:`pages`.
        cursor: where the page before ended; anything else begins at the latest.
        size: how many.
    """
    after = _read(cursor)
    records: list[RecordT] = []
    for some in pages(fetch, place, None if after is None else after[0] + TICK, size + 1):
        records += [record for record in some if after is None or place(record) < after]
        records.sort(key=place, reverse=True)
        # those of the page's last time must all be known, to be in order
        if len(records) > size and place(some[-1])[0] < place(records[size - 1])[0]:
            break
    page = records[:size]
    if len(records) <= size:
        return Page(page, "")
    time, id_ = place(page[-1])
    return Page(page, f"{time!r},{id_}")


def _read(cursor: str) -> tuple[float, str] | None:
    text, comma, id_ = cursor.partition(",")
    try:
        time = float(text)
    except ValueError:
        return None
    return (time, id_) if comma and math.isfinite(time) else None
