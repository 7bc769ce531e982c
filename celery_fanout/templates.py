"""From a frozen chain to a Celery message, the fast way and the compatible way.

A stock ``Task.apply_async`` spends most of its time on what does not change from event to event:
routing, execution options, ``saferepr`` of the arguments, a SUBSCRIBE to the result. The fast way
builds Celery's message once per subscription with ``app.amqp.as_task_v2``, and hands copies of it
to ``app.amqp.send_task_message``, which sends the signals and publishes as always.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from celery import signals
from celery.app import amqp as celery_amqp
from celery.app import base as celery_base
from celery.app import task as celery_task
from celery.app.amqp import task_message
from celery.app.routes import MapRoute
from celery.utils.nodenames import anon_nodename
from kombu.serialization import dumps

if TYPE_CHECKING:
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

#: The version of Celery's message protocol that templates are written in.
PROTOCOL = 2

_KWARGSREPR = "{}"


def _is_stock(function: Any, module: Any) -> bool:
    """Whether a method is the one that Celery ships, not a subclass's or a tool's wrapper."""
    code = getattr(function, "__code__", None)
    return code is not None and code.co_filename == module.__file__


def argsrepr_of(chain: FrozenChain) -> str:
    """Return what monitors and logs show as the arguments: which event, never its data."""
    headers = chain.headers
    return f"({headers['ce_type']!r} {headers['ce_id']!r},)"


class Template:
    """What is the same in all messages of one subscription.

    Attributes:
        headers: Celery's headers, without ids.
        route: options for ``send_task_message``: queue, exchange, serializer, ...
        queue: name of the queue to declare.
        serializer: name of the serializer for the body.
    """

    __slots__ = ("headers", "queue", "route", "serializer")

    def __init__(self, headers: dict[str, Any], route: dict[str, Any], serializer: str) -> None:
        self.headers = headers
        self.route = route
        self.queue = getattr(route.get("queue"), "name", None)
        self.serializer = serializer


class Templates:
    """The templates of one app.

    Args:
        app: the Celery app.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._router: Any = None
        self._known: dict[str, tuple[Subscription, Template | None]] = {}

    def begin(self, producer: Any, *, together: bool) -> Sending:
        """Start a series of messages.

        Args:
            producer: a kombu producer.
            together: whether the messages leave in one batch or one window of confirms.
        """
        router = self._app.amqp.router
        if router is not self._router:  # Celery makes a new one when the configuration changes
            self._router, self._known = router, {}
        return Sending(self._app, self, producer, together=together)

    def get(self, subscription: Subscription) -> Template | None:
        """Return the template of a subscription; ``None`` if it needs ``apply_async``."""
        known = self._known.get(subscription.id)
        if known is None or known[0] is not subscription:
            known = (subscription, self._build(subscription))
            self._known[subscription.id] = known
        return known[1] if _unreplaced(self._app, subscription.task) else None

    def _build(self, subscription: Subscription) -> Template | None:
        app, task = self._app, subscription.task
        options = {**task._get_exec_options(), **subscription.options}
        options = {key: value for key, value in options.items() if value is not None}
        ignore_result = options.pop("ignore_result", task.ignore_result)
        if (
            not options.keys() <= _PLAIN_OPTIONS
            or options.pop("expires", None) is not None
            or app.conf.task_protocol != PROTOCOL
            or app.conf.task_send_sent_event
            or app.conf.task_inherit_parent_priority
            or not all(isinstance(route, MapRoute) for route in self._router.routes)
        ):
            return None
        limits = {key: options.pop(key, None) for key in ("time_limit", "soft_time_limit")}
        route = self._router.route(options, task.name, (), {}, task)
        if not _plain_queue(route.get("queue")):
            return None
        message = app.amqp.as_task_v2(
            "-",
            task.name,
            ignore_result=ignore_result,
            argsrepr="",
            kwargsrepr=_KWARGSREPR,
            **limits,
        )
        serializer = route.get("serializer") or app.conf.task_serializer
        return Template(message.headers, route, serializer)


def _plain_queue(queue: Any) -> bool:
    return queue is not None and type(queue).__name__ == "Queue"


def _unreplaced(app: Celery, task: Any) -> bool:
    """Whether publishing is Celery's own all the way: no override, no patch by a tool."""
    cls: Any = cast("Any", type(task))
    amqp: Any = cast("Any", type(app.amqp))
    return (
        "apply_async" not in task.__dict__
        and "send_task" not in app.__dict__
        and _is_stock(cls.apply_async, celery_task)
        and _is_stock(cls.shadow_name, celery_task)
        and _is_stock(cls._get_exec_options, celery_task)
        and _is_stock(type(app).send_task, celery_base)
        and _is_stock(amqp.as_task_v2, celery_amqp)
        and _is_stock(amqp._create_task_sender, celery_amqp)
    )


class Sending:
    """One series of messages through one producer."""

    def __init__(self, app: Celery, templates: Templates, producer: Any, *, together: bool) -> None:
        self._app = app
        self._templates = templates
        self._producer = producer
        self._together = together
        self._declared: set[str | None] = set()
        self._bodies: dict[tuple[int, str], tuple[Any, str, str, Any]] = {}
        self._origin = anon_nodename()
        parent = app.current_worker_task
        self._parent_id = parent.request.id if parent else None
        self._root_id = (parent.request.root_id or parent.request.id) if parent else None
        # a receiver may edit the body, so it must see the real one, once per message
        self._hooked = bool(
            signals.before_task_publish.receivers or signals.after_task_publish.receivers
        ) or bool(signals.task_sent.receivers)
        self._backend_prepared = False

    def send(self, chain: FrozenChain, options: dict[str, Any]) -> None:
        """Publish one chain.

        Args:
            chain: the chain.
            options: more ``apply_async`` options, such as a countdown.
        """
        template = None if options else self._templates.get(chain.subscription)
        if template is None:
            self._apply_async(chain, options)
        else:
            self._send_template(chain, template)

    def _apply_async(self, chain: FrozenChain, options: dict[str, Any]) -> None:
        task = chain.subscription.task
        merged = {**chain.subscription.options, **options}
        headers: dict[str, Any] = {**(merged.pop("headers", None) or {}), **chain.headers}
        if self._subscribes():
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

    def _subscribes(self) -> bool:
        """Whether Celery would subscribe to each result on Redis.

        A process that only emits never reads the answers, and Redis cuts its connection after
        some 200,000 of them (measured on Celery 5.7 and Redis 7).
        """
        return any(c.__module__ == "celery.backends.redis" for c in type(self._app.backend).__mro__)

    def _send_template(self, chain: FrozenChain, template: Template) -> None:
        app, run_id = self._app, chain.run_id
        if not self._backend_prepared:
            self._backend_prepared = True
            if not self._subscribes():  # rpc:// declares its reply queue here
                app.backend.on_task_call(self._producer, run_id)
        headers = dict(template.headers)
        headers["id"] = run_id
        headers["root_id"] = self._root_id or run_id
        headers["parent_id"] = self._parent_id
        headers["argsrepr"] = argsrepr_of(chain)
        headers["origin"] = self._origin
        headers["timelimit"] = list(headers["timelimit"])
        headers["stamps"] = {}
        route = dict(template.route)
        body = self._body(chain, template, route)
        properties = {"correlation_id": run_id, "reply_to": app.thread_oid}
        if self._together:
            route["retry"] = False  # a failed batch is reported, not sent again behind our back
            if not self._hooked:
                if template.queue in self._declared:
                    route["declare"] = []
                self._declared.add(template.queue)
        app.amqp.send_task_message(
            self._producer,
            headers["task"],
            task_message(headers, properties, body, None),
            headers=chain.headers,
            **route,
        )

    def _body(self, chain: FrozenChain, template: Template, route: dict[str, Any]) -> Any:
        """Return the body; encoded once per event where chains differ in nothing but ids."""
        embed = {"callbacks": None, "errbacks": chain.errbacks, "chain": chain.chain, "chord": None}
        if self._hooked:
            return (chain.args, {}, embed)
        plain = chain.errbacks is None and chain.chain is None
        key = (id(chain.args[0]), template.serializer)
        known = self._bodies.get(key) if plain else None
        if known is None:
            known = (chain.args[0], *dumps((chain.args, {}, embed), template.serializer))
            if plain:
                self._bodies[key] = known
        # the data is kept beside its body, so that its id() stays its own
        _, route["content_type"], route["content_encoding"], body = known
        return body
