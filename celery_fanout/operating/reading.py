"""Finding and reading events and runs: what ``get_fanout(app).runs`` does without changing any."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from celery_fanout.exceptions import EventNotFound, RunNotFound, TooMany
from celery_fanout.model.events import patterns_of
from celery_fanout.model.ids import event_key
from celery_fanout.operating.paging import pages
from celery_fanout.stores.states import RunState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from celery_fanout.stores.ledger import Ledger
    from celery_fanout.stores.records import EventRecord, RunOutcome, RunRecord

#: How many runs or events a change reaches at most, if nothing else is said.
MAX_BULK = 1000

#: How many runs are read at a time.
AT_ONCE = 500

#: How many of the latest runs or events are looked through for the beginning of an id, or for the
#: id of an event without its name.
LATEST = 1000

#: The shortest beginning of a run's id that may stand for it.
SHORTEST = 6

#: More runs than one subscription or event has.
EVERYTHING = 10**9


class RunReader:
    """Finds and reads events and runs: what those take who only look.

    Args:
        ledger: the ledger.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    # -- one ------------------------------------------------------------------------------------

    def get(self, id: str) -> RunRecord:
        """Return a run with its detail.

        Raises:
            RunNotFound: if the ledger has none with this id.
        """
        run = self._ledger.run(id)
        if run is None:
            raise RunNotFound(id)
        return run

    def find(self, beginning: str) -> RunRecord:
        """Return the run whose id begins so, with its detail.

        Args:
            beginning: its id, or 6 characters of it or more, if it is one of the latest runs.

        Raises:
            RunNotFound: if there is none, or more than one.
        """
        run = self._ledger.run(beginning)
        if run is not None:
            return run
        if len(beginning) < SHORTEST:
            raise RunNotFound(beginning, f"Give at least {SHORTEST} characters of its id.")
        latest = self._ledger.runs(limit=LATEST)
        ids = {run.id for run in latest if run.id.startswith(beginning)}
        if len(ids) > 1:
            raise RunNotFound(
                beginning, f"{len(ids)} of the latest runs begin so: give more of its id."
            )
        return self.get(ids.pop() if ids else beginning)

    def event(self, id: str, name: str | None = None) -> EventRecord:
        """Return an event.

        Args:
            id: its id, or its key in the ledger. An id without a name is looked for among the
                latest events.
            name: its name.

        Raises:
            EventNotFound: if there is none, or more than one.
        """
        event = self._ledger.event(id if name is None else event_key(name, id))
        if event is not None:
            return event
        if name is not None:
            raise EventNotFound(id)
        latest = self._ledger.events(limit=LATEST)
        with_id = [event for event in latest if json.loads(event.attributes)["id"] == id]
        if len(with_id) > 1:
            names = ", ".join(sorted(event.name for event in with_id))
            raise EventNotFound(id, f"Several have this id ({names}): give the name too.")
        if not with_id:
            raise EventNotFound(id)
        return with_id[0]

    # -- several --------------------------------------------------------------------------------

    def counts(self) -> dict[RunState, int]:
        """Return how many runs are in each state."""
        return self._ledger.counts()

    def outcomes(self, ids: Sequence[str]) -> Sequence[RunOutcome]:
        """Return how runs ended, each followed to the last link of its tail."""
        return self._ledger.outcomes(ids)

    def paused(self) -> dict[str, float]:
        """Return the paused subscriptions, and since when."""
        return self._ledger.paused()

    def list(
        self,
        *,
        state: RunState | str | Iterable[RunState | str] | None = None,
        subscription: str | None = None,
        event: str | None = None,
        name: str | None = None,
        since: float | None = None,
        error_type: str | None = None,
        limit: int = 100,
        before: float | None = None,
    ) -> Sequence[RunRecord]:
        """Return runs, those whose state changed last first.

        Args:
            state: only those in this state, or in one of these.
            subscription: only those of the subscription with this id.
            event: only those of the event with this key: of its last emit and its replays, its
                fan-in, and what all of these asked for.
            name: only those of events with this name.
            since: only those whose state changed at or after this POSIX time.
            error_type: only those that failed with an exception of this class's name.
            limit: how many at most.
            before: only those whose state changed before this POSIX time: that of the last one, to
                page on.

        Raises:
            ValueError: if there is no such state.
        """
        states = _states(state)
        if error_type is not None:
            states = [RunState.FAILED] if states is None or RunState.FAILED in states else []

        def matches(run: RunRecord) -> bool:
            return (
                (states is None or run.state in states)
                and (since is None or run.updated >= since)
                and (name is None or self._has_name(run, name, names))
            )

        names: dict[str, str | None] = {}
        runs: list[RunRecord] = []
        for source in self._sources(states, subscription, event, before):
            matching: list[RunRecord] = []
            for page in source:
                some = [run for run in page if matches(run)]
                matching += some if error_type is None else self._failed_with(some, error_type)
                if len(matching) >= limit or (since is not None and page[-1].updated < since):
                    break
            runs += matching
        runs.sort(key=lambda run: run.updated, reverse=True)
        return runs[:limit]

    def select(
        self,
        *,
        state: RunState | str | Iterable[RunState | str] | None = None,
        subscription: str | None = None,
        name: str | None = None,
        since: float | None = None,
        until: float | None = None,
        error_type: str | None = None,
        limit: int = MAX_BULK,
    ) -> Sequence[RunRecord]:
        """Return all runs that a filter means, to look at them before they are changed.

        The arguments are those of :meth:`list`, and ``until`` is its ``before``.

        Raises:
            TooMany: if more than ``limit`` match.
        """
        runs = self.list(
            state=state,
            subscription=subscription,
            name=name,
            since=since,
            error_type=error_type,
            limit=limit + 1,
            before=until,
        )
        return _at_most(runs, limit)

    def events(
        self,
        *,
        name: str | None = None,
        since: float | None = None,
        limit: int = 100,
        before: float | None = None,
    ) -> Sequence[EventRecord]:
        """Return events, the latest first.

        Args:
            name: only those of this name.
            since: only those recorded at or after this POSIX time.
            limit: how many at most.
            before: only those recorded before this POSIX time: that of the last one, to page on.
        """

        def fetch(until: float | None, size: int) -> Sequence[EventRecord]:
            return self._ledger.events(name=name, before=until, limit=size)

        events: list[EventRecord] = []
        at_once = max(1, min(limit, AT_ONCE))
        for page in pages(fetch, lambda event: (event.created, event.key), before, at_once):
            events += [event for event in page if since is None or event.created >= since]
            if len(events) >= limit or (since is not None and page[-1].created < since):
                break
        return events[:limit]

    def select_events(
        self,
        *,
        name: str | None = None,
        since: float | None = None,
        until: float | None = None,
        limit: int = MAX_BULK,
    ) -> Sequence[EventRecord]:
        """Return all events that a filter means, as :meth:`select` does for runs.

        Raises:
            TooMany: if more than ``limit`` match.
        """
        events = self.events(name=name, since=since, before=until, limit=limit + 1)
        return _at_most(events, limit)

    # -- how ------------------------------------------------------------------------------------

    def _sources(
        self,
        states: Sequence[RunState] | None,
        subscription: str | None,
        event: str | None,
        until: float | None,
    ) -> Iterator[Iterable[Sequence[RunRecord]]]:
        """Return sequences of pages of runs, each sequence in the order of times."""
        if event is not None or subscription is not None:
            # the ledger has to read all of these for any page
            runs = self._ledger.runs(
                subscription=subscription, event=event, before=until, limit=EVERYTHING
            )
            yield [runs] if runs else []
            return
        for state in [None] if states is None else states:

            def fetch(
                before: float | None, size: int, state: RunState | None = state
            ) -> Sequence[RunRecord]:
                return self._ledger.runs(state=state, before=before, limit=size)

            yield pages(fetch, lambda run: (run.updated, run.id), until, AT_ONCE)

    def _has_name(self, run: RunRecord, name: str, names: dict[str, str | None]) -> bool:
        pattern = run.subscription.rpartition("@")[2]
        if pattern and "*" not in pattern:
            return pattern == name
        if pattern and pattern not in patterns_of(name):
            return False
        if run.event not in names:
            event = self._ledger.event(run.event)
            names[run.event] = None if event is None else event.name
        return names[run.event] == name

    def _failed_with(self, runs: Sequence[RunRecord], error_type: str) -> Sequence[RunRecord]:
        outcomes = self._ledger.outcomes([run.id for run in runs]) if runs else []
        return [
            run
            for run, outcome in zip(runs, outcomes, strict=True)
            if (outcome.error or {}).get("type") == error_type
        ]


def _states(state: RunState | str | Iterable[RunState | str] | None) -> list[RunState] | None:
    if state is None:
        return None
    names = [state] if isinstance(state, str) else list(state)  # a RunState is one too
    existing = [str(each) for each in RunState]
    for name in names:
        if name not in existing:
            raise ValueError(f"There is no state {name!r}. The states are {', '.join(existing)}.")
    return [RunState(name) for name in names]


def _at_most(records: Sequence[Any], limit: int) -> Sequence[Any]:
    if len(records) > limit:
        raise TooMany(len(records), limit)
    return records
