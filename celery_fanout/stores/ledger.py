"""The ledger: what is written down about events and runs. Here is the protocol of its stores.

Every operation is one atomic change, and safe to repeat: a client may send it again when the
answer was lost. ``tests/conformance`` holds for every store.

Each run that is not final, and not gated, has exactly one timer, its ``due``: the time at which
:meth:`Ledger.take` looks at it again, whatever its state. So nothing can get stuck. A gated run
has one if it collects events or has a time-out; otherwise whoever frees what it waits for lets it
go, and a gate that depends on the time has a timer itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from celery_fanout.stores.limits import LedgerLimits
from celery_fanout.stores.views import LedgerViews

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery_fanout.stores.records import (
        Claim,
        LedgerRules,
        NewEvent,
        NewRun,
        Recorded,
        Settled,
        Taken,
    )
    from celery_fanout.stores.states import RunState


class Ledger(LedgerViews, LedgerLimits, Protocol):
    """A store of level 2: here is what changes runs.

    Attributes:
        name: what messages call it.
        rules: the settings that its decisions follow.
        supports_publish: whether ``NewEvent.messages`` can be published by :meth:`record`.
        shards: over how many places its events are spread; ``ids.place_of`` says which is an
            event's. Where there is more than one, what concerns runs of other events, their waits
            and ``cancel_on``, follows a record in changes of its own.

    Every method may raise :class:`~celery_fanout.exceptions.StoreUnavailable`.
    """

    name: str
    rules: LedgerRules
    supports_publish: bool
    shards: int

    # -- the path of a run ----------------------------------------------------------------------

    def record(self, events: Sequence[NewEvent]) -> list[Recorded]:
        """Record events and their runs, each event atomically, and wake who waits for them.

        The runs become ``pending``, due after ``rules.grace`` (or at ``resume_at``); those of a
        paused subscription, and those that flow control holds back, ``gated``; those that it drops
        ``cancelled``, with the reason. Waits and ``cancel_on`` of *other* runs that match are
        resolved: the wait's checkpoint becomes ``done`` with the event, and its run due now.
        """
        ...

    def mark_published(
        self,
        run_ids: Sequence[str],
        queues: Mapping[str, str] | None = None,
        messages: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Turn runs that are ``pending`` into ``published``, due after ``rules.republish``.

        Args:
            run_ids: the runs.
            queues: the queue that each went to, by run id, if it was another than it was recorded
                with; :meth:`resend` asks for it.
            messages: theirs, to publish them too, as :attr:`NewEvent.messages`.
        """
        ...

    def claim(
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
        """Claim a run for this worker: raise its token, and hold it for ``rules.lease``.

        Args:
            run_id: the run.
            boot: boot id of the worker.
            nonce: new for each delivery, so that a repeated claim gets the same answer.
            retries: of the message.
            recreate: if the ledger does not know the run: its event, with this one run.
            put_back: whether the message was put back because the store did not answer: a lease
                that is over is then no crash.
            left: token of the claim that its worker has left so: nobody works with it any more, so
                the run is taken though its lease is not over.
        """
        ...

    def store(self, run_id: str, token: int, field: str, text: str, *, final: bool) -> str | None:
        """Store a checkpoint; a final one is never overwritten.

        Returns:
            The text that is stored now, an earlier final one if there was one; ``None`` if the
            token is stale (the run was claimed by another, ended, or cancelled).
        """
        ...

    def settle(
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
        """Leave ``running`` (or ``completing``, for ``succeeded``).

        Repeating it with the same token and state is harmless.

        Args:
            run_id: the run.
            token: of the claim.
            to: the new state: any but published, running and gated. ``pending`` puts it back.
            result: JSON of the result, for succeeded and completing.
            error: ``type``, ``message``, ``traceback``, for failed; for retrying it is noted.
            reason: for suspended, failed, cancelled.
            due: when it goes on, for suspended and retrying; the timeout of a wait.
            retries: the new count, for retrying.
            group: the group of children, or the field of the wait, that it is suspended for. If
                nothing of it is outstanding the run is due now, and woken.
            checkpoints: not final ones, to be stored with it.
            child: for completing: the next link of the tail, recorded as pending. With the
                succeeded that follows it becomes published: Celery has dispatched it.
            trace: headers of the trace in which it leaves, for suspended and retrying.
        """
        ...

    def spawn(self, run_id: str, token: int, group: str, children: Sequence[NewRun]) -> Settled:
        """Record child runs as pending, due now, and how many of the group are outstanding.

        When a child ends, its outcome becomes the parent's checkpoint ``child.field`` (status
        ``done``, or ``failed`` with its error), and with the last of the group a parent that is
        suspended for it is due.
        """
        ...

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
        """Wait for an event, or find one that was recorded since ``since``.

        Args:
            run_id: the run.
            token: of the claim.
            field: the step's checkpoint field; also the group to be suspended for.
            name: the event's name.
            match: JSON object of dotted path into the data to value; ``"{}"`` for any.
            since: how far to look back.
            due: when the wait times out.

        Returns:
            The text of the step's checkpoint: ``done`` with the event ``{"a": attributes, "d":
            data}``, or ``waiting``; ``None`` if the token is stale.
        """
        ...

    def end_wait(self, run_id: str, token: int, field: str) -> str | None:
        """Give up a wait that has timed out: its checkpoint is ``done`` with ``null``.

        Returns:
            The checkpoint's text: the event's, if it came first; ``None`` if the token is stale.
        """
        ...

    # -- the keeper -------------------------------------------------------------------------------

    def renew(self, boot: str, run_ids: Sequence[str]) -> None:
        """Renew the leases of what a worker holds.

        Running and completing runs held by this boot get a new lease. Pending and published runs
        are noted as received by this boot, due after a lease. Others are left alone.
        """
        ...

    def release(self, boot: str, run_ids: Sequence[str]) -> list[str]:
        """Let go of what a worker that stops still has.

        What it only received is due now (returned). What is running stays so until its lease ends,
        which is then no crash.
        """
        ...

    def take(
        self, run_ids: Sequence[str] | None = None, *, limit: int = 100, grace: bool = False
    ) -> Taken:
        """Collect what is due, to be published, of these runs or of all.

        Pending, published, suspended and retrying runs become ``pending``, due after
        ``rules.grace``, and are returned as wakeups. Running ones whose lease is over have
        crashed: pending again, or dead letters (``WorkerCrashed``). Completing ones succeed.
        Runs that had to start by now and did not are cancelled (``"expired"``).

        Args:
            run_ids: only these.
            limit: how many at most.
            grace: leave running and completing ones alone: the store itself was away.
        """
        ...

    def resend(self, queue: str, before: float, *, limit: int = 100) -> list[str]:
        """Make due the runs that were published to a queue before a time and never received.

        Returns:
            Their ids, to be taken.
        """
        ...

    def abandon(self, run_id: str, boot: str, error: Mapping[str, Any], *, final: bool) -> Settled:
        """Tell that the process that executed a run of this worker is gone.

        Args:
            run_id: the run, running and held by ``boot``.
            boot: boot id of the worker.
            error: what happened.
            final: it failed (a time limit); otherwise it has crashed, and is due now.
        """
        ...

    def unregistered(self, run_id: str, delay: float) -> Settled:
        """Put a run back whose task this worker does not know: pending, due after ``delay``.

        After ``rules.unregistered`` since the first time it is a dead letter.
        """
        ...

    def awaiting_follow_up(self, *, older_than: float, limit: int = 100) -> list[str]:
        """Return runs that failed or were cancelled, and whose follow-up is not recorded.

        That is the ``on_failure`` task, and the event about it. They are not returned again for
        ``rules.grace``.
        """
        ...

    def followed_up(self, run_id: str) -> None:
        """Note that the follow-up of a run is recorded."""
        ...

    def adopt(self, run_id: str, child: NewRun) -> bool:
        """Record a child run of kind ``on_failure`` for a run that has ended; whether it is new.

        It is pending, due now.
        """
        ...

    def sweep(self, *, limit: int = 1000) -> int:
        """Remove what has expired from the indexes; return how many runs.

        At least ``limit`` if there may be more. What is held back though its subscription is not
        paused goes: a resume was cut short.
        """
        ...

    # -- control --------------------------------------------------------------------------------

    def cancel(self, run_ids: Sequence[str], reason: str) -> tuple[list[str], list[str]]:
        """Cancel runs that are not final, and the runs that they invoked.

        Returns:
            The ids of those it cancelled, children included, and ``woken``.
        """
        ...

    def reopen(self, run_id: str, reason: str) -> bool:
        """Run a failed or cancelled run again: pending, due now, with its done checkpoints.

        Retries, crashes and failed checkpoints are forgotten.
        """
        ...

    def pause(self, subscription: str) -> bool:
        """Hold back the runs of a subscription from now on; whether it was not paused already."""
        ...

    def resume(
        self, subscription: str, *, limit: int = 1000, go_on: bool = False
    ) -> tuple[int, bool]:
        """Let them go: up to ``limit`` gated runs become pending, due now, the oldest first.

        Args:
            subscription: its id.
            limit: how many at most; with 0 it is only paused no more.
            go_on: whether this goes on with a resume that left some. If it was paused again
                meanwhile, it stays so, and nothing is done.

        Returns:
            How many, and whether any are left: call again, to go on.
        """
        ...
