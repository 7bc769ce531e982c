"""What ``emit()`` does on each level, as a list of verbs; ``delivery.Emitter`` is the protocol.

Level 1: freeze, publish, report. Level 2: freeze, record, publish, mark, wake, report. There the
ledger has the event and its runs before the broker has a message. So publishing may fail: the
keeper publishes later what is pending.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from celery_fanout.emitting.emission import report
from celery_fanout.emitting.recording import Schedule, not_recorded
from celery_fanout.exceptions import EmitError, StoreUnavailable
from celery_fanout.model.failpoints import hit
from celery_fanout.model.tracing import current_trace
from celery_fanout.stores.states import RunState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery import Celery

    from celery_fanout.emitting.celery_results import CeleryResults
    from celery_fanout.emitting.chains import FrozenChain, FrozenEvent
    from celery_fanout.emitting.delivery import Draft
    from celery_fanout.emitting.eager import EagerEmitter
    from celery_fanout.emitting.emission import Emission
    from celery_fanout.emitting.freezing import Freezer
    from celery_fanout.emitting.publishing import Publisher
    from celery_fanout.emitting.recording import Recorder
    from celery_fanout.stores.ledger import Ledger
    from celery_fanout.stores.records import Recorded

__all__ = ["BrokerEmitter", "LedgerEmitter"]

# not Celery's get_logger: its loggers say nothing in a process that has no logging set up
logger = logging.getLogger(__name__)


class BrokerEmitter:
    """Emits on level 1: nothing is recorded.

    Args:
        app: the Celery app.
        freezer: makes the chains.
        publisher: publishes them.
        eager: emits where ``task_always_eager`` is set.
        clock: the time.
        hop: returns the countdown of the next message on the way to a time.
    """

    in_test = False

    def __init__(
        self,
        app: Celery,
        freezer: Freezer,
        publisher: Publisher,
        eager: EagerEmitter,
        clock: Callable[[], float],
        hop: Callable[[float], float],
    ) -> None:
        self._app = app
        self._freezer = freezer
        self._publisher = publisher
        self._eager = eager
        self._clock = clock
        self._hop = hop

    def emit(self, draft: Draft) -> list[Emission]:
        """Publish the events of a draft to their subscribers, all in one batch.

        Raises:
            EmitError: if publishing was cut short.
            RegistrationError: if a subscription is wrong. Nothing was published.
        """
        if self._app.conf.task_always_eager:
            return self._eager.emit(draft)
        frozen = self._freezer.freeze(draft)
        chains = [chain for each in frozen for chain in each.chains]
        countdown = None
        if draft.delay is not None:
            resume_at = self._clock() + draft.delay
            for chain in chains:
                chain.resume(resume_at)
            countdown = self._hop(resume_at)
        if chains:
            self._publisher.publish(chains, countdown)
        return report(self._app, frozen)


class LedgerEmitter:
    """Emits on level 2.

    Args:
        app: the Celery app.
        ledger: the ledger.
        freezer: makes the chains.
        recorder: records them.
        publisher: publishes them.
        wake: publishes runs that are due now; best effort.
        results: tells Celery's result backend, if that has the results of runs.
        eager: emits where ``task_always_eager`` is set; ``None``: that is not looked at.
    """

    in_test = False

    def __init__(
        self,
        app: Celery,
        ledger: Ledger,
        freezer: Freezer,
        recorder: Recorder,
        publisher: Publisher,
        wake: Callable[[Sequence[str]], None],
        results: CeleryResults | None = None,
        eager: EagerEmitter | None = None,
    ) -> None:
        self._app = app
        self._ledger = ledger
        self._freezer = freezer
        self._recorder = recorder
        self._publisher = publisher
        self._wake = wake
        self._results = results
        self._eager = eager

    def emit(self, draft: Draft) -> list[Emission]:
        """Record the events of a draft, and publish their runs.

        Raises:
            EmitError: if the ledger did not answer, so that it is not known what it has.
            RegistrationError: if a subscription is wrong. Nothing was recorded.
        """
        if self._eager is not None and self._app.conf.task_always_eager:
            return self._eager.emit(draft)
        schedule = self._schedule(draft)
        hit("emit.before_record")
        frozen = self._freezer.freeze(draft, generation=0)
        recorded = self._recorder.record(frozen, schedule)
        hit("emit.after_record")
        woken = [run_id for answer in recorded for run_id in answer.woken]
        if schedule.resume_at is None:  # else a timer of the ledger publishes them
            woken += self._publish(frozen, runs_in(RunState.PENDING, recorded))
        if woken:
            self._wake(list(dict.fromkeys(woken)))
        if self._results is not None:
            self._tell_dropped(self._results, frozen, runs_in(RunState.CANCELLED, recorded))
        return report(self._app, frozen, self._ledger)

    def _schedule(self, draft: Draft) -> Schedule:
        delay, expires = draft.delay, draft.expires
        if delay is None and expires is None:
            return Schedule(then=draft.then, trace=current_trace())
        try:
            now = self._ledger.time()
        except StoreUnavailable as exc:
            raise not_recorded(draft.events, (), exc) from exc
        return Schedule(
            resume_at=None if delay is None else now + delay,
            expires_at=None if expires is None else now + expires,
            then=draft.then,
            trace=current_trace(),
        )

    def _publish(self, frozen: Sequence[FrozenEvent], pending: set[str]) -> list[str]:
        """Publish the runs that may start now.

        Returns:
            Those of them whose messages only the ledger can tell: they collected other events too.
        """
        if not pending:
            return []
        chains = [chain for each in frozen for chain in each.chains if chain.run_id in pending]
        collected = [chain.run_id for chain in chains if chain.flow and chain.flow.collect]
        chains = [chain for chain in chains if chain.run_id not in collected]
        if chains:
            try:
                self._publisher.publish(chains)
            except EmitError as exc:
                # the ledger has them, and a message is only a wake-up
                logger.warning("%s The ledger has its runs: the keeper publishes them.", exc.reason)
            self._mark(chains)
        return collected

    def _mark(self, chains: Sequence[FrozenChain]) -> None:
        published = [chain.run_id for chain in chains if chain.state == "published"]
        hit("emit.after_publish")
        if published:
            try:
                self._ledger.mark_published(published)
            except StoreUnavailable as exc:  # at worst they are published twice
                logger.warning("%s", exc)

    def _tell_dropped(
        self, results: CeleryResults, frozen: Sequence[FrozenEvent], cancelled: set[str]
    ) -> None:
        chains = [chain for each in frozen for chain in each.chains if chain.run_id in cancelled]
        if chains:
            results.dropped(chains)


def runs_in(state: RunState, recorded: Sequence[Recorded]) -> set[str]:
    """Return the ids of the runs that were recorded in a state."""
    return {run_id for answer in recorded for run_id, now in answer.runs if now is state}
