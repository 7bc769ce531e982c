"""Recording: events and their runs go to the ledger, before the broker has a message.

Where broker and ledger are the same Redis database, one script records them and publishes their
messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from celery_fanout.exceptions import EmitError, ReplayContended, StoreUnavailable
from celery_fanout.model.ids import child_id, place_in
from celery_fanout.model.jsondata import encode
from celery_fanout.stores.generations import record_generation
from celery_fanout.stores.records import NewEvent, NewRun

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_fanout.emitting.broker.prepared import Prepared, Preparer, PreparerPool
    from celery_fanout.emitting.chains import FrozenChain, FrozenEvent
    from celery_fanout.emitting.freezing import Freezer
    from celery_fanout.model.events import Event
    from celery_fanout.stores.ledger import Ledger
    from celery_fanout.stores.records import Recorded


@dataclass(frozen=True)
class Schedule:
    """When an emission's runs start, what follows them, and the trace that they belong to.

    Attributes:
        resume_at: POSIX time before which they do not start.
        expires_at: POSIX time by which they must have started.
        then: JSON of the signature that gets the outcome of all of them.
        trace: headers of the trace that the events are emitted in, as JSON; ``""``: none.
    """

    resume_at: float | None = None
    expires_at: float | None = None
    then: str = ""
    trace: str = ""


@dataclass(eq=False, repr=False)
class Recorder:
    """Records frozen events in the ledger.

    Args:
        ledger: the ledger.
        freezer: makes the chains of another generation.
        preparers: make messages for the ledger to publish.
    """

    _ledger: Ledger
    _freezer: Freezer
    _preparers: PreparerPool

    def record(self, frozen: Sequence[FrozenEvent], schedule: Schedule) -> list[Recorded]:
        """Record events; afterwards their chains are those of the runs that the ledger has.

        Args:
            frozen: the events.
            schedule: when their runs start.

        Raises:
            EmitError: if the ledger did not answer, so that it is not known what it has.
        """
        try:
            with self._preparers.acquire() as lent:
                preparer = lent if schedule.resume_at is None else None
                recorded = self._ledger.record(
                    [self._new_event(each, schedule, preparer, 0) for each in frozen]
                )
                for index, (each, answer) in enumerate(zip(frozen, recorded, strict=True)):
                    if answer.status == "generation":
                        # an id that was used before, when its event was another one
                        again = partial(self._again, each, schedule, preparer)
                        _, recorded[index] = record_generation(
                            self._ledger, again, answer.generation
                        )
                    self._follow(each, recorded[index])
        except (StoreUnavailable, ReplayContended) as exc:
            chains = [chain for each in frozen for chain in each.chains]
            raise not_recorded([each.event for each in frozen], chains, exc) from exc
        return recorded

    def _again(
        self,
        frozen: FrozenEvent,
        schedule: Schedule,
        preparer: Preparer | None,
        generation: int,
    ) -> NewEvent:
        self._freezer.freeze_again(frozen, generation, frozen.place)
        return self._new_event(frozen, schedule, preparer, generation)

    def _new_event(
        self,
        frozen: FrozenEvent,
        schedule: Schedule,
        preparer: Preparer | None,
        generation: int,
    ) -> NewEvent:
        """Return what the ledger is told of an event."""
        prepared = None
        if preparer is not None and frozen.chains:
            prepared = preparer.prepare(frozen.chains)
        then_id = ""
        if schedule.then:
            then_id = child_id(frozen.key, "then", generation, place=frozen.place)
        event = frozen.event
        return NewEvent(
            key=frozen.key,
            name=event.name,
            attributes=encode(event.attributes()),
            data=encode(event.data),
            runs=[self._new_run(chain, prepared) for chain in frozen.chains],
            generation=generation,
            resume_at=schedule.resume_at,
            expires_at=schedule.expires_at,
            then_id=then_id,
            then_message=schedule.then,
            messages={} if prepared is None else prepared.messages,
            trace=schedule.trace,
        )

    def _new_run(self, chain: FrozenChain, prepared: Prepared | None) -> NewRun:
        subscription = chain.subscription
        return NewRun(
            id=chain.run_id,
            subscription=subscription.id,
            queue=self._freezer.queue_of(subscription),
            cancel_on=subscription.cancels(chain.event) if subscription.cancel_on else (),
            flow=chain.flow,
            envelope=None if prepared is None else prepared.envelopes.get(chain.run_id),
        )

    def _follow(self, frozen: FrozenEvent, recorded: Recorded) -> None:
        """Make the chains of an event those of the runs that the ledger has."""
        if recorded.status != "repeat":
            for chain, (run_id, _) in zip(frozen.chains, recorded.runs, strict=True):
                if run_id != chain.run_id:  # the event has joined a run that collects
                    chain.become(run_id)
            return
        first = {run_id for run_id, _ in recorded.runs}
        # recorded while the ledger had another number of shards, perhaps
        place = place_in(recorded.runs[0][0]) if recorded.runs else None
        if recorded.generation or place != frozen.place:
            self._freezer.freeze_again(frozen, recorded.generation, place)
        others = first - {chain.run_id for chain in frozen.chains}
        if others:
            self._join_again(frozen.chains, others)
        frozen.chains = [chain for chain in frozen.chains if chain.run_id in first]

    def _join_again(self, chains: Sequence[FrozenChain], others: set[str]) -> None:
        """Give chains the ids of the runs that collected their event at its first emit."""
        collecting = {
            chain.subscription.id: chain
            for chain in chains
            if chain.flow is not None and chain.flow.collect is not None
        }
        for run_id in others if collecting else ():
            run = self._ledger.run(run_id)
            chain = None if run is None else collecting.get(run.subscription)
            if chain is not None:
                chain.become(run_id)


def not_recorded(
    events: Sequence[Event],
    chains: Sequence[FrozenChain],
    exc: StoreUnavailable | ReplayContended,
) -> EmitError:
    """Return what tells the caller of ``emit()`` that it is not known what the ledger has."""
    first, *others = events
    states = {chain.run_id: "unknown" for chain in chains}
    reason = f"{exc.store}: {exc.reason}" if isinstance(exc, StoreUnavailable) else str(exc)
    return EmitError(first.name, first.id, states, reason, [event.id for event in others])
