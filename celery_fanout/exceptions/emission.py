"""Errors of events and of emitting them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.exceptions import TimeoutError as CeleryTimeoutError

from celery_fanout.exceptions.root import FanoutError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class InvalidEvent(FanoutError, ValueError):
    """An event that cannot be emitted or read. Nothing was published.

    Args:
        name: the event's name.
        problem: what is wrong.
        remedy: what to change.
    """

    def __init__(self, name: str, problem: str, remedy: str) -> None:
        super().__init__(name, problem, remedy)
        self.name = name
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"The event {self.name!r} {self.problem}. {self.remedy}"


class InvalidEventName(InvalidEvent):
    """A name outside ``^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$``.

    Args:
        name: the name as given.
    """

    def __init__(self, name: str) -> None:
        super().__init__(
            name,
            "has no valid name",
            "A name has 1 to 200 characters, starts with a letter or digit, and goes on with "
            "letters, digits, '.', '_', '/' and '-'.",
        )
        self.args = (name,)


class InvalidEventData(InvalidEvent):
    """Data that JSON cannot carry, or that does not fit the event's type.

    Args:
        name: the event's name.
        path: where in the data, such as ``data['a'][0]``.
        problem: what stands there.
        remedy: what to do instead.
    """

    def __init__(self, name: str, path: str, problem: str, remedy: str) -> None:
        super().__init__(name, f"cannot carry {path}: {problem}", remedy)
        self.args = (name, path, problem, remedy)
        self.path = path


class EventTooLarge(InvalidEvent):
    """The event's data is larger than ``fanout_max_event_size``.

    Args:
        name: the event's name.
        size: the size of the data as JSON, in bytes.
        limit: the limit, in bytes.
    """

    def __init__(self, name: str, size: int, limit: int) -> None:
        super().__init__(
            name,
            f"has {size:,} bytes of data and fanout_max_event_size allows {limit:,}",
            "Store the data elsewhere and emit a reference to it, or raise the setting.",
        )
        self.args = (name, size, limit)
        self.size = size
        self.limit = limit


class EmitError(FanoutError):
    """Publishing was cut short.

    The same call with ``id=`` set to :attr:`event_id` is safe to repeat: it gives the same run
    ids, and a step whose result was stored does not run again.

    Args:
        name: the event's name.
        event_id: the event's id.
        states: for each run id of the call ``"published"``, ``"unknown"`` (it was handed to the
            broker, and the answer was lost) or ``"unpublished"``.
        reason: the broker's error.
        others: ids of other events of the same ``emit_many`` that are not published either.
    """

    def __init__(
        self,
        name: str,
        event_id: str,
        states: Mapping[str, str],
        reason: str,
        others: Sequence[str] = (),
    ) -> None:
        super().__init__(name, event_id, dict(states), reason, list(others))
        self.others = list(others)
        self.name = name
        self.event_id = event_id
        self.states = dict(states)
        self.reason = reason

    def _ids(self, state: str) -> list[str]:
        return [run for run, found in self.states.items() if found == state]

    @property
    def published(self) -> list[str]:
        """Ids of the runs that the broker is known to have."""
        return self._ids("published")

    @property
    def unknown(self) -> list[str]:
        """Ids of the runs that the broker may or may not have."""
        return self._ids("unknown")

    @property
    def unpublished(self) -> list[str]:
        """Ids of the runs that the broker is known not to have."""
        return self._ids("unpublished")

    def __str__(self) -> str:
        more = f" So it is with {len(self.others)} more: see others." if self.others else ""
        return (
            f"The event {self.name!r} was not published to all its subscribers: "
            f"{len(self.published)} published, {len(self.unknown)} unknown, "
            f"{len(self.unpublished)} unpublished ({self.reason}). "
            f"Emit it again with id={self.event_id!r}: that is safe.{more}"
        )


class EmissionTimeout(FanoutError, CeleryTimeoutError):
    """``Emission.get()`` ran out of time.

    Args:
        name: the event's name.
        event_id: the event's id.
        timeout: the time given, in seconds.
        pending: ids of the subscriptions without an outcome.

    Attributes:
        outcomes: the outcomes of the other subscriptions.
    """

    def __init__(self, name: str, event_id: str, timeout: float, pending: Sequence[str]) -> None:
        super().__init__(name, event_id, timeout, list(pending))
        self.name = name
        self.event_id = event_id
        self.timeout = timeout
        self.pending = list(pending)
        self.outcomes: list[Any] = []

    def __str__(self) -> str:
        return (
            f"The event {self.name!r} ({self.event_id}) had no outcome after {self.timeout:g} s "
            f"from: {', '.join(self.pending)}. Wait longer, or look whether a worker serves their "
            "queues."
        )


class DeliveryUnsupported(FanoutError):
    """An event was to wait for a transaction, and nothing here knows of transactions.

    Args:
        name: the event's name.
        wanted: what was asked for.
    """

    def __init__(self, name: str, wanted: str) -> None:
        super().__init__(name, wanted)
        self.name = name
        self.wanted = wanted

    def __str__(self) -> str:
        return (
            f"The event {self.name!r} was emitted with {self.wanted}, which needs Django. Put "
            '"celery_fanout.contrib.django" into INSTALLED_APPS, and call django.setup() first.'
        )


class NotPublishedYet(FanoutError):
    """The runs of an emission were asked for before it was published.

    Args:
        name: the event's name.
        event_id: the event's id.
    """

    def __init__(self, name: str, event_id: str) -> None:
        super().__init__(name, event_id)
        self.name = name
        self.event_id = event_id

    def __str__(self) -> str:
        return (
            f"The event {self.name!r} ({self.event_id}) is not published yet: that happens when "
            "its transaction commits, or from the outbox. Wait for its runs after that, and where "
            "it was in the outbox look for them by the event's id."
        )
