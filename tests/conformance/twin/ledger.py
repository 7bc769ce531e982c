"""The twin: every operation under one lock."""

from __future__ import annotations

import json
import threading
import time
from math import inf
from typing import TYPE_CHECKING, Any

from celery_fanout.stores.records import Claim, Recorded, Settled
from celery_fanout.stores.states import RunState
from tests.conformance.twin.arrivals import arrive, close_if_dropped
from tests.conformance.twin.book import Book
from tests.conformance.twin.keeping import LOOK, Keeping
from tests.conformance.twin.matching import matches
from tests.conformance.twin.operations import operation
from tests.conformance.twin.rows import Event, Wait, is_final_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from celery_fanout.stores.records import LedgerRules, NewEvent, NewRun
    from tests.conformance.twin.rows import Row

__all__ = ["Twin"]

_S = RunState
_dumps = json.JSONEncoder(separators=(",", ":")).encode


class Twin(Keeping):
    """A :class:`~celery_fanout.stores.ledger.Ledger` in Python.

    Args:
        rules: the settings that its decisions follow.
        clock: the time.
    """

    supports_publish = False
    supports_flow = True
    shards = 1

    def __init__(self, rules: LedgerRules, clock: Callable[[], float] = time.time) -> None:
        self.name = "The twin"
        self.rules = rules
        self.clock = clock
        self.lock = threading.RLock()
        self.book = Book(rules, clock)

    def time(self) -> float:
        """Return the time."""
        return self.clock()

    # -- the path of a run ----------------------------------------------------------------------

    def record(self, events: Sequence[NewEvent]) -> list[Recorded]:
        """Record events and their runs."""
        return [self._record(event) for event in events]

    @operation
    def _record(self, new: NewEvent) -> Recorded:  # noqa: C901 - as its Lua twin, in one go
        book = self.book
        known = book.event(new.key)
        ids = [run.id for run in new.runs]
        generation = 0
        if known is not None and not new.replay:
            if known.created + self.rules.dedup_window > book.now:
                return Recorded("repeat", known.emitted, self._states(known.runs), book.woken)
            generation = known.generation + 1
        elif known is not None:
            same = known.generation == new.generation and known.nonce == new.nonce
            if same and ids and book.row(ids[0]) is not None:
                return Recorded("new", new.generation, self._states(ids), book.woken)
            generation = known.generation + 1
        if generation != new.generation:
            return Recorded("generation", generation, (), book.woken)
        if new.replay and known is not None:
            known.generation, known.nonce = generation, new.nonce
            known.replayed += ids
            event = known
        else:
            event = Event(
                new.key,
                new.name,
                new.attributes,
                new.data,
                book.now,
                generation,
                generation,
                ids,
                [] if known is None else known.replayed,
                0 if known is None else known.open,
                0 if known is None else known.open_chains,
                new.then_id,
                new.then_message,
                trace=new.trace,
            )
            book.events[new.key] = event
        if not new.replay:
            # before its own runs are there: an event cancels none of them
            book.announce(new.name, new.attributes, new.data)
        ids[:] = [arrive(book, run, new) for run in new.runs]
        if any(run.flow for run in new.runs):
            close_if_dropped(book, event)
        if not ids:
            if event.open <= 0:  # else runs of an earlier generation are
                kept = max(self.rules.event_retention, self.rules.dedup_window)
                event.gone_at = book.now + kept
            if event.then_id:
                book.fan_in(event)
        return Recorded("new", generation, self._states(ids), book.woken)

    def _states(self, ids: Sequence[str]) -> list[tuple[str, RunState]]:
        found: list[tuple[str, RunState]] = []
        for run_id in ids:
            row = self.book.row(run_id)
            found.append((run_id, _S.SUCCEEDED if row is None else row.state))
        return found

    @operation
    def mark_published(
        self,
        run_ids: Sequence[str],
        queues: Mapping[str, str] | None = None,
        messages: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Turn pending runs into published ones."""
        assert not messages
        due = self.book.now + 0.001  # else its message comes early, and it keeps its timer
        for run_id in run_ids:
            row = self.book.row(run_id)
            if row is not None and row.state is _S.PENDING and (row.resume or 0.0) <= due:
                row.queue = (queues or {}).get(run_id) or row.queue
                self._publish(row)

    def _publish(self, row: Row) -> None:
        longest = max(3600.0, self.rules.republish)
        wait = min(self.rules.republish * 2.0 ** min(row.published, 20), longest)
        row.published += 1
        self.book.enter(row, _S.PUBLISHED, self.book.now + wait)

    @operation
    def claim(  # noqa: C901, PLR0911, PLR0912 - as its Lua twin, in one go
        self,
        run_id: str,
        boot: str,
        nonce: str,
        *,
        retries: int = 0,
        recreate: NewEvent | None = None,
        put_back: bool = False,
        left: int = 0,
    ) -> Claim:
        """Claim a run for this worker."""
        book = self.book
        row = book.row(run_id)
        if row is None:
            if recreate is None:
                return Claim("unknown", now=book.now)
            row = self._recreate(run_id, recreate)
        if row.final:
            return self._answer(row, "finished")
        if row.state is _S.COMPLETING:
            return self._answer(row, "completing", result=row.result or "null")
        if row.state is _S.RUNNING and row.nonce == nonce:
            return self._answer(row, "claimed", checkpoints=self._checkpoints(row))
        if row.deadline is not None and row.deadline <= book.now:
            book.cancel(run_id, "finish_timeout", [])
            return self._answer(row, "expired")
        # one that waits for its time, or for an event, is woken first: a gated run would miss that
        waits = row.state is not _S.GATED and (row.resume or 0.0) > book.now + 0.001
        if row.subscription in book.paused and row.state is not _S.RUNNING and not waits:
            if row.state is not _S.GATED:
                book.enter(row, _S.GATED, row.timeout)
                book.give_back(row)
            return self._answer(row, "paused")
        if row.expires is not None and row.started is None and row.expires <= book.now:
            book.finalise(row, _S.CANCELLED, row.too_late)
            return self._answer(row, "expired")
        if row.lane is not None or row.flush is not None:
            return self._answer(row, "gated")
        if row.state is _S.RUNNING:
            if (row.due or 0.0) > book.now and not (put_back and left == row.token):
                return self._answer(row, "held", due=row.due or 0.0)
            # before the crash: it stays running, and take() would count the same crash again
            if retries < row.retries:
                return self._answer(row, "stale")
            if put_back or row.released:
                book.log(row, "released")
            elif book.crash(row, "Its lease was over."):
                return self._answer(row, "crashed")
        elif row.resume is not None and row.resume > book.now + 0.001:
            return self._answer(row, "early", due=row.resume)
        if retries < row.retries:
            return self._answer(row, "stale")
        if row.limited and not row.admitted and not book.admit(row):
            row.boot = row.waits_for = ""
            row.resume = None
            return self._answer(row, "gated")
        slot = book.too_soon(row)
        if slot is not None:
            row.boot, row.resume = "", slot
            book.enter(row, _S.PENDING, slot if row.expires is None else min(slot, row.expires))
            return self._answer(row, "early", due=slot)
        row.token += 1
        row.retries, row.boot, row.nonce, row.began = retries, boot, nonce, book.now
        row.started = book.now if row.started is None else row.started
        if row.flow.finish_timeout is not None and row.deadline is None:
            row.deadline = book.now + row.flow.finish_timeout
        book.enter(row, _S.RUNNING, book.now + self.rules.lease)
        row.resume, row.unregistered = None, None
        row.waits_for = row.reason = ""
        row.published, row.released = 0, False
        return self._answer(row, "claimed", checkpoints=self._checkpoints(row))

    def _recreate(self, run_id: str, new: NewEvent) -> Row:
        book = self.book
        if book.event(new.key) is None:
            book.events[new.key] = Event(
                new.key,
                new.name,
                new.attributes,
                new.data,
                book.now,
                new.generation,
                new.generation,
                [run_id],
            )
        book.add(new.runs[0], new.key, book.now + self.rules.grace, new.generation)
        return book.rows[run_id]

    def _answer(self, row: Row, status: Any, **more: Any) -> Claim:
        return Claim(
            status,
            row.state,
            row.token,
            row.retries,
            row.crashes,
            row.created,
            woken=self.book.woken,
            now=self.book.now,
            **more,
        )

    def _checkpoints(self, row: Row) -> dict[str, str]:
        parent = self.book.row(row.parent) if row.kind == "parallel" else None
        seen = parent.seen.get(row.group, parent.checkpoints) if parent else {}
        return {**seen, **row.checkpoints}

    @operation
    def store(self, run_id: str, token: int, field: str, text: str, *, final: bool) -> str | None:
        """Store a checkpoint; a final one is never overwritten."""
        row = self.book.row(run_id)
        if row is None or not row.holds(token):
            return None
        known = row.checkpoints.get(field)
        if not is_final_text(known):
            row.checkpoints[field] = text
        return row.checkpoints[field]

    @operation
    def settle(  # noqa: C901, PLR0912 - as its Lua twin, in one go
        self,
        run_id: str,
        token: int,
        to: RunState,
        *,
        result: str | None = None,
        error: Mapping[str, Any] | None = None,
        reason: str = "",
        due: float | None = None,
        retries: int | None = None,
        group: str = "",
        checkpoints: Mapping[str, str] | None = None,
        child: NewRun | None = None,
        trace: str = "",
    ) -> Settled:
        """Leave ``running``, or ``completing``."""
        book = self.book
        row = book.row(run_id)
        if row is None:
            return Settled(False)
        done = row.state is to or (to is _S.COMPLETING and row.state is _S.SUCCEEDED)
        if token and row.token == token and done:
            return Settled(True)
        if row.state is _S.COMPLETING and to is _S.SUCCEEDED and row.token == token:
            link = book.row(row.link)
            if link is not None and link.state is _S.PENDING:  # Celery has published it
                self._publish(link)
            book.finalise(row, _S.SUCCEEDED)
            return Settled(True, book.woken)
        if not row.holds(token):
            return Settled(False)
        if result:
            row.result = result
        for field, text in (checkpoints or {}).items():
            if not is_final_text(row.checkpoints.get(field)):
                row.checkpoints[field] = text
        if to not in (_S.SUCCEEDED, _S.COMPLETING) or row.token != 1:
            text = "" if error is None else f"{error.get('type', '?')}: {error.get('message', '')}"
            book.log(row, to.value, text[: 500 + len(str((error or {}).get("type", ""))) + 2])
        if to in (_S.SUCCEEDED, _S.CANCELLED):
            book.finalise(row, to, reason)
        elif to is _S.FAILED:
            book.fail(row, error or {}, reason or "error")
        elif to is _S.COMPLETING:
            if child is not None:
                book.adopt(row, [child], book.now + self.rules.grace)
                row.link = child.id
            book.enter(row, _S.COMPLETING, book.now + self.rules.lease)
        else:
            if retries is not None:
                row.retries = retries
            if trace:
                row.trace = trace
            self._leave(row, to, due, group, reason)
        return Settled(True, book.woken)

    def _leave(self, row: Row, to: RunState, due: float | None, group: str, reason: str) -> None:
        book = self.book
        nothing = bool(group) and row.outstanding.get(group, 0) <= 0
        if nothing:
            due = book.now
        if due is None:
            due = inf if group else book.now
        row.boot = row.nonce = ""
        row.reason, row.resume = reason, due
        if group and not nothing:
            row.waits_for = group
        book.enter(row, to, book.now + LOOK if due == inf else due)
        if nothing:
            book.woken.append(row.id)
        if to is not _S.PENDING and not (group and group in row.together):
            book.give_back(row)  # unless items of step.parallel work for it

    @operation
    def spawn(self, run_id: str, token: int, group: str, children: Sequence[NewRun]) -> Settled:
        """Record child runs."""
        row = self.book.row(run_id)
        if row is None or not row.holds(token):
            return Settled(False)
        if group not in row.outstanding:
            self.book.spawn(row, group, children)
        return Settled(True, self.book.woken)

    @operation
    def wait(
        self,
        run_id: str,
        token: int,
        field: str,
        name: str,
        match: str,
        *,
        since: float,
        due: float,
    ) -> str | None:
        """Wait for an event, or find one."""
        book = self.book
        row = book.row(run_id)
        if row is None or not row.holds(token):
            return None
        if field in row.checkpoints:
            return row.checkpoints[field]
        wanted: dict[str, Any] = json.loads(match)
        kept_from = max(since, book.now - self.rules.event_retention)
        for event in sorted(book.events.values(), key=lambda event: (event.created, event.key)):
            if event.name != name or event.created < kept_from or event.gone_at < book.now:
                continue
            if event.key == row.event:  # its own event is no answer to it
                continue
            if matches(wanted, json.loads(event.data)):
                value = {"a": json.loads(event.attributes), "d": json.loads(event.data)}
                text = _dumps({"v": 1, "s": "done", "n": 1, "r": value, "t": book.now})
                row.checkpoints[field] = text
                return text
        text = _dumps({"v": 1, "s": "waiting", "n": 0, "d": due, "t": book.now})
        row.checkpoints[field] = text
        row.outstanding[field] = 1
        row.waits[field] = Wait(name, wanted)
        return text

    @operation
    def end_wait(self, run_id: str, token: int, field: str) -> str | None:
        """Give up a wait that has timed out."""
        row = self.book.row(run_id)
        if row is None or not row.holds(token):
            return None
        known = row.checkpoints.get(field)
        if known is not None and json.loads(known)["s"] == "done":
            return known
        row.waits.pop(field, None)
        row.outstanding[field] = 0
        text = _dumps({"v": 1, "s": "done", "n": 1, "r": None, "t": self.book.now})
        row.checkpoints[field] = text
        return text
