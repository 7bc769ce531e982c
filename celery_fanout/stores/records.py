"""What a ledger is told, and what it answers. Times are POSIX seconds of the *store's* clock."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from celery_fanout.model.events import Event, from_attributes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery_fanout.stores.limits import Flow
    from celery_fanout.stores.states import RunState

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
        event_retention: how long events are kept, at least; never shorter than their runs
            and ``dedup_window``.
        max_crashes: after so many crashes a run is a dead letter.
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
        flow: what has to be so before it may start; only for the kind ``"event"``, and where the
            store's ``supports_flow`` is true.
        envelope: broker list key and message, published in the same change if the run may start
            at once, by a store whose ``supports_publish`` is true; for runs with a flow, whose
            messages are not among :attr:`NewEvent.messages`.
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
    flow: Flow | None = None
    envelope: tuple[str, str] | None = None


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
        nonce: new for each replay, so that one that is repeated gets the same answer, and of two at
            the same time each a generation of its own.
        resume_at: before which no run starts.
        expires_at: by which a run must have started, or it is cancelled (``"expired"``).
        then_id: id of the fan-in run; ``""``: none.
        then_message: its message, as in :class:`NewRun`.
        trace: headers of the trace that it was emitted in, as JSON; ``""`` if there is none.
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
    nonce: str = ""
    resume_at: float | None = None
    expires_at: float | None = None
    then_id: str = ""
    then_message: str = ""
    trace: str = ""
    messages: Mapping[str, Sequence[str]] = field(default_factory=dict[str, "Sequence[str]"])


@dataclass(frozen=True)
class Recorded:
    """What :meth:`~celery_fanout.stores.ledger.Ledger.record` did.

    Attributes:
        status: ``"new"``; ``"repeat"``: the event was there, and ``runs`` are those of its last
            emit; ``"generation"``: nothing was written, compute the ids for ``generation`` and
            record again.
        generation: of the runs.
        runs: pairs of run id and state, as they are now. An event that joined a run that collects
            has that run's id in the place of the one that was given.
        woken: ids of other runs that are due now because of this event: waits, cancellations'
            parents, a fan-in. Pass them to :meth:`~celery_fanout.stores.ledger.Ledger.take`.
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
            due), ``"stale"`` (the message is of an earlier retry), ``"paused"``, ``"gated"`` (flow
            control lets it go later, with a message of its own), ``"expired"``, ``"crashed"``
            (its lease was over, and it was its last crash).
        state: the run's state now.
        token: the fencing token, 1 or more, for ``"claimed"`` and ``"completing"``.
        retries: how many of the task's retries were spent.
        crashes: how often its worker died.
        created: when it was recorded.
        due: when an early run goes on.
        checkpoints: all checkpoint fields and their texts; for a ``parallel`` run those that its
            parent, whose body it replays, had when it asked for it.
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
        "gated",
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
        trace: headers of the trace in which it left its worker, or its event was emitted.
        events: keys of the events of a run that collected them, in their order; ``attributes`` are
            those of the last, and the ``data`` of a batch is the list of all.
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
    trace: str = ""
    events: Sequence[str] = ()


@dataclass(frozen=True)
class Taken:
    """What :meth:`~celery_fanout.stores.ledger.Ledger.take` found.

    Attributes:
        wakeups: runs to publish, and then to pass to ``Ledger.mark_published``.
        ended: ids of runs that it ended (crashed too often, expired).
        next_due: when the next timer is due, or ``None``.
        now: the store's time.
        busy: whether throttles let in runs now and then: others may get a timer before the next
            look that this one did not see.
    """

    wakeups: Sequence[Wakeup] = ()
    ended: Sequence[str] = ()
    next_due: float | None = None
    now: float = 0.0
    busy: bool = False


@dataclass(frozen=True)
class RunOutcome:
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
        reason: of a cancellation, a failure, or a suspension; of a gated run the name of the limit
            that it waits for.
        worker: boot id of the worker that holds it.
        parent: id of the run that asked for it.
        reopened: how often it was retried by hand.
        detail: only of a run that was read by its id: ``checkpoints`` (field to text), ``result``,
            ``error``, ``attempts`` (each with ``number``, ``started``, ``ended``, ``outcome``,
            ``error``; after a retry by hand with its reason as ``retried``, and ``reopened``),
            ``children`` (id to kind), ``waits`` (field to what is waited for), ``message``,
            ``events`` (keys of the events that it collected).
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


def recorded_event(record: EventRecord | Wakeup) -> Event:
    """Rebuild an event from what the ledger has of it; not from a wakeup whose event is gone."""
    return from_attributes(json.loads(record.attributes), json.loads(record.data))
