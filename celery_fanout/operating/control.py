"""``get_fanout(app).runs``: finding and reading events and runs, and changing them by hand.

Every change is one change of state in the ledger, made only if the run is in a state that allows
it; so it holds against workers and against other people.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from celery_fanout.exceptions import (
    ControlError,
    TooMany,
    UnknownSubscription,
    WrongKind,
    WrongState,
)
from celery_fanout.exceptions.describing import nearest
from celery_fanout.operating.reading import MAX_BULK, RunReader
from celery_fanout.operating.replaying import begin_again, checkpoints_before
from celery_fanout.stores.records import recorded_event
from celery_fanout.stores.states import FINAL, RunState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from celery_fanout.stores.ledger import Ledger
    from celery_fanout.subscribing.registry import Registry, Subscription

#: Kinds of runs that are retried with the run whose step they belong to.
PARTS_OF_STEPS = ("invoke", "parallel")

#: How many runs are cancelled in one change.
AT_ONCE = 100

# not Celery's get_logger: its loggers say nothing in a process that has no logging set up
logger = logging.getLogger("celery_fanout.control")


@dataclass(frozen=True)
class Bulk:
    """What became of a change of several runs or events, each by itself.

    Attributes:
        changed: ids of those that were changed, in order.
        new: ids of the runs that were made.
        problems: what was wrong with the others; somebody else may have changed them meanwhile.
    """

    changed: Sequence[str]
    new: Sequence[str] = ()
    problems: Mapping[str, ControlError] = field(default_factory=dict[str, ControlError])


class RunControl(RunReader):
    """Finds, reads and changes events and runs; ``get_fanout(app).runs`` is one.

    Args:
        ledger: the ledger.
        registry: the app's subscriptions.
        wake: publishes runs that are due now; best effort.
    """

    def __init__(
        self, ledger: Ledger, registry: Registry, wake: Callable[[Sequence[str]], None]
    ) -> None:
        super().__init__(ledger)
        self._registry = registry
        self._wake = wake

    # -- one ------------------------------------------------------------------------------------

    def cancel(self, id: str, reason: str = "cancelled by hand") -> None:
        """Cancel a run that has not ended, and the runs that it invoked.

        A worker that executes it finds out when it stores a step's result, and stops there: so one
        more step's function may be called. Nothing more that it does counts.

        Args:
            id: the run.
            reason: why; kept with the run.

        Raises:
            RunNotFound: if the ledger has none with this id.
            WrongState: if it has ended, or has returned and its tail is being dispatched.
        """
        cancelled, woken = self._ledger.cancel([id], reason)
        if id not in cancelled:
            raise self._not_cancelled(id)
        if woken:
            self._wake(woken)
        _log("run_cancelled", "Run %s cancelled: %s", id, reason)

    def _not_cancelled(self, id: str) -> WrongState:
        state = self.get(id).state
        if state is RunState.COMPLETING:
            remedy = "It has returned, and its tail is being dispatched: cancel that, when it runs."
        else:
            remedy = "It has ended."
        return WrongState(id, str(state), "cancelled", remedy)

    def retry(self, id: str, reason: str = "retried by hand") -> None:
        """Run a failed or cancelled run again: with the results of its finished steps.

        Args:
            id: the run.
            reason: why; kept with the execution that it is retried after.

        Raises:
            RunNotFound: if the ledger has none with this id.
            WrongState: if it has neither failed nor was cancelled.
            WrongKind: if it is a part of a step of another run.
        """
        run = self.get(id)
        if run.kind in PARTS_OF_STEPS:
            remedy = f"It is a part of a step: retry its run {run.parent}."
            raise WrongKind(id, run.kind, "retried", remedy)
        if not self._ledger.reopen(id, reason):
            state = self.get(id).state
            ended = "Use replay, or rerun from a step."
            remedy = ended if state in FINAL else "It has not ended yet."
            raise WrongState(id, str(state), "retried", remedy)
        self._wake([id])
        _log("run_retried", "Run %s retried: %s", id, reason)

    def replay(
        self,
        event: str,
        subscriptions: Iterable[str] | None = None,
        reason: str = "",
        *,
        name: str | None = None,
    ) -> Sequence[str]:
        """Deliver an event again: new runs, which begin anew. Returns their ids.

        Args:
            event: the event's id, or its key in the ledger.
            subscriptions: ids of the subscriptions, which get it whether it matches them or not;
                by default all that it matches now.
            reason: why; for the log.
            name: the event's name.

        Raises:
            EventNotFound: if the ledger has no such event.
            UnknownSubscription: if one of them does not exist.
        """
        record = self.event(event, name)
        if subscriptions is None:
            chosen: Sequence[Subscription] = self._registry.match(recorded_event(record))
        else:
            chosen = [self._subscription(sub) for sub in dict.fromkeys(subscriptions)]
        new = begin_again(self._ledger, record, chosen, {})
        self._wake(new)
        _log("event_replayed", "Event %s replayed in %d run(s): %s", record.key, len(new), reason)
        return new

    def rerun(self, id: str, from_step: str, reason: str = "") -> str:
        """Begin a new run of the same event, with the results of the steps before one.

        Args:
            id: the run, which has ended.
            from_step: id of the first step that is executed again.
            reason: why; for the log.

        Returns:
            The id of the new run.

        Raises:
            RunNotFound: if the ledger has no such run.
            WrongState: if it has not ended.
            WrongKind: if it is not a subscription's handling of an event.
            UnknownStep: if the run has no stored result of this step.
            UnknownSubscription: if its subscription does not exist any more.
        """
        run = self.get(id)
        if run.kind != "event":
            belongs = f"Rerun the run that it belongs to: {run.parent}." if run.parent else ""
            raise WrongKind(id, run.kind, "rerun", belongs or "Retry it, if it has failed.")
        if run.state not in FINAL:
            remedy = "It has not ended yet: cancel it first."
            raise WrongState(id, str(run.state), "rerun", remedy)
        kept = checkpoints_before(run, from_step)
        event = self.event(run.event)
        chosen = [self._subscription(run.subscription)]
        limits = chosen[0].limits
        if (
            limits is not None
            and limits.batch is not None
            and len(run.detail.get("events", ())) > 1
        ):
            raise WrongKind(id, "batch", "rerun", "Replay its events, or retry it.")
        (new,) = begin_again(self._ledger, event, chosen, kept)
        self._wake([new])
        _log("run_rerun", "Run %s rerun from step %r as %s: %s", id, from_step, new, reason)
        return new

    def _subscription(self, name: str) -> Subscription:
        subscription = self._registry.find(name)
        if subscription is None:
            raise self._unknown(name)
        return subscription

    def _unknown(self, name: str) -> UnknownSubscription:
        ids = [sub.id for sub in self._registry]
        containing = (id_ for id_ in ids if name in id_)
        return UnknownSubscription(name, nearest(name, ids) or next(containing, ""))

    def require_subscription(self, subscription: str) -> None:
        """See that a subscription exists, or that the ledger still has runs of it.

        Raises:
            UnknownSubscription: if neither is so.
        """
        exists = self._registry.find(subscription) is not None or subscription in self.paused()
        if not exists and not self.list(subscription=subscription, limit=1):
            raise self._unknown(subscription)

    # -- subscriptions --------------------------------------------------------------------------

    def pause(self, subscription: str) -> bool:
        """Hold back the runs of a subscription, new and waiting ones; running ones go on.

        Returns:
            Whether it was not paused already.

        Raises:
            UnknownSubscription: if it does not exist.
        """
        new = self._ledger.pause(self._subscription(subscription).id)
        _log("subscription_paused", "Subscription %s paused", subscription)
        return new

    def resume(self, subscription: str, progress: Callable[[int], None] | None = None) -> int:
        """Let the runs of a paused subscription go. Returns how many it let go.

        If it is paused again meanwhile, the rest stays where it is.

        Args:
            subscription: its id; one that the code no longer has will do, if it was paused.
            progress: called with how many have been let go so far.

        Raises:
            UnknownSubscription: if it neither exists nor was paused.
        """
        exists = subscription in self.paused() or self._registry.find(subscription) is not None
        total, left, begun = 0, True, False
        while left:
            count, left = self._ledger.resume(subscription, go_on=begun)
            total, begun = total + count, True
            if progress is not None:
                progress(total)
        if not exists and not total:
            raise self._unknown(subscription)
        _log("subscription_resumed", "Subscription %s resumed, %d run(s)", subscription, total)
        return total

    # -- many -----------------------------------------------------------------------------------

    def cancel_many(
        self,
        ids: Sequence[str],
        reason: str = "cancelled by hand",
        *,
        limit: int = MAX_BULK,
        progress: Callable[[int], None] | None = None,
    ) -> Bulk:
        """Cancel runs, each as :meth:`cancel` does.

        Args:
            ids: the runs, for example those that :meth:`select` found.
            reason: why; kept with each run.
            limit: how many may be changed at most.
            progress: called again and again with how many more are done.

        Raises:
            TooMany: if there are more. Nothing was changed.
        """
        _check_number(ids, limit)
        gone: set[str] = set()
        problems: dict[str, ControlError] = {}
        for start in range(0, len(ids), AT_ONCE):
            some = ids[start : start + AT_ONCE]
            cancelled, woken = self._ledger.cancel(some, reason)
            gone.update(cancelled)  # children too, which may be named later
            for id_ in some:
                if id_ not in gone:
                    try:
                        problems[id_] = self._not_cancelled(id_)
                    except ControlError as exc:
                        problems[id_] = exc
            if woken:
                self._wake(woken)
            if progress is not None:
                progress(len(some))
        done = [id_ for id_ in ids if id_ in gone]
        _log("run_cancelled", "%d run(s) cancelled: %s", len(done), reason)
        return Bulk(done, problems=problems)

    def retry_many(
        self,
        ids: Sequence[str],
        reason: str = "retried by hand",
        *,
        limit: int = MAX_BULK,
        progress: Callable[[int], None] | None = None,
    ) -> Bulk:
        """Retry runs, each as :meth:`retry` does. See :meth:`cancel_many`."""

        def change(id_: str) -> Sequence[str]:
            self.retry(id_, reason)
            return ()

        return _each(ids, change, limit, progress)

    def replay_many(
        self,
        events: Sequence[str],
        subscriptions: Iterable[str] | None = None,
        reason: str = "",
        *,
        limit: int = MAX_BULK,
        progress: Callable[[int], None] | None = None,
    ) -> Bulk:
        """Replay events, each as :meth:`replay` does. See :meth:`cancel_many`.

        Raises:
            TooMany: if there are more than ``limit``.
            UnknownSubscription: if one of the subscriptions does not exist. Nothing was changed.
        """
        chosen = None
        if subscriptions is not None:
            chosen = [self._subscription(sub).id for sub in subscriptions]
        return _each(events, lambda event: self.replay(event, chosen, reason), limit, progress)


def _log(action: str, text: str, *args: Any) -> None:
    logger.info(text, *args, extra={"action": action})


def _check_number(ids: Sequence[str], limit: int) -> None:
    if len(ids) > limit:
        raise TooMany(len(ids), limit)


def _each(
    ids: Sequence[str],
    change: Callable[[str], Sequence[str]],
    limit: int,
    progress: Callable[[int], None] | None,
) -> Bulk:
    _check_number(ids, limit)
    done: list[str] = []
    new: list[str] = []
    problems: dict[str, ControlError] = {}
    for id_ in ids:
        try:
            new += change(id_)
            done.append(id_)
        except ControlError as exc:
            problems[id_] = exc
        if progress is not None:
            progress(1)
    return Bulk(done, new, problems)
