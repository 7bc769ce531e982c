"""``CancelOn``: an event that cancels the runs of a subscription."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from celery_fanout.exceptions import InvalidSubscription
from celery_fanout.model.data_paths import MISSING, is_path, is_too_large, look_up
from celery_fanout.model.events import check_name
from celery_fanout.model.jsondata import encode


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
        match: Any = self.match  # not everybody runs a type checker
        if match is None:
            pairs: list[tuple[Any, Any]] = []
        elif isinstance(match, Mapping):
            pairs = list(cast("Any", match).items())
        else:
            pairs = [(match, match)]
        for pair in pairs:
            for path in pair:
                if not is_path(path):
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
            if value is MISSING or isinstance(value, (dict, list)) or is_too_large(value):
                return None
            wanted[theirs] = value
        return encode(wanted)
