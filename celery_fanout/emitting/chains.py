"""An event and a subscription become one frozen Celery chain. No I/O happens here.

Celery's ``Signature.freeze()`` fixes ids too, but at random. Here they are computed, so that
publishing the same event twice gives the same runs. Every link is stamped with the event: headers
given to a chain would reach its first link only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery_fanout.model.headers import (
    BATCH_HEADER,
    DATA_HEADER,
    ERRBACK,
    GENERATION_HEADER,
    IGNORED_HEADER,
    KIND_HEADER,
    RESUME_HEADER,
    RUN_HEADER,
    SUBSCRIPTION_HEADER,
    VERSION,
    VERSION_HEADER,
)
from celery_fanout.model.ids import child_id, run_id
from celery_fanout.model.jsondata import encode

if TYPE_CHECKING:
    from celery_fanout.model.events import Event
    from celery_fanout.stores.limits import Flow
    from celery_fanout.subscribing.registry import Subscription


@dataclass  # not frozen itself: that would take three times as long to make
class FrozenChain:
    """One chain, ready to publish.

    Attributes:
        event: the event.
        subscription: whose chain it is.
        run_id: id of the run and task id of the first link.
        result_id: task id of the last link, the first one's if there is no tail.
        args: arguments of the first link: the event's data.
        headers: headers of the first link.
        links: the remaining links in the order that Celery's ``chain`` option wants, last first.
        errbacks: signatures for ``link_error``; none on level 2, where the ledger sees to it.
        retries: how many of the task's retries were spent.
        celery_results: whether Celery stores what the links return; else the ledger does.
        flow: what has to be so before the run may start; where it is emitted, on level 2.
        priority: the broker's, if it has one of its own.
        state: ``"published"`` if the broker has it, ``"unknown"`` if it may have it, else
            ``"unpublished"``.
    """

    event: Event
    subscription: Subscription
    run_id: str
    result_id: str
    args: tuple[Any, ...]
    headers: dict[str, Any]
    links: list[dict[str, Any]] | None
    errbacks: list[dict[str, Any]] | None
    retries: int = 0
    celery_results: bool = True
    flow: Flow | None = None
    priority: int | None = None
    state: str = "unpublished"

    def resume(self, resume_at: float) -> None:
        """Let the run start at a POSIX time, on level 1."""
        self.headers[RESUME_HEADER] = resume_at

    def become(self, run_id: str) -> None:
        """Take the id of the run that the event has joined. That is published by another chain."""
        self.run_id = self.result_id = run_id
        if self.links:
            self.result_id = link_id(run_id, len(self.links))


@dataclass
class FrozenEvent:
    """An event and the chains of all subscriptions that match it.

    Attributes:
        event: the event.
        chains: the chains, in the order of declaration.
        key: what the ledger calls the event; ``""`` on level 1.
        place: where its runs lie in a ledger with shards.
    """

    event: Event
    chains: list[FrozenChain]
    key: str = ""
    place: int | None = None


def chain_for(
    event: Event,
    event_headers: dict[str, str],
    subscription: Subscription,
    reply_to: str,
    *,
    generation: int | None = None,
    celery_results: bool = True,
    place: int | None = None,
    id: str | None = None,
) -> FrozenChain:
    """Return the chain of one subscription for one event.

    Args:
        event: the event.
        event_headers: its ``ce_*`` headers, computed once per event.
        subscription: the subscription.
        reply_to: where an RPC result backend sends the results of later links.
        generation: of its run in the ledger; ``None`` where there is no ledger.
        celery_results: whether Celery stores what the links return, as for any task.
        place: where the run lies in a ledger with shards.
        id: the run's id, where that does not follow from the event.
    """
    first = id or run_id(event.name, event.id, subscription.id, generation or 0, place)
    stamp: dict[str, Any] = {
        **event_headers,
        SUBSCRIPTION_HEADER: subscription.id,
        VERSION_HEADER: VERSION,
    }
    if generation:
        stamp[GENERATION_HEADER] = generation
    errbacks = None
    if generation is None and subscription.on_failure:  # else the ledger sees to it
        errbacks = [errback(subscription.on_failure)]
    tail: list[dict[str, Any]] = []
    for number, signature in enumerate(subscription.tail, start=1):
        link = link_id(first, number)
        options = dict(signature.get("options") or {})
        headers: dict[str, Any] = {
            **(options.get("headers") or {}),
            **stamp,
            RUN_HEADER: link,
            DATA_HEADER: encode(event.data),
        }
        if generation is not None:
            headers[KIND_HEADER] = "then"
        if not celery_results:
            if options.get("ignore_result"):
                headers[IGNORED_HEADER] = 1
            options["ignore_result"] = True
        options.update(task_id=link, headers=headers, reply_to=reply_to)
        if errbacks:
            options["link_error"] = [*(options.get("link_error") or []), *errbacks]
        tail.append({**signature, "options": options})
    first_headers: dict[str, Any] = {**stamp, RUN_HEADER: first}
    if subscription.limits is not None and subscription.limits.batch is not None:
        first_headers[BATCH_HEADER] = 1
    if not celery_results and subscription.options.get("ignore_result"):
        first_headers[IGNORED_HEADER] = 1
    return FrozenChain(
        event=event,
        subscription=subscription,
        run_id=first,
        result_id=tail[-1]["options"]["task_id"] if tail else first,
        args=(event.data,),
        headers=first_headers,
        links=tail[::-1] or None,
        errbacks=errbacks,
        celery_results=celery_results,
    )


def link_id(run_id: str, number: int) -> str:
    """Return the id of a link of a run's tail, the first of which has the number 1."""
    # three parts: a step's key has two, so that no step can have the id of a link
    return child_id(run_id, "then", "link", number)


def errback(task_name: str) -> dict[str, Any]:
    """Return the signature that reports a failure to ``task_name``.

    Celery calls an errback that takes ``(request, exc, traceback)`` in place, also for failures
    that only the worker's main process sees; ours publishes the user's task, so that it has its
    own queue and retries.
    """
    return {
        "task": ERRBACK,
        "args": (),
        "kwargs": {"on_failure": task_name},
        "options": {},
        "subtask_type": None,
        "immutable": False,
    }
