"""Everything of one app that works with its ledger, put together."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from celery_fanout.emitting.celery_results import CeleryResults
from celery_fanout.emitting.recording import Recorder, Schedule
from celery_fanout.exceptions import EmitError, InvalidEvent, StoreUnavailable
from celery_fanout.keeping.endings import Endings
from celery_fanout.keeping.keeper import Keeper
from celery_fanout.keeping.supervisor import Supervisor
from celery_fanout.keeping.wakeups import Wakeups
from celery_fanout.subscribing.admission import flow_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery import Celery

    from celery_fanout.emitting.emission import Emission
    from celery_fanout.emitting.publishing import Publisher
    from celery_fanout.model.events import Event
    from celery_fanout.model.settings import Settings
    from celery_fanout.operating.control import RunControl
    from celery_fanout.running.execution import Engine
    from celery_fanout.stores.ledger import Ledger
    from celery_fanout.stores.limits import Flow
    from celery_fanout.subscribing.registry import Registry

__all__ = ["Level2"]


class Level2:
    """The parts of one app that a ledger makes possible.

    Args:
        app: the Celery app.
        settings: its settings.
        registry: its subscriptions.
        publisher: publishes chains.
        ledger: the ledger.

    Attributes:
        publisher: publishes chains.
        ledger: the ledger.
        wakeups: publishes what is due.
        endings: sees to what follows from the end of a run.
        supervisor: tells the ledger what a worker's main process sees.
    """

    def __init__(
        self,
        app: Celery,
        settings: Settings,
        registry: Registry,
        publisher: Publisher,
        ledger: Ledger,
    ) -> None:
        self._app = app
        self._settings = settings
        self._registry = registry
        self.publisher = publisher
        self.ledger = ledger
        self.wakeups = Wakeups(app, ledger, registry, publisher, self._ended)
        results = None if publisher.ledger_results else CeleryResults(app, ledger)
        self._recorder = Recorder(publisher, ledger, self.wakeups.wake, results)
        self.endings = Endings(
            app, ledger, registry, lambda event: self.emit([event]), self.wakeups.wake, results
        )
        self.supervisor = Supervisor(ledger, self.wakeups.wake, self._ended)

    def engine(self, engine: Engine) -> Engine:
        """Return an engine that works with the ledger."""
        return replace(
            engine,
            ledger=self.ledger,
            wake=self.wakeups.wake,
            ended=self.endings.tell,
            flow=self._flow,
            cancels=self._cancels,
        )

    def _flow(self, subscription: str, event: Event) -> Flow | None:
        """Return the limits of a run that is recorded anew, as the ledger has lost it."""
        found = self._registry.find(subscription)
        try:
            flow = None if found is None else flow_of(found, event)
        except (
            InvalidEvent
        ):  # it was worked out when the event was emitted; the code is another now
            return None
        # what it is made of, and whether it is dropped, was decided then
        return flow and replace(flow, collect=None, once=None, rate_limit=None)

    def _cancels(self, subscription: str, event: Event) -> tuple[tuple[str, str], ...]:
        """Return which events cancel a run that is recorded anew."""
        found = self._registry.find(subscription)
        try:
            return () if found is None else found.cancels(event)
        except InvalidEvent:  # as above
            return ()

    def _ended(self, run_id: str) -> None:
        self.endings.tell(run_id)

    def emit(
        self,
        events: Sequence[Event],
        *,
        delay: float | None = None,
        expires: float | None = None,
        then: str = "",
    ) -> list[Emission]:
        """Record and publish events.

        Args:
            events: the events, already validated.
            delay: seconds before their runs start.
            expires: seconds within which their runs must have started.
            then: JSON of the signature that gets the outcome of all runs of an event.

        Raises:
            EmitError: if the ledger does not answer.
        """
        now = 0.0 if delay is None and expires is None else self._now(events)
        schedule = Schedule(
            resume_at=None if delay is None else now + delay,
            expires_at=None if expires is None else now + expires,
            then=then,
        )
        return self._recorder.emit(events, schedule)

    def _now(self, events: Sequence[Event]) -> float:
        try:
            return self.ledger.time()
        except StoreUnavailable as exc:
            first, *others = [event.id for event in events]
            raise EmitError(
                events[0].name, first, {}, f"{exc.store}: {exc.reason}", others
            ) from exc

    @cached_property
    def control(self) -> RunControl:
        """To list, show, cancel, retry, replay and rerun runs."""
        from celery_fanout.operating.control import RunControl

        return RunControl(self.ledger, self._registry, self.wakeups.wake)

    def keeper(
        self,
        *,
        boot: str = "",
        held: Callable[[], Sequence[str]] = list,
        lost: Callable[[], Sequence[tuple[str, float]]] = list,
        redrive: bool | None = None,
    ) -> Keeper:
        """Return a keeper of this ledger; see there for its arguments."""
        return Keeper(
            self.ledger,
            self.wakeups.publish,
            self._ended,
            boot=boot,
            held=held,
            lost=lost,
            redrive=self._settings.keeper if redrive is None else redrive,
        )
