"""``emit()`` as a list of verbs: validate, match, freeze, publish, report.

Messages are Celery's own. For tasks whose ``apply_async`` nothing has replaced, what is the same
for every event of a subscription is computed once (``broker.templates``); for all others
``Task.apply_async`` is called. A test holds that both put equal messages on the wire.
"""

from __future__ import annotations

import logging
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celery_fanout.emitting.broker.confirms import confirm_window
from celery_fanout.emitting.broker.connections import Deadline, ProducerPool
from celery_fanout.emitting.broker.prepared import Seals
from celery_fanout.emitting.broker.routing import routed_to
from celery_fanout.emitting.broker.sending import Sending
from celery_fanout.emitting.broker.templates import Templates
from celery_fanout.emitting.chains import FrozenChain, freeze
from celery_fanout.emitting.emission import Emission, RunHandle
from celery_fanout.exceptions import INTERRUPTS, EmitError, InvalidEvent, StoreUnsupported
from celery_fanout.exceptions.describing import reason_of
from celery_fanout.model.headers import DATA_HEADER, RESUME_HEADER
from celery_fanout.signals import event_emitted
from celery_fanout.subscribing.admission import broker_priority, flow_of, require_limits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from celery import Celery

    from celery_fanout.emitting.broker.prepared import Sealing
    from celery_fanout.model.events import Event
    from celery_fanout.model.settings import Settings
    from celery_fanout.stores.ledger import Ledger
    from celery_fanout.subscribing.registry import Registry, Subscription

__all__ = ["Publisher"]

# not Celery's get_logger: its loggers say nothing in a process that has no logging set up
logger = logging.getLogger(__name__)

#: How much data the links of a tail can be told on RabbitMQ, in bytes.
MAX_HEADER = 100_000


@dataclass
class Delivery:
    """One chain on its way: the broker has it, may have it, or does not."""

    event: Event
    chain: FrozenChain
    state: str = "unpublished"


def _mark(deliveries: list[Delivery], state: str) -> None:
    for delivery in deliveries:
        delivery.state = state


def _flush(sending: Sending, kept: list[Delivery]) -> None:
    _mark(kept, "unknown")
    sending.flush()
    _mark(kept, "published")


class Publisher:
    """Publishes events to the subscribers that one app knows.

    Args:
        app: the Celery app.
        settings: its settings.
        registry: its subscriptions.
        run_eagerly: executes one chain in place, for ``task_always_eager``.
        hop: the countdown of the next message on the way to a time.
        ledger: the ledger, on level 2.
    """

    def __init__(
        self,
        app: Celery,
        settings: Settings,
        registry: Registry,
        run_eagerly: Callable[[FrozenChain], Any],
        hop: Callable[[float], float],
        ledger: Ledger | None = None,
    ) -> None:
        self._app = app
        self._settings = settings
        self._registry = registry
        self._run_eagerly = run_eagerly
        self._hop = hop
        self._ledger = ledger
        self._templates = Templates(app, None if ledger is None else settings.queue)
        self._producers = ProducerPool(app, settings.publish_timeout)
        self._seals = Seals(app, settings, self._templates, self._producers, ledger)

    def emit(self, events: Sequence[Event], resume_at: float | None = None) -> list[Emission]:
        """Publish events to their subscribers, all in one batch.

        Args:
            events: the events, already validated.
            resume_at: POSIX time before which the subscribers do not start.

        Raises:
            RegistrationError: if a subscription is wrong. Nothing was published.
            EmitError: if publishing was cut short.
        """
        deliveries = [delivery for event in events for delivery in self.freeze(event)]
        if resume_at is not None:
            for delivery in deliveries:
                delivery.chain.headers[RESUME_HEADER] = resume_at
        if self._app.conf.task_always_eager:
            results = self._apply(deliveries)
        else:
            results = {}
            if deliveries:
                self.deliver(deliveries, resume_at)
        return self.report(events, deliveries, results)

    def check(self, events: Sequence[Event]) -> None:
        """Raise what keeps events from being published, whatever the broker says.

        Raises:
            InvalidEvent: if the broker could not carry one of them.
            RegistrationError: if a subscription is wrong.
        """
        generation = None if self._ledger is None else 0
        for event in events:
            candidates = self._registry.candidates(event.name)
            if any(sub.tail or sub.cancel_on or sub.limits for sub in candidates):
                self.freeze(event, generation)

    def freeze(
        self, event: Event, generation: int | None = None, place: int | None = None
    ) -> list[Delivery]:
        """Return the chains of an event, of all subscriptions that match it.

        Raises:
            InvalidEvent: if it cannot be delivered to one of them.
            StoreUnsupported: if one of them needs what the store does not have.
        """
        matching = self._registry.match(event)
        if not matching:
            return []
        found = self.freeze_for(event, matching, generation, place)
        flowing = [d.chain for d in found if d.chain.subscription.limits is not None]
        if flowing and not self._app.conf.task_always_eager:
            for chain in flowing:
                require_limits(chain.subscription, self._ledger)
                chain.flow = flow_of(chain.subscription, event)
        return found

    def freeze_for(
        self,
        event: Event,
        subscriptions: Sequence[Subscription],
        generation: int | None,
        place: int | None,
        run_id: str | None = None,
    ) -> list[Delivery]:
        """Return the chains of an event, of these subscriptions.

        Args:
            event: the event.
            subscriptions: whose chains.
            generation: of the runs in the ledger; ``None`` where there is no ledger.
            place: where the runs lie in a ledger with shards.
            run_id: id of the run, where that does not follow from the event.

        Raises:
            InvalidEvent: if the broker could not carry one of them.
        """
        self._templates.refresh()
        headers = event.headers()
        reply_to = self._app.thread_oid
        celery_results = generation is None or not self.ledger_results
        chains = [
            freeze(
                event if generation is not None else sub.alone(event),
                headers,
                sub,
                reply_to,
                generation=generation,
                celery_results=celery_results,
                place=place,
                id=run_id,
            )
            for sub in subscriptions
        ]
        for chain in chains:
            self._refuse_cancel_on(chain)
            self._refuse_large_tail(event, chain, whole=run_id is not None)
            if chain.subscription.limits is not None:
                chain.priority = broker_priority(chain.subscription, event, self._driver)
            for link in chain.chain or ():
                queue = self.queue_for_task(link["task"], link["options"])
                if queue is not None:
                    link["options"]["queue"] = queue
        return [Delivery(event, chain) for chain in chains]

    def _refuse_cancel_on(self, chain: FrozenChain) -> None:
        if not chain.subscription.cancel_on or self._ledger is not None:
            return
        if not self._app.conf.task_always_eager:
            raise StoreUnsupported(
                f"The store of the app {self._app.main!r}",
                f"cancel_on, which {chain.subscription.id} has",
                "It needs level 2: a Redis result backend, or fanout_store_url with a Redis URL.",
            )

    def _refuse_large_tail(self, event: Event, chain: FrozenChain, *, whole: bool) -> None:
        # RabbitMQ drops a connection that sends headers longer than its frame_max of 128 KiB
        if chain.chain is None:
            return
        size = len(chain.chain[0]["options"]["headers"][DATA_HEADER].encode())
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

    @property
    def ledger_results(self) -> bool:
        """Whether the ledger keeps what runs return, and Celery does not."""
        return self._ledger is not None and self._settings.results == "ledger"

    def queue_for_task(self, name: str, options: Mapping[str, Any]) -> str | None:
        """Return the queue of the fast workers, if messages of a task go there."""
        return self._templates.queue_for_task(name, options)

    def queue_of(self, subscription: Subscription) -> str:
        """Return the queue that a subscription's messages go to; ``""`` if that is not simple."""
        template = self._templates.get(subscription)
        queue: Any = None if template is None else template.route.get("queue")
        return "" if queue is None else str(getattr(queue, "name", queue))

    def queues(self) -> set[str]:
        """Return the names of the queues that runs may go to, as far as this process knows."""
        self._templates.refresh()
        known: Any = self._app.amqp.queues
        found = {str(name) for name in known.consume_from}
        for name in list(self._app.tasks):  # of tails, and whatever else a run may ask for
            found.add(self.queue_for_task(name, {}) or routed_to(self._app, name, {}))
        found.update(self.queue_of(sub) for sub in self._registry)
        return found - {""}

    def sealing(self) -> AbstractContextManager[Sealing | None]:
        """Lend what makes messages that the ledger's Redis takes; ``None`` if it takes none."""
        return self._seals.lend()

    def seal(self, deliveries: list[Delivery]) -> Mapping[str, Sequence[str]] | None:
        """Return the messages of chains for the ledger to publish; ``None`` if it cannot."""
        if not deliveries:
            return None
        with self.sealing() as seal:
            sealed = None if seal is None else seal([delivery.chain for delivery in deliveries])
        return None if sealed is None else sealed.messages

    def deliver(self, deliveries: list[Delivery], resume_at: float | None = None) -> None:
        """Publish chains, all in one batch.

        Raises:
            EmitError: if publishing was cut short; each delivery knows its state.
        """
        deadline = Deadline(self._settings.publish_timeout)
        options = {} if resume_at is None else {"countdown": self._hop(resume_at)}
        try:
            with self._producers.acquire(deadline) as producer:
                if getattr(producer, "supports_batch_publish", False):  # kombu 5.7, Redis
                    self._send_batch(producer, deliveries, options, deadline)
                else:
                    self._send_singly(producer, deliveries, options, deadline)
        except INTERRUPTS:
            raise
        except Exception as exc:
            # a broker's library raises errors of its own; what a hook raises ends the batch too
            raise self._cut_short(deliveries, exc) from exc

    def send(self, signature: Any, args: tuple[Any, ...], options: dict[str, Any]) -> str:
        """Publish a task that is no subscriber; return its queue, ``""`` if that is not simple."""
        signature.apply_async(args, **options)
        return routed_to(self._app, signature["task"], {**signature.options, **options})

    def _send_batch(
        self, producer: Any, deliveries: list[Delivery], options: dict[str, Any], deadline: Deadline
    ) -> None:
        given: list[Delivery] = []
        kept: list[Delivery] = []
        with producer.batch(max_size=sys.maxsize):  # one flush, at the end
            sending = Sending(self._app, self._templates, producer, deadline, retries=0)
            for delivery in deliveries:
                (given if sending.send(delivery.chain, options) else kept).append(delivery)
            _mark(given, "unknown")
        _mark(given, "published")
        _flush(sending, kept)

    def _send_singly(
        self, producer: Any, deliveries: list[Delivery], options: dict[str, Any], deadline: Deadline
    ) -> None:
        window = confirm_window(producer, deadline)
        kept: list[Delivery] = []
        with window or nullcontext():
            retries = 0 if window is not None else self._producers.retries
            sending = Sending(self._app, self._templates, producer, deadline, retries=retries)
            for delivery in deliveries:
                deadline.renew()  # the broker took the one before, or somebody's hook took the time
                delivery.state = "unknown"
                if window is not None:
                    window.delivery = delivery
                    sending.send(delivery.chain, options)
                elif sending.send(delivery.chain, options):
                    delivery.state = "published"
                else:
                    delivery.state = "unpublished"
                    kept.append(delivery)
            if window is not None:
                window.wait()
        _flush(sending, kept)

    def _cut_short(self, deliveries: list[Delivery], exc: Exception) -> EmitError:
        broken = next((d for d in deliveries if d.state != "published"), deliveries[0])
        event = broken.event
        states = {d.chain.run_id: d.state for d in deliveries}
        open_ = {d.event.id: None for d in deliveries if d.state != "published"}
        others = [found for found in open_ if found != event.id]
        return EmitError(event.name, event.id, states, reason_of(exc), others)

    def _apply(self, deliveries: list[Delivery]) -> dict[str, Any]:
        results: dict[str, Any] = {}
        errors: list[BaseException] = []
        for delivery in deliveries:
            try:
                results[delivery.chain.run_id] = self._run_eagerly(delivery.chain)
            except Exception as exc:  # noqa: BLE001 - a failing one stops no other
                errors.append(exc)
            delivery.state = "published"
        if errors:
            raise errors[0]
        return results

    def report(
        self, events: Sequence[Event], deliveries: list[Delivery], results: dict[str, Any]
    ) -> list[Emission]:
        """Return the emissions of events, and tell the signal's receivers."""
        by_event: dict[int, list[RunHandle]] = {id(event): [] for event in events}
        for delivery in deliveries:
            chain = delivery.chain
            ledger = None if chain.celery_results else self._ledger
            handle = RunHandle(self._app, chain.run_id, chain.result_id, chain.subscription, ledger)
            handle.eager = results.get(chain.run_id)
            by_event[id(delivery.event)].append(handle)
        emissions: list[Emission] = []
        for event in events:
            runs = by_event[id(event)]
            emissions.append(Emission(event, runs))
            event_emitted.send(sender=self._app, event=event, runs=runs)
        return emissions
