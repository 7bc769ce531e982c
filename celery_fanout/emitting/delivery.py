"""Events that are on their way out of ``emit``: what is to be published, and who says when.

By default that is at once. A web framework with transactions may put itself in between
(:data:`deliverers`), keep what it is handed, and publish it later, or have another process do so.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, TypeVar

from celery_fanout.exceptions import DeliveryUnsupported
from celery_fanout.model.tracing import continued

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from celery_fanout.emitting.emission import Emission
    from celery_fanout.model.events import Event

__all__ = ["Deliverer", "Publication", "Publishing", "deliver", "deliver_in_thread", "deliverers"]

T = TypeVar("T")


class Publishing(Protocol):
    """What publishes the events of one app: its :class:`~celery_fanout.app.fanout.Fanout`."""

    app: Celery

    @property
    def in_test(self) -> bool:
        """Whether a test records what is emitted, in place of publishing it."""
        ...

    def check(self, publication: Publication) -> None:
        """Raise what publishing would raise that does not depend on when it happens."""
        ...

    def publish(self, publication: Publication) -> list[Emission]:
        """Publish events that were checked before, at once."""
        ...


@dataclass(frozen=True)
class Publication:
    """Checked events, and all that publishing them takes. Nothing was sent or stored yet.

    It is a snapshot: what the caller changes afterwards changes nothing here.

    Attributes:
        fanout: what publishes.
        events: the events.
        delay: seconds, from the emit on, before their runs start; ``None``: none.
        expires: seconds, from the emit on, within which they must have started; ``None``: whenever.
        then: the signature that gets the outcome of all runs, as JSON; ``""``: none. One event
            only.
        trace: the trace to publish them in, see :mod:`celery_fanout.model.tracing`; ``""``: the
            one that is current then.
        emitted: the POSIX time of the emit.
    """

    fanout: Publishing
    events: list[Event]
    delay: float | None = None
    expires: float | None = None
    then: str = ""
    trace: str = ""
    emitted: float = field(default_factory=time.time)

    def check(self) -> None:
        """Raise now what :meth:`publish` would raise later, as far as that is known.

        Raises:
            InvalidEvent: if the broker could not carry one of the events.
            RegistrationError: if a subscription is wrong.
            StoreUnsupported: if a subscription needs a ledger, and there is none.
        """
        self.fanout.check(self)

    def publish(self, passed: float = 0.0) -> list[Emission]:
        """Publish the events, now. To repeat it is safe: ids stay the same.

        Args:
            passed: how many seconds ago they were emitted.

        Raises:
            EmitError: if publishing was cut short, or the ledger did not answer.
        """
        found = self
        if passed:
            delay, expires = (
                None if seconds is None else max(0.0, seconds - passed)
                for seconds in (self.delay, self.expires)
            )
            found = replace(self, delay=delay, expires=expires)
        with continued(self.trace):
            return self.fanout.publish(found)


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

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Call a function of synchronous code in the thread where transactions are."""
        ...

    def watch(self, fanout: Publishing) -> Callable[[bool], None]:
        """For tests: note what begins to wait for a commit from now on.

        Returns:
            A function that publishes what still waits, as if the transactions that are under way
            now committed: ``True``: all of it; ``False``: without what is in a transaction that
            was begun since. What was rolled back waits no more.
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


async def deliver_in_thread(call: Callable[[], T]) -> T:
    """Call a function that delivers, from a coroutine, in a thread."""
    if deliverers:
        return await deliverers[-1].in_thread(call)
    import asyncio  # costs as much as all the rest of this package

    return await asyncio.to_thread(call)
