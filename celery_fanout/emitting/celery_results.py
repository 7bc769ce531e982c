"""What Celery's result backend is told of runs that no worker has executed to their end.

Only with ``fanout_results = "celery"``: whoever waits for the ``AsyncResult`` of a run that was
dropped or cancelled, or whose workers have died, would wait for ever.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery import states
from celery.app.task import Context
from celery.exceptions import TaskRevokedError
from kombu.utils import json as kombu_json

from celery_fanout.emitting.chains import link_id
from celery_fanout.emitting.emission import error_of, is_ignored
from celery_fanout.exceptions import INTERRUPTS
from celery_fanout.stores.records import RunOutcome
from celery_fanout.stores.states import RunState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from celery import Celery

    from celery_fanout.emitting.chains import FrozenChain
    from celery_fanout.stores.ledger import Ledger
    from celery_fanout.stores.records import RunRecord
    from celery_fanout.subscribing.registry import Subscription

# not Celery's get_logger: its loggers say nothing in a process that has no logging set up
logger = logging.getLogger(__name__)


@dataclass(eq=False, repr=False)
class CeleryResults:
    """Stores the ends of runs that Celery does not see.

    Args:
        app: the Celery app.
        ledger: the ledger.
    """

    _app: Celery
    _ledger: Ledger

    def dropped(self, chains: Sequence[FrozenChain]) -> None:
        """Store that runs were dropped when they were recorded; best effort."""
        if not chains:
            return
        try:
            outcomes = self._ledger.outcomes([chain.run_id for chain in chains])
            for chain, outcome in zip(chains, outcomes, strict=True):
                # an RPC backend sends it to who emits
                self._store(_links(chain.run_id, chain.subscription), outcome, self._app.thread_oid)
        except INTERRUPTS:
            raise
        except Exception as exc:  # noqa: BLE001 - the events are recorded: emit() does not fail
            logger.warning("The result backend was not told of a dropped run: %s", exc)

    def ended(self, run: RunRecord, subscription: Subscription | None) -> bool:
        """Store how a run ended that failed or was cancelled, if Celery has not done so.

        Returns:
            Whether the result backend has it.
        """
        if run.state is RunState.FAILED and run.reason == "error":
            return True  # a worker met the error, and stores it
        message: str = run.detail.get("message") or ""
        outcome = RunOutcome(run.id, run.state, error=run.detail.get("error"), reason=run.reason)
        try:
            if run.kind != "event" and message:
                links = list(_links_of_task(run.id, kombu_json.loads(message)))
            elif subscription is not None:  # which the code may not have any more
                links = _links(run.id, subscription)
            else:
                links = [(run.id, run.subscription.rpartition("@")[0], dict[str, Any]())]
            self._store(links, outcome)
        except INTERRUPTS:
            raise
        except Exception as exc:  # noqa: BLE001 - each backend has errors of its own
            logger.warning("The result backend was not told of the end of run %s: %s", run.id, exc)
            return False
        return True

    def _store(
        self, links: Sequence[_Link], outcome: RunOutcome, reply_to: str | None = None
    ) -> None:
        state: str = states.FAILURE
        error: Any = error_of(outcome)
        if outcome.state is RunState.CANCELLED:  # as a worker says that met a revoked task
            state, error = states.REVOKED, TaskRevokedError(outcome.reason)
        tasks: Any = self._app.tasks
        for id, task, options in links:
            if is_ignored(tasks.get(task), options):
                continue
            request = Context(id=id, task=task, correlation_id=id, reply_to=reply_to)
            self._app.backend.store_result(id, error, state, request=request)


#: Id of a result, name of its task, and the options that this is published with.
_Link = tuple[str, str, "Mapping[str, Any]"]


def _links(run_id: str, subscription: Subscription) -> list[_Link]:
    """Return a run and the links that would have followed it."""
    tail = enumerate(subscription.tail, start=1)
    return [
        (run_id, subscription.task.name, subscription.options),
        *((link_id(run_id, n), sig["task"], sig.get("options") or {}) for n, sig in tail),
    ]


def _links_of_task(run_id: str, message: Mapping[str, Any]) -> Iterator[_Link]:
    """Yield what is no handling of an event, and the links that would have followed it."""
    signature: dict[str, Any] = message["signature"]
    yield run_id, signature["task"], signature.get("options") or {}
    for link in reversed(message.get("chain") or ()):
        yield link["options"]["task_id"], link["task"], link["options"]
