"""Freezing: an event becomes the chains of all subscriptions that match it. Nothing is sent."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from celery_fanout.emitting.chains import FrozenChain, FrozenEvent, chain_for
from celery_fanout.exceptions import InvalidEvent, StoreUnsupported
from celery_fanout.model.headers import DATA_HEADER
from celery_fanout.model.ids import event_key, place_of
from celery_fanout.subscribing.admission import flow_of, priority_of, require_limits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery import Celery

    from celery_fanout.emitting.broker.templates import Templates
    from celery_fanout.model.events import Event
    from celery_fanout.stores.ledger import Ledger
    from celery_fanout.stores.limits import Flow
    from celery_fanout.subscribing.registry import Registry, Subscription

#: How much data the links of a tail can be told on RabbitMQ, in bytes.
MAX_HEADER = 100_000

#: The last of the broker's priorities on Redis, where 0 goes first.
LAST_ON_REDIS = 9

#: What flow control said of events, by the id() of the event and the subscription's id: what the
#: run waits for, and the priority of its message.
Admissions: TypeAlias = "dict[tuple[int, str], tuple[Flow | None, int | None]]"


@dataclass(eq=False, repr=False)
class Freezer:
    """Makes the chains of events.

    Args:
        app: the Celery app.
        registry: its subscriptions.
        templates: know where messages go.
        ledger: the ledger, on level 2.
        ledger_results: whether the ledger keeps what runs return, and Celery does not.
    """

    _app: Celery
    _registry: Registry
    _templates: Templates
    _ledger: Ledger | None = None
    ledger_results: bool = False

    def check(self, events: Sequence[Event], admissions: Admissions) -> None:
        """Raise what keeps events from being published, whatever the broker says.

        Args:
            events: the events.
            admissions: what flow control has said of them so far; it is added to.

        Raises:
            InvalidEvent: if the broker could not carry one of them.
            RegistrationError: if a subscription is wrong.
            StoreUnsupported: if a subscription needs what the store does not have.
        """
        self._templates.refresh()
        generation = None if self._ledger is None else 0
        for event in events:
            candidates = self._registry.candidates(event.name)
            if any(sub.tail or sub.cancel_on or sub.limits for sub in candidates):
                self._freeze(event, admissions, generation)

    def freeze(
        self, events: Sequence[Event], admissions: Admissions, generation: int | None = None
    ) -> list[FrozenEvent]:
        """Return the events with their chains.

        Args:
            events: the events.
            admissions: as in :meth:`check`.
            generation: of the runs in the ledger; ``None`` where they are not recorded.

        Raises:
            InvalidEvent: if an event cannot be delivered to one of its subscribers.
            RegistrationError: if a subscription is wrong.
            StoreUnsupported: if a subscription needs what the store does not have.
        """
        self._templates.refresh()
        return [self._freeze(event, admissions, generation) for event in events]

    def freeze_again(self, frozen: FrozenEvent, generation: int, place: int | None) -> None:
        """Give the chains of an event the ids of another generation, or of another place."""
        subscriptions = [chain.subscription for chain in frozen.chains]
        event = frozen.event
        chains = self._chains(event, event.headers(), subscriptions, generation, place)
        for chain, before in zip(chains, frozen.chains, strict=True):
            chain.flow, chain.priority = before.flow, before.priority
        frozen.chains = chains

    def freeze_run(
        self,
        event: Event,
        subscription: Subscription,
        generation: int,
        place: int | None = None,
        run_id: str | None = None,
    ) -> FrozenChain:
        """Return the chain of a run that is recorded already, or about to be.

        Args:
            event: the event, as the subscriber gets it.
            subscription: the subscription.
            generation: of the run in the ledger.
            place: where the run lies in a ledger with shards.
            run_id: id of the run, where that does not follow from the event.

        Raises:
            InvalidEvent: if the broker could not carry it.
        """
        self._templates.refresh()
        headers = event.headers()
        [chain] = self._chains(event, headers, [subscription], generation, place, run_id)
        limits = subscription.limits
        if limits and limits.priority is not None and "priority" not in subscription.options:
            # the event is recorded already, and a message is only a wake-up
            with suppress(InvalidEvent):
                priority = priority_of(subscription, event)
                chain.priority = broker_priority(subscription, priority, self._driver)
        return chain

    def queue_of(self, subscription: Subscription) -> str:
        """Return the queue that a subscription's messages go to; ``""`` if that is not simple."""
        return self._templates.queue_of(subscription)

    def queues(self) -> set[str]:
        """Return the names of the queues that runs may go to, as far as this process knows."""
        return self._templates.queues(self._registry)

    def queue_for_task(self, name: str, options: Mapping[str, Any]) -> str | None:
        """Return the queue of the fast workers, if messages of a task go there."""
        return self._templates.queue_for_task(name, options)

    def _freeze(self, event: Event, admissions: Admissions, generation: int | None) -> FrozenEvent:
        subscriptions = self._registry.match(event)
        key, place = "", None
        if generation is not None and self._ledger is not None:
            key = event_key(event.name, event.id)
            place = place_of(key, self._ledger.shards)
        if not subscriptions:
            return FrozenEvent(event, [], key, place)
        chains = self._chains(event, event.headers(), subscriptions, generation, place)
        limited = [chain for chain in chains if chain.subscription.limits is not None]
        if limited and not self._app.conf.task_always_eager:
            for chain in limited:
                self._admit(event, chain, admissions)
        return FrozenEvent(event, chains, key, place)

    def _admit(self, event: Event, chain: FrozenChain, admissions: Admissions) -> None:
        subscription = chain.subscription
        require_limits(subscription, self._ledger)
        key = (id(event), subscription.id)  # the draft keeps the event, so its id() stays its own
        if key not in admissions:
            priority = priority_of(subscription, event)
            flow = flow_of(subscription, event, priority)
            admissions[key] = flow, broker_priority(subscription, priority, self._driver)
        chain.flow, chain.priority = admissions[key]

    def _chains(
        self,
        event: Event,
        headers: dict[str, str],
        subscriptions: Sequence[Subscription],
        generation: int | None,
        place: int | None,
        run_id: str | None = None,
    ) -> list[FrozenChain]:
        reply_to = self._app.thread_oid
        celery_results = generation is None or not self.ledger_results
        chains = [
            chain_for(
                event if generation is not None else subscription.alone(event),
                headers,
                subscription,
                reply_to,
                generation=generation,
                celery_results=celery_results,
                place=place,
                id=run_id,
            )
            for subscription in subscriptions
        ]
        for chain in chains:
            self._refuse_cancel_on(chain)
            if chain.links is not None:
                self._refuse_large_tail(event, chain, whole=run_id is not None)
                self._route(chain.links)
        return chains

    def _route(self, links: list[dict[str, Any]]) -> None:
        for link in links:
            queue = self.queue_for_task(link["task"], link["options"])
            if queue is not None:
                link["options"]["queue"] = queue

    def _refuse_cancel_on(self, chain: FrozenChain) -> None:
        if not chain.subscription.cancel_on or self._ledger is not None:
            return
        if not self._app.conf.task_always_eager:
            raise StoreUnsupported.on_level_1(
                f"The store of the app {self._app.main!r}",
                f"cancel_on, which {chain.subscription.id} has",
            )

    def _refuse_large_tail(self, event: Event, chain: FrozenChain, *, whole: bool) -> None:
        # RabbitMQ drops a connection that sends headers longer than its frame_max of 128 KiB
        if chain.links is None:
            return
        size = len(chain.links[0]["options"]["headers"][DATA_HEADER].encode())
        most, each = MAX_HEADER, ""
        limits = chain.subscription.limits
        if limits is not None and limits.batch is not None:
            if whole:  # brackets and commas
                most += 2 * limits.batch.max_size
            else:  # refuse each event whose like could make a batch that can never be published
                most //= limits.batch.max_size
                each = f" for each of the {limits.batch.max_size:,} events of a batch"
        if size > most and self._driver == "amqp":
            raise InvalidEvent(
                event.name,
                f"has {size:,} bytes of data, and RabbitMQ carries at most {most:,}{each} to the "
                f"links that follow {chain.subscription.id}",
                "Store the data elsewhere and emit a reference to it.",
            )

    @cached_property
    def _driver(self) -> str:
        return str(self._app.connection_for_write().transport.driver_type)


def broker_priority(subscription: Subscription, priority: int, driver: str) -> int | None:
    """Return the priority of a message by the broker's own measure; ``None``: none of its own.

    Messages without one have 0. That is the last on RabbitMQ, and the first on Redis, so what is
    to go first has a number of its own there, and here what is to go last.

    Args:
        subscription: whose run it is.
        priority: the run's.
        driver: what kombu calls the broker's kind.
    """
    if "priority" in subscription.options:
        return None
    if driver == "amqp" and priority > 0:
        return priority
    if driver == "redis" and priority < 0:
        return min(-priority, LAST_ON_REDIS)
    return None
