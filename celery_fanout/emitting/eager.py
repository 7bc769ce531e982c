"""Emitting with ``task_always_eager``: every subscriber is executed in place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.canvas import signature
from kombu.utils import json as kombu_json

from celery_fanout.emitting.emission import report
from celery_fanout.emitting.fan_in import outcomes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery import Celery

    from celery_fanout.emitting.chains import FrozenChain
    from celery_fanout.emitting.delivery import Draft
    from celery_fanout.emitting.emission import Emission
    from celery_fanout.emitting.freezing import Freezer
    from celery_fanout.stores.memory.checkpoints import MemoryStore

__all__ = ["EagerEmitter"]


class EagerEmitter:
    """Executes the chains of events in place, as Celery does with any eager task.

    Args:
        app: the Celery app.
        freezer: makes the chains.
        checkpoints: where the steps of eager runs are stored.
        clock: the time.
    """

    in_test = False

    def __init__(
        self, app: Celery, freezer: Freezer, checkpoints: MemoryStore, clock: Callable[[], float]
    ) -> None:
        self._app = app
        self._freezer = freezer
        self._checkpoints = checkpoints
        self._clock = clock

    def emit(self, draft: Draft) -> list[Emission]:
        """Execute all subscribers of the events of a draft, and then its fan-in.

        Raises:
            Exception: with ``task_eager_propagates``, the first that a subscriber raised, after all
                of them were executed.
            RegistrationError: if a subscription is wrong. Nothing was executed.
        """
        frozen = self._freezer.freeze(draft)
        chains = [chain for each in frozen for chain in each.chains]
        if draft.delay is not None:
            resume_at = self._clock() + draft.delay
            for chain in chains:
                chain.resume(resume_at)
        emissions = report(self._app, frozen, results=self._execute_all(chains))
        if draft.then:
            fan_in = signature(kombu_json.loads(draft.then)["signature"], app=self._app)
            fan_in.apply(() if fan_in.immutable else (outcomes_of(emissions[0]),))
        return emissions

    def _execute_all(self, chains: Sequence[FrozenChain]) -> dict[str, Any]:
        """Execute chains, and return the results of their last links by the ids of their runs."""
        results: dict[str, Any] = {}
        errors: list[BaseException] = []
        for chain in chains:
            try:
                result = self._execute(chain)
            except Exception as exc:  # noqa: BLE001 - a failing one stops no other
                errors.append(exc)
                continue
            results[chain.run_id] = result
        if errors:
            raise errors[0]
        return results

    def _execute(self, chain: FrozenChain) -> Any:
        options = dict(chain.subscription.options)
        result = chain.subscription.task.apply_async(
            args=chain.args,
            task_id=chain.run_id,
            headers={**(options.pop("headers", None) or {}), **chain.headers},
            link_error=[signature(errback, app=self._app) for errback in chain.errbacks or ()],
            **options,
        )
        links = chain.links or []
        for link in reversed(links):
            if not result.successful():
                break
            sig = signature(link, app=self._app)
            result = sig.apply(args=() if sig.immutable else (result.result,))
        # the next emit of this id starts afresh
        self._checkpoints.forget([chain.run_id, *(link["options"]["task_id"] for link in links)])
        return result
