"""What the code of a subscriber can ask about the run it is in."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from celery import _state
from celery._state import get_current_task

from celery_fanout.emitting.chains import (
    DATA_HEADER,
    EVENTS_HEADER,
    FAILURE_HEADER,
    RUN_HEADER,
    STORE_RETRIES_HEADER,
    SUBSCRIPTION_HEADER,
)
from celery_fanout.exceptions import NoApp
from celery_fanout.model.events import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from celery_fanout.model.settings import Settings
    from celery_fanout.stores import CheckpointStore, StepKey
    from celery_fanout.stores.flow import Flow
    from celery_fanout.stores.ledger import Ledger

__all__ = ["Run", "current_event", "current_run"]


@dataclass(frozen=True)
class Run:
    """One subscription's handling of one event.

    Attributes:
        id: the same over retries, redeliveries and suspensions; also the Celery task id.
        subscription: id of the subscription, ``"{task name}@{pattern}"``.
        task: name of the task that is running: the subscriber, or a link of its tail.
        attempt: 1 for the first execution; Celery's retries count up, suspensions do not.
        event: the event that is handled; the last of several, with the list of their data if it is
            a batch.
        events: for a run that collected events the ledger's keys of them, in their order, at most
            the last 1,000; ``get_fanout(app).runs.event()`` takes them. Only in the subscriber.
    """

    id: str
    subscription: str
    task: str
    attempt: int
    event: Event
    events: tuple[str, ...] = ()


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

_default_emit: list[Callable[..., Any]] = []


def set_default_emit(emit: Callable[..., Any]) -> None:
    """Say what :func:`default_emit` returns; the floor above knows it."""
    _default_emit[:] = [emit]


def default_emit() -> Callable[..., Any]:
    """Return ``emit`` of the app that is current, for steps outside of a run."""
    return _default_emit[0]


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


def event_of(request: Any) -> Event | None:
    """Rebuild the event from the headers of a task's request; ``None`` if there is none.

    The subscriber has the data as its first argument; later links carry it in a header.
    """
    headers: Mapping[str, Any] = request.headers or {}
    if DATA_HEADER in headers:
        import json  # only links of a tail get here

        return Event.from_headers(headers, json.loads(headers[DATA_HEADER]))
    args = request.args or ()
    if FAILURE_HEADER in headers:
        return Event.from_headers(headers, args[0]["event"].get("data") if args else None)
    return Event.from_headers(headers, args[0] if args else None)


def run_of(task: Any, request: Any) -> Run | None:
    """Return the run that a task's request belongs to; ``None`` for an ordinary call."""
    known: tuple[Any, Run | None] | None = request.__dict__.get("fanout_run")
    # a request is reused: Celery's Context.update() changes it in place
    if known is None or known[0] is not request.headers:
        known = request.fanout_run = (request.headers, _run_of(task, request))
    return known[1]


def _run_of(task: Any, request: Any) -> Run | None:
    headers: Mapping[str, Any] = request.headers or {}
    run_id = headers.get(RUN_HEADER)
    if run_id is None or run_id != request.id:
        return None
    event = event_of(request)
    if event is None:
        return None
    return Run(
        id=run_id,
        subscription=headers.get(SUBSCRIPTION_HEADER, ""),
        task=task.name,
        attempt=(request.retries or 0) + 1,
        event=event,
        events=tuple(headers.get(EVENTS_HEADER) or ()),
    )


def current_run() -> Run | None:
    """Return the run that the calling code belongs to, or ``None`` outside of runs."""
    execution = current.get()
    if execution is not None:
        return execution.run
    # hooks such as Task.before_start and on_failure run outside the body
    task: Any = get_current_task()
    return None if task is None else run_of(task, task.request)


def current_event() -> Event | None:
    """Return the event that the calling code handles, or ``None`` outside of runs."""
    run = current_run()
    return run.event if run is not None else None


def app_in_use() -> Any:
    """Return the app of the run, the current one, or the only one of the process.

    Raises:
        NoApp: if there is none, or several and none is current.
    """
    # Celery(...) makes an app current for its own thread only. In the other threads of a web
    # server celery.current_app is a made-up app without tasks, named "default".
    state: Any = _state
    execution = current.get()
    if execution is not None:
        return execution.task.app
    found = state._tls.current_app or state.default_app
    if found is not None and not _is_made_up(found):
        return found
    apps = [app for app in state._get_active_apps() if not _is_made_up(app)]
    if len(apps) == 1:
        return apps[0]
    raise NoApp(sorted(str(app.main) for app in apps))


def _is_made_up(app: Any) -> bool:
    return app.main == "default" and not app.set_as_current
