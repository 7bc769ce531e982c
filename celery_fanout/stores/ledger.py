"""The ledger: what is written down about events and runs, and the protocol of its stores.

Every operation is one atomic change, and safe to repeat: a client may send it again when the
answer was lost. Times are POSIX seconds of the *store's* clock. ``tests/conformance`` holds for
every store.

Each run that is not final, and not gated, has exactly one timer, its ``due``: the time at which
:meth:`Ledger.take` looks at it again, whatever its state. So nothing can get stuck.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from celery_fanout.stores.states import RunState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "Claim",
    "EventRecord",
    "Kind",
    "Ledger",
    "LedgerRules",
    "NewEvent",
    "NewRun",
    "Outcome",
    "Recorded",
    "RunRecord",
    "Settled",
    "Taken",
    "Wakeup",
]

#: What a run is: a subscription's handling of an event, a link of its tail, or what a run, its
#: failure or an emission asked for.
Kind = Literal["event", "then", "on_failure", "invoke", "parallel", "fan-in"]


@dataclass(frozen=True)
class LedgerRules:
    """The settings that a ledger's decisions follow; all in seconds but ``max_crashes``.

    Attributes:
        lease: how long a claim holds without a heartbeat.
        dedup_window: how long an event id is the same event.
        success_retention: how long succeeded and cancelled runs are kept.
        failure_retention: how long dead letters are kept.
        event_retention: how long events are kept, at least; never shorter than their runs.
        max_crashes: the how-manieth crash makes a dead letter.
        grace: after which a pending run that nobody published is taken again.
        republish: after which a published run that nobody claimed is taken again; doubles with
            each time, up to an hour.
        unregistered: how long a run waits for a worker that knows its task.
    """

    lease: float = 30.0
    dedup_window: float = 86_400.0
    success_retention: float = 86_400.0
    failure_retention: float = 7 * 86_400.0
    event_retention: float = 7 * 86_400.0
    max_crashes: int = 3
    grace: float = 30.0
    republish: float = 300.0
    unregistered: float = 86_400.0


@dataclass(frozen=True)
class NewRun:
    """A run to be recorded as pending. Recording an id that exists changes nothing.

    Attributes:
        id: its id.
        subscription: id of the subscription, that of the run it belongs to for other kinds.
        kind: what it is.
        queue: the queue it is published to; ``""`` if unknown.
        message: JSON of a Celery signature, for all kinds but ``"event"``; kept with the run.
        field: for ``invoke`` and ``parallel``: the parent's checkpoint field that gets the outcome.
        group: for the same: the group of children that the parent waits for.
        cancel_on: pairs of an event name and a match (JSON object of path to value): such an event
            cancels the run.
        checkpoints: fields and texts that it starts with.
    """

    id: str
    subscription: str
    kind: Kind = "event"
    queue: str = ""
    message: str = ""
    field: str = ""
    group: str = ""
    cancel_on: tuple[tuple[str, str], ...] = ()
    # not field(), which is one of our own fields here
    checkpoints: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])


@dataclass(frozen=True)
class NewEvent:
    """An event and its runs.

    Attributes:
        key: ``ids.event_key(name, id)``.
        name: its name.
        attributes: JSON object of its CloudEvents attributes.
        data: JSON of its data.
        runs: one per matching subscription, none if there is none.
        generation: for which the run ids were computed; 0 at first.
        replay: whether this adds a generation to an event that is recorded already; else a repeat
            within the dedup window changes nothing.
        resume_at: before which no run starts.
        expires_at: by which a run must have started, or it is cancelled (``"expired"``).
        then_id: id of the fan-in run; ``""``: none.
        then_message: its message, as in :class:`NewRun`.
        messages: broker list keys and messages for them, published in the same change by a store
            whose ``supports_publish`` is true; the runs are then ``published`` at once.
    """

    key: str
    name: str
    attributes: str
    data: str
    runs: Sequence[NewRun] = ()
    generation: int = 0
    replay: bool = False
    resume_at: float | None = None
    expires_at: float | None = None
    then_id: str = ""
    then_message: str = ""
    messages: Mapping[str, Sequence[str]] = field(default_factory=dict[str, "Sequence[str]"])


@dataclass(frozen=True)
class Recorded:
    """What :meth:`Ledger.record` did.

    Attributes:
        status: ``"new"``; ``"repeat"``: the event was there, and ``runs`` are those of its last
            emit; ``"generation"``: nothing was written, compute the ids for ``generation`` and
            record again.
        generation: of the runs.
        runs: pairs of run id and state, as they are now.
        woken: ids of other runs that are due now because of this event: waits, cancellations'
            parents, a fan-in. Pass them to :meth:`Ledger.take`.
    """

    status: Literal["new", "repeat", "generation"]
    generation: int
    runs: Sequence[tuple[str, RunState]] = ()
    woken: Sequence[str] = ()


@dataclass(frozen=True)
class Claim:
    """The answer to a claim.

    Attributes:
        status: ``"claimed"``: execute it. ``"completing"``: it has returned ``result`` already and
            its tail is to be dispatched. Otherwise leave it alone: ``"unknown"`` to the ledger,
            ``"finished"``, ``"held"`` by another worker, ``"early"`` (suspended or retrying, not
            due), ``"stale"`` (the message is of an earlier retry), ``"paused"``, ``"expired"``,
            ``"crashed"`` (its lease was over, and it was its last crash).
        state: the run's state now.
        token: the fencing token, 1 or more, for ``"claimed"`` and ``"completing"``.
        retries: how many of the task's retries were spent.
        crashes: how often its worker died.
        created: when it was recorded.
        due: when an early run goes on.
        checkpoints: all checkpoint fields and their texts; for a ``parallel`` run those of its
            parent, whose body it replays.
        result: JSON of the result, for ``"completing"``.
        woken: as in :class:`Recorded`.
        now: the store's time.
    """

    status: Literal[
        "claimed",
        "completing",
        "unknown",
        "finished",
        "held",
        "early",
        "stale",
        "paused",
        "expired",
        "crashed",
    ]
    state: RunState | None = None
    token: int = 0
    retries: int = 0
    crashes: int = 0
    created: float = 0.0
    due: float = 0.0
    checkpoints: Mapping[str, str] = field(default_factory=dict[str, str])
    result: str | None = None
    woken: Sequence[str] = ()
    now: float = 0.0


@dataclass(frozen=True)
class Settled:
    """What a fenced change did.

    Attributes:
        ok: whether the token was that of the run's holder; otherwise nothing was changed.
        woken: as in :class:`Recorded`; may contain the run itself, when what it was to wait for
            has happened already.
    """

    ok: bool
    woken: Sequence[str] = ()


@dataclass(frozen=True)
class Wakeup:
    """A run to be published now.

    Attributes:
        run_id: its id.
        kind: what it is.
        subscription: id of its subscription.
        event: key of its event.
        attributes: JSON of the event's attributes; ``""`` if the event is gone.
        data: JSON of its data.
        retries: to be put into the message.
        message: as in :class:`NewRun`.
        generation: of the run.
    """

    run_id: str
    kind: Kind
    subscription: str
    event: str
    attributes: str
    data: str
    retries: int = 0
    message: str = ""
    generation: int = 0


@dataclass(frozen=True)
class Taken:
    """What :meth:`Ledger.take` found.

    Attributes:
        wakeups: runs to publish, and then to pass to :meth:`Ledger.mark_published`.
        ended: ids of runs that it ended (crashed too often, expired).
        next_due: when the next timer is due, or ``None``.
        now: the store's time.
    """

    wakeups: Sequence[Wakeup] = ()
    ended: Sequence[str] = ()
    next_due: float | None = None
    now: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """How a run ended, followed to the last link of its tail.

    Attributes:
        run_id: the run asked for.
        state: its state; that of the link at which its chain is.
        result: JSON of the result of the last link, if it was kept.
        error: ``type``, ``message`` and ``traceback`` of a dead letter.
        reason: of a cancellation, or kind of failure.
    """

    run_id: str
    state: RunState | None
    result: str | None = None
    error: Mapping[str, Any] | None = None
    reason: str = ""


@dataclass(frozen=True)
class RunRecord:
    """A run, as it is listed and shown.

    Attributes:
        id: its id.
        kind: what it is.
        subscription: id of its subscription.
        event: key of its event.
        state: its state.
        generation: 0 for the first emit of its event.
        token: how often it was claimed.
        retries: how many of the task's retries were spent.
        crashes: how often its worker died.
        created: when it was recorded.
        updated: when its state last changed.
        started: when it was first claimed.
        finished: when it ended.
        due: when the ledger looks at it next.
        reason: of a cancellation, a failure, or a suspension.
        worker: boot id of the worker that holds it.
        parent: id of the run that asked for it.
        reopened: how often it was retried by hand.
        detail: only of :meth:`Ledger.run`: ``checkpoints`` (field to text), ``result``, ``error``,
            ``attempts`` (each with ``number``, ``started``, ``ended``, ``outcome``, ``error``),
            ``children`` (id to kind), ``waits`` (field to what is waited for), ``message``.
    """

    id: str
    kind: Kind
    subscription: str
    event: str
    state: RunState
    generation: int = 0
    token: int = 0
    retries: int = 0
    crashes: int = 0
    created: float = 0.0
    updated: float = 0.0
    started: float | None = None
    finished: float | None = None
    due: float | None = None
    reason: str = ""
    worker: str = ""
    parent: str = ""
    reopened: int = 0
    detail: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class EventRecord:
    """An event, as it is listed and shown.

    Attributes:
        key: its key.
        name: its name.
        attributes: JSON of its attributes.
        data: JSON of its data.
        created: when it was recorded.
        generation: the latest.
        runs: ids of the runs of its last emit.
        replayed: ids of the runs of replays and reruns.
        open: how many of its runs, of whatever kind, are not final.
    """

    key: str
    name: str
    attributes: str
    data: str
    created: float
    generation: int
    runs: Sequence[str]
    replayed: Sequence[str] = ()
    open: int = 0


class Ledger(Protocol):
    """A store of level 2.

    Attributes:
        name: what messages call it.
        rules: the settings that its decisions follow.
        supports_publish: whether ``NewEvent.messages`` can be published by :meth:`record`.

    Every method may raise :class:`~celery_fanout.exceptions.StoreUnavailable`.
    """

    name: str
    rules: LedgerRules
    supports_publish: bool

    def time(self) -> float:
        """Return the store's time."""
        ...

    # -- the path of a run ----------------------------------------------------------------------

    def record(self, events: Sequence[NewEvent]) -> list[Recorded]:
        """Record events and their runs, each event atomically, and wake who waits for them.

        The runs become ``pending``, due after ``rules.grace`` (or at ``resume_at``); those of a
        paused subscription ``gated``. Waits and ``cancel_on`` of *other* runs that match are
        resolved: the wait's checkpoint becomes ``done`` with the event, and its run due now.
        """
        ...

    def mark_published(self, run_ids: Sequence[str]) -> None:
        """Turn runs that are ``pending`` into ``published``, due after ``rules.republish``."""
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
    ) -> Claim:
        """Take a run for execution: raise its token, and hold it for ``rules.lease``.

        Args:
            run_id: the run.
            boot: boot id of the worker.
            nonce: new for each delivery, so that a repeated claim gets the same answer.
            retries: of the message.
            recreate: if the ledger does not know the run: its event, with this one run.
            put_back: whether the message was put back because the store did not answer: a lease
                that is over is then no crash.
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
        """
        ...

    def spawn(
        self, run_id: str, token: int, group: str, children: Sequence[NewRun]
    ) -> Settled:
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

    def take(self, run_ids: Sequence[str] | None = None, *, limit: int = 100, grace: bool = False) -> Taken:
        """Take what is due, of these runs or of all.

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

    def abandon(
        self, run_id: str, boot: str, error: Mapping[str, Any], *, final: bool
    ) -> Settled:
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

    def untold(self, *, older_than: float, limit: int = 100) -> list[str]:
        """Return runs that failed or were cancelled, and whose ``on_failure`` and event are open.

        They are not returned again for ``rules.grace``.
        """
        ...

    def told(self, run_id: str) -> None:
        """Note that ``on_failure`` and event of a run are recorded."""
        ...

    def adopt(self, run_id: str, child: NewRun) -> bool:
        """Record a child run of kind ``on_failure`` for a run that has ended; whether it is new.

        It is pending, due now.
        """
        ...

    def sweep(self, *, limit: int = 1000) -> int:
        """Remove from the indexes what has expired; return how many entries."""
        ...

    # -- reading ------------------------------------------------------------------------------------

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
            event: only those of the event with this key.
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
        """Return events, the latest first."""
        ...

    def outcomes(self, run_ids: Sequence[str]) -> list[Outcome]:
        """Return how runs ended, or where they are."""
        ...

    def counts(self) -> dict[RunState, int]:
        """Return how many runs are in each state."""
        ...

    # -- control ------------------------------------------------------------------------------------

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

    def resume(self, subscription: str, *, limit: int = 1000) -> tuple[int, bool]:
        """Let them go: up to ``limit`` gated runs become pending, due now.

        Returns:
            How many, and whether any are left: call again.
        """
        ...

    def paused(self) -> dict[str, float]:
        """Return the paused subscriptions, and since when."""
        ...
