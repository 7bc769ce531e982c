"""What follows when a run has failed or was cancelled: ``on_failure``, and an event that says so.

The ledger keeps such a run in a list of those that were not told of, until this is recorded. So it
happens though the worker dies right after the run has ended: the keeper sees to what is left.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger
from kombu.utils import json as kombu_json

from celery_fanout.exceptions import FanoutError, StoreUnavailable
from celery_fanout.keeping.collected import collected_by
from celery_fanout.model.events import Event
from celery_fanout.model.headers import FAILURE_HEADER
from celery_fanout.model.ids import child_id
from celery_fanout.model.jsondata import as_json_data
from celery_fanout.stores.ledger import NewRun
from celery_fanout.stores.records import recorded_event
from celery_fanout.stores.states import RunState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery import Celery

    from celery_fanout.emitting.celery_results import CeleryResults
    from celery_fanout.stores.ledger import EventRecord, Ledger, RunRecord
    from celery_fanout.subscribing.registry import Registry, Subscription

__all__ = ["CANCELLED_EVENT", "FAILED_EVENT", "Endings"]

logger = get_logger(__name__)

FAILED_EVENT = "fanout/run.failed"
CANCELLED_EVENT = "fanout/run.cancelled"

#: Names of our own events. A run that handles one of them, and fails, causes no other: no loops.
OWN = "fanout/run."


class Endings:
    """Records what follows from the end of a run that failed or was cancelled.

    Args:
        app: the Celery app.
        ledger: the ledger.
        registry: the app's subscriptions.
        emit: emits an event: ``emit(event)``.
        wake: publishes runs that are due now; best effort.
        results: tells Celery's result backend, if that has the results of runs.
    """

    def __init__(
        self,
        app: Celery,
        ledger: Ledger,
        registry: Registry,
        emit: Callable[[Event], Any],
        wake: Callable[[Sequence[str]], None],
        results: CeleryResults | None = None,
    ) -> None:
        self._app = app
        self._ledger = ledger
        self._registry = registry
        self._emit = emit
        self._wake = wake
        self._results = results

    def tell(self, run_id: str) -> None:
        """See to one run. Safe to repeat; what fails now is done by the keeper later."""
        try:
            self._tell(run_id)
        except StoreUnavailable as exc:
            logger.warning("%s", exc)
        except FanoutError as exc:
            logger.error("What follows from the end of run %s waits: %s", run_id, exc)  # noqa: TRY400 - the message says it all

    def _tell(self, run_id: str) -> None:
        run = self._ledger.run(run_id)
        event = None if run is None else self._ledger.event(run.event)
        if run is None or event is None or run.state not in (RunState.FAILED, RunState.CANCELLED):
            self._ledger.told(run_id)
            return
        if run.kind == "parallel":  # its run fails with it
            self._ledger.told(run_id)
            return
        subscription = self._registry.find(run.subscription)
        collected = collected_by(self._ledger, subscription, run)
        described = _described(run, recorded_event(event) if collected is None else collected[1])
        # what was invoked fails a step, which may handle it; and on_failure is not for itself: it
        # would be called for its own failure, and again, without end
        chained = run.kind in ("event", "then")
        failed = run.state is RunState.FAILED
        if chained and failed and subscription is not None and subscription.on_failure:
            self._call_on_failure(run, subscription, described)
        if not event.name.startswith(OWN):
            self._emit_event(run, event, described)
        if self._results is None or self._results.ended(run, subscription):
            self._ledger.told(run_id)

    def _call_on_failure(self, run: RunRecord, subscription: Subscription, described: Any) -> None:
        # a dead letter that was retried, and failed again, is told of again
        child = (
            child_id(run.id, "on_failure", run.reopened)
            if run.reopened
            else (child_id(run.id, "on_failure"))
        )
        signature = {
            "task": subscription.on_failure,
            "args": [described],
            "kwargs": {},
            "options": {"headers": {FAILURE_HEADER: 1}},
            "subtask_type": None,
            "immutable": True,
        }
        message = str(kombu_json.dumps({"signature": signature}))
        new = NewRun(child, run.subscription, "on_failure", message=message)
        if self._ledger.adopt(run.id, new):
            self._wake([child])

    def _emit_event(self, run: RunRecord, event: EventRecord, described: Any) -> None:
        failed = run.state is RunState.FAILED
        name = FAILED_EVENT if failed else CANCELLED_EVENT
        if not self._registry.candidates(name):
            return
        cause = recorded_event(event)
        data: dict[str, Any] = {**described, "reason": run.reason}
        error: dict[str, Any] = data["error"]
        data["error"] = {key: error[key] for key in ("type", "message")}
        found = Event(
            name=name,
            data=as_json_data(name, data),
            id=child_id(run.id, "ended", run.reopened),
            source=f"/{self._app.main or 'celery'}",
            subject=run.id,
            correlationid=cause.correlationid or cause.id,
            causationid=run.id,
            # above fanout_max_depth too: one has to hear of a loop, and can emit nothing more
            depth=cause.depth + 1,
        )
        self._emit(found)


def _described(run: RunRecord, found: Event | None) -> dict[str, Any]:
    """Return what an ``on_failure`` task receives; as on level 1."""
    error = run.detail.get("error") or {"type": "RunCancelled", "message": run.reason}
    return {
        "run": run.id,
        "subscription": run.subscription,
        "task": _task_of(run),
        # suspensions are none; the attempt that a crash ended counts as that crash
        "attempts": run.retries + run.crashes + (run.reason != "crashed"),
        "event": None if found is None else found.to_cloudevent(),
        "error": {
            "type": str(error.get("type", "?")),
            "message": str(error.get("message", "")),
            "traceback": str(error.get("traceback", "")),
        },
    }


def _task_of(run: RunRecord) -> str:
    message: str = run.detail.get("message") or ""
    if not message or run.kind in ("event", "parallel"):
        return run.subscription.rpartition("@")[0]
    return str(json.loads(message)["signature"]["task"])
