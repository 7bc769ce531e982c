"""What follows from the end of a run: its ``on_failure`` task, and an event that says so.

On level 2 the ledger keeps a run that has failed or was cancelled in a list until its follow-up is
recorded. So that happens though the worker dies right after the run has ended: the keeper sees to
what is left. On level 1 Celery calls an errback, which publishes the ``on_failure`` task.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery import current_task, shared_task
from celery.utils.log import get_logger
from kombu.utils import json as kombu_json

from celery_fanout.exceptions import FanoutError, StoreUnavailable, describe
from celery_fanout.keeping.collected_events import collected_events
from celery_fanout.model.events import Event
from celery_fanout.model.headers import (
    ERRBACK,
    FAILURE_HEADER,
    RUN_HEADER,
    SUBSCRIPTION_HEADER,
    VERSION,
    VERSION_HEADER,
)
from celery_fanout.model.ids import child_id
from celery_fanout.model.jsondata import as_json_data
from celery_fanout.model.run import event_of
from celery_fanout.stores.records import NewRun, recorded_event
from celery_fanout.stores.states import RunState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from celery import Celery

    from celery_fanout.emitting.celery_results import CeleryResults
    from celery_fanout.stores.ledger import Ledger
    from celery_fanout.stores.records import EventRecord, RunRecord
    from celery_fanout.subscribing.registry import Registry, Subscription

logger = get_logger(__name__)

FAILED_EVENT = "fanout/run.failed"
CANCELLED_EVENT = "fanout/run.cancelled"

#: Names of our own events. A run that handles one of them, and fails, causes no other: no loops.
OWN = "fanout/run."


@dataclass(eq=False, repr=False)
class FollowUps:
    """Records what follows from the end of a run that failed or was cancelled.

    Args:
        app: the Celery app.
        ledger: the ledger.
        registry: the app's subscriptions.
        emit: emits an event: ``emit(event)``.
        wake: publishes runs that are due now; best effort.
        results: tells Celery's result backend, if that has the results of runs.
    """

    _app: Celery
    _ledger: Ledger
    _registry: Registry
    _emit: Callable[[Event], Any]
    _wake: Callable[[Sequence[str]], None]
    _results: CeleryResults | None = None

    def record(self, run_id: str) -> None:
        """Follow up on one run. Safe to repeat; what fails now is done by the keeper later."""
        try:
            if self._record(run_id):
                self._ledger.followed_up(run_id)
        except StoreUnavailable as exc:
            logger.warning("%s", exc)
        except FanoutError as exc:
            logger.error("What follows from the end of run %s waits: %s", run_id, exc)  # noqa: TRY400 - the message says it all

    def _record(self, run_id: str) -> bool:
        """Return whether all that follows from the end of a run is recorded."""
        run = self._ledger.run(run_id)
        event = None if run is None else self._ledger.event(run.event)
        if run is None or event is None or run.state not in (RunState.FAILED, RunState.CANCELLED):
            return True
        if run.kind == "parallel":  # its run fails with it
            return True
        subscription = self._registry.find(run.subscription)
        collected = collected_events(self._ledger, subscription, run)
        failure = _failure_of_run(run, recorded_event(event) if collected is None else collected[1])
        # what was invoked fails a step, which may handle it; and on_failure is not for itself: it
        # would be called for its own failure, and again, without end
        chained = run.kind in ("event", "then")
        failed = run.state is RunState.FAILED
        if chained and failed and subscription is not None and subscription.on_failure:
            self._call_on_failure(run, subscription, failure)
        if not event.name.startswith(OWN):
            self._emit_event(run, event, failure)
        return self._results is None or self._results.ended(run, subscription)

    def _call_on_failure(self, run: RunRecord, subscription: Subscription, failure: Any) -> None:
        # a dead letter that was retried, and failed again, has another follow-up
        again = (run.reopened,) if run.reopened else ()
        child = child_id(run.id, "on_failure", *again)
        signature = {
            "task": subscription.on_failure,
            "args": [failure],
            "kwargs": {},
            "options": {"headers": {FAILURE_HEADER: 1}},
            "subtask_type": None,
            "immutable": True,
        }
        message = str(kombu_json.dumps({"signature": signature}))
        new = NewRun(child, run.subscription, "on_failure", message=message)
        if self._ledger.adopt(run.id, new):
            self._wake([child])

    def _emit_event(self, run: RunRecord, event: EventRecord, failure: dict[str, Any]) -> None:
        name = FAILED_EVENT if run.state is RunState.FAILED else CANCELLED_EVENT
        if not self._registry.candidates(name):
            return
        cause = recorded_event(event)
        error: dict[str, Any] = {key: failure["error"][key] for key in ("type", "message")}
        ended = Event(
            name=name,
            data=as_json_data(name, {**failure, "reason": run.reason, "error": error}),
            id=child_id(run.id, "ended", run.reopened),
            source=f"/{self._app.main or 'celery'}",
            subject=run.id,
            correlationid=cause.correlationid or cause.id,
            causationid=run.id,
            # above fanout_max_depth too: one has to hear of a loop, and can emit nothing more
            depth=cause.depth + 1,
        )
        self._emit(ended)


def _failure_of_run(run: RunRecord, event: Event) -> dict[str, Any]:
    """Return what an ``on_failure`` task receives, from the ledger."""
    return _failure(
        run.id,
        run.subscription,
        _task_of(run),
        # suspensions are none; the attempt that a crash ended counts as that crash
        run.retries + run.crashes + (run.reason != "crashed"),
        event,
        run.detail.get("error") or {"type": "RunCancelled", "message": run.reason},
    )


def _task_of(run: RunRecord) -> str:
    message: str = run.detail.get("message") or ""
    if not message or run.kind in ("event", "parallel"):
        return run.subscription.rpartition("@")[0]
    return str(json.loads(message)["signature"]["task"])


def _failure(
    run_id: str,
    subscription: str,
    task: str,
    attempts: int,
    event: Event,
    error: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what an ``on_failure`` task receives, on both levels."""
    return {
        "run": run_id,
        "subscription": subscription,
        "task": task,
        "attempts": attempts,
        "event": event.to_cloudevent(),
        "error": {
            "type": str(error.get("type", "?")),
            "message": str(error.get("message", "")),
            "traceback": str(error.get("traceback", "")),
        },
    }


@shared_task(name=ERRBACK, ignore_result=True)
def report_failure(request: Any, exc: BaseException, traceback: Any, on_failure: str) -> None:
    """Publish the user's ``on_failure`` task. On level 1 Celery calls this in place, as an errback.

    Args:
        request: Celery's request of the task that has failed.
        exc: its error.
        traceback: the text of its traceback, or ``None``.
        on_failure: the name of the task to publish.
    """
    event = event_of(request)
    headers: Mapping[str, Any] = request.headers or {}
    if event is None or RUN_HEADER not in headers:
        return
    if getattr(request, "fanout_reported", False):
        return  # a hard time limit makes Celery call errbacks twice, with one request
    request.fanout_reported = True
    failed = headers[RUN_HEADER]
    subscription = headers.get(SUBSCRIPTION_HEADER, "")
    error = {**describe(exc), "traceback": traceback or ""}
    failure = _failure(failed, subscription, request.task, (request.retries or 0) + 1, event, error)
    task_id = child_id(failed, "on_failure")
    stamp = {
        **event.headers(),
        SUBSCRIPTION_HEADER: subscription,
        VERSION_HEADER: VERSION,
        RUN_HEADER: task_id,
        FAILURE_HEADER: 1,
    }
    # of the task that Celery calls: report_failure itself means the current app's
    task: Any = current_task.app.tasks[on_failure]
    task.apply_async(
        (failure,),
        task_id=task_id,
        headers=stamp,
        argsrepr=f"({event.name!r} {event.id!r} run {failed!r},)",
        parent_id=request.id,
        root_id=getattr(request, "root_id", None),
        add_to_parent=False,
    )
