"""One run of a subscriber in memory, by the real engine, on a clock that moves when told to."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from celery.app.trace import build_tracer
from celery.exceptions import Retry

from celery_fanout.canvas import freeze
from celery_fanout.capturing import CapturedEvents, capture
from celery_fanout.context import Engine, engine_override
from celery_fanout.exceptions import FanoutError
from celery_fanout.stores.memory import MemoryStore
from celery_fanout.suspension import Suspended

if TYPE_CHECKING:
    from celery_fanout.app import Fanout
    from celery_fanout.events import Event
    from celery_fanout.registry import Subscription
    from celery_fanout.stores import StepKey

__all__ = ["Clock", "NonDeterministicBody", "SimulatedCrash", "TestRun"]


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


class NonDeterministicBody(FanoutError, AssertionError):  # noqa: N818 - says what is wrong
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


class TestRun:
    """One run of a subscriber, executed in memory by the real engine.

    Attributes:
        state: ``"succeeded"``, ``"failed"``, ``"suspended"``, ``"retrying"`` or ``"crashed"``.
        value: what the task returned.
        error: what the run failed with, or is retried because of.
        executed: ids of the steps that were completed and not read from a checkpoint, sleeps
            included, in order, over all attempts.
        events: the events that the run emitted.
        due: POSIX time at which it goes on, when it is suspended or retrying.
        attempts: executions of the body, suspensions and crashes included.
        retries: how many of the task's own retries were spent.
        clock: the run's clock.
    """

    __test__ = False  # pytest would collect it

    def __init__(
        self,
        fanout: Fanout,
        subscription: Subscription,
        event: Event,
        clock: Clock,
        *,
        always_replay: bool = False,
    ) -> None:
        self._fanout = fanout
        self._chain = freeze(event, event.headers(), subscription, "")
        self._task = subscription.task
        self._store = _RecordingStore(fanout.settings.checkpoint_expires, clock)
        self._crash_after: str | None = None
        self._always_replay = always_replay
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
            crash_after: id of a step after whose result is stored the worker crashes, in this
                attempt or a later one.
        """
        if self.finished:
            raise AssertionError(f"The run has {self.state}; nothing is left to resume.")
        if self.due is not None:
            self.clock.advance_to(self.due)
        self._crash_after = crash_after or self._crash_after
        self._attempt()
        if self.due is None and self.state != "crashed" and self._crash_after is not None:
            raise AssertionError(
                f"The run has {self.state} and never completed the step {self._crash_after!r} "
                f"to crash after. It completed: {', '.join(self.executed) or 'none'}."
            )
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
            emit=self._fanout.emit,
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
            request: dict[str, Any] = {
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
            self._crash_after = None
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
        error: Any = info.retval
        if isinstance(error, Suspended):
            self.state, self.due = "suspended", error.until
        elif isinstance(error, Retry):
            retry: Any = error
            self.state, self.error = "retrying", retry.exc or retry
            self.retries += 1
            countdown: Any = retry.sig.options.get("countdown") if retry.sig else None
            self.due = self.clock() + float(countdown or 0)
        else:
            self.state, self.error = "failed", error
