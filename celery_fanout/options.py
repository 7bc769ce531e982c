"""Value objects for the options of a subscription: frozen, and validated where they are written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from celery_fanout.events import check_name
from celery_fanout.exceptions import InvalidSubscription
from celery_fanout.jsondata import encode

__all__ = ["CancelOn", "check_match", "look_up"]

#: The largest whole number that a match can tell apart from its neighbours: JSON numbers are
#: compared as doubles.
MAX_NUMBER = 2**53 - 1


@dataclass(frozen=True)
class CancelOn:
    """An event that cancels a run which has not ended.

    Args:
        event: the event's name; no pattern.
        match: which of these events: a dotted path, such as ``"document.id"``, at which both
            events' data must have the same value; or a mapping from a path in the cancelling
            event's data to a path in the data of the event that the run handles. Any by default.

    Raises:
        InvalidEventName: if ``event`` is no name.
        InvalidSubscription: if ``match`` is neither.
    """

    event: str
    match: str | Mapping[str, str] | None = None
    _pairs: tuple[tuple[str, str], ...] = field(init=False, repr=False, default=())

    def __post_init__(self) -> None:
        check_name(self.event)
        given: Any = self.match  # not everybody runs a type checker
        if given is None:
            pairs: list[tuple[Any, Any]] = []
        elif isinstance(given, str):
            pairs = [(given, given)]
        elif isinstance(given, Mapping):
            pairs = list(cast("Any", given).items())
        else:
            pairs = [(given, given)]
        for pair in pairs:
            for path in pair:
                if not isinstance(path, str) or not all(path.split(".")):
                    raise InvalidSubscription(
                        f"cancel_on {self.event!r}",
                        f"cannot match {path!r}",
                        "Use dotted paths into the data, such as 'document.id'.",
                    )
        object.__setattr__(self, "_pairs", tuple(pairs))

    def match_for(self, data: Any) -> str | None:
        """Return what the cancelling event must match for a run with this data, as JSON.

        ``None`` if the data lacks a value to match, or has a number there that cannot be told
        apart from its neighbours, so that no event can.
        """
        wanted: dict[str, Any] = {}
        for theirs, ours in self._pairs:
            value = look_up(data, ours)
            if value is _MISSING or isinstance(value, (dict, list)) or _is_blurred(value):
                return None
            wanted[theirs] = value
        return encode(wanted)


_MISSING = object()


def look_up(data: Any, path: str) -> Any:
    """Return the value at a dotted path; a marker if there is none."""
    for part in path.split("."):
        if isinstance(data, Mapping):
            data = data.get(part, _MISSING)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        elif isinstance(data, list) and part.isdecimal() and int(part) < len(data):  # pyright: ignore[reportUnknownArgumentType]
            data = data[int(part)]  # pyright: ignore[reportUnknownVariableType]
        else:
            return _MISSING
    return data  # pyright: ignore[reportUnknownVariableType]


def _is_blurred(value: Any) -> bool:
    return isinstance(value, int) and abs(value) > MAX_NUMBER


def check_match(match: Any) -> str:
    """Return the problem of a match that a wait was given, or ``""``."""
    if not isinstance(match, Mapping):
        return f"matches {match!r}"
    for path, value in cast("Any", match).items():
        if not isinstance(path, str) or not all(path.split(".")):
            return f"matches the path {path!r}"
        plain = value is None or isinstance(value, (str, bool, int, float))
        if not plain or (isinstance(value, float) and not math.isfinite(value)):
            return f"matches {path!r} with {value!r}"
        if _is_blurred(value):
            return f"matches {path!r} with {value}, which JSON numbers cannot tell apart"
    return ""
