"""The states of a run, and which may follow which."""

from __future__ import annotations

import enum
from typing import Final


class RunState(str, enum.Enum):
    """Where a run is in its life.

    Attributes:
        PENDING: recorded, and to be published.
        GATED: recorded, and held back: by a limit, or because its subscription is paused.
        PUBLISHED: its message is with the broker, or in a worker that has not begun.
        RUNNING: claimed by a worker, whose lease is renewed while it works.
        SUSPENDED: has left the worker until a time, an event, or the end of child runs.
        RETRYING: waits for its next attempt after an error.
        COMPLETING: has returned; Celery is dispatching the next link of its chain.
        SUCCEEDED: final.
        FAILED: final: a dead letter.
        CANCELLED: final.
    """

    PENDING = "pending"
    GATED = "gated"
    PUBLISHED = "published"
    RUNNING = "running"
    SUSPENDED = "suspended"
    RETRYING = "retrying"
    COMPLETING = "completing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    def __str__(self) -> str:
        return self.value


FINAL: Final = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED})

_S = RunState

#: What may follow each state. Every state that is not final may be cancelled but COMPLETING, and a
#: dead letter comes of a run that was executed (failed, crashed too often) or that no worker knows.
TRANSITIONS: Final[dict[RunState, frozenset[RunState]]] = {
    _S.PENDING: frozenset({_S.PUBLISHED, _S.RUNNING, _S.GATED, _S.FAILED, _S.CANCELLED}),
    # to RUNNING when its message is met while the subscription is being resumed
    _S.GATED: frozenset({_S.PENDING, _S.RUNNING, _S.CANCELLED}),
    _S.PUBLISHED: frozenset({_S.PENDING, _S.RUNNING, _S.GATED, _S.FAILED, _S.CANCELLED}),
    _S.RUNNING: frozenset(_S) - {_S.GATED, _S.PUBLISHED, _S.RUNNING},
    _S.SUSPENDED: frozenset({_S.PENDING, _S.RUNNING, _S.GATED, _S.CANCELLED}),
    _S.RETRYING: frozenset({_S.PENDING, _S.RUNNING, _S.GATED, _S.CANCELLED}),
    _S.COMPLETING: frozenset({_S.SUCCEEDED}),
    _S.SUCCEEDED: frozenset(),
    _S.FAILED: frozenset({_S.PENDING}),  # retried on purpose
    _S.CANCELLED: frozenset({_S.PENDING}),
}
