"""From a frozen chain to a Celery message, the fast way and the compatible way.

A stock ``Task.apply_async`` spends most of its time on what does not change from event to event:
routing, execution options, ``saferepr`` of the arguments, a SUBSCRIBE to the result. The fast way
asks Celery once per subscription: ``app.amqp.as_task_v2`` for the message's headers, and
``app.amqp.send_task_message`` for what it tells the producer. Where something listens to the
signals that the latter sends, it is asked for every message.
"""

from __future__ import annotations

from functools import lru_cache
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from celery import signals
from celery.app import amqp as celery_amqp
from celery.app import base as celery_base
from celery.app import task as celery_task
from celery.app.amqp import task_message
from celery.app.routes import MapRoute
from celery.backends.base import Backend
from celery.utils.nodenames import anon_nodename
from kombu.serialization import dumps

from celery_fanout.connection import MAX_RETRIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

    from celery_fanout.canvas import FrozenChain
    from celery_fanout.registry import Subscription

__all__ = ["Templates"]

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

_KWARGSREPR = "{}"


def _is_stock(function: Any, module: Any) -> bool:
    """Whether a function is the one that Celery ships, not a subclass's or a tool's wrapper.

    Wrappers copy names and attributes, but not the module that their code belongs to; some are
    no functions at all.
    """
    if type(function) is MethodType:
        function = function.__func__
    return type(function) is FunctionType and function.__globals__ is vars(module)


def argsrepr_of(chain: FrozenChain) -> str:
    """Return what monitors and logs show as the arguments: which event, never its data."""
    headers = chain.headers
    return f"({headers['ce_type']!r} {headers['ce_id']!r},)"


class Template:
    """What is the same in all messages of one subscription.

    Attributes:
        headers: Celery's headers, without ids.
        route: options for ``send_task_message``: queue, exchange, serializer, ...
        serializer: name of the serializer for the body.
        methods: those of the task's class that were asked.
        publish: what ``send_task_message`` tells the producer, once it was asked.
        queues: what it would have the producer declare.
    """

    __slots__ = ("headers", "methods", "publish", "queues", "route", "serializer")

    def __init__(
        self,
        headers: dict[str, Any],
        route: dict[str, Any],
        serializer: str,
        methods: tuple[Any, ...],
    ) -> None:
        self.headers = headers
        self.route = route
        self.serializer = serializer
        self.methods = methods
        self.publish: dict[str, Any] | None = None
        self.queues: list[Any] = []

    def ask(self, app: Celery) -> dict[str, Any]:
        """Return what ``send_task_message`` tells the producer apart from ids."""
        asked = _Asked()
        message = task_message(dict(self.headers), {}, ((), {}, {}), None)
        # without retry, so that it does not ask for the producer's connection
        app.amqp.send_task_message(
            asked, self.headers["task"], message, **{**self.route, "retry": False}
        )
        told = asked.told
        for known in ("headers", "retry", "serializer"):  # differ, or are settled already
            del told[known]
        self.queues = told.pop("declare") or []
        self.publish = told
        return told


class _Asked:
    """Stands where Celery expects a producer, and keeps what it is told."""

    told: dict[str, Any]

    def publish(self, body: Any, **told: Any) -> None:
        self.told = told


class _Undeclared:
    """The queues that a connection has not declared yet.

    kombu copies a queue before it looks whether that was declared. It asks this again at every
    retry, when the connection may be a new one.
    """

    __slots__ = ("_declared", "_queues")

    def __init__(self, queues: list[Any], connection: Any) -> None:
        self._queues = queues
        self._declared = connection.declared_entities

    def __bool__(self) -> bool:
        for queue in self._queues:  # noqa: SIM110 - any() takes three times as long
            if hash(queue) not in self._declared or not queue.can_cache_declaration:
                return True
        return False

    def __iter__(self) -> Iterator[Any]:
        return iter(self._queues)


class Templates:
    """The templates of one app.

    Args:
        app: the Celery app.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._state: tuple[Any, ...] | None = None
        self._known: dict[str, tuple[Subscription, Template | None]] = {}

    def begin(self, producer: Any, *, together: bool) -> Sending:
        """Start a series of messages.

        Args:
            producer: a kombu producer.
            together: whether the messages leave in one batch or one window of confirms.
        """
        app = self._app
        conf = app.conf
        # Celery makes a new router when its configuration changes
        state = (app.amqp.router, conf.task_send_sent_event, conf.task_inherit_parent_priority)
        if state != self._state:
            self._state, self._known = state, {}
        return Sending(app, self, producer, together=together)

    def get(self, subscription: Subscription) -> Template | None:
        """Return the template of a subscription; ``None`` if it needs ``apply_async``."""
        known = self._known.get(subscription.id)
        if known is None or known[0] is not subscription:
            known = (subscription, self._build(subscription))
            self._known[subscription.id] = known
        template = known[1]
        # a tool may come later, and go again
        if template is None or _methods(subscription.task) != template.methods:
            return None
        return template

    def _build(self, subscription: Subscription) -> Template | None:
        app, task = self._app, subscription.task
        assert self._state is not None
        router, sends_event, inherits_priority = self._state
        methods = _methods(task)
        options = {**task._get_exec_options(), **subscription.options}
        ignore_result = options.pop("ignore_result", task.ignore_result)
        if (
            not options.keys() <= _PLAIN_OPTIONS
            or options.pop("expires", None) is not None
            or sends_event
            or inherits_priority
            or not all(isinstance(route, MapRoute) for route in router.routes)
            or (task.time_limit and task.soft_time_limit and task.soft_time_limit > task.time_limit)
            or not all(_is_stock(method, celery_task) for method in methods)
        ):
            return None
        limits = {key: options.pop(key, None) for key in ("time_limit", "soft_time_limit")}
        route = router.route(options, task.name, (), {}, task)
        message = app.amqp.as_task_v2(
            "-",
            task.name,
            ignore_result=ignore_result,
            argsrepr="",
            kwargsrepr=_KWARGSREPR,
            **limits,
        )
        serializer = route.get("serializer") or app.conf.task_serializer
        return Template(message.headers, route, serializer, methods)


def _methods(task: Any) -> tuple[Any, ...]:
    """Return what decides how a task is published."""
    cls = type(task)
    return (
        task.__dict__.get("apply_async", cls.apply_async),
        cls.shadow_name,
        cls._get_exec_options,
    )


def _publishes_plainly(app: Celery) -> bool:
    """Whether an app publishes with Celery's own methods."""
    amqp = app.amqp
    return (
        "send_task" not in app.__dict__
        and _is_stock(type(app).send_task, celery_base)
        and amqp.create_task_message == amqp.as_task_v2
        and _is_stock(amqp.as_task_v2, celery_amqp)
        and _is_stock(amqp.send_task_message, celery_amqp)
    )


@lru_cache(maxsize=16)
def _subscribes(backend: type) -> bool:
    """Whether a result backend would subscribe to each result on Redis.

    A process that only emits never reads the answers, and Redis cuts its connection after some
    200,000 of them (measured on Celery 5.7 and Redis 7).
    """
    return any(cls.__module__ == "celery.backends.redis" for cls in backend.__mro__)


class Sending:
    """One series of messages through one producer."""

    def __init__(self, app: Celery, templates: Templates, producer: Any, *, together: bool) -> None:
        self._app = app
        self._templates = templates
        self._producer = producer
        self._plain = _publishes_plainly(app)
        self._bodies: dict[tuple[int, str], tuple[Any, str, str, Any]] = {}
        self._reply_to = app.thread_oid
        parent = app.current_worker_task
        self._ids: dict[str, Any] = {
            "origin": anon_nodename(),
            "parent_id": parent.request.id if parent else None,
        }
        self._root_id = (parent.request.root_id or parent.request.id) if parent else None
        # a receiver may edit everything, so each message is then made by itself
        self._hooked = bool(
            signals.before_task_publish.receivers
            or signals.after_task_publish.receivers
            or signals.task_sent.receivers
        )
        backend = app.backend
        self._subscribes = _subscribes(type(backend))
        prepares = type(backend).on_task_call is not Backend.on_task_call
        self._prepare = backend.on_task_call if prepares and not self._subscribes else None
        self._retry = self._retries(together=together)

    def _retries(self, *, together: bool) -> dict[str, Any]:
        conf = self._app.conf
        if together:  # a failed batch is reported, not sent again behind our back
            return {"retry": False}
        if conf.task_publish_retry and conf.task_publish_retry_policy.get("max_retries", 0) is None:
            return {"retry": True, "retry_policy": {"max_retries": MAX_RETRIES}}
        return {"retry": conf.task_publish_retry}

    def send(self, chain: FrozenChain, options: dict[str, Any]) -> None:
        """Publish one chain.

        Args:
            chain: the chain.
            options: more ``apply_async`` options, such as a countdown.
        """
        fast = self._plain and not options
        template = self._templates.get(chain.subscription) if fast else None
        if template is None:
            self._apply_async(chain, options)
        else:
            self._send_template(chain, template)

    def _apply_async(self, chain: FrozenChain, options: dict[str, Any]) -> None:
        task = chain.subscription.task
        merged = {**self._retry, **chain.subscription.options, **options}
        headers = {**(merged.pop("headers", None) or {}), **chain.headers}
        if self._subscribes:
            # ignore_result keeps Celery from subscribing to the result; the header, which is
            # laid over the message afterwards, is what the worker reads
            stored = merged.pop("ignore_result", task.ignore_result)
            headers["ignore_result"] = stored
            merged["ignore_result"] = True
        task.apply_async(
            args=chain.args,
            kwargs={},
            task_id=chain.run_id,
            producer=self._producer,
            link_error=chain.errbacks,
            chain=chain.chain,
            headers=headers,
            argsrepr=argsrepr_of(chain),
            kwargsrepr=_KWARGSREPR,
            add_to_parent=False,
            **merged,
        )

    def _send_template(self, chain: FrozenChain, template: Template) -> None:
        run_id = chain.run_id
        headers = {
            **template.headers,
            **self._ids,
            "id": run_id,
            "root_id": self._root_id or run_id,
            "argsrepr": argsrepr_of(chain),
        }
        if self._prepare is not None and not headers["ignore_result"]:
            self._prepare(self._producer, run_id)
        if self._hooked:
            self._send_hooked(chain, template, headers)
            return
        told = template.publish or template.ask(self._app)
        content_type, content_encoding, body = self._body(chain, template)
        self._producer.publish(
            body,
            content_type=content_type,
            content_encoding=content_encoding,
            headers={**headers, **chain.headers},
            correlation_id=run_id,
            reply_to=self._reply_to,
            declare=_Undeclared(template.queues, self._producer.connection),
            **{**told, **self._retry},
        )

    def _send_hooked(self, chain: FrozenChain, template: Template, headers: dict[str, Any]) -> None:
        headers["timelimit"] = list(headers["timelimit"])
        headers["stamps"] = {}
        properties = {"correlation_id": chain.run_id, "reply_to": self._reply_to}
        self._app.amqp.send_task_message(
            self._producer,
            headers["task"],
            task_message(headers, properties, (chain.args, {}, _embed(chain)), None),
            headers=chain.headers,
            **{**template.route, **self._retry},
        )

    def _body(self, chain: FrozenChain, template: Template) -> tuple[str, str, Any]:
        """Return the encoded body, once per event where chains differ in nothing but ids."""
        plain = chain.errbacks is None and chain.chain is None
        key = (id(chain.args[0]), template.serializer)
        known = self._bodies.get(key) if plain else None
        if known is None:
            # the data is kept beside its body, so that its id() stays its own
            known = (
                chain.args[0],
                *dumps((chain.args, {}, _embed(chain)), template.serializer),
            )
            if plain:
                self._bodies[key] = known
        return known[1:]


def _embed(chain: FrozenChain) -> dict[str, Any]:
    return {"callbacks": None, "errbacks": chain.errbacks, "chain": chain.chain, "chord": None}
