"""One run of a subscriber in a simulation of its own, which the test drives attempt by attempt."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery.exceptions import Retry

from celery_fanout import signals
from celery_fanout.emitting.drafting import draft_event
from celery_fanout.emitting.emission import error_of
from celery_fanout.exceptions import FanoutError
from celery_fanout.running.execution import current_execution
from celery_fanout.stores.states import FINAL, RunState
from celery_fanout.testing.simulation import Simulation, record_event

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from celery_fanout.app.fanout import Fanout
    from celery_fanout.model.events import Event
    from celery_fanout.running.execution import Execution
    from celery_fanout.stores.checkpoints import StepKey
    from celery_fanout.stores.records import RunRecord
    from celery_fanout.subscribing.registry import Subscription
    from celery_fanout.testing.inbox import Clock, Message

#: How many attempts of the runs that a step waits for are too many.
TOO_MANY = 10_000

#: The ledger keeps times to the microsecond.
TINY = 1e-6

ENDED = frozenset(state.value for state in FINAL)


class SimulatedCrash(BaseException):
    """What ``crash_after=`` raises; like SIGKILL it passes every ``except Exception``."""


class _Replay(BaseException):
    """Starts the body again, for ``always_replay``."""


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


class TestRun:
    """One run of a subscriber, executed in memory by the real engine.

    Attributes:
        state: ``"succeeded"``, ``"failed"``, ``"cancelled"``, ``"suspended"``, ``"retrying"`` or
            ``"crashed"``.
        value: what the task returned.
        error: what the run failed with, or is retried because of.
        executed: ids of the steps that were completed and not read from a checkpoint, sleeps
            included, in order, over all attempts.
        events: the events that the run emitted.
        due: POSIX time at which it goes on, when it is suspended or retrying: the end of a sleep,
            the timeout of a wait; ``None`` while it waits for other runs.
        reason: why it is suspended: ``"sleep"``, ``"step-retry"``, ``"event"``, ``"invoke"`` or
            ``"parallel"``; why it was cancelled.
        step: id of the step that it is suspended in.
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
        invoked: Mapping[Any, Any] | None = None,
    ) -> None:
        self._settings = fanout.settings
        self._task = subscription.task
        self._simulation = Simulation(fanout, clock, invoked=invoked, alone=True)
        self._crash_after: str | None = None
        self._always_replay = always_replay
        self._before: list[StepKey] = []
        self._completed: set[StepKey] = set()
        self._passes: list[Execution] = []
        self.id = self._simulation.begin(event, subscription)
        self.event = event
        self.clock = clock
        self.state = "pending"
        self.value: Any = None
        self.error: BaseException | None = None
        self.executed: list[str] = []
        self.events = self._simulation.events
        self.due: float | None = None
        self.reason = ""
        self.step: str | None = None
        self.attempts = 0
        self.retries = 0

    def __repr__(self) -> str:
        what = {"succeeded": self.value, "failed": self.error, "retrying": self.error}
        told = f": {what[self.state]!r}" if self.state in what else ""
        where = f" in step {self.step!r}" if self.step else ""
        return f"<TestRun of {self._task.name}, {self.state}{where}{told}>"

    @property
    def finished(self) -> bool:
        """Whether the run has succeeded, failed, or was cancelled."""
        return self.state in ENDED

    @property
    def children(self) -> list[RunRecord]:
        """The runs that it asked for: what it invoked, and the items of ``step.parallel``."""
        known = self._simulation.runs.get(self.id).detail["children"]
        return [self._simulation.runs.get(run_id) for run_id in known]

    def resume(self, *, crash_after: str | None = None) -> TestRun:
        """Move the clock to when the run goes on, and execute its next attempt.

        If it waits for runs that it asked for, these are executed first, to their end.

        Args:
            crash_after: id of a step after whose result is stored the worker crashes, in this
                attempt or a later one.
        """
        if self.finished:
            raise AssertionError(f"The run has {self._ended}; nothing is left to resume.")
        if self.due is not None:
            self.clock.advance_to(self.due)
        self._crash_after = crash_after or self._crash_after
        self._attempt()
        if self._crash_after is not None and self.state in ENDED:
            raise AssertionError(
                f"The run has {self._ended} and never completed the step {self._crash_after!r} "
                f"to crash after. It completed: {', '.join(self.executed) or 'none'}."
            )
        return self

    def finish(self, limit: int = 1000) -> TestRun:
        """Resume until the run has ended.

        Args:
            limit: how many attempts are too many.
        """
        for _ in range(limit):
            if self.finished:
                return self
            self.resume()
        raise AssertionError(f"The run is still {self.state} after {limit} attempts.")

    def emit(self, event: Any, data: Any = None) -> bool:
        """Emit an event that the run may wait for, or that may cancel it.

        A run that waited for it goes on with the next :meth:`resume`. An event that nobody waits
        for yet is kept: ``step.wait_for_event`` finds it later.

        Args:
            event: its name, or a typed event.
            data: its data.

        Returns:
            Whether the run waited for it, or was cancelled by it.
        """
        was = self.state
        drafted = draft_event(self._settings, event, data)
        woken = record_event(self._simulation.ledger, drafted).woken
        self._look()
        return self.id in woken or self.state != was

    @property
    def _ended(self) -> str:
        return "been cancelled" if self.state == "cancelled" else self.state

    def _attempt(self) -> None:
        """Execute what there is to execute until the run's own body was."""
        with self._simulation.current(), self._listening():
            for _ in range(TOO_MANY):
                message = self._next_message()
                if message.run_id != self.id:
                    self._simulation.execute(message)
                elif self._execute(message):
                    return
        raise AssertionError(f"The step {self.step!r} has not ended after {TOO_MANY} attempts.")

    def _next_message(self) -> Message:
        simulation = self._simulation
        while not simulation.inbox:
            due = simulation.collect()
            if not simulation.inbox:
                assert due is not None, "a run that has not ended has a timer"  # noqa: S101
                self.clock.advance_to(due)
        return simulation.inbox.popleft()

    def _execute(self, message: Message) -> bool:
        """Execute a message of the run; return whether that was an attempt."""
        self._passes.clear()
        try:
            traced = self._simulation.execute(message)
        except SimulatedCrash as crash:
            self.attempts += 1
            self._simulation.crash(self.id, {"type": "SimulatedCrash", "message": str(crash)})
            self._look()
            self.state = self.state if self.finished else "crashed"
            return True
        except _Replay:
            self._compare()
            self._simulation.put_back(self.id)
            return False
        if not self._passes:  # a second message, or one that came early
            return False
        if self._always_replay:
            self._compare()
        self.attempts += 1
        self._look()
        self._take(traced)
        return True

    def _look(self) -> None:
        """See what the ledger has of the run now."""
        ledger = self._simulation.ledger
        run = ledger.run(self.id)
        assert run is not None  # noqa: S101 - it was recorded, and nothing is swept
        self.state, self.retries, self.reason = run.state.value, run.retries, run.reason
        waits = run.state in (RunState.SUSPENDED, RunState.RETRYING)
        self.due = None if not waits or self._waits_for_runs(run) else run.due
        self.step = self.step if run.state is RunState.SUSPENDED else None
        self.error = error_of(ledger.outcomes([self.id])[0])

    def _waits_for_runs(self, run: RunRecord) -> bool:
        """Whether other runs are to wake it; its timer is then only there in case they do not."""
        for_others = run.state is RunState.SUSPENDED and run.reason in ("invoke", "parallel")
        return for_others and run.due is not None and run.due > self.clock.now + TINY

    def _take(self, traced: Any) -> None:
        """See what the body returned or raised."""
        if traced.info is None:
            self.value = traced.retval
        elif self.state in ("retrying", "failed"):
            raised: Any = traced.info.retval
            self.error = (raised.exc or raised) if isinstance(raised, Retry) else raised

    # -- what its signals tell ------------------------------------------------------------------

    @contextmanager
    def _listening(self) -> Generator[None]:
        receivers: list[tuple[Any, Any]] = [
            (signals.run_started, self._on_started),
            (signals.step_completed, self._on_completed),
            (signals.run_suspended, self._on_suspended),
        ]
        for signal, receiver in receivers:
            signal.connect(receiver, weak=False)
        try:
            yield
        finally:
            for signal, receiver in receivers:
                signal.disconnect(receiver)

    def _on_started(self, run: Any = None, **_: Any) -> None:
        if run.id == self.id:
            execution = current_execution.get()
            assert execution is not None  # noqa: S101 - the signal is sent inside it
            self._passes.append(execution)

    def _on_suspended(self, run: Any = None, step: str | None = None, **_: Any) -> None:
        if run.id == self.id:
            self.step = step

    def _on_completed(self, run: Any = None, step: str = "", number: int = 0, **_: Any) -> None:
        key = (step, number)
        if run.id != self.id or key in self._completed:
            return
        self._completed.add(key)
        self.executed.append(step)
        if step == self._crash_after:
            self._crash_after = None
            raise SimulatedCrash(step)
        if self._always_replay:
            raise _Replay

    def _compare(self) -> None:
        """Refuse a pass that asked for other steps than the one before it."""
        now = list(dict.fromkeys(self._passes[-1].used))
        for number, before in enumerate(self._before, start=1):
            found = now[number - 1] if len(now) >= number else None
            if found != before:
                text = "no step" if found is None else f"the step {found!r}"
                raise NonDeterministicBody(self._task.name, number, f"the step {before!r}", text)
        self._before = now
