"""From what a caller passes to ``emit`` to a checked :class:`~celery_fanout.Event`."""

from __future__ import annotations

import datetime as dt
import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from celery_fanout.exceptions import InvalidEvent
from celery_fanout.model.event_types import checked_data, model_of, name_of
from celery_fanout.model.events import EXTENSIONS, Event, check_name, parse_time

if TYPE_CHECKING:
    from celery_fanout.model.run import Run
    from celery_fanout.model.settings import Settings

#: The longest attribute of an event, in characters.
MAX_TEXT = 1000

#: What no attribute may contain: CloudEvents' type system (section "String") rules out control
#: characters; line separators and changes of direction forge lines of a log as well.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def draft_event(
    settings: Settings,
    event: str | BaseModel | Event,
    data: Any = None,
    *,
    id: str | None = None,
    subject: str | None = None,
    source: str | None = None,
    time: dt.datetime | str | None = None,
    cause: Run | None = None,
) -> Event:
    """Check what was passed to :func:`~celery_fanout.emit`, and return the event that it makes.

    Args:
        settings: the app's settings.
        event: an event name, a typed event, or an Event to pass on.
        data: the event's data.
        id: the event's id; a new one by default.
        subject: what the event is about.
        source: where it happened.
        time: when it happened.
        cause: the run that emits it, if one does.

    Raises:
        InvalidEvent: if it cannot be emitted.
    """
    if isinstance(event, Event):
        if any(value is not None for value in (data, id, subject, source, time)):
            raise InvalidEvent(
                event.name,
                "was given as an Event together with other attributes",
                "Put them into the Event, for example with dataclasses.replace().",
            )
        return _checked(event, settings, cause)
    if isinstance(event, BaseModel):
        name, schema = name_of(type(event))
        if data is not None:
            raise InvalidEvent(name, "was given data twice", "Emit the model alone.")
        data = event
    else:
        name = check_name(event)
        model = model_of(name)
        schema = name_of(model)[1] if model else None
    depth = _depth(name, settings, cause)
    drafted = Event(
        name=name,
        data=checked_data(name, data, settings.max_event_size),
        source=_text(name, "source", source) or settings.source,
        time=parse_time(name, time),
        subject=_text(name, "subject", subject),
        dataschema=schema,
        correlationid=(cause.event.correlationid or cause.event.id) if cause else None,
        causationid=cause.id if cause else None,
        depth=depth,
    )
    return drafted if id is None else replace(drafted, id=_text(name, "id", id))


def _depth(name: str, settings: Settings, cause: Run | None) -> int:
    """Return how many events lead to one that a run emits."""
    depth = 0 if cause is None else cause.event.depth + 1
    if depth > settings.max_depth:
        raise InvalidEvent(
            name,
            f"would be number {depth} in a chain of events that cause one another, and "
            f"fanout_max_depth is {settings.max_depth}",
            "Find the subscribers that emit what leads back to them, or raise the setting.",
        )
    return depth


def _checked(event: Event, settings: Settings, cause: Run | None) -> Event:
    name = check_name(event.name)
    depth = max(event.depth, _depth(name, settings, cause))
    for attribute in ("id", "source", "subject", "dataschema", *EXTENSIONS):
        value = getattr(event, attribute)
        if value is not None or attribute in ("id", "source"):
            _text(name, attribute, value or "")
    data = checked_data(name, event.data, settings.max_event_size)
    return replace(event, data=data, time=parse_time(name, event.time), depth=depth)


def _text(name: str, attribute: str, value: Any) -> Any:
    if value is None:
        return value
    remedy = "Use a text of 1 to 1,000 characters."
    if isinstance(value, str) and 0 < len(value) <= MAX_TEXT and _encodes(value):
        if not _CONTROL.search(value):
            return value
        remedy = "Leave out control characters, as CloudEvents asks: logs and terminals obey them."
    raise InvalidEvent(name, f"has the {attribute} {str(value)[:100]!r}", remedy)


def _encodes(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return True


def times_of(event: Any, delay: Any, expires: Any) -> tuple[float | None, float | None]:
    """Return a delay and an expiry in seconds.

    Raises:
        InvalidEvent: if one of them is no time, or its runs could never start.
    """
    # not all of a model, which would have its data in the text
    name = event[:100] if isinstance(event, str) else type(event).__name__
    delayed, expiring = _seconds(name, "delay", delay), _seconds(name, "expiry", expires)
    if expiring is not None and delayed is not None and expiring <= delayed:
        raise InvalidEvent(
            name,
            f"expires after {expiring:g} s, and is delayed for {delayed:g} s",
            "Both count from now: let it expire later.",
        )
    return delayed, expiring


def _seconds(name: str, what: str, time: Any) -> float | None:
    if time is None:
        return None
    try:
        seconds = time.total_seconds() if isinstance(time, dt.timedelta) else float(time)
    except (TypeError, ValueError):
        raise InvalidEvent(
            name, f"has the {what} {time!r}", "Use seconds or a timedelta."
        ) from None
    if not 0 <= seconds < math.inf:
        raise InvalidEvent(name, f"has the {what} {seconds}", "Use seconds, 0 or more.")
    return seconds
