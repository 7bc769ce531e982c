"""The chains of one emission, on their way to the broker through one producer.

The fast way fills in a template (``templates``) and hands it to a pipeline on Redis
(``redis_pipeline``) or to ``Producer.publish``. Where something listens to Celery's publish
signals, ``app.amqp.send_task_message`` is called for every message, and sends them. The compatible
way is ``Task.apply_async``.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from celery import signals
from celery.app import amqp as celery_amqp
from celery.app import base as celery_base
from celery.app.amqp import task_message
from celery.backends.base import Backend
from celery.utils.nodenames import anon_nodename
from kombu.serialization import dumps

from celery_fanout.emitting.broker.confirms import confirm_window
from celery_fanout.emitting.broker.connections import hurry
from celery_fanout.emitting.broker.redis_pipeline import dumps as dumps_json
from celery_fanout.emitting.broker.redis_pipeline import open_pipeline
from celery_fanout.emitting.broker.stock import is_stock
from celery_fanout.emitting.broker.templates import KWARGSREPR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from celery import Celery

    from celery_fanout.emitting.broker.connections import Deadline
    from celery_fanout.emitting.broker.templates import Template, Templates
    from celery_fanout.emitting.chains import FrozenChain


def argsrepr_of(chain: FrozenChain) -> str:
    """Return what monitors and logs show as the arguments: which event, never its data."""
    headers = chain.headers
    return f"({headers['ce_type']!r} {headers['ce_id']!r},)"


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
        for queue in self._queues:  # any() takes three times as long
            if hash(queue) not in self._declared or not queue.can_cache_declaration:
                return True
        return False

    def __iter__(self) -> Iterator[Any]:
        return iter(self._queues)


def _publishes_plainly(app: Celery) -> bool:
    """Whether an app publishes with Celery's own methods."""
    amqp = app.amqp
    return (
        "send_task" not in app.__dict__
        and is_stock(type(app).send_task, celery_base)
        and amqp.create_task_message == amqp.as_task_v2
        and is_stock(amqp.as_task_v2, celery_amqp)
        and is_stock(amqp.send_task_message, celery_amqp)
    )


@lru_cache(maxsize=16)
def _subscribes(backend: type) -> bool:
    """Whether a result backend would subscribe to each result on Redis.

    A process that only emits never reads the answers, and Redis cuts its connection after some
    200,000 of them (measured on Celery 5.7 and Redis 7).
    """
    return any(cls.__module__ == "celery.backends.redis" for cls in backend.__mro__)


class Sending:
    """One series of messages through one producer.

    Args:
        app: the Celery app.
        templates: its templates.
        producer: a kombu producer.
        deadline: when retries end.
        retries: how often a message may be sent again. Not at all in a batch or a window of
            confirms: one that failed is reported, not sent again behind our back.
    """

    def __init__(
        self,
        app: Celery,
        templates: Templates,
        producer: Any,
        deadline: Deadline,
        *,
        retries: int,
    ) -> None:
        templates.refresh()
        self._app = app
        self._templates = templates
        self._producer = producer
        self._deadline = deadline
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
        self._subscribes = _subscribes(cast("Any", type(backend)))
        prepares = type(backend).on_task_call is not Backend.on_task_call
        self._prepare = backend.on_task_call if prepares and not self._subscribes else None
        self._retries = retries
        self._retry: dict[str, Any] = {"retry": retries > 0}
        if retries:
            self._retry["retry_policy"] = {"max_retries": retries}
        self._pipeline = None if self._hooked else open_pipeline(producer)

    def send(self, chain: FrozenChain, options: Mapping[str, Any]) -> bool:
        """Publish one chain, or buffer it for :meth:`flush`.

        Args:
            chain: the chain.
            options: more ``apply_async`` options, such as a countdown.

        Returns:
            Whether it was given to the producer.
        """
        fast = self._plain and not options
        template = self._templates.get(chain.subscription, chain.priority) if fast else None
        if template is None:
            self._apply_async(chain, options)
            return True
        return self._send_template(chain, template)

    def can_buffer(self, chain: FrozenChain) -> bool:
        """Whether :meth:`send` would buffer a chain for :meth:`flush`."""
        if not self._plain or self._pipeline is None:
            return False
        template = self._templates.get(chain.subscription, chain.priority)
        return template is not None and template.envelope_for(self._pipeline, self._app) is not None

    def drain(self) -> dict[str, list[str]]:
        """Return the buffered messages by their Redis list, and forget them."""
        return {} if self._pipeline is None else self._pipeline.drain()

    def flush(self) -> None:
        """Publish what is buffered."""
        if self._pipeline is not None:
            self._pipeline.flush()

    def _apply_async(self, chain: FrozenChain, options: Mapping[str, Any]) -> None:
        hurry(self._producer, self._deadline, self._retries)
        task = chain.subscription.task
        merged = {**self._retry, **chain.subscription.options, **options}
        headers: dict[str, Any] = {**(merged.pop("headers", None) or {}), **chain.headers}
        queue = self._templates.queue_for(chain.subscription)
        if queue is not None:
            merged["queue"] = queue
        if chain.retries:
            merged["retries"] = chain.retries
        if chain.priority is not None:
            merged["priority"] = chain.priority
        if not chain.celery_results:
            headers["ignore_result"] = merged["ignore_result"] = True
        elif self._subscribes:
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
            chain=chain.links,
            headers=headers,
            argsrepr=argsrepr_of(chain),
            kwargsrepr=KWARGSREPR,
            add_to_parent=False,
            **merged,
        )

    def _send_template(self, chain: FrozenChain, template: Template) -> bool:
        run_id, producer = chain.run_id, self._producer
        headers = {
            **self._ids,
            "id": run_id,
            "root_id": self._root_id or run_id,
            "argsrepr": argsrepr_of(chain),
            "retries": chain.retries or template.headers["retries"],
            "ignore_result": template.headers["ignore_result"] or not chain.celery_results,
        }
        if self._prepare is not None and not headers["ignore_result"]:
            self._prepare(producer, run_id)
        if self._hooked:
            self._send_hooked(chain, template, {**template.headers, **headers})
            return True
        publish_options = template.publish_options(self._app)
        headers.update(chain.headers)
        body = self._body(chain, template)
        undeclared = _Undeclared(template.queues, producer.connection)
        pipeline = self._pipeline
        envelope = None if pipeline is None else template.envelope_for(pipeline, self._app)
        if pipeline is None or envelope is None:
            ids = {"correlation_id": run_id, "reply_to": self._reply_to}
            options = {
                "headers": {**template.headers, **headers},
                "declare": undeclared,
                **publish_options,
                **ids,
            }
            self._publish(body, options)
            return True
        for queue in undeclared or ():
            producer.maybe_declare(queue)
        # ours begin with ce_ or fanout_, so no name is there twice
        texts = f"{template.text[:-1]}, {dumps_json(headers)[1:]}"
        pipeline.add(envelope, body, texts, run_id, self._reply_to)
        return False

    def _publish(self, body: tuple[str, str, Any], options: dict[str, Any]) -> None:
        producer = self._producer
        content_type, content_encoding, content = body
        options.update(content_type=content_type, content_encoding=content_encoding)
        if self._retry["retry"]:
            # what kombu wraps around a message to send it again costs as much as routing it
            with suppress(*producer.connection.recoverable_connection_errors):
                producer.publish(content, retry=False, **options)
                return
            hurry(producer, self._deadline, self._retries)
            options["retry_policy"] = {**options["retry_policy"], "max_retries": self._retries}
        producer.publish(content, retry=self._retry["retry"], **options)

    def _send_hooked(self, chain: FrozenChain, template: Template, headers: dict[str, Any]) -> None:
        hurry(self._producer, self._deadline, self._retries)
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
        plain = chain.errbacks is None and chain.links is None
        key = (id(chain.args[0]), template.serializer)
        encoded = self._bodies.get(key) if plain else None
        if encoded is None:
            # the data is kept beside its body, so that its id() stays its own
            encoded = (
                chain.args[0],
                *dumps((chain.args, {}, _embed(chain)), template.serializer),
            )
            if plain:
                self._bodies[key] = encoded
        return encoded[1:]


def _embed(chain: FrozenChain) -> dict[str, Any]:
    return {"callbacks": None, "errbacks": chain.errbacks, "chain": chain.links, "chord": None}


def send_batch(
    begin: Callable[..., Sending],
    producer: Any,
    chains: Sequence[FrozenChain],
    options: Mapping[str, Any],
) -> None:
    """Send chains through a producer that sends all messages at once; see :func:`send_singly`."""
    sent: list[FrozenChain] = []
    kept: list[FrozenChain] = []
    with producer.batch(max_size=sys.maxsize):  # one flush, at the end
        sending = begin(retries=0)
        for chain in chains:
            (sent if sending.send(chain, options) else kept).append(chain)
        _mark(sent, "unknown")
    _mark(sent, "published")
    _flush(sending, kept)


def send_singly(
    begin: Callable[..., Sending],
    producer: Any,
    deadline: Deadline,
    chains: Sequence[FrozenChain],
    options: Mapping[str, Any],
    retries: int,
) -> None:
    """Send chains one after another.

    Each chain's ``state`` says afterwards, or after an error, whether the broker has it.

    Args:
        begin: makes a :class:`Sending` through the producer, with a number of ``retries``.
        producer: a kombu producer.
        deadline: when sending ends; renewed by each answer of the broker.
        chains: the chains.
        options: more ``apply_async`` options.
        retries: how often a message may be sent again that no confirm is awaited of.
    """
    window = confirm_window(producer, deadline)
    kept: list[FrozenChain] = []
    with window or nullcontext():
        sending = begin(retries=retries if window is None else 0)
        for chain in chains:
            deadline.renew()  # the broker took the one before, or somebody's hook took the time
            chain.state = "unknown"
            if window is not None:
                window.chain = chain
                sending.send(chain, options)
            elif sending.send(chain, options):
                chain.state = "published"
            else:
                chain.state = "unpublished"
                kept.append(chain)
        if window is not None:
            window.wait()
    _flush(sending, kept)


def _flush(sending: Sending, chains: Sequence[FrozenChain]) -> None:
    _mark(chains, "unknown")
    sending.flush()
    _mark(chains, "published")


def _mark(chains: Sequence[FrozenChain], state: str) -> None:
    for chain in chains:
        chain.state = state
