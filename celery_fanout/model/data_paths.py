"""Dotted paths into an event's data, and whether what is there is what is wanted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

#: The largest whole number that a match can tell apart from its neighbours: JSON numbers are
#: compared as doubles.
MAX_NUMBER = 2**53 - 1

#: What :func:`look_up` finds where there is nothing.
MISSING = object()


def look_up(data: Any, path: str) -> Any:
    """Return the value at a dotted path; :data:`MISSING` if there is none."""
    for part in path.split("."):
        if isinstance(data, Mapping):
            data = data.get(part, MISSING)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        elif isinstance(data, list) and part.isdecimal() and int(part) < len(data):  # pyright: ignore[reportUnknownArgumentType]
            data = data[int(part)]  # pyright: ignore[reportUnknownVariableType]
        else:
            return MISSING
    return data  # pyright: ignore[reportUnknownVariableType]


def is_path(value: object) -> bool:
    """Whether a value is a dotted path."""
    return isinstance(value, str) and all(value.split("."))


def is_too_large(value: object) -> bool:
    """Whether a value is a whole number that JSON cannot tell apart from its neighbours."""
    return isinstance(value, int) and abs(value) > MAX_NUMBER


def check_match(match: Any) -> str:
    """Return the problem of a match that a wait was given, or ``""``."""
    if not isinstance(match, Mapping):
        return f"matches {match!r}"
    for path, value in cast("Any", match).items():
        if not is_path(path):
            return f"matches the path {path!r}"
        plain = value is None or isinstance(value, (str, bool, int, float))
        if not plain or (isinstance(value, float) and not math.isfinite(value)):
            return f"matches {path!r} with {value!r}"
        if is_too_large(value):
            return f"matches {path!r} with {value}, which JSON numbers cannot tell apart"
    return ""
