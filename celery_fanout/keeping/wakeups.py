"""Publishing the runs that the ledger says are due: the other half of ``emit()``.

The kind of the run says what is published:

============== ===================================================================================
``event``      the chain of the subscriber, made anew from the event
``parallel``   the same without its tail, to replay the body up to one item of ``step.parallel``
``then``       the next link of a tail, with the value of the link before it
``invoke``     the task of ``step.invoke``
``on_failure`` the subscription's ``on_failure`` task
``fan-in``     the task of ``emit(then=)``, with the outcomes of all runs of the event
============== ===================================================================================
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from celery.canvas import signature
from celery.utils.log import get_logger
from kombu.utils import json as kombu_json

from celery_fanout.emitting.emission import error_of, value_of
from celery_fanout.emitting.fan_in import fan_in_outcome
from celery_fanout.exceptions import EmitError, FanoutError, StoreUnavailable
from celery_fanout.keeping.collected_events import collected_events
from celery_fanout.keeping.supervisor import UNKNOWN_TASK_DELAY
from celery_fanout.model.events import HEADER_PREFIX, Event
from celery_fanout.model.failpoints import hit
from celery_fanout.model.headers import (
    BATCHED,
    BRANCH_HEADER,
    DATA_HEADER,
    EVENTS_HEADER,
    GENERATION_HEADER,
    KIND_HEADER,
    RUN_HEADER,
    SUBSCRIPTION_HEADER,
    VERSION,
    VERSION_HEADER,
)
from celery_fanout.model.ids import place_in
from celery_fanout.model.tracing import continued, is_traced
from celery_fanout.stores.records import recorded_event

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery import Celery

    from celery_fanout.emitting.chains import FrozenChain
    from celery_fanout.emitting.freezing import Freezer
    from celery_fanout.emitting.publishing import Publisher
    from celery_fanout.stores.ledger import Ledger
    from celery_fanout.stores.records import Taken, Wakeup
    from celery_fanout.subscribing.registry import Registry, Subscription

logger = get_logger(__name__)

#: The keys of the events that a run collected, and the event that its subscriber gets.
_Collected: TypeAlias = "tuple[Sequence[str], Event]"

#: How many of the events that a run collected its message names.
MAX_EVENTS = 1000


@dataclass(eq=False, repr=False)
class Wakeups:
    """Publishes runs that are due.

    Args:
        app: the Celery app.
        ledger: the ledger.
        registry: the app's subscriptions.
        freezer: makes chains.
        publisher: publishes them.
        follow_up: records what follows from the end of a run.
    """

    _app: Celery
    _ledger: Ledger
    _registry: Registry
    _freezer: Freezer
    _publisher: Publisher
    _follow_up: Callable[[str], None]

    def wake(self, run_ids: Sequence[str]) -> None:
        """Publish runs that are due now. Best effort: the keeper does it otherwise."""
        try:
            self.publish(self._ledger.take(list(run_ids)))
        except StoreUnavailable as exc:
            logger.warning("%s", exc)

    def publish(self, taken: Taken) -> int:
        """Publish what was taken from the ledger, and return how many.

        Raises:
            StoreUnavailable: if the ledger does not answer.
        """
        hit("keeper.after_take")
        done: list[str] = []
        queues: dict[str, str] = {}
        together: list[FrozenChain] = []
        collected: dict[str, _Collected] = {}
        for wakeup in taken.wakeups:
            try:
                if wakeup.kind not in ("event", "parallel"):
                    # published by who asked for it, if that has a trace
                    with continued("" if is_traced() else wakeup.trace):
                        queues[wakeup.run_id] = self._send(wakeup)
                    done.append(wakeup.run_id)
                    continue
                chains = self._freeze(wakeup, collected)
                for chain in chains:
                    queues[chain.run_id] = self._freezer.queue_of(chain.subscription)
                trace = "" if wakeup.kind == "parallel" and is_traced() else wakeup.trace
                if trace:
                    with continued(trace):
                        done += self._publish(chains)
                else:
                    together += chains
            except StoreUnavailable:
                raise
            except Exception as exc:  # noqa: BLE001 - one must not keep the others from going out
                # it is pending, and will be taken again
                logger.warning("Run %s cannot be published now: %s", wakeup.run_id, exc)
        prepared = self._publisher.prepare(together)
        if prepared is None:
            done += self._publish(together)
        else:  # the ledger publishes them as it marks them
            done += [chain.run_id for chain in together]
        if done:
            self._ledger.mark_published(done, queues, prepared)
        for run_id in taken.ended:
            self._follow_up(run_id)
        return len(done)

    def _publish(self, chains: list[FrozenChain]) -> list[str]:
        """Publish chains, and return the ids of their runs."""
        if not chains:
            return []
        try:
            self._publisher.publish(chains)
        except EmitError as exc:
            logger.warning("%d runs cannot be published now: %s", len(chains), exc.reason)
        return [chain.run_id for chain in chains if chain.state == "published"]

    def _freeze(self, wakeup: Wakeup, collected: dict[str, _Collected]) -> list[FrozenChain]:
        """Return the chain of a subscriber's run; put it back if this process does not know it."""
        subscription = self._registry.find(wakeup.subscription)
        event = event_of(wakeup)
        if subscription is None or event is None:
            self._ledger.unregistered(wakeup.run_id, UNKNOWN_TASK_DELAY)
            return []
        events = wakeup.events
        limits = subscription.limits
        if limits is not None and limits.collects and not events:
            if wakeup.kind == "parallel":
                events, event = self._of_parent(wakeup, subscription, event, collected)
            elif limits.batch is not None:  # a replay is a batch by itself
                events = [wakeup.event]
                event = event if wakeup.message == BATCHED else subscription.alone(event)
        place, run_id = place_in(wakeup.run_id), wakeup.run_id
        chain = self._freezer.freeze_run(event, subscription, wakeup.generation, place, run_id)
        chain.retries = wakeup.retries
        if events:
            chain.headers[EVENTS_HEADER] = list(events[-MAX_EVENTS:])
        if wakeup.kind == "parallel":
            chain.headers[KIND_HEADER] = "parallel"
            chain.headers[BRANCH_HEADER] = json.loads(wakeup.message)["branch"]
            chain.links = None
        return [chain]

    def _of_parent(
        self,
        wakeup: Wakeup,
        sub: Subscription,
        event: Event,
        collected: dict[str, _Collected],
    ) -> _Collected:
        """Return what an item of ``step.parallel`` replays the body with: all that its run has.

        The items of one step come together.
        """
        run = self._ledger.run(wakeup.run_id)
        parent = "" if run is None else run.parent
        if parent not in collected:
            of_parent = collected_events(self._ledger, sub, run)
            collected[parent] = of_parent or ([wakeup.event], sub.alone(event))
        return collected[parent]

    def _send(self, wakeup: Wakeup) -> str:
        """Publish a link of a tail, or what a run, its failure or an emission asked for.

        Returns:
            The queue that it went to; ``""`` if that is not simple.
        """
        message: dict[str, Any] = kombu_json.loads(wakeup.message)
        sig = signature(message["signature"], app=self._app)
        options: dict[str, Any] = {"task_id": wakeup.run_id, "add_to_parent": False}
        own: dict[str, Any] = cast("Any", sig).options.get("headers") or {}
        headers: dict[str, Any] = {**own, **self._stamp(wakeup)}
        if DATA_HEADER in own:  # of a batch the list, where the ledger has one event
            headers[DATA_HEADER] = own[DATA_HEADER]
        if wakeup.retries:
            options["retries"] = wakeup.retries
        queue = self._freezer.queue_for_task(sig["task"], sig.options)
        if queue is not None:
            options["queue"] = queue
        if self._freezer.ledger_results:
            options["ignore_result"] = True
        if message.get("chain"):
            options["chain"] = [signature(link, app=self._app) for link in message["chain"]]
        args: tuple[Any, ...] = ()
        if wakeup.kind == "then" and not sig.immutable:
            args = (message["value"],)
        elif wakeup.kind == "fan-in":
            args = (self._outcomes(wakeup),)
        options["argsrepr"] = f"({wakeup.kind!r} of {wakeup.event!r},)"
        return self._publisher.publish_task(sig, args, {"headers": headers, **options})

    def _stamp(self, wakeup: Wakeup) -> dict[str, Any]:
        attributes: dict[str, Any] = json.loads(wakeup.attributes or "{}")
        stamp: dict[str, Any] = {HEADER_PREFIX + key: v for key, v in attributes.items()}
        stamp.update(
            {
                SUBSCRIPTION_HEADER: wakeup.subscription,
                VERSION_HEADER: VERSION,
                RUN_HEADER: wakeup.run_id,
                KIND_HEADER: wakeup.kind,
                DATA_HEADER: wakeup.data or "null",
            }
        )
        if wakeup.generation:
            stamp[GENERATION_HEADER] = wakeup.generation
        return stamp

    def _outcomes(self, wakeup: Wakeup) -> list[dict[str, Any]]:
        """Return the outcomes of all runs of an event, as its fan-in receives them."""
        record = self._ledger.event(wakeup.event)
        if record is None:
            raise FanoutError(f"The event {wakeup.event} of a fan-in is gone.")
        outcomes: list[dict[str, Any]] = []
        for outcome in self._ledger.outcomes(record.runs):
            run = self._ledger.run(outcome.run_id)
            outcomes.append(
                fan_in_outcome(
                    outcome.run_id,
                    "" if run is None else run.subscription,
                    "" if outcome.state is None else outcome.state.value,
                    value_of(outcome),
                    error_of(outcome),
                )
            )
        return outcomes


def event_of(wakeup: Wakeup) -> Event | None:
    """Rebuild the event of a run; ``None`` if the ledger has it no more."""
    return recorded_event(wakeup) if wakeup.attributes else None
