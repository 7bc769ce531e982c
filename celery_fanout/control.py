"""``get_fanout(app).runs``: looking at events and runs, and changing them by hand.

Every change is one change of state in the ledger, made only if the run is in a state that allows
it; so it holds against workers and against other people.
"""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING, Any

from celery_fanout.events import HEADER_PREFIX, Event
from celery_fanout.exceptions import (
    EventNotFound,
    RunNotFound,
    TooMany,
    UnknownStep,
    UnknownSubscription,
    WrongState,
)
from celery_fanout.ids import event_key, run_id
from celery_fanout.stores import Checkpoint, key_of
from celery_fanout.stores.ledger import NewEvent, NewRun
from celery_fanout.stores.states import FINAL, RunState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from celery_fanout.registry import Registry, Subscription
    from celery_fanout.stores.ledger import EventRecord, Ledger, Outcome, RunRecord

__all__ = ["MAX_BULK", "RunControl"]

#: How many runs a change by filter reaches at most, if nothing else is said.
MAX_BULK = 1000

#: How often a replay is tried anew because somebody else began a generation meanwhile.
GENERATIONS = 10


class RunControl:
    """Lists, shows and changes what a ledger has.

    Args:
        ledger: the ledger.
        registry: the app's subscriptions.
        wake: publishes runs that are due now; best effort.
    """

    def __init__(
        self, ledger: Ledger, registry: Registry, wake: Callable[[Sequence[str]], None]
    ) -> None:
        self._ledger = ledger
        self._registry = registry
        self._wake = wake

    # -- looking ----------------------------------------------------------------------------------

    def get(self, id: str) -> RunRecord:
        """Return a run with its detail.

        Raises:
            RunNotFound: if the ledger has none with this id.
        """
        found = self._ledger.run(id)
        if found is None:
            raise RunNotFound(id)
        return found

    def list(
        self,
        *,
        state: RunState | str | None = None,
        subscription: str | None = None,
        event: str | None = None,
        limit: int = 100,
        before: float | None = None,
    ) -> Sequence[RunRecord]:
        """Return runs, those whose state changed last first.

        Args:
            state: only those in this state.
            subscription: only those of the subscription with this id.
            event: only those of the event with this key.
            limit: how many at most.
            before: only those that changed before this POSIX time, to page on.
        """
        return self._ledger.runs(
            state=None if state is None else RunState(state),
            subscription=subscription,
            event=event,
            limit=limit,
            before=before,
        )

    def counts(self) -> dict[RunState, int]:
        """Return how many runs are in each state."""
        return self._ledger.counts()

    def outcomes(self, ids: Sequence[str]) -> Sequence[Outcome]:
        """Return how runs ended, each followed to the last link of its tail."""
        return self._ledger.outcomes(ids)

    def events(
        self, *, name: str | None = None, limit: int = 100, before: float | None = None
    ) -> Sequence[EventRecord]:
        """Return events, the latest first.

        Args:
            name: only those of this name.
            limit: how many at most.
            before: only those recorded before this POSIX time, to page on.
        """
        return self._ledger.events(name=name, limit=limit, before=before)

    def event(self, key: str, name: str | None = None) -> EventRecord:
        """Return an event.

        Args:
            key: its key in the ledger; or with ``name`` its id.
            name: its name.

        Raises:
            EventNotFound: if the ledger has none.
        """
        found = self._ledger.event(key if name is None else event_key(name, key))
        if found is None:
            raise EventNotFound(key)
        return found

    # -- changing one -----------------------------------------------------------------------------

    def cancel(self, id: str, reason: str = "cancelled by hand") -> None:
        """Cancel a run that has not ended, and the runs that it invoked.

        A worker that executes it stops at its next step; nothing more that it does counts.

        Raises:
            RunNotFound: if the ledger has none with this id.
            WrongState: if it has ended.
        """
        cancelled, woken = self._ledger.cancel([id], reason)
        if id not in cancelled:
            raise WrongState(id, str(self.get(id).state), "cancelled", "It has ended.")
        if woken:
            self._wake(woken)

    def retry(self, id: str, reason: str = "retried by hand") -> None:
        """Run a failed or cancelled run again: with the results of its finished steps.

        Raises:
            RunNotFound: if the ledger has none with this id.
            WrongState: if it has neither failed nor was cancelled.
        """
        if not self._ledger.reopen(id, reason):
            state = self.get(id).state
            again = "Use replay for a run that has succeeded." if state in FINAL else "It goes on."
            raise WrongState(id, str(state), "retried", again)
        self._wake([id])

    def replay(self, key: str, subscriptions: Iterable[str] | None = None) -> Sequence[str]:
        """Deliver an event again: new runs, which begin anew. Returns their ids.

        Args:
            key: the event's key.
            subscriptions: ids of the subscriptions; by default all that match the event now.

        Raises:
            EventNotFound: if the ledger has no such event.
            UnknownSubscription: if one of them does not exist.
        """
        event = self.event(key)
        if subscriptions is None:
            chosen: Sequence[Subscription] = self._registry.match(_event_of(event))
        else:
            chosen = [self._subscription(name) for name in subscriptions]
        return self._again(event, chosen, {})

    def rerun(self, id: str, step: str) -> str:
        """Begin a new run of the same event, with the results of the steps before ``step``.

        Args:
            id: the run.
            step: id of the first step that is executed again.

        Returns:
            The id of the new run.

        Raises:
            RunNotFound: if the ledger has no such run.
            UnknownStep: if the run has no stored result of this step.
            UnknownSubscription: if its subscription does not exist any more.
        """
        run = self.get(id)
        stored: Mapping[str, str] = run.detail["checkpoints"]
        times = {field: Checkpoint.loads(text).stored or 0.0 for field, text in stored.items()}
        firsts = [time for field, time in times.items() if key_of(field)[0] == step]
        if not firsts:
            known = dict.fromkeys(
                key_of(field)[0] for field in sorted(times, key=times.__getitem__)
            )
            raise UnknownStep(id, step, list(known))
        kept = {
            field: text
            for field, text in stored.items()
            if times[field] < min(firsts) and Checkpoint.loads(text).status == "done"
        }
        event = self.event(run.event)
        (new,) = self._again(event, [self._subscription(run.subscription)], kept)
        return new

    def _subscription(self, name: str) -> Subscription:
        found = self._registry.find(name)
        if found is None:
            near = difflib.get_close_matches(name, [sub.id for sub in self._registry], n=1)
            raise UnknownSubscription(name, near[0] if near else "")
        return found

    def _again(
        self, event: EventRecord, chosen: Sequence[Subscription], checkpoints: Mapping[str, str]
    ) -> Sequence[str]:
        if not chosen:
            return []
        attributes: dict[str, Any] = json.loads(event.attributes)
        generation = event.generation + 1
        for _ in range(GENERATIONS):
            runs = [
                NewRun(
                    run_id(event.name, attributes["id"], sub.id, generation),
                    sub.id,
                    cancel_on=sub.cancels(_event_of(event)),
                    checkpoints=checkpoints,
                )
                for sub in chosen
            ]
            (recorded,) = self._ledger.record(
                [
                    NewEvent(
                        event.key,
                        event.name,
                        event.attributes,
                        event.data,
                        runs,
                        generation,
                        replay=True,
                        resume_at=self._ledger.time(),  # so that they are due now
                    )
                ]
            )
            if recorded.status != "generation":
                break
            generation = recorded.generation
        else:
            raise EventNotFound(event.key)
        ids = [run.id for run in runs]
        self._wake(ids)
        return ids

    # -- subscriptions ----------------------------------------------------------------------------

    def pause(self, subscription: str) -> bool:
        """Hold back the runs of a subscription, new and waiting ones; running ones go on.

        Returns:
            Whether it was not paused already.

        Raises:
            UnknownSubscription: if it does not exist.
        """
        return self._ledger.pause(self._subscription(subscription).id)

    def resume(self, subscription: str, progress: Callable[[int], None] | None = None) -> int:
        """Let the runs of a paused subscription go. Returns how many were held back.

        Args:
            subscription: its id; one that the code no longer has will do too.
            progress: told how many have been let go so far.
        """
        total = 0
        while True:
            count, left = self._ledger.resume(subscription)
            total += count
            if progress is not None:
                progress(total)
            if not left:
                return total

    def paused(self) -> dict[str, float]:
        """Return the paused subscriptions, and since when."""
        return self._ledger.paused()

    # -- changing many ----------------------------------------------------------------------------

    def select(
        self,
        *,
        state: RunState | str | None = None,
        subscription: str | None = None,
        name: str | None = None,
        since: float | None = None,
        until: float | None = None,
        error_type: str | None = None,
        limit: int = MAX_BULK,
    ) -> Sequence[RunRecord]:
        """Return the runs that a filter means, to look at them before they are changed.

        Args:
            state: in this state.
            subscription: of this subscription.
            name: of events with this name.
            since: changed at or after this POSIX time.
            until: changed before this POSIX time.
            error_type: failed with an exception of this class's name.
            limit: how many at most.

        Raises:
            TooMany: if more match.
        """
        found: list[RunRecord] = []
        before = until
        while True:
            page = self.list(state=state, subscription=subscription, before=before, limit=500)
            page = [run for run in page if since is None or run.updated >= since]
            for run in page:
                if self._means(run, name, error_type):
                    found.append(run)
                    if len(found) > limit:
                        raise TooMany(len(found), limit)
            if len(page) < 500:  # noqa: PLR2004 - the page above
                return found
            before = page[-1].updated

    def _means(self, run: RunRecord, name: str | None, error_type: str | None) -> bool:
        if name is not None:
            event = self._ledger.event(run.event)
            if event is None or event.name != name:
                return False
        if error_type is None:
            return True
        detail = self._ledger.run(run.id)
        error: Any = None if detail is None else detail.detail["error"]
        return error is not None and error.get("type") == error_type

    def many(
        self,
        change: Callable[[str], Any],
        ids: Sequence[str],
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[int, Sequence[str]]:
        """Change several runs, each by itself.

        Args:
            change: called with each id, such as ``lambda id: runs.cancel(id, "why")``.
            ids: the runs.
            progress: told how many are done, of how many.

        Returns:
            How many were changed, and what was wrong with the others, which somebody else changed.
        """
        wrong: list[str] = []
        for number, id_ in enumerate(ids, start=1):
            try:
                change(id_)
            except (RunNotFound, WrongState, EventNotFound, UnknownSubscription) as exc:
                wrong.append(str(exc))
            if progress is not None:
                progress(number, len(ids))
        return len(ids) - len(wrong), wrong


def _event_of(record: EventRecord) -> Event:
    attributes: dict[str, Any] = json.loads(record.attributes)
    headers = {HEADER_PREFIX + key: value for key, value in attributes.items()}
    found = Event.from_headers(headers, json.loads(record.data))
    assert found is not None  # noqa: S101 - every recorded event has a name and an id
    return found
