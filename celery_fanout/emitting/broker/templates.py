"""What is the same in all messages of one subscription, computed once.

A stock ``Task.apply_async`` spends most of its time on what does not change from event to event:
routing, execution options, ``saferepr`` of the arguments, a SUBSCRIBE to the result. So Celery is
asked once per subscription: ``app.amqp.as_task_v2`` for the message's headers, and
``app.amqp.send_task_message`` for what it tells the producer.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from celery.app import task as celery_task
from celery.app.amqp import task_message
from celery.app.routes import MapRoute

from celery_fanout.emitting.broker.redis_pipeline import dumps
from celery_fanout.emitting.broker.routing import chosen_options, routed_to
from celery_fanout.emitting.broker.stock import is_stock

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from celery import Celery

    from celery_fanout.emitting.broker.redis_pipeline import Envelope, Pipeline
    from celery_fanout.subscribing.registry import Subscription

#: Options that a template can hold. Anything else goes through ``apply_async``.
_PLAIN_OPTIONS = {
    "queue",
    "exchange",
    "exchange_type",
    "routing_key",
    "priority",
    "serializer",
    "compression",
    "delivery_mode",
    "time_limit",
    "soft_time_limit",
    "ignore_result",
    "immediate",
    "mandatory",
    "expires",
}

#: Celery's headers that each message has of its own.
OWN_HEADERS = frozenset(
    ("argsrepr", "id", "ignore_result", "origin", "parent_id", "retries", "root_id")
)

#: What monitors and logs show as the keyword arguments: a subscriber has none.
KWARGSREPR = "{}"


@dataclass(eq=False, repr=False, slots=True)
class Template:
    """What is the same in all messages of one subscription.

    Attributes:
        headers: Celery's headers, without ids.
        route: options for ``send_task_message``: queue, exchange, serializer, ...
        serializer: name of the serializer for the body.
        methods: those of the task's class that were asked.
        publish: what ``send_task_message`` tells the producer, once it was asked.
        queues: what it would have the producer declare.
        envelope: what kombu makes of that on Redis, once it was asked.
        text: JSON of the headers apart from :data:`OWN_HEADERS`.
    """

    headers: dict[str, Any]
    route: dict[str, Any]
    serializer: str
    methods: tuple[Any, ...]
    publish: dict[str, Any] | None = None
    queues: list[Any] = field(default_factory=list[Any])
    envelope_asked: bool = False
    envelope: Envelope | None = None
    text: str = field(init=False, default="")

    def __post_init__(self) -> None:
        same = {name: value for name, value in self.headers.items() if name not in OWN_HEADERS}
        self.text = dumps(same)

    def publish_options(self, app: Celery) -> dict[str, Any]:
        """Return what ``send_task_message`` tells the producer apart from ids."""
        if self.publish is not None:
            return self.publish
        producer = _RecordingProducer()
        message = task_message(dict(self.headers), {}, ((), {}, {}), None)
        # without retry, so that it does not ask for the producer's connection
        app.amqp.send_task_message(
            producer, self.headers["task"], message, **{**self.route, "retry": False}
        )
        options = producer.options
        for name in ("headers", "retry", "serializer"):  # differ, or are settled already
            del options[name]
        self.queues = options.pop("declare") or []
        self.publish = options
        return options

    def envelope_for(self, pipeline: Pipeline, app: Celery) -> Envelope | None:
        """Return the envelope in which a pipeline takes the message, if it does."""
        if not self.envelope_asked:
            self.envelope = pipeline.envelope(self.publish_options(app))
            self.envelope_asked = True
        if self.envelope is None or not pipeline.takes(self.envelope):
            return None
        return self.envelope


class _RecordingProducer:
    """Stands where Celery expects a producer, and keeps what it is told."""

    options: dict[str, Any]

    def publish(self, body: Any, **options: Any) -> None:  # noqa: ARG002 - the producer's
        self.options = options


#: A subscription's id, with the priority of its messages if they have one of their own.
_Which: TypeAlias = "str | tuple[str, int]"


class Templates:
    """The templates of one app.

    Args:
        app: the Celery app.
        queue: where messages go whose task has no route of its own; the app's default by default.
    """

    def __init__(self, app: Celery, queue: str | None = None) -> None:
        self._app = app
        self._queue = queue
        self._state: tuple[Any, ...] | None = None
        self._built: dict[_Which, tuple[Subscription, Template | None]] = {}
        self._checked: dict[_Which, tuple[Subscription, Template | None]] = {}

    def refresh(self) -> None:
        """Forget what may have changed since the last emission: configuration, and other tools."""
        app = self._app
        conf = app.conf
        # Celery makes a new router when its routes change
        state = (app.amqp.router, conf.task_send_sent_event, conf.task_inherit_parent_priority)
        if state != self._state:
            self._state, self._built = state, {}
        self._checked = {}

    def get(self, subscription: Subscription, priority: int | None = None) -> Template | None:
        """Return the template of a subscription; ``None`` if it needs ``apply_async``.

        Args:
            subscription: the subscription.
            priority: the broker's, of these messages; ``None``: as its options say.
        """
        which = subscription.id if priority is None else (subscription.id, priority)
        checked = self._checked.get(which)
        if checked is None or checked[0] is not subscription:
            checked = (subscription, self._unpatched(which, subscription, priority))
            self._checked[which] = checked
        return checked[1]

    def _unpatched(
        self, which: _Which, subscription: Subscription, priority: int | None
    ) -> Template | None:
        built = self._built.get(which)
        if built is None or built[0] is not subscription:
            built = (subscription, self._build(subscription, priority))
            self._built[which] = built
        template = built[1]
        # a tool may come later, and go again; its wrapper may claim to equal what it wraps
        if template is None or not all(
            map(operator.is_, _methods(subscription.task), template.methods)
        ):
            return None
        return template

    def queue_for(self, subscription: Subscription) -> str | None:
        """Return the queue of the fast workers, if a subscription's messages go there."""
        return self.queue_for_task(subscription.task.name, subscription.options)

    def queue_for_task(self, name: str, options: Mapping[str, Any]) -> str | None:
        """Return the queue of the fast workers, if messages of a task go there.

        That is, if neither the task, nor these options, nor the app's routes name another.
        """
        if self._queue is None:
            return None
        chosen = chosen_options(self._app, name, options)
        if any(chosen.get(key) for key in ("queue", "exchange", "routing_key")):
            return None
        routed = routed_to(self._app, name, options)
        return self._queue if routed == self._app.conf.task_default_queue else None

    def queue_of(self, subscription: Subscription) -> str:
        """Return the queue that a subscription's messages go to; ``""`` if that is not simple."""
        template = self.get(subscription)
        queue: Any = None if template is None else template.route.get("queue")
        return "" if queue is None else str(getattr(queue, "name", queue))

    def queues(self, subscriptions: Iterable[Subscription]) -> set[str]:
        """Return the names of the queues that runs may go to, as far as this process knows."""
        self.refresh()
        consumed: Any = self._app.amqp.queues
        queues = {str(name) for name in consumed.consume_from}
        for name in list(self._app.tasks):  # of tails, and whatever else a run may ask for
            queues.add(self.queue_for_task(name, {}) or routed_to(self._app, name, {}))
        queues.update(self.queue_of(subscription) for subscription in subscriptions)
        return queues - {""}

    def _build(self, subscription: Subscription, priority: int | None) -> Template | None:
        app, task = self._app, subscription.task
        assert self._state is not None  # noqa: S101 - refresh() has set it
        router, sends_event, inherits_priority = self._state
        methods = _methods(task)
        options = {**task._get_exec_options(), **subscription.options}
        if priority is not None:
            options["priority"] = priority
        ignore_result = options.pop("ignore_result", task.ignore_result)
        if (
            not options.keys() <= _PLAIN_OPTIONS
            or options.pop("expires", None) is not None
            or sends_event
            or inherits_priority
            or not all(isinstance(route, MapRoute) for route in router.routes)
            or (task.time_limit and task.soft_time_limit and task.soft_time_limit > task.time_limit)
            or not all(is_stock(method, celery_task) for method in methods)
        ):
            return None
        limits = {key: options.pop(key, None) for key in ("time_limit", "soft_time_limit")}
        queue = self.queue_for(subscription)
        if queue is not None:
            options["queue"] = queue
        route = router.route(options, task.name, (), {}, task)
        message = app.amqp.as_task_v2(
            "-",
            task.name,
            ignore_result=ignore_result,
            argsrepr="",
            kwargsrepr=KWARGSREPR,
            **limits,
        )
        serializer = route.get("serializer") or app.conf.task_serializer
        return Template(message.headers, route, serializer, methods)


def _methods(task: Any) -> tuple[Any, ...]:
    """Return what decides how a task is published."""
    cls: Any = cast("Any", type(task))
    return (
        task.__dict__.get("apply_async", cls.apply_async),
        cls.shadow_name,
        cls._get_exec_options,
    )
