"""``emit()`` on level 2, as a list of verbs: match, record, publish, mark, wake.

The ledger has the event and its runs before the broker has a message. So publishing may fail: the
keeper publishes later what is pending. Where broker and ledger are the same Redis database, one
script does both.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_fanout.exceptions import EmitError, StoreUnavailable
from celery_fanout.model.failpoints import hit
from celery_fanout.model.ids import child_id, event_key, place_in, place_of
from celery_fanout.model.jsondata import encode
from celery_fanout.model.tracing import current_trace
from celery_fanout.stores.ledger import NewEvent, NewRun
from celery_fanout.stores.states import RunState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from celery_fanout.emitting.broker.prepared import Sealing
    from celery_fanout.emitting.celery_results import CeleryResults
    from celery_fanout.emitting.chains import FrozenChain
    from celery_fanout.emitting.emission import Emission
    from celery_fanout.emitting.publishing import Delivery, Publisher
    from celery_fanout.model.events import Event
    from celery_fanout.stores.ledger import Ledger, Recorded

__all__ = ["Recorder", "Schedule"]

# not Celery's get_logger: its loggers say nothing in a process that has no logging set up
logger = logging.getLogger(__name__)

#: How often an event is recorded anew because another generation of it was begun meanwhile.
GENERATIONS = 5


@dataclass(frozen=True)
class Schedule:
    """When an emission's runs start, and what follows them.

    Attributes:
        resume_at: POSIX time before which they do not start.
        expires_at: POSIX time by which they must have started.
        then: JSON of the signature that gets the outcome of all of them.
    """

    resume_at: float | None = None
    expires_at: float | None = None
    then: str = ""


class Recorder:
    """Records events in the ledger, and has them published.

    Args:
        publisher: freezes, publishes and reports.
        ledger: the ledger.
        wake: publishes runs that are due now; best effort.
        results: tells Celery's result backend, if that has the results of runs.
    """

    def __init__(
        self,
        publisher: Publisher,
        ledger: Ledger,
        wake: Callable[[Sequence[str]], None],
        results: CeleryResults | None = None,
    ) -> None:
        self._publisher = publisher
        self._ledger = ledger
        self._wake = wake
        self._results = results

    def emit(self, events: Sequence[Event], schedule: Schedule) -> list[Emission]:
        """Record events, and publish their runs.

        Raises:
            RegistrationError: if a subscription is wrong. Nothing was recorded.
            EmitError: if the ledger did not answer, so that it is not known what it has.
        """
        hit("emit.before_record")
        by_event = [self._publisher.freeze(event, 0, self._place(event)) for event in events]
        with self._publisher.sealing() as seal:
            sealed = None if schedule.resume_at is not None else seal
            recorded = self._record(events, by_event, schedule, sealed)
        hit("emit.after_record")
        woken = [run_id for found in recorded for run_id in found.woken]
        woken += self._publish(recorded, by_event, schedule)
        if woken:
            self._wake(list(dict.fromkeys(woken)))
        deliveries = [delivery for found in by_event for delivery in found]
        if self._results is not None:
            self._tell_dropped(self._results, recorded, deliveries)
        return self._publisher.report(events, deliveries, {})

    def _tell_dropped(
        self, results: CeleryResults, recorded: list[Recorded], deliveries: list[Delivery]
    ) -> None:
        dropped = {
            run_id
            for found in recorded
            for run_id, state in found.runs
            if state is RunState.CANCELLED
        }
        chains = [d.chain for d in deliveries if d.chain.run_id in dropped]
        if chains:
            results.dropped(chains)

    def _record(
        self,
        events: Sequence[Event],
        by_event: list[list[Delivery]],
        schedule: Schedule,
        seal: Sealing | None,
    ) -> list[Recorded]:
        try:
            drafts = [
                self._draft(event, deliveries, schedule, 0, seal)
                for event, deliveries in zip(events, by_event, strict=True)
            ]
            found = self._ledger.record(drafts)
            for index, recorded in enumerate(found):
                # an id that was used before, when its event was another one
                for _ in range(GENERATIONS):
                    if recorded.status != "generation":
                        break
                    number = recorded.generation
                    place = self._place(events[index])
                    by_event[index] = self._publisher.freeze(events[index], number, place)
                    again = self._draft(events[index], by_event[index], schedule, number, seal)
                    recorded = self._ledger.record([again])[0]  # noqa: PLW2901
                found[index] = self._same_runs(events[index], by_event, index, recorded)
        except StoreUnavailable as exc:
            states = {d.chain.run_id: "unknown" for found in by_event for d in found}
            others = [event.id for event in events[1:]]
            raise EmitError(
                events[0].name, events[0].id, states, f"{exc.store}: {exc.reason}", others
            ) from exc
        return found

    def _same_runs(
        self, event: Event, by_event: list[list[Delivery]], index: int, recorded: Recorded
    ) -> Recorded:
        """Make the deliveries of a repeated event those that were recorded first."""
        if recorded.status != "repeat":
            for delivery, (run_id, _) in zip(by_event[index], recorded.runs, strict=True):
                if run_id != delivery.chain.run_id:  # the event has joined a run that collects
                    delivery.chain.become(run_id)
            return recorded
        first = {run_id for run_id, _ in recorded.runs}
        # recorded while the ledger had another number of shards, perhaps
        place = place_in(recorded.runs[0][0]) if recorded.runs else None
        if recorded.generation or place != self._place(event):
            by_event[index] = self._publisher.freeze(event, recorded.generation, place)
        others = first - {d.chain.run_id for d in by_event[index]}
        if others:
            self._join_again(by_event[index], others)
        by_event[index] = [d for d in by_event[index] if d.chain.run_id in first]
        return recorded

    def _join_again(self, deliveries: Sequence[Delivery], others: set[str]) -> None:
        """Give deliveries the ids of the runs that collected their event at its first emit."""
        collecting = {
            d.chain.subscription.id: d.chain
            for d in deliveries
            if d.chain.flow is not None and d.chain.flow.collect is not None
        }
        for run_id in others if collecting else ():
            run = self._ledger.run(run_id)
            chain = None if run is None else collecting.get(run.subscription)
            if chain is not None:
                chain.become(run_id)

    def _draft(
        self,
        event: Event,
        deliveries: list[Delivery],
        schedule: Schedule,
        generation: int,
        seal: Sealing | None,
    ) -> NewEvent:
        key = event_key(event.name, event.id)
        sealed = None
        if seal is not None and deliveries:
            sealed = seal([delivery.chain for delivery in deliveries])
        envelopes: Mapping[str, tuple[str, str]] = {} if sealed is None else sealed.envelopes
        then_id = ""
        if schedule.then:
            then_id = child_id(key, "then", generation, place=place_of(key, self._ledger.shards))
        return NewEvent(
            key=key,
            name=event.name,
            attributes=encode(event.attributes()),
            data=encode(event.data),
            runs=[self._run(event, delivery.chain, envelopes) for delivery in deliveries],
            generation=generation,
            resume_at=schedule.resume_at,
            expires_at=schedule.expires_at,
            then_id=then_id,
            then_message=schedule.then,
            messages={} if sealed is None else sealed.messages,
            trace=current_trace(),
        )

    def _place(self, event: Event) -> int | None:
        shards = self._ledger.shards
        return None if shards == 1 else place_of(event_key(event.name, event.id), shards)

    def _run(
        self, event: Event, chain: FrozenChain, envelopes: Mapping[str, tuple[str, str]]
    ) -> NewRun:
        sub = chain.subscription
        return NewRun(
            id=chain.run_id,
            subscription=sub.id,
            queue=self._publisher.queue_of(sub),
            cancel_on=sub.cancels(event),
            flow=chain.flow,
            envelope=envelopes.get(chain.run_id),
        )

    def _publish(
        self, recorded: list[Recorded], by_event: list[list[Delivery]], schedule: Schedule
    ) -> list[str]:
        """Publish the runs that may start now.

        Returns:
            Those of them whose messages only the ledger can tell: they collected other events too.
        """
        if schedule.resume_at is not None:
            return []  # a timer of the ledger publishes them
        pending = {
            run_id
            for found in recorded
            for run_id, state in found.runs
            if state is RunState.PENDING
        }
        deliveries = [d for found in by_event for d in found if d.chain.run_id in pending]
        if not deliveries:
            return []
        collected = [d.chain.run_id for d in deliveries if d.chain.flow and d.chain.flow.collect]
        if collected:
            deliveries = [d for d in deliveries if d.chain.run_id not in collected]
        if deliveries:
            self._deliver(deliveries)
        return collected

    def _deliver(self, deliveries: list[Delivery]) -> None:
        try:
            self._publisher.deliver(deliveries)
        except EmitError as exc:
            # the ledger has them, and a message is only a wake-up
            logger.warning("%s The ledger has its runs: the keeper publishes them.", exc.reason)
        done = [d.chain.run_id for d in deliveries if d.state == "published"]
        hit("emit.after_publish")
        if done:
            try:
                self._ledger.mark_published(done)
            except StoreUnavailable as exc:  # at worst they are published twice
                logger.warning("%s", exc)
