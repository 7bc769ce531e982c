"""Publishing: chains go to the broker, all of them in one batch.

Messages are Celery's own. For tasks whose ``apply_async`` nothing has replaced, what is the same
for every event of a subscription is computed once (``broker.templates``); for all others
``Task.apply_async`` is called. A test holds that both put equal messages on the wire.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from celery_fanout.emitting.broker.connections import Deadline, ProducerPool
from celery_fanout.emitting.broker.prepared import PreparerPool
from celery_fanout.emitting.broker.routing import routed_to
from celery_fanout.emitting.broker.sending import Sending, send_batch, send_singly
from celery_fanout.exceptions import INTERRUPTS, EmitError
from celery_fanout.exceptions.describing import reason_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery import Celery

    from celery_fanout.emitting.broker.templates import Templates
    from celery_fanout.emitting.chains import FrozenChain
    from celery_fanout.model.settings import Settings
    from celery_fanout.stores.ledger import Ledger


class Publisher:
    """Publishes the chains of one app.

    Args:
        app: the Celery app.
        settings: its settings.
        templates: its templates.
        ledger: the ledger, on level 2.

    Attributes:
        preparers: make messages for the ledger to publish.
    """

    def __init__(
        self, app: Celery, settings: Settings, templates: Templates, ledger: Ledger | None = None
    ) -> None:
        self._app = app
        self._settings = settings
        self._templates = templates
        self._producers = ProducerPool(app, settings.publish_timeout)
        self.preparers = PreparerPool(app, settings, templates, self._producers, ledger)

    def publish(self, chains: Sequence[FrozenChain], countdown: float | None = None) -> None:
        """Publish chains, all in one batch.

        Args:
            chains: the chains; each knows afterwards whether the broker has it.
            countdown: seconds before a worker is to execute them; ``None``: none.

        Raises:
            EmitError: if publishing was cut short.
        """
        deadline = Deadline(self._settings.publish_timeout)
        options = {} if countdown is None else {"countdown": countdown}
        try:
            with self._producers.acquire(deadline) as producer:
                begin = partial(Sending, self._app, self._templates, producer, deadline)
                if getattr(producer, "supports_batch_publish", False):  # kombu 5.7, Redis
                    send_batch(begin, producer, chains, options)
                else:
                    retries = self._producers.retries
                    send_singly(begin, producer, deadline, chains, options, retries)
        except INTERRUPTS:
            raise
        except Exception as exc:
            # a broker's library raises errors of its own; what a hook raises ends the batch too
            raise _cut_short(chains, exc) from exc

    def publish_task(
        self, signature: Any, args: tuple[Any, ...], options: Mapping[str, Any]
    ) -> str:
        """Publish a task that is no subscriber; return its queue, ``""`` if that is not simple."""
        signature.apply_async(args, **options)
        return routed_to(self._app, signature["task"], {**signature.options, **options})

    def prepare(self, chains: Sequence[FrozenChain]) -> Mapping[str, Sequence[str]] | None:
        """Return the messages of chains for the ledger to publish; ``None`` if it cannot."""
        if not chains:
            return None
        with self.preparers.acquire() as preparer:
            prepared = None if preparer is None else preparer.prepare(chains)
        return None if prepared is None else prepared.messages


def _cut_short(chains: Sequence[FrozenChain], exc: Exception) -> EmitError:
    """Return what tells the caller of ``emit()`` which runs the broker has."""
    unpublished = [chain.event for chain in chains if chain.state != "published"]
    event = unpublished[0] if unpublished else chains[0].event
    states = {chain.run_id: chain.state for chain in chains}
    others = dict.fromkeys(other.id for other in unpublished if other.id != event.id)
    return EmitError(event.name, event.id, states, reason_of(exc), list(others))
