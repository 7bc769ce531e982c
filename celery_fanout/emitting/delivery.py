"""Delivery: drafts are emitted at once, or when a framework with transactions says so.

Such a framework installs a deliverer of its own (:data:`installed`), which may keep a draft and
emit it later, or have another process do so.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from celery_fanout.exceptions import DeliveryUnsupported
from celery_fanout.model.tracing import continued

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from celery_fanout.emitting.emission import Emission
    from celery_fanout.emitting.freezing import Admissions, Freezer
    from celery_fanout.model.events import Event
    from celery_fanout.model.settings import Settings
    from celery_fanout.subscribing.registry import Registry

T = TypeVar("T")


class Emitter(Protocol):
    """What emits drafts: to the broker, to the ledger, or for a test to look at."""

    @property
    def in_test(self) -> bool:
        """Whether it is a test's, which keeps what is emitted."""
        ...

    def emit(self, draft: Draft) -> list[Emission]:
        """Emit a draft now.

        Raises:
            EmitError: if publishing was cut short, or the ledger did not answer.
            RegistrationError: if a subscription is wrong. Nothing was published.
        """
        ...


class Owner(Protocol):
    """Whose drafts they are: the :class:`~celery_fanout.app.fanout.Fanout` of an app."""

    app: Celery
    registry: Registry

    @property
    def settings(self) -> Settings:
        """The app's settings."""
        ...

    @property
    def emitter(self) -> Emitter:
        """What emits now; a test may put another in its place."""
        ...

    @property
    def freezer(self) -> Freezer:
        """What makes the chains of events."""
        ...

    def load_to_emit(self) -> None:
        """Import the app's task modules, once; without them nobody would get an event."""
        ...


@dataclass(frozen=True)
class Draft:
    """Checked events, and all that emitting them takes. Nothing was sent or stored yet.

    It is a snapshot: what the caller changes afterwards changes nothing here.

    Attributes:
        fanout: whose events they are.
        events: the events.
        delay: seconds, from the emit on, before their runs start; ``None``: none.
        expires: seconds, from the emit on, within which they must have started; ``None``: whenever.
        then: the signature that gets the outcome of all runs, as JSON; ``""``: none. One event
            only.
        trace: the trace to emit them in, see :mod:`celery_fanout.model.tracing`; ``""``: the one
            that is current then.
        emitted: the POSIX time of the emit.
        admissions: what flow control has said so far: the user's functions are called once.
    """

    fanout: Owner
    events: list[Event]
    delay: float | None = None
    expires: float | None = None
    then: str = ""
    trace: str = ""
    emitted: float = field(default_factory=time.time)
    admissions: Admissions = field(default_factory=dict[Any, Any], compare=False, repr=False)

    def check(self) -> None:
        """Raise now what :meth:`emit` would raise later, as far as that is known.

        Raises:
            InvalidEvent: if the broker could not carry one of the events.
            RegistrationError: if a subscription is wrong.
            StoreUnsupported: if a subscription needs a ledger, and there is none.
        """
        self.fanout.freezer.check(self.events, self.admissions)

    def emit(self, passed: float = 0.0) -> list[Emission]:
        """Emit the events, now. To repeat it is safe: ids stay the same.

        Args:
            passed: how many seconds ago they were drafted.

        Raises:
            EmitError: if publishing was cut short, or the ledger did not answer.
            EmitWhileImporting: if the app's task modules are being imported.
        """
        self.fanout.load_to_emit()  # in a relay nothing else does
        draft = self
        if passed:
            delay, expires = (
                None if seconds is None else max(0.0, seconds - passed)
                for seconds in (self.delay, self.expires)
            )
            draft = replace(self, delay=delay, expires=expires)
        with continued(self.trace):
            return self.fanout.emitter.emit(draft)


class Deliverer:
    """Decides when a draft is emitted, for all apps of the process: here at once."""

    def deliver(self, draft: Draft, delivery: str | None, using: str | None) -> list[Emission]:
        """Emit a draft now, or see to it that it is emitted later.

        Args:
            draft: what to emit.
            delivery: ``"on_commit"``, ``"outbox"`` or ``"now"``; ``None``: as the settings say.
            using: the database whose transaction counts; ``None``: as the settings say.

        Raises:
            DeliveryUnsupported: if another delivery than ``"now"`` is asked for, and nothing that
                has transactions is installed.
        """
        if delivery not in (None, "now") or using is not None:
            wanted = f"using={using!r}" if delivery in (None, "now") else f"delivery={delivery!r}"
            raise DeliveryUnsupported(draft.events[0].name, wanted)
        return draft.fanout.emitter.emit(draft)

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Call a function of synchronous code in the thread where transactions are."""
        import asyncio  # costs as much as all the rest of this package

        return await asyncio.to_thread(call)

    def watch(self, fanout: Owner) -> Callable[[bool], None]:  # noqa: ARG002 - nothing waits here
        """For tests: note what begins to wait for a commit from now on.

        Returns:
            A function that emits what still waits, as if the transactions that are under way
            now committed: ``True``: all of it; ``False``: without what is in a transaction that
            was begun since. What was rolled back waits no more.
        """
        return lambda _: None


class Installed:
    """Who delivers, for all apps of the process.

    Attributes:
        deliverer: the framework's; without one everything is emitted at once.
    """

    def __init__(self) -> None:
        self.deliverer = Deliverer()


installed = Installed()
