"""What the twin knows of a run, and of an event."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

from celery_fanout.stores.limits import Flow, Place, Rate
from celery_fanout.stores.states import FINAL, RunState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_fanout.stores.limits import Gate
    from celery_fanout.stores.records import Kind

__all__ = ["NO_FLOW", "Event", "Lane", "Row", "Wait", "is_final_text"]


def is_final_text(text: str | None) -> bool:
    """Whether a checkpoint's text is one that will not change any more."""
    return text is not None and json.loads(text)["s"] in ("done", "failed")


#: Of a run that nothing has to wait for.
NO_FLOW = Flow()


@dataclass
class Wait:
    """A wait for an event, or what cancels a run."""

    name: str
    match: dict[str, Any]


@dataclass
class Lane:
    """Runs that wait for the same, in their order.

    Attributes:
        key: what they need, and the lane of their flows.
        gate: where they wait: one that has no room for the first of them, and so for none.
        runs: by priority and number.
    """

    key: str
    gate: Gate
    runs: list[tuple[int, int, str]] = dataclasses.field(default_factory=list[tuple[int, int, str]])


@dataclass
class Row:
    """A run, with all that belongs to it.

    Attributes:
        flow: what has to be so before it starts.
        admitted: whether it was, and holds its places.
        charged: whether the throttle has counted it.
        has_slot: whether it has a time of its own to start, as it came too soon.
        order: its number among runs with a flow.
        lane: in which it waits.
        flush: until when it collects events.
        impatient: whether ``expires`` is because of ``start_timeout``.
        deadline: when ``finish_timeout`` is over.
        events: keys of those that it, or the run whose tail it is of, collected.
        together: groups of items of ``step.parallel``.
        cancel_on: what cancels it, as the one who recorded it gave it.
    """

    id: str
    kind: Kind
    subscription: str
    event: str
    state: RunState
    generation: int
    created: float
    updated: float
    due: float | None = None
    resume: float | None = None
    expires: float | None = None
    token: int = 0
    nonce: str = ""
    boot: str = ""
    retries: int = 0
    crashes: int = 0
    started: float | None = None
    began: float | None = None
    finished: float | None = None
    reason: str = ""
    queue: str = ""
    published: int = 0
    parent: str = ""
    field: str = ""
    group: str = ""
    waits_for: str = ""
    link: str = ""
    released: bool = False
    reopened: int = 0
    unregistered: float | None = None
    gone_at: float = inf
    flow: Flow = NO_FLOW
    admitted: bool = False
    charged: bool = False
    has_slot: bool = False
    order: int = 0
    lane: Lane | None = None
    flush: float | None = None
    impatient: bool = False
    deadline: float | None = None
    events: list[str] = dataclasses.field(default_factory=list[str])
    together: set[str] = dataclasses.field(default_factory=set[str])
    cancel_on: Sequence[tuple[str, str]] = ()
    message: str = ""
    trace: str = ""
    result: str | None = None
    error: dict[str, Any] | None = None
    checkpoints: dict[str, str] = dataclasses.field(default_factory=dict[str, str])
    outstanding: dict[str, int] = dataclasses.field(default_factory=dict[str, int])
    seen: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict[str, dict[str, str]])
    waits: dict[str, Wait] = dataclasses.field(default_factory=dict[str, Wait])
    children: dict[str, str] = dataclasses.field(default_factory=dict[str, str])
    attempts: list[dict[str, Any]] = dataclasses.field(default_factory=list[dict[str, Any]])

    def file_cancels(self) -> None:
        """Let what cancels it find it."""
        for number, (name, match) in enumerate(self.cancel_on, start=1):
            self.waits[f"!{number}"] = Wait(name, json.loads(match))

    def before(self, group: str) -> dict[str, str]:
        """Return what the items of a group replay the body with: not one another's results."""
        theirs = group[:-1] + ","
        return {k: text for k, text in self.checkpoints.items() if not k.startswith(theirs)}

    @property
    def concerns(self) -> list[str]:
        """Keys of the events of which it is an open run; one is there twice if it came twice."""
        return self.events or [self.event]

    @property
    def limited(self) -> bool:
        """Whether flow control concerns it."""
        return self.flow is not NO_FLOW

    @property
    def limits(self) -> list[Place | Rate]:
        """What it may have to wait for."""
        throttle = self.flow.throttle
        return [*self.flow.places, *(() if throttle is None else (throttle,))]

    @property
    def rank(self) -> tuple[int, int, str]:
        """Where it is in its lane."""
        return (-self.flow.priority, self.order, self.id)

    @property
    def held_back(self) -> bool:
        """Whether its subscription was paused: it neither waits at a gate nor collects."""
        return self.state is RunState.GATED and self.lane is None and self.flush is None

    @property
    def too_late(self) -> str:
        """Why it is cancelled if it has not started in time."""
        return "start_timeout" if self.impatient else "expired"

    @property
    def timeout(self) -> float | None:
        """When it is cancelled if it goes on waiting."""
        return self.expires if self.started is None else self.deadline

    @property
    def final(self) -> bool:
        """Whether it has ended."""
        return self.state in FINAL

    def holds(self, token: int) -> bool:
        """Whether a token is that of its holder."""
        return self.state is RunState.RUNNING and self.token == token


@dataclass
class Event:
    """An event, with the ids of its runs."""

    key: str
    name: str
    attributes: str
    data: str
    created: float
    generation: int
    emitted: int
    runs: list[str]
    replayed: list[str] = dataclasses.field(default_factory=list[str])
    open: int = 0
    open_chains: int = 0
    then_id: str = ""
    then_message: str = ""
    then_done: int = -1
    trace: str = ""
    nonce: str = ""
    gone_at: float = inf
