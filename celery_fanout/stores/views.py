"""What lists and pages show of the ledger: the part of its protocol that only reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_fanout.stores.records import EventRecord, RunOutcome, RunRecord
    from celery_fanout.stores.states import RunState


class LedgerViews(Protocol):
    """The part of :class:`~celery_fanout.stores.ledger.Ledger` that reads runs and events."""

    def time(self) -> float:
        """Return the store's time."""
        ...

    def run(self, run_id: str) -> RunRecord | None:
        """Return a run with its detail."""
        ...

    def runs(
        self,
        *,
        state: RunState | None = None,
        subscription: str | None = None,
        event: str | None = None,
        limit: int = 100,
        before: float | None = None,
    ) -> list[RunRecord]:
        """Return runs, those whose state changed last first.

        Args:
            state: only those in this state.
            subscription: only those of this subscription.
            event: only those of the event with this key: of its last emit and its replays, its
                fan-in, and what all of these asked for: links, invoked tasks, parallel items, ...
            limit: how many at most.
            before: only those whose state changed before this time, to page on.
        """
        ...

    def event(self, key: str) -> EventRecord | None:
        """Return an event."""
        ...

    def events(
        self, *, name: str | None = None, limit: int = 100, before: float | None = None
    ) -> list[EventRecord]:
        """Return events that were recorded within ``rules.event_retention``, the latest first.

        One that is older, and kept because of its runs, is found by its key.
        """
        ...

    def outcomes(self, run_ids: Sequence[str]) -> list[RunOutcome]:
        """Return how runs ended, or where they are."""
        ...

    def counts(self) -> dict[RunState, int]:
        """Return how many runs are in each state."""
        ...

    def paused(self) -> dict[str, float]:
        """Return the paused subscriptions, and since when."""
        ...
