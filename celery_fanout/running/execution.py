"""What the code of a subscriber can ask about the run it is in."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from celery_fanout.model.headers import (
    STORE_RETRIES_HEADER,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from celery_fanout.model.events import Event
    from celery_fanout.model.run import Run
    from celery_fanout.model.settings import Settings
    from celery_fanout.stores.checkpoints import CheckpointStore, StepKey
    from celery_fanout.stores.ledger import Ledger
    from celery_fanout.stores.limits import Flow

__all__: list[str] = []


class Clock(Protocol):
    """Where the time comes from. Tests move it."""

    def __call__(self) -> float:
        """Return the POSIX time in seconds."""
        ...


@dataclass(frozen=True)
class Engine:
    """What an execution works with; a test or an eager app gives it other parts.

    Attributes:
        store: where step results are kept.
        settings: the app's settings.
        emit: publishes an event that a step emits.
        clock: the time.
        waits: whether a suspension leaves the worker (or the test); without, time is skipped.
        ledger: what runs are claimed from and settled in, on level 2.
        wake: publishes runs that are due now; best effort.
        ended: records what follows from the end of a run that failed or was cancelled.
        flow: returns the limits of a run by its subscription's id and its event.
        cancels: likewise, which events cancel it.
        dispatches: whether Celery publishes the next link of a chain; a test goes on by itself.
    """

    store: CheckpointStore
    settings: Settings
    emit: Callable[..., Any]
    clock: Clock = time.time
    waits: bool = True
    ledger: Ledger | None = None
    wake: Callable[[Sequence[str]], None] | None = None
    ended: Callable[[str], None] | None = None
    flow: Callable[[str, Event], Flow | None] | None = None
    cancels: Callable[[str, Event], tuple[tuple[str, str], ...]] | None = None
    dispatches: bool = True


class Claimed(Protocol):
    """What an execution holds on level 2: its run, claimed, and the store of its steps."""

    #: What the run is, its id, and its token.
    run_id: str
    token: int
    branch: tuple[str, int] | None

    @property
    def ledger(self) -> Ledger:
        """Where it was claimed."""
        ...

    @property
    def created(self) -> float:
        """When the run was recorded."""
        ...

    @property
    def buffered(self) -> dict[str, str]:
        """Checkpoints that are written with the next change."""
        ...

    def now(self) -> float:
        """Return the ledger's time, without asking it."""
        ...

    def patiently(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the ledger, again and again while it cannot be reached, for a while."""
        ...

    def learn(self, field: str, text: str) -> None:
        """Note what the ledger holds for a step now."""
        ...

    def get(self, run_id: str, key: StepKey) -> str | None:
        """Return a checkpoint's text."""
        ...


#: How well the times of checkpoints are known, in seconds: a worker reads the ledger's clock once.
CLOCK_JITTER = 0.01


@dataclass
class Execution:
    """One attempt in progress. Not shared between processes; a body's threads may share it."""

    run: Run
    task: Any
    request: Any
    engine: Engine
    claimed: Claimed | None = None
    numbers: Counter[str] = field(default_factory=Counter[str])
    used: list[StepKey] = field(default_factory=list["StepKey"])
    suspension: BaseException | None = None
    skipped: float = 0.0
    last_read: tuple[str, float] = ("", 0.0)
    thread: int = field(default_factory=threading.get_ident)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def store(self) -> CheckpointStore:
        """Where the results of its steps are kept."""
        found: Any = self.claimed
        return self.engine.store if found is None else found

    def now(self) -> float:
        """Return the time as this run sees it: the ledger's, and eager runs skip their sleeps."""
        clock = self.engine.clock if self.claimed is None else self.claimed.now
        return clock() + self.skipped

    def is_due(self, until: float | None) -> bool:
        """Whether a time has come; messages carry times in whole microseconds."""
        return until is None or until <= self.now() + 0.001

    @property
    def was_put_back(self) -> bool:
        """Whether the run was put back because the store did not answer."""
        headers: Mapping[str, Any] = self.request.headers or {}
        return bool(headers.get(STORE_RETRIES_HEADER))

    def is_out_of_order(self, step: str, stored: float | None) -> str:
        """Note that a checkpoint was read; return the step read before it that was stored later.

        Only in the body's own thread: elsewhere steps have no order. Only by a ledger's clock:
        those of different workers differ.
        """
        if stored is None or self.claimed is None or threading.get_ident() != self.thread:
            return ""
        before, at = self.last_read
        self.last_read = (step, stored)
        return before if stored < at - CLOCK_JITTER else ""

    def restart(self) -> None:
        """Forget what belongs to one pass through the body."""
        self.last_read = ("", 0.0)
        self.numbers.clear()
        self.used.clear()
        self.suspension = None

    def next_key(self, step: str) -> StepKey:
        """Return the key of the next call with this id: its number counts calls in order."""
        with self.lock:
            self.numbers[step] += 1
            key = (step, self.numbers[step])
            self.used.append(key)
        return key


current: ContextVar[Execution | None] = ContextVar("celery_fanout_execution", default=None)

#: Id of the step that is being executed, of its run, and its key.
inside: ContextVar[tuple[str, str, StepKey] | None] = ContextVar("celery_fanout_step", default=None)

#: Parts that replace those of the app, set by the testing module.
engine_override: ContextVar[Engine | None] = ContextVar("celery_fanout_engine", default=None)


class _Active:
    """How many bodies are being executed in this process."""

    def __init__(self) -> None:
        self.count = 0
        self.lock = threading.Lock()

    def add(self, number: int) -> None:
        with self.lock:
            self.count += number


_active = _Active()


def active_runs() -> int:
    """Return how many bodies are being executed in this process."""
    return _active.count


class activate:  # noqa: N801 - used like a function
    """Make an execution the current one for the length of a ``with`` block."""

    def __init__(self, execution: Execution) -> None:
        self.execution = execution

    def __enter__(self) -> Execution:
        _active.add(1)
        self.token = current.set(self.execution)
        # a run may be executed inside another's step: where tasks are eager, step.emit() does that
        self.outer = inside.set(None)
        return self.execution

    def __exit__(self, *exc_info: object) -> None:
        inside.reset(self.outer)
        current.reset(self.token)
        _active.add(-1)
