"""Whether an event is one that a run waits for, or that cancels it."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["matches"]

_MISSING = object()


def look_up(data: Any, path: str) -> Any:
    """Return the value at a dotted path, or a marker."""
    found: Any = data
    for part in path.split("."):
        if isinstance(found, dict) and part in found:
            found = cast("Any", found)[part]
        elif isinstance(found, list) and part.isdecimal() and int(part) < len(cast("Any", found)):
            found = cast("Any", found)[int(part)]
        else:
            return _MISSING
    return found


def canonical(value: Any) -> tuple[str, Any] | None:
    """Return what is equal for values that are equal as JSON; ``None`` for what no match names."""
    if value is None:
        return ("z", None)
    if isinstance(value, bool):
        return ("b", value)
    if isinstance(value, (int, float)):
        try:
            return ("n", float(value))
        except OverflowError:  # a whole number beyond what a float can hold
            return ("n", inf if value > 0 else -inf)
    if isinstance(value, str):
        return ("s", value)
    return None


def matches(match: Mapping[str, Any], data: Any) -> bool:
    """Whether an event's data has the values of a match."""
    for path, value in match.items():
        found = look_up(data, path)
        known = None if found is _MISSING else canonical(found)
        if known is None or known != canonical(value):
            return False
    return True
