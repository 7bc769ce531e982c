"""Messages for the ledger's own Redis, made without publishing them: one script does both.

Only where broker and ledger are the same database, and nothing but an LPUSH happens to a message.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celery_fanout.emitting.broker.connections import Deadline
from celery_fanout.emitting.broker.sending import Sending
from celery_fanout.exceptions import INTERRUPTS
from celery_fanout.exceptions.describing import reason_of

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from celery import Celery

    from celery_fanout.emitting.broker.connections import ProducerPool
    from celery_fanout.emitting.broker.templates import Templates
    from celery_fanout.emitting.chains import FrozenChain
    from celery_fanout.model.settings import Settings
    from celery_fanout.stores.ledger import Ledger

# not Celery's get_logger: its loggers say nothing in a process that has no logging set up
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """Messages of the chains of one event.

    Attributes:
        messages: of runs that start whatever the ledger says, by the Redis list that they go to.
        envelopes: list and message of each run with a flow, by its id.
    """

    messages: Mapping[str, Sequence[str]]
    envelopes: Mapping[str, tuple[str, str]]


class Preparer:
    """Makes the messages of chains without publishing them.

    Args:
        sending: what makes messages.
    """

    def __init__(self, sending: Sending) -> None:
        self._sending = sending

    def prepare(self, chains: Sequence[FrozenChain]) -> Prepared | None:
        """Return the messages of chains; ``None`` if some go another way.

        Runs that collect events have none: what they are made of is not known yet.
        """
        chains = [chain for chain in chains if chain.flow is None or chain.flow.collect is None]
        if not all(self._sending.can_buffer(chain) for chain in chains):
            return None
        try:
            return self._prepare(chains)
        except INTERRUPTS:
            raise
        except Exception as exc:  # noqa: BLE001 - a broker's library raises errors of its own
            # to declare a queue asks the server; its ledger says itself whether it is away
            logger.debug("No message is made beforehand: %s", type(exc).__name__)
            self._sending.drain()
            return None

    def _prepare(self, chains: Sequence[FrozenChain]) -> Prepared:
        for chain in chains:
            if chain.flow is None:
                self._sending.send(chain, {})
        messages = self._sending.drain()
        envelopes: dict[str, tuple[str, str]] = {}
        for chain in chains:
            if chain.flow is None:
                continue
            self._sending.send(chain, {})
            ((key, (message,)),) = self._sending.drain().items()
            envelopes[chain.run_id] = (key, message)
        return Prepared(messages, envelopes)


@dataclass(eq=False, repr=False)
class PreparerPool:
    """Lends a :class:`Preparer`, where broker and ledger are the same Redis database.

    Args:
        app: the Celery app.
        settings: its settings.
        templates: its templates.
        producers: its producers.
        ledger: the ledger, on level 2.
    """

    _app: Celery
    _settings: Settings
    _templates: Templates
    _producers: ProducerPool
    _ledger: Ledger | None
    _one_redis: bool | None = field(default=None, init=False)  # unknown without a connection

    @contextmanager
    def acquire(self) -> Generator[Preparer | None]:
        """Lend what makes messages that the ledger's Redis takes; ``None`` if it takes none."""
        if self._ledger is None or not self._ledger.supports_publish or not self._may_be_one_redis:
            yield None
            return
        deadline = Deadline(self._settings.publish_timeout)
        with ExitStack() as stack:
            try:
                producer = stack.enter_context(self._producers.acquire(deadline))
                if self._one_redis is None:
                    self._one_redis = self._is_one_redis(producer.channel)
                sending = Sending(self._app, self._templates, producer, deadline, retries=0)
                preparer = Preparer(sending) if self._one_redis else None
            except INTERRUPTS:
                raise
            except Exception as exc:  # noqa: BLE001 - a broker's library raises errors of its own
                # a ledger that answers, on the same server, can do without
                logger.debug("%s", reason_of(exc))
                preparer = None
            yield preparer

    @cached_property
    def _may_be_one_redis(self) -> bool:
        """Whether broker and ledger may be one database, as far as that can be told unconnected."""
        connection: Any = self._app.connection_for_write()
        if connection.transport.driver_type != "redis" or len(connection.alt or ()) > 1:
            return False
        ledger = self._ledger_address
        if "://" in (connection.hostname or ""):
            return "path" in ledger  # a socket
        host, port = connection.hostname or "127.0.0.1", connection.port or 6379
        db = str(connection.virtual_host or 0).strip("/") or "0"
        address = (ledger.get("host"), str(ledger.get("port") or 6379), str(ledger.get("db") or 0))
        return address == (host, str(port), db)

    @cached_property
    def _ledger_address(self) -> dict[str, Any]:
        """How the ledger's Redis is reached; empty if that is no single server."""
        ledger: Any = self._ledger
        pool: Any = getattr(ledger.client, "connection_pool", None)
        address: dict[str, Any] = getattr(pool, "connection_kwargs", {})
        return address if address.get("host") or address.get("path") else {}

    def _is_one_redis(self, channel: Any) -> bool:
        """Whether a channel's database is the ledger's."""
        broker: dict[str, Any] = channel._connparams()
        ledger = self._ledger_address
        names = ("host", "port", "db") if "host" in ledger else ("path", "db")
        return all(str(broker.get(name) or 0) == str(ledger.get(name) or 0) for name in names)
