"""What ``emit()`` does on each level, as a list of verbs; ``delivery.Emitter`` is the protocol.

Level 1: freeze, publish, report. Level 2: freeze, record, publish, mark, wake, report. There the
ledger has the event and its runs before the broker has a message. So publishing may fail: the
keeper publishes later what is pending. With ``task_always_eager``: freeze, execute, report.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery.canvas import signature
from kombu.utils import json as kombu_json

from celery_fanout.emitting.emission import report
from celery_fanout.emitting.fan_in import outcomes_of
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
    from celery_fanout.emitting.emission import Emission
    from celery_fanout.emitting.freezing import Freezer
    from celery_fanout.emitting.publishing import Publisher
    from celery_fanout.emitting.recording import Recorder
    from celery_fanout.stores.ledger import Ledger
    from celery_fanout.stores.memory.checkpoints import MemoryStore
    from celery_fanout.stores.records import Recorded

# not Celery's get_logger: its loggers say nothing in a process that has no logging set up
logger = logging.getLogger(__name__)


@dataclass(eq=False, repr=False)
class EagerEmitter:
    """Executes the chains of events in place, as Celery does with any eager task.

    Args:
        app: the Celery app.
        freezer: makes the chains.
        checkpoints: where the steps of eager runs are stored.
        clock: the time.
    """

    in_test = False

    _app: Celery
    _freezer: Freezer
    _checkpoints: MemoryStore
    _clock: Callable[[], float]

    def emit(self, draft: Draft) -> list[Emission]:
        """Execute all subscribers of the events of a draft, and then its fan-in.

        Raises:
            Exception: with ``task_eager_propagates``, the first that a subscriber raised, after all
                of them were executed.
            RegistrationError: if a subscription is wrong. Nothing was executed.
        """
        frozen = self._freezer.freeze(draft.events, draft.admissions)
        chains = [chain for each in frozen for chain in each.chains]
        if draft.delay is not None:
            resume_at = self._clock() + draft.delay
            for chain in chains:
                chain.resume(resume_at)
        emissions = report(self._app, frozen, results=self._execute_all(chains))
        if draft.then:
            fan_in = signature(kombu_json.loads(draft.then)["signature"], app=self._app)
            fan_in.apply(() if fan_in.immutable else (outcomes_of(emissions[0]),))
        return emissions

    def _execute_all(self, chains: Sequence[FrozenChain]) -> dict[str, Any]:
        """Execute chains, and return the results of their last links by the ids of their runs."""
        results: dict[str, Any] = {}
        errors: list[BaseException] = []
        for chain in chains:
            try:
                result = self._execute(chain)
            except Exception as exc:  # noqa: BLE001 - a failing one stops no other
                errors.append(exc)
                continue
            results[chain.run_id] = result
        if errors:
            raise errors[0]
        return results

    def _execute(self, chain: FrozenChain) -> Any:
        options = dict(chain.subscription.options)
        result = chain.subscription.task.apply_async(
            args=chain.args,
            task_id=chain.run_id,
            headers={**(options.pop("headers", None) or {}), **chain.headers},
            link_error=[signature(errback, app=self._app) for errback in chain.errbacks or ()],
            **options,
        )
        links = chain.links or []
        for link in reversed(links):
            if not result.successful():
                break
            sig = signature(link, app=self._app)
            result = sig.apply(args=() if sig.immutable else (result.result,))
        # the next emit of this id starts afresh
        self._checkpoints.forget([chain.run_id, *(link["options"]["task_id"] for link in links)])
        return result


@dataclass(eq=False, repr=False)
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

    _app: Celery
    _freezer: Freezer
    _publisher: Publisher
    _eager: EagerEmitter
    _clock: Callable[[], float]
    _hop: Callable[[float], float]

    def emit(self, draft: Draft) -> list[Emission]:
        """Publish the events of a draft to their subscribers, all in one batch.

        Raises:
            EmitError: if publishing was cut short.
            RegistrationError: if a subscription is wrong. Nothing was published.
        """
        if self._app.conf.task_always_eager:
            return self._eager.emit(draft)
        frozen = self._freezer.freeze(draft.events, draft.admissions)
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


@dataclass(eq=False, repr=False)
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

    _app: Celery
    _ledger: Ledger
    _freezer: Freezer
    _recorder: Recorder
    _publisher: Publisher
    _wake: Callable[[Sequence[str]], None]
    _results: CeleryResults | None = None
    _eager: EagerEmitter | None = None

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
        frozen = self._freezer.freeze(draft.events, draft.admissions, generation=0)
        recorded = self._recorder.record(frozen, schedule)
        hit("emit.after_record")
        woken = [run_id for answer in recorded for run_id in answer.woken]
        if schedule.resume_at is None:  # else a timer of the ledger publishes them
            woken += self._publish(chains_in(RunState.PENDING, frozen, recorded))
        if woken:
            self._wake(list(dict.fromkeys(woken)))
        if self._results is not None:
            self._results.dropped(chains_in(RunState.CANCELLED, frozen, recorded))
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

    def _publish(self, chains: list[FrozenChain]) -> list[str]:
        """Publish the runs that may start now.

        Returns:
            Those of them whose messages only the ledger can tell: they collected other events too.
        """
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


def chains_in(
    state: RunState, frozen: Sequence[FrozenEvent], recorded: Sequence[Recorded]
) -> list[FrozenChain]:
    """Return the chains of the runs that were recorded in a state."""
    ids = {run_id for answer in recorded for run_id, now in answer.runs if now is state}
    return [chain for each in frozen for chain in each.chains if chain.run_id in ids]
