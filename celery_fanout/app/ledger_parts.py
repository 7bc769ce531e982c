"""Everything of one app that works with its ledger, put together."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celery_fanout.emitting.celery_results import CeleryResults
from celery_fanout.emitting.delivery import Draft
from celery_fanout.emitting.emitters import LedgerEmitter
from celery_fanout.emitting.recording import Recorder
from celery_fanout.exceptions import InvalidEvent
from celery_fanout.keeping.follow_ups import FollowUps
from celery_fanout.keeping.keeper import Keeper
from celery_fanout.keeping.supervisor import Supervisor
from celery_fanout.keeping.wakeups import Wakeups
from celery_fanout.subscribing.admission import flow_of

if TYPE_CHECKING:
    from celery_fanout.emitting.delivery import Emitter, Owner
    from celery_fanout.emitting.emitters import EagerEmitter
    from celery_fanout.emitting.freezing import Freezer
    from celery_fanout.emitting.publishing import Publisher
    from celery_fanout.model.events import Event
    from celery_fanout.operating.control import RunControl
    from celery_fanout.operating.limits import LimitControl
    from celery_fanout.running.execution import Engine
    from celery_fanout.stores.ledger import Ledger
    from celery_fanout.stores.limits import Flow


class Level2:
    """The parts of one app that a ledger makes possible.

    Args:
        owner: the app's parts.
        ledger: the ledger.
        freezer: makes chains.
        publisher: publishes them.
        eager: emits where ``task_always_eager`` is set; ``None``: that is not looked at.

    Attributes:
        ledger: the ledger.
        freezer: makes chains.
        publisher: publishes them.
        emitter: records and publishes events.
        wakeups: publishes what is due.
        follow_ups: records what follows from the end of a run.
        supervisor: tells the ledger what a worker's main process sees.
    """

    def __init__(
        self,
        owner: Owner,
        ledger: Ledger,
        freezer: Freezer,
        publisher: Publisher,
        eager: EagerEmitter | None = None,
    ) -> None:
        app = owner.app
        self._owner = owner
        self._registry = owner.registry
        self.ledger = ledger
        self.freezer = freezer
        self.publisher = publisher
        self.wakeups = Wakeups(app, ledger, owner.registry, freezer, publisher, self._follow_up)
        results = None if freezer.ledger_results else CeleryResults(app, ledger)
        recorder = Recorder(ledger, freezer, publisher.preparers)
        self.emitter: Emitter = LedgerEmitter(
            app, ledger, freezer, recorder, publisher, self.wakeups.wake, results, eager
        )
        self.follow_ups = FollowUps(
            app, ledger, owner.registry, self._emit_ending, self.wakeups.wake, results
        )
        self.supervisor = Supervisor(ledger, self.wakeups.wake, self._follow_up)

    def queues(self) -> set[str]:
        """Return the names of the queues that runs may go to, as far as this process knows."""
        return self.freezer.queues()

    def engine(self, engine: Engine) -> Engine:
        """Return an engine that works with the ledger."""
        return replace(
            engine,
            ledger=self.ledger,
            wake=self.wakeups.wake,
            follow_up=self.follow_ups.record,
            flow=self._flow,
            cancels=self._cancels,
        )

    def _flow(self, subscription_id: str, event: Event) -> Flow | None:
        """Return the limits of a run that is recorded anew, as the ledger has lost it."""
        subscription = self._registry.find(subscription_id)
        try:
            flow = None if subscription is None else flow_of(subscription, event)
        except InvalidEvent:  # known when the event was emitted; the code is another now
            return None
        # what it is made of, and whether it is dropped, was decided then
        return flow and replace(flow, collect=None, once=None, rate_limit=None)

    def _cancels(self, subscription_id: str, event: Event) -> tuple[tuple[str, str], ...]:
        """Return which events cancel a run that is recorded anew."""
        subscription = self._registry.find(subscription_id)
        try:
            return () if subscription is None else subscription.cancels(event)
        except InvalidEvent:  # as above
            return ()

    def _follow_up(self, run_id: str) -> None:
        self.follow_ups.record(run_id)

    def _emit_ending(self, event: Event) -> None:
        self.emitter.emit(Draft(self._owner, [event]))

    @cached_property
    def control(self) -> RunControl:
        """To list, show, cancel, retry, replay and rerun runs."""
        from celery_fanout.operating.control import RunControl

        return RunControl(self.ledger, self._registry, self.wakeups.wake)

    @cached_property
    def limits(self) -> LimitControl:
        """To list the limits of flow control, and to change their numbers."""
        from celery_fanout.operating.limits import LimitControl

        return LimitControl(self.ledger, self._registry)

    def keeper(self, *, redrive: bool | None = None, **options: Any) -> Keeper:
        """Return a keeper of this ledger.

        Args:
            redrive: see there; by default what ``fanout_keeper`` says.
            **options: see there.
        """
        if redrive is None:
            redrive = self._owner.settings.keeper
        return Keeper(
            self.ledger, self.wakeups.publish, self._follow_up, redrive=redrive, **options
        )
