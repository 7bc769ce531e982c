"""Numbers as people read them: what a limit allows, periods, ages and times."""

from __future__ import annotations

import datetime as dt

MINUTE, HOUR, DAY = 60, 3600, 86_400


def period_of(seconds: float) -> str:
    """Return a period as somebody wrote it: in the largest unit in which it is a whole number."""
    for unit, name in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min")):
        if seconds >= unit and seconds % unit == 0:
            return f"{seconds / unit:,.0f} {name}"
    return f"{seconds:,.10g} s"


def number_of(kind: str, at_most: int, per: float) -> str:
    """Return what a limit of a kind allows."""
    if kind in ("throttle", "rate_limit"):
        return f"{at_most:,} per {period_of(per)}" if per else f"{at_most:,}"
    if kind == "batch":
        return f"{at_most:,} or {period_of(per)}"
    if kind == "debounce":
        return f"quiet for {period_of(per)}"
    if kind == "idempotency":
        return f"1 per {period_of(per)}"
    return f"{at_most:,}"


def age(seconds: float) -> str:
    """Return a duration in its two largest units."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < MINUTE:
        return f"{seconds:.1f} s"
    if seconds < HOUR:
        return f"{int(seconds // MINUTE)} min {int(seconds % MINUTE)} s"
    if seconds < DAY:
        return f"{int(seconds // HOUR)} h {int(seconds % HOUR // MINUTE)} min"
    return f"{int(seconds // DAY)} d {int(seconds % DAY // HOUR)} h"


def moment(timestamp: float | None) -> str:
    """Return a POSIX time as text, in UTC; ``""`` for none."""
    if timestamp is None:
        return ""
    return dt.datetime.fromtimestamp(timestamp, dt.timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
