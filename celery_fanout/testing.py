"""Tests of code that emits events or subscribes to them, without a broker or a worker.

``capture()`` records what is emitted; ``run()`` executes a subscriber with the real engine in
memory, on a clock that the test moves. With pytest, the fixture ``fanout`` offers both.
"""

from __future__ import annotations

import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery import Task, current_app
from celery.app.trace import build_tracer
from celery.exceptions import Retry

from celery_fanout.app import get_fanout
from celery_fanout.canvas import freeze
from celery_fanout.context import Engine, engine_override
from celery_fanout.drafts import draft
from celery_fanout.emission import Emission, RunHandle
from celery_fanout.exceptions import FanoutError
from celery_fanout.stores.memory import MemoryStore
from celery_fanout.suspension import Suspended

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from celery import Celery

    from celery_fanout.app import Fanout
    from celery_fanout.events import Event
    from celery_fanout.registry import Subscription
    from celery_fanout.stores import StepKey

__all__ = [
    "CapturedEvents",
    "Clock",
    "FanoutTester",
    "NonDeterministicBody",
    "SimulatedCrash",
    "TestRun",
    "capture",
    "run",
]


class SimulatedCrash(BaseException):
    """What ``crash_after=`` raises; like SIGKILL it passes every ``except Exception``."""


class _Replay(BaseException):
    """Starts the body again, for ``always_replay``."""


class _RecordingStore(MemoryStore):
    """A memory store that knows which steps one pass through the body asked for."""

    def __init__(self, expires: float, clock: Clock) -> None:
        super().__init__(expires, clock)
        self.asked: list[StepKey] = []

    def get(self, run_id: str, key: StepKey) -> str | None:
        """Return the text stored under a key, and note the key."""
        if key not in self.asked:
            self.asked.append(key)
        return super().get(run_id, key)


class NonDeterministicBody(FanoutError, AssertionError):
    """A body called other steps when it was replayed.

    Args:
        task: the task's name.
        number: position of the first difference, from 1.
        before: the step that was called there first.
        now: the step called there on replay, or ``"no step"``.
    """

    def __init__(self, task: str, number: int, before: str, now: str) -> None:
        super().__init__(task, number, before, now)
        self.task = task
        self.number = number
        self.before = before
        self.now = now

    def __str__(self) -> str:
        return (
            f"{self.task} called {self.before} as its step {self.number}, and {self.now} when it "
            "was replayed. What decides which steps are called must itself come from the event or "
            "from a step: put random numbers, the time and what is read elsewhere into step.run()."
        )


class Clock:
    """A clock that only moves when it is told to.

    Args:
        now: the POSIX time at which it stands; the real time by default.
    """

    def __init__(self, now: float | None = None) -> None:
        self.now = time.time() if now is None else now

    def __call__(self) -> float:
        """Return the POSIX time in seconds."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        self.now += seconds

    def advance_to(self, timestamp: float) -> None:
        """Move the clock forward to a POSIX time; never back."""
        self.now = max(self.now, timestamp)


class CapturedEvents(list["Event"]):
    """The events emitted while they were captured, in order."""

    def named(self, name: str) -> list[Event]:
        """Return the events of one name."""
        return [event for event in self if event.name == name]

    def assert_emitted(self, name: str, data: Any = ..., *, times: int | None = None) -> Event:
        """Assert that an event was emitted, and return the last that fits.

        Args:
            name: the event's name.
            data: its data; if it is a dict, the items that the data must have at least.
            times: how often exactly; at least once by default.
        """
        found = [event for event in self.named(name) if _fits(event.data, data)]
        if (times is None and not found) or (times is not None and len(found) != times):
            wanted = "" if data is ... else f" with {data!r}"
            count = "was not emitted" if times is None else f"was emitted {len(found)} times"
            expected = "" if times is None else f", not {times}"
            seen = ", ".join(f"{event.name} {event.data!r}" for event in self) or "nothing"
            raise AssertionError(f"{name}{wanted} {count}{expected}. Emitted: {seen}.")
        return found[-1] if found else None  # type: ignore[return-value]

    def assert_not_emitted(self, name: str, data: Any = ...) -> None:
        """Assert that no such event was emitted."""
        self.assert_emitted(name, data, times=0)


def _fits(found: Any, wanted: Any) -> bool:
    if wanted is ...:
        return True
    if isinstance(wanted, dict) and isinstance(found, dict):
        return all(key in found and _fits(found[key], item) for key, item in wanted.items())
    return bool(found == wanted)


class _Capturing:
    """Stands in for the publisher: matches, keeps, and publishes nothing."""

    def __init__(self, fanout: Fanout, captured: CapturedEvents) -> None:
        self._fanout = fanout
        self._captured = captured

    def emit(self, events: Sequence[Event], resume_at: float | None = None) -> list[Emission]:
        """Keep the events."""
        self._captured.extend(events)
        app = self._fanout.app
        emissions = []
        for event in events:
            matching = self._fanout.registry.match(event)
            chains = [freeze(event, event.headers(), sub, "") for sub in matching]
            runs = [RunHandle(app, c.run_id, c.result_id, c.subscription) for c in chains]
            emissions.append(Emission(event, runs))
        return emissions


@contextmanager
def capture(app: Celery | None = None) -> Iterator[CapturedEvents]:
    """Record the events that are emitted in the block instead of publishing them.

    Events are validated and matched as always.

    Args:
        app: the Celery app; the current one by default.
    """
    fanout = get_fanout(app)
    captured = CapturedEvents()
    before = fanout.__dict__.get("publisher")
    fanout.__dict__["publisher"] = _Capturing(fanout, captured)
    try:
        yield captured
    finally:
        if before is None:
            del fanout.__dict__["publisher"]
        else:
            fanout.__dict__["publisher"] = before


class TestRun:
    """One run of a subscriber, executed in memory by the real engine.

    Attributes:
        state: ``"succeeded"``, ``"failed"``, ``"suspended"``, ``"retrying"`` or ``"crashed"``.
        value: what the task returned.
        error: what the run failed with, or is retried because of.
        executed: ids of the steps that were really executed, in order, over all attempts.
        events: the events that the run emitted.
        due: POSIX time at which it goes on, when it is suspended or retrying.
        attempts: executions of the body, suspensions and crashes included.
        retries: how many of the task's own retries were spent.
        clock: the run's clock.
    """

    __test__ = False  # pytest would collect it

    def __init__(
        self, fanout: Fanout, subscription: Subscription, event: Event, clock: Clock
    ) -> None:
        self._fanout = fanout
        self._chain = freeze(event, event.headers(), subscription, "")
        self._task = subscription.task
        self._store = _RecordingStore(fanout.settings.checkpoint_expires, clock)
        self._crash_after: str | None = None
        self._always_replay = False
        self._before: list[StepKey] = []
        self.id = self._chain.run_id
        self.event = event
        self.clock = clock
        self.state = "pending"
        self.value: Any = None
        self.error: BaseException | None = None
        self.executed: list[str] = []
        self.events = CapturedEvents()
        self.due: float | None = None
        self.attempts = 0
        self.retries = 0

    @property
    def finished(self) -> bool:
        """Whether the run has succeeded or failed."""
        return self.state in ("succeeded", "failed")

    def resume(self, *, crash_after: str | None = None) -> TestRun:
        """Move the clock to when the run goes on, and execute its next attempt.

        Args:
            crash_after: id of a step after whose result is stored the worker crashes.
        """
        if self.finished:
            raise AssertionError(f"The run has {self.state}; nothing is left to resume.")
        if self.due is not None:
            self.clock.advance_to(self.due)
        self._crash_after = crash_after
        self._attempt()
        return self

    def finish(self, limit: int = 1000) -> TestRun:
        """Resume until the run has succeeded or failed.

        Args:
            limit: how many attempts are too many.
        """
        for _ in range(limit):
            if self.finished:
                return self
            self.resume()
        raise AssertionError(f"The run is still {self.state} after {limit} attempts.")

    def _attempt(self) -> None:
        self.attempts += 1
        self.error, self.due = None, None
        engine = Engine(
            store=self._store,
            settings=self._fanout.settings,
            emit=lambda event, data, **options: self._fanout.emit(event, data, **options),
            clock=self.clock,
            after_step=self._after_step,
        )
        token = engine_override.set(engine)
        try:
            with capture(self._fanout.app) as events:
                try:
                    self._settle(self._trace())
                except SimulatedCrash:
                    self.state = "crashed"
                finally:
                    self.events.extend(events)
        finally:
            engine_override.reset(token)

    def _trace(self) -> Any:
        """Execute the body through Celery's own tracer, again after each step if so asked."""
        task = self._task
        tracer = build_tracer(task.name, task, eager=True, propagate=False, app=self._fanout.app)
        while True:
            request = {
                "id": self.id,
                "task": task.name,
                "root_id": self.id,
                "parent_id": None,
                "retries": self.retries,
                "is_eager": True,
                "hostname": "test",
                "callbacks": [],
                "errbacks": [],
                "headers": dict(self._chain.headers),
                "delivery_info": {"is_eager": True, "redelivered": self.attempts > 1},
            }
            self._store.asked.clear()
            try:
                traced = tracer(self.id, list(self._chain.args), {}, request)
            except _Replay:
                self._compare()
                continue
            if self._always_replay:
                self._compare()
            return traced

    def _after_step(self, key: StepKey) -> None:
        self.executed.append(key[0])
        if key[0] == self._crash_after:
            raise SimulatedCrash(key[0])
        if self._always_replay:
            raise _Replay

    def _compare(self) -> None:
        """Refuse a pass that asked for other steps than the one before it."""
        now = self._store.asked
        for number, before in enumerate(self._before, start=1):
            found = now[number - 1] if len(now) >= number else None
            if found != before:
                text = "no step" if found is None else f"the step {found!r}"
                raise NonDeterministicBody(self._task.name, number, f"the step {before!r}", text)
        self._before = list(now)

    def _settle(self, traced: Any) -> None:
        info, value = traced.info, traced.retval
        if info is None:
            self.state, self.value = "succeeded", value
            return
        error = info.retval
        if isinstance(error, Suspended):
            self.state, self.due = "suspended", error.until
        elif isinstance(error, Retry):
            self.state, self.error = "retrying", error.exc or error
            self.retries += 1
            countdown = (error.sig.options.get("countdown") or 0) if error.sig else 0
            self.due = self.clock() + float(countdown)
        else:
            self.state, self.error = "failed", error


def run(
    subscriber: Any,
    data: Any = None,
    *,
    event: str | None = None,
    id: str | None = None,  # noqa: A002 - as emit() names it
    crash_after: str | None = None,
    always_replay: bool = False,
    clock: Clock | None = None,
    app: Celery | None = None,
) -> TestRun:
    """Execute the first attempt of a subscriber's run in memory.

    Args:
        subscriber: the task.
        data: the event's data.
        event: the event's name; needed if the task subscribes to more than one, or by a pattern.
        id: the event's id.
        crash_after: id of a step after whose result is stored the worker crashes.
        always_replay: start the body again after every step, which finds bodies that call other
            steps the second time. Code outside of steps runs once per step then.
        clock: the clock; a new one by default.
        app: the Celery app; the task's by default.

    Raises:
        NonDeterministicBody: with ``always_replay``, if the body called other steps on replay.
        LookupError: if the task has no such subscription.
    """
    task: Task[..., Any] = subscriber
    fanout = get_fanout(app or getattr(task, "app", None) or current_app._get_current_object())
    fanout.load()
    subscription = _subscription(fanout, task, event)
    name = event or subscription.pattern
    drafted = draft(fanout.settings, name, data, id=id or str(uuid.uuid4()))
    found = TestRun(fanout, subscription, drafted, clock or Clock())
    found._always_replay = always_replay
    return found.resume(crash_after=crash_after)


def _subscription(fanout: Fanout, task: Any, event: str | None) -> Subscription:
    own = [sub for sub in fanout.registry if sub.task.name == task.name]
    if event is not None:
        matching = {sub.id for sub in fanout.registry.candidates(event)}
        own = [sub for sub in own if sub.id in matching]
    if not own:
        wanted = f" to {event!r}" if event else ""
        raise LookupError(f"{task.name} has no subscription{wanted}. Put @on_event above the task.")
    if event is None and (len(own) > 1 or "*" in own[0].pattern):
        patterns = ", ".join(repr(sub.pattern) for sub in own)
        raise LookupError(f"{task.name} subscribes to {patterns}. Say which with event=.")
    return own[0]


class FanoutTester:
    """What the pytest fixture ``fanout`` gives: the functions of this module for one app.

    Args:
        app: the Celery app; whichever is current by default.
    """

    def __init__(self, app: Celery | None = None) -> None:
        self.app = app

    def capture(self) -> Any:
        """See :func:`capture`."""
        return capture(self.app)

    def run(self, subscriber: Any, data: Any = None, **options: Any) -> TestRun:
        """See :func:`run`."""
        return run(subscriber, data, **{"app": self.app, **options})
