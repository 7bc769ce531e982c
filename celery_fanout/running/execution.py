"""One attempt of a run: what it knows, what it works with, and which one the calling code is in."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from celery_fanout.model.headers import STORE_RETRIES_HEADER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from celery.exceptions import Retry

    from celery_fanout.model.events import Event
    from celery_fanout.model.run import Run
    from celery_fanout.model.settings import Settings
    from celery_fanout.running.claimed import ClaimedRun
    from celery_fanout.stores.checkpoints import CheckpointStore, StepKey
    from celery_fanout.stores.ledger import Ledger
    from celery_fanout.stores.limits import Flow

E = TypeVar("E", bound=BaseException)


def _nothing(*_: Any, **__: Any) -> None:
    """Do nothing: level 1 has nobody to wake, and a test publishes nothing."""


def _no_events(*_: Any) -> tuple[tuple[str, str], ...]:
    return ()


@dataclass(frozen=True)
class Engine:
    """What an attempt works with; a test or an eager app gives it other parts.

    Attributes:
        store: where step results are kept, on level 1.
        settings: the app's settings.
        emit: publishes an event that a step emits.
        clock: returns the POSIX time in seconds.
        waits: whether a suspension leaves the worker (or the test); without, time is skipped.
        republish: publishes the message of a run again; see ``Republisher.republish``.
        ledger: what runs are claimed from and settled in, on level 2.
        wake: publishes runs that are due now; best effort.
        follow_up: records what follows from the end of a run that failed or was cancelled.
        flow: returns the limits of a run by its subscription's id and its event.
        cancels: likewise, which events cancel it.
        dispatches: whether Celery publishes the next link of a chain; a test goes on by itself.
    """

    store: CheckpointStore
    settings: Settings
    emit: Callable[..., Any]
    clock: Callable[[], float] = time.time
    waits: bool = True
    republish: Callable[..., None] = _nothing
    ledger: Ledger | None = None
    wake: Callable[[Sequence[str]], None] = _nothing
    follow_up: Callable[[str], None] = _nothing
    flow: Callable[[str, Event], Flow | None] = _nothing
    cancels: Callable[[str, Event], tuple[tuple[str, str], ...]] = _no_events
    dispatches: bool = True


#: How well the times of checkpoints are known, in seconds: a worker reads the ledger's clock once.
CLOCK_JITTER = 0.01


@dataclass
class Execution:
    """One attempt in progress. Not shared between processes; a body's threads may share it.

    Attributes:
        run: the run.
        task: its task.
        request: Celery's request of the message.
        engine: what it works with.
        claimed: the run as the ledger gave it to this worker; ``None`` on level 1.
        tail: the links that follow the task, as Celery's chain option has them; on level 2.
        retry: what ``task.retry`` has made; on level 2.
        left_to_call: whether the body has returned and its task's ``__call__`` has not.
        numbers: how often each step id was called.
        used: the keys of the steps that were called, in order.
        leaving: what a step raised to leave the body; a body that caught it meets it again.
        skipped: seconds of sleeps that were not waited for.
        last_read: the checkpoint that was read last, and when that was stored.
        thread: the body's own thread.
        began: when it began, by the monotonic clock.
    """

    run: Run
    task: Any
    request: Any
    engine: Engine
    claimed: ClaimedRun | None = None
    tail: list[Any] = field(default_factory=list[Any])
    retry: Retry | None = None
    left_to_call: bool = False
    numbers: Counter[str] = field(default_factory=Counter[str])
    used: list[StepKey] = field(default_factory=list["StepKey"])
    leaving: BaseException | None = None
    skipped: float = 0.0
    last_read: tuple[str, float] = ("", 0.0)
    thread: int = field(default_factory=threading.get_ident)
    began: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def store(self) -> CheckpointStore:
        """Where the results of its steps are kept."""
        return self.engine.store if self.claimed is None else self.claimed

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

    def leave(self, error: E) -> E:
        """Note that a step leaves the body by an error, also if that catches it; return the error.

        Use it as in ``raise execution.leave(error)``.
        """
        self.leaving = error
        return error

    def restart(self) -> None:
        """Forget what belongs to one pass through the body."""
        self.last_read = ("", 0.0)
        self.numbers.clear()
        self.used.clear()
        self.leaving = None

    def next_key(self, step: str) -> StepKey:
        """Return the key of the next call with this id: its number counts calls in order."""
        with self.lock:
            self.numbers[step] += 1
            key = (step, self.numbers[step])
            self.used.append(key)
        return key


current_execution: ContextVar[Execution | None] = ContextVar(
    "celery_fanout_execution", default=None
)

#: Id of the step that is being executed, of its run, and its key.
current_step: ContextVar[tuple[str, str, StepKey] | None] = ContextVar(
    "celery_fanout_step", default=None
)

#: Parts that replace those of the app, set by the testing module.
test_engine: ContextVar[Engine | None] = ContextVar("celery_fanout_engine", default=None)


def execution_of(request: Any) -> Execution | None:
    """Return the execution that a request of Celery's has."""
    execution: Execution | None = request.__dict__.get("fanout_execution")
    return execution


#: One item for each body that is being executed in this process.
_active: set[make_current] = set()


def active_runs() -> int:
    """Return how many bodies are being executed in this process."""
    return len(_active)


class make_current:  # noqa: N801 - used like a function
    """Make an execution the current one for the length of a ``with`` block."""

    def __init__(self, execution: Execution) -> None:
        self.execution = execution

    def __enter__(self) -> Execution:
        _active.add(self)
        self.token = current_execution.set(self.execution)
        # a run may be executed inside another's step: where tasks are eager, step.emit() does that
        self.outer = current_step.set(None)
        return self.execution

    def __exit__(self, *exc_info: object) -> None:
        current_step.reset(self.outer)
        current_execution.reset(self.token)
        _active.discard(self)
