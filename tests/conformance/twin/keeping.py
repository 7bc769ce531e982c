"""What the keeper and the main process of a worker tell the twin."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from celery_fanout.stores.records import Settled, Taken, Wakeup
from celery_fanout.stores.states import RunState
from tests.conformance.twin.arrivals import flush
from tests.conformance.twin.operations import operation
from tests.conformance.twin.views import Views

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery_fanout.stores.records import LedgerRules, NewRun
    from tests.conformance.twin.rows import Row

__all__ = ["LOOK", "Keeping"]

_S = RunState

#: A run that waits for its children alone looks after itself this often, in seconds.
LOOK = 86_400.0


class Keeping(Views):
    """The operations of keepers."""

    rules: LedgerRules

    @operation
    def renew(self, boot: str, run_ids: Sequence[str]) -> None:
        """Renew the leases of what a worker holds."""
        book = self.book
        for run_id in run_ids:
            row = book.row(run_id)
            if row is None:
                continue
            late = row.deadline is not None and row.deadline <= book.now
            if row.state in (_S.RUNNING, _S.COMPLETING):
                if row.boot == boot and late and row.state is _S.RUNNING:
                    book.cancel(run_id, "finish_timeout", [])
                elif row.boot == boot:
                    row.due = book.now + self.rules.lease
            elif row.state in (_S.PENDING, _S.PUBLISHED) and (row.resume or 0.0) <= book.now:
                row.boot = boot
                row.due = min(book.now + self.rules.lease, row.timeout or inf)

    @operation
    def release(self, boot: str, run_ids: Sequence[str]) -> list[str]:
        """Let go of what a worker that stops still has."""
        book = self.book
        for run_id in run_ids:
            row = book.row(run_id)
            if row is None or row.boot != boot:
                continue
            if row.state is _S.RUNNING:
                row.released = True
            elif row.state in (_S.PENDING, _S.PUBLISHED):
                row.boot, row.due = "", book.now
                book.woken.append(run_id)
        return book.woken

    @operation
    def take(
        self, run_ids: Sequence[str] | None = None, *, limit: int = 100, grace: bool = False
    ) -> Taken:
        """Collect what is due, to be published."""
        book = self.book
        book.forget()
        if run_ids is None:
            book.pump_due()
        rows = book.rows.values() if run_ids is None else map(book.row, dict.fromkeys(run_ids))
        due = [row for row in rows if row and row.due is not None and row.due <= book.now + 1e-6]
        if run_ids is None:
            due = sorted(due, key=lambda row: (row.due or 0.0, row.id))[:limit]
        ended: list[str] = []
        wakeups: list[Wakeup] = []
        for row in due:
            self._take(row, wakeups, ended, grace=grace)
        timers = [row.due for row in book.rows.values() if row.due is not None]
        timers += book.timers()
        busy = run_ids is None and book.busy_until > book.now
        return Taken(wakeups, ended, min(timers, default=None), book.now, busy)

    def _take(self, row: Row, wakeups: list[Wakeup], ended: list[str], *, grace: bool) -> None:
        book = self.book
        if row.final:
            row.due = None
        elif grace and row.state in (_S.RUNNING, _S.COMPLETING):
            row.due = book.now + self.rules.lease
        elif row.state is _S.COMPLETING:
            book.finalise(row, _S.SUCCEEDED)
        elif row.expires is not None and row.started is None and row.expires <= book.now:
            book.finalise(row, _S.CANCELLED, row.too_late)
            ended.append(row.id)
        elif row.deadline is not None and row.deadline <= book.now:
            book.cancel(row.id, "finish_timeout", ended)
        elif (
            row.state is _S.RUNNING and not row.released and book.crash(row, "Its lease was over.")
        ):
            ended.append(row.id)
        elif self._starts(row):
            book.enter(row, _S.PENDING, book.now + self.rules.grace)
            wakeups.append(self._wakeup(row))

    def _starts(self, row: Row) -> bool:
        """Whether a run that is due may go on now; if it is to wait, it does."""
        book = self.book
        if row.state is _S.GATED:
            if row.flush is not None:
                return flush(book, row)
            row.due = row.timeout
            return False
        if row.resume == inf:
            row.due = min(book.now + LOOK, row.deadline or inf)
            return False
        if row.state is _S.RUNNING and row.released:
            book.log(row, "released")
        row.boot = row.nonce = row.waits_for = ""
        row.resume, row.released = None, False
        return not row.limited or row.admitted or book.admit(row)

    def _wakeup(self, row: Row) -> Wakeup:
        collect = row.flow.collect
        collected = [] if collect is None else row.events
        event = self.book.event(collected[-1] if collected else row.event)
        data = "" if event is None else event.data
        if collect is not None and collect.kind == "batch":
            found = [event for event in map(self.book.event, collected) if event is not None]
            data = f"[{','.join(event.data for event in found)}]"
        return Wakeup(
            row.id,
            row.kind,
            row.subscription,
            row.event,
            "" if event is None else event.attributes,
            data,
            row.retries,
            row.message,
            row.generation,
            row.trace or ("" if event is None else event.trace),
            tuple(collected),
        )

    @operation
    def resend(self, queue: str, before: float, *, limit: int = 100) -> list[str]:
        """Make due what was lost on the way to a worker."""
        rows = [
            r for r in self.book.rows.values() if r.state is _S.PUBLISHED and r.updated < before
        ]
        rows = [row for row in rows if row.queue == queue and not row.boot]
        rows.sort(key=lambda row: row.updated)
        for row in rows[:limit]:
            row.due = self.book.now
        return [row.id for row in rows[:limit]]

    @operation
    def abandon(self, run_id: str, boot: str, error: Mapping[str, Any], *, final: bool) -> Settled:
        """Tell that the process that executed a run is gone."""
        book = self.book
        row = book.row(run_id)
        if row is None or row.state is not _S.RUNNING or row.boot != boot:
            return Settled(False)
        text = f"{error.get('type', '?')}: {error.get('message', '')}"
        if final:
            book.log(row, "failed", text)
            book.fail(row, error, "error")
        elif not book.crash(row, text):
            book.enter(row, _S.PENDING, book.now)
            book.woken.append(run_id)
        return Settled(True, book.woken)

    @operation
    def unregistered(self, run_id: str, delay: float) -> Settled:
        """Put a run back whose task this worker does not know."""
        book = self.book
        row = book.row(run_id)
        if row is None or row.state not in (_S.PENDING, _S.PUBLISHED):
            return Settled(False)
        since = book.now if row.unregistered is None else row.unregistered
        if book.now - since >= self.rules.unregistered:
            message = "No worker that serves its queue knows its task."
            error = {"type": "Unregistered", "message": message, "traceback": ""}
            book.fail(row, error, "unregistered")
        else:
            row.boot, row.unregistered, row.resume = "", since, book.now + delay
            book.enter(row, _S.PENDING, row.resume)
            book.give_back(row)
        return Settled(True, book.woken)

    @operation
    def awaiting_follow_up(self, *, older_than: float, limit: int = 100) -> list[str]:
        """Return runs whose follow-up is not recorded."""
        book = self.book
        until = book.now + self.rules.grace - older_than
        ids = sorted(book.untold, key=lambda run_id: book.untold[run_id])
        found: list[str] = []
        for run_id in [i for i in ids if book.untold[i] <= until][:limit]:
            if book.row(run_id) is None:
                del book.untold[run_id]
            else:
                book.untold[run_id] = book.now + 2 * self.rules.grace
                found.append(run_id)
        return found

    @operation
    def followed_up(self, run_id: str) -> None:
        """Note that the follow-up of a run is recorded."""
        self.book.untold.pop(run_id, None)

    @operation
    def adopt(self, run_id: str, child: NewRun) -> bool:
        """Record a child of a run that has ended."""
        row = self.book.row(run_id)
        return row is not None and self.book.adopt(row, [child], self.book.now) == 1

    @operation
    def sweep(self, *, limit: int = 1000) -> int:
        """Drop what has expired, and let go of what a resume that was cut short has left."""
        book = self.book
        held = {row.subscription for row in book.rows.values() if row.held_back}
        book.forget_gates()
        for subscription in held - book.paused.keys():
            self._let_go(subscription, limit)
        return book.forget(limit)
