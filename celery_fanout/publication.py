"""Events that are on their way out of ``emit``: what is to be published, and who says when.

By default that is at once. A web framework with transactions may put itself in between
(:data:`deliverers`), keep what it is handed, and publish it later, or have another process do so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from celery_fanout.exceptions import DeliveryUnsupported

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_fanout.emission import Emission
    from celery_fanout.events import Event

__all__ = ["Deliverer", "Publication", "deliver", "deliverers"]


@dataclass(frozen=True)
class Publication:
    """Checked events, and all that publishing them takes. Nothing was sent or stored yet.

    Attributes:
        events: the events.
        delay: seconds, from the emit on, before their runs start; ``None``: none.
        expires: seconds, from the emit on, within which they must have started; ``None``: whenever.
        then: the task or signature that gets the outcome of all runs; one event only.
        send: publishes; see :meth:`publish`.
    """

    events: list[Event]
    delay: float | None
    expires: float | None
    then: Any
    send: Callable[[Publication], list[Emission]]

    def publish(self, passed: float = 0.0) -> list[Emission]:
        """Publish the events, now. To repeat it is safe: ids stay the same.

        Args:
            passed: how many seconds ago they were emitted.

        Raises:
            EmitError: if publishing was cut short, or the ledger did not answer.
        """
        if not passed:
            return self.send(self)
        delay, expires = (
            None if seconds is None else max(0.0, seconds - passed)
            for seconds in (self.delay, self.expires)
        )
        return self.send(replace(self, delay=delay, expires=expires))


class Deliverer(Protocol):
    """Decides when a publication is published, for all apps of the process."""

    def __call__(
        self, publication: Publication, delivery: str | None, using: str | None
    ) -> list[Emission]:
        """Publish now, or see to it that it is published later.

        Args:
            publication: what to publish.
            delivery: ``"on_commit"``, ``"outbox"`` or ``"now"``; ``None``: as the settings say.
            using: the database whose transaction counts; ``None``: as the settings say.
        """
        ...


#: Who decides; the last one counts, and with none everything is published at once.
deliverers: list[Deliverer] = []


def deliver(publication: Publication, delivery: str | None, using: str | None) -> list[Emission]:
    """Publish events at once, or as the framework that is in charge of it says.

    Raises:
        DeliveryUnsupported: if there is none, and another delivery than ``"now"`` is asked for.
    """
    if deliverers:
        return deliverers[-1](publication, delivery, using)
    if delivery not in (None, "now") or using is not None:
        wanted = f"using={using!r}" if delivery in (None, "now") else f"delivery={delivery!r}"
        raise DeliveryUnsupported(publication.events[0].name, wanted)
    return publication.publish()
