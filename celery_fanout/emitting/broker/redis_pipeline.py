"""Messages to plain Redis queues, all in one pipeline.

kombu builds each message by itself: it copies queues, encodes the body, looks up the exchange,
writes one command. Here kombu is asked once per subscription what a message looks like; the
messages of an emission are copies of it with other ids, and each queue gets one LPUSH for all of
its messages. It takes half the time of ``Producer.batch()``, which kombu has since 5.7 (measured
on kombu 5.7 and redis-py 8.1).

Only where nothing but an LPUSH happens: an exchange, an expiring queue, a compressed body, a
patched or unknown kombu are left to ``Producer.publish``. A test holds that what is written here is
what kombu would have written.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any, cast

import kombu
from kombu import messaging
from kombu.utils.json import JSONEncoder

from celery_fanout.emitting.broker.stock import is_stock

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Versions of kombu whose Redis transport was read, and is tested.
KNOWN = {(5, 5), (5, 6), (5, 7)}

#: Messages in one LPUSH.
AT_ONCE = 1000

#: Writes JSON as kombu does.
dumps = JSONEncoder().encode


_quoted = functools.lru_cache(maxsize=64)(dumps)


def open_pipeline(producer: Any) -> Pipeline | None:
    """Return a pipeline for a producer; ``None`` if it does not publish to plain Redis queues."""
    channel = producer.channel
    version: tuple[int, ...] = cast("Any", kombu).VERSION[:2]
    if producer.connection.transport.driver_type != "redis" or version not in KNOWN:
        return None
    from kombu.transport import redis  # imported where it is used, for it needs redis-py
    from kombu.transport.virtual import base as virtual

    cls: Any = cast("Any", type(channel))
    publisher: Any = cast("Any", type(producer))
    module = redis
    plain = (
        cls.__module__ == module.__name__
        and is_stock(cls._put, module)
        and is_stock(cls.basic_publish, virtual)
        and is_stock(cls.prepare_message, virtual)
        and is_stock(cls._inplace_augment_message, virtual)
        and is_stock(publisher.publish, messaging)
        and is_stock(publisher._publish, messaging)
        and channel.body_encoding == "base64"
    )
    # redis-py would send a pipeline again whose answer was lost
    again = channel.pool.connection_kwargs
    if not plain or any(again.get(key) for key in ("retry", "retry_on_error", "retry_on_timeout")):
        return None
    return Pipeline(channel)


class Envelope:
    """What kombu writes for a message, apart from its body, headers and ids.

    Attributes:
        queue: the name of the queue.
        key: the list that the message goes to.
        text: JSON of its properties, without the closing brace.
    """

    __slots__ = ("key", "queue", "text")

    def __init__(self, queue: str, key: str, properties: dict[str, Any]) -> None:
        self.queue = queue
        self.key = key
        self.text = dumps(properties)[:-1]


class Pipeline:
    """The messages of one emission on their way to Redis.

    Args:
        channel: a channel of kombu's Redis transport.
    """

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        # kombu makes a UUID for each message, which takes as long as half of its headers
        self._tag = channel._next_delivery_tag()
        self._count = itertools.count()
        self._messages: dict[str, list[str]] = {}
        self._bodies: dict[int, tuple[Any, str]] = {}

    def envelope(self, options: Mapping[str, Any]) -> Envelope | None:
        """Return the envelope of messages that are published in one way.

        Args:
            options: what ``Producer.publish`` would be told.

        Returns:
            ``None`` if such a message is more than an LPUSH.
        """
        if options.get("compression"):
            return None
        recorder = _RecordingChannel(self._channel)
        producer = messaging.Producer(cast("Any", recorder), auto_declare=False)
        producer.publish(b"", content_type="-", content_encoding="-", **options)
        if recorder.place["exchange"]:
            return None
        queue = recorder.place["routing_key"]
        channel = self._channel
        channel._inplace_augment_message(recorder.message, "", queue)
        priority = channel._get_message_priority(recorder.message, reverse=False)
        return Envelope(queue, channel._q_for_pri(queue, priority), recorder.message["properties"])

    def takes(self, envelope: Envelope) -> bool:
        """Whether nothing but an LPUSH happens to a message now."""
        return envelope.queue not in getattr(self._channel, "_expires", ())

    def add(
        self,
        envelope: Envelope,
        body: tuple[str, str, Any],
        headers: str,
        correlation_id: str,
        reply_to: str,
    ) -> None:
        """Add one message.

        Most of it is the same as in another message, and JSON texts are quickly put together.

        Args:
            envelope: its envelope.
            body: content type, encoding and body.
            headers: JSON of its headers.
            correlation_id: the id of the task, a UUID.
            reply_to: where an RPC result backend sends the result.
        """
        content_type, content_encoding, content = body
        self._messages.setdefault(envelope.key, []).append(
            f'{{"body": "{self._encoded(content)}", "content-encoding": {_quoted(content_encoding)}'
            f', "content-type": {_quoted(content_type)}, "headers": {headers}, "properties": '
            f'{envelope.text}, "correlation_id": "{correlation_id}", "reply_to": '
            f'{_quoted(reply_to)}, "delivery_tag": "{self._tag}-{next(self._count)}"}}}}'
        )

    def _encoded(self, content: Any) -> str:
        encoded_body = self._bodies.get(id(content))
        if encoded_body is None:
            encoded, _ = self._channel.encode_body(content, self._channel.body_encoding)
            # the content is kept beside it, so that its id() stays its own
            encoded_body = self._bodies[id(content)] = (content, encoded)
        return encoded_body[1]

    def drain(self) -> dict[str, list[str]]:
        """Return the messages by the list that they go to, and forget them."""
        prefix = self._channel.global_keyprefix or ""
        messages = {prefix + key: texts for key, texts in self._messages.items()}
        self._messages = {}
        return messages

    def flush(self) -> None:
        """Send all messages, in one round trip."""
        if not self._messages:
            return
        with self._channel.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
            for key, messages in self._messages.items():
                for start in range(0, len(messages), AT_ONCE):
                    pipe.lpush(key, *messages[start : start + AT_ONCE])
            answers = pipe.execute(raise_on_error=False)  # which would quote the messages
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer


class _RecordingChannel:
    """Stands where kombu expects a channel, and keeps what it is told to publish."""

    message: dict[str, Any]
    place: dict[str, Any]

    def __init__(self, channel: Any) -> None:
        self.prepare_message = channel.prepare_message

    def basic_publish(self, message: dict[str, Any], **place: Any) -> None:
        self.message, self.place = message, place
