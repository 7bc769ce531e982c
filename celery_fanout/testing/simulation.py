"""An app on level 2 in memory: the real ledger and engine, without a broker, on a moved clock.

What would be published lies in :attr:`Simulation.inbox`; what a worker would do with it,
:meth:`Simulation.execute` does, through Celery's own tracer.
"""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery.app.trace import build_tracer
from celery.canvas import signature
from kombu.utils import json as kombu_json

from celery_fanout.app.ledger_parts import Level2
from celery_fanout.emitting.freezing import Freezer
from celery_fanout.exceptions.describing import describe, did_you_mean, nearest
from celery_fanout.model.boot import boot_id
from celery_fanout.model.headers import KIND_HEADER
from celery_fanout.model.ids import event_key
from celery_fanout.model.jsondata import encode
from celery_fanout.running.execution import Engine, test_engine
from celery_fanout.stores.choosing import rules_of
from celery_fanout.stores.records import NewEvent, NewRun
from celery_fanout.stores.states import FINAL, RunState
from celery_fanout.testing.capturing import CapturedEvents, CapturingEmitter, nothing, watching
from celery_fanout.testing.inbox import Clock, Inbox, Message

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Generator, Mapping, Sequence

    from celery_fanout.app.fanout import Fanout
    from celery_fanout.emitting.delivery import Draft, Emitter
    from celery_fanout.emitting.emission import Emission
    from celery_fanout.model.events import Event
    from celery_fanout.operating.control import RunControl
    from celery_fanout.stores.ledger import Ledger
    from celery_fanout.stores.records import Recorded
    from celery_fanout.subscribing.registry import Subscription


class SimulatingEmitter:
    """Records in a simulation's ledger what is emitted, and keeps it for the test to look at.

    Args:
        emitter: records it.
        events: where it is kept, in order.
    """

    in_test = True

    def __init__(self, emitter: Emitter, events: CapturedEvents) -> None:
        self._emitter = emitter
        self._events = events

    def emit(self, draft: Draft) -> list[Emission]:
        """Record events."""
        self._events.extend(draft.events)
        return self._emitter.emit(draft)


class LonelyEmitter(CapturingEmitter):
    """Keeps what a run under test emits. It has no subscribers, but runs may wait for it.

    Args:
        fanout: the app's parts.
        level2: works with the simulation's ledger.
        events: where it is kept, in order.
    """

    def __init__(self, fanout: Fanout, level2: Level2, events: CapturedEvents) -> None:
        super().__init__(fanout)
        self.captured = events
        self._level2 = level2

    def emit(self, draft: Draft) -> list[Emission]:
        """Keep events, and wake who waits for them."""
        emissions = super().emit(draft)
        for event in draft.events:  # the run may wait for what it has emitted itself
            self._level2.wakeups.wake(record_event(self._level2.ledger, event).woken)
        return emissions


def record_event(ledger: Ledger, event: Event, runs: Sequence[NewRun] = ()) -> Recorded:
    """Record an event with these runs only."""
    key = event_key(event.name, event.id)
    new = NewEvent(key, event.name, encode(event.attributes()), encode(event.data), runs)
    return ledger.record([new])[0]


class Simulation:
    """Events and runs of an app in memory, until the block of :func:`simulate` ends.

    Nothing is published: :meth:`work`, :meth:`advance` and :meth:`finish` execute what is due, one
    run after another in this thread, with the real engine. ``emit()`` and ``get_fanout(app).runs``
    of the app reach the simulation's ledger meanwhile.

    Attributes:
        clock: the time.
        runs: lists, shows, cancels, retries, replays and reruns what the simulation has, as
            ``get_fanout(app).runs`` does with a real ledger.
        events: what was emitted, in order.
    """

    def __init__(
        self,
        fanout: Fanout,
        clock: Clock | None = None,
        *,
        invoked: Mapping[Any, Any] | None = None,
        alone: bool = False,
    ) -> None:
        # only here: what captures events alone does without redis-py, and without the extra
        from celery_fanout.stores.memory.ledger import MemoryLedger

        self._fanout = fanout
        self._alone = alone
        self._invoked = _stand_ins(fanout, invoked or {})
        self.clock = clock or Clock()
        self.ledger = MemoryLedger(rules_of(fanout.settings), self.clock)
        self._publish_waiting = nothing
        self.events = CapturedEvents(look=self._look)
        self._inbox = Inbox(fanout, alone=alone)
        # its results are in the ledger: Celery stores nothing here
        freezer = Freezer(fanout.app, fanout.registry, fanout.templates, self.ledger, True)
        self.level2 = Level2(fanout, self.ledger, freezer, self._inbox)
        self.level2.emitter = (
            LonelyEmitter(fanout, self.level2, self.events)
            if alone
            else SimulatingEmitter(self.level2.emitter, self.events)
        )
        self._engine = Engine(
            fanout.memory_store,
            fanout.settings,
            fanout.emit_from_step,
            self.clock,
            ledger=self.ledger,
            wake=self.level2.wakeups.wake,
            follow_up=(lambda _: None) if alone else self.level2.follow_ups.record,
            dispatches=False,
        )

    @property
    def runs(self) -> RunControl:
        """Lists, shows and changes the runs."""
        return self.level2.control

    @property
    def inbox(self) -> deque[Message]:
        """What workers would receive next."""
        return self._inbox.messages

    @contextmanager
    def current(self) -> Generator[None]:
        """Make the app emit into this simulation in a block."""
        with (
            self._fanout.emitting_to(self.level2.emitter, self.level2),
            watching(self._fanout) as look,
        ):
            self._publish_waiting = look
            yield

    def _look(self) -> None:
        self._publish_waiting()

    def begin(self, event: Event, subscription: Subscription) -> str:
        """Record an event for one subscription alone, and publish its run. Returns its id."""
        alone = subscription.alone(event)
        chain = self.level2.freezer.freeze_run(alone, subscription, 0)
        new = NewRun(chain.run_id, subscription.id, cancel_on=subscription.cancels(event))
        record_event(self.ledger, event, [new])
        self._inbox.publish([chain])
        self.ledger.mark_published([chain.run_id])
        return chain.run_id

    # -- time -----------------------------------------------------------------------------------

    def collect(self) -> float | None:
        """Do what a keeper does now; return when it has something to do next."""
        self._look()
        taken = self.ledger.take(limit=1000)
        self.level2.wakeups.publish(taken)
        if not self._alone:
            for run_id in self.ledger.awaiting_follow_up(older_than=0):
                self.level2.follow_ups.record(run_id)
        return taken.next_due

    def work(self, limit: int = 10_000) -> int:
        """Execute everything that is due now, and what follows from it. Returns how many attempts.

        Args:
            limit: how many attempts are too many.

        Raises:
            AssertionError: if there were as many and it went on: a loop of events, most likely.
        """
        self.collect()
        done = 0
        while self.inbox:
            if done >= limit:
                raise AssertionError(
                    f"{done} attempts were executed and there is still more: does an event cause "
                    f"itself? The next is {self.inbox[0].task}."
                )
            self.execute(self.inbox.popleft())
            done += 1
            if not self.inbox:
                self.collect()
        return done

    def advance(self, seconds: float) -> int:
        """Move the clock forward, and execute what falls due on the way, each at its time.

        Returns:
            How many attempts were executed.
        """
        return self._advance_to(self.clock.now + seconds)

    def finish(self, within: float = 30 * 86_400.0) -> int:
        """Move the clock from timer to timer until no run is left that time brings to its end.

        Waits for events time out on the way. Runs of paused subscriptions stay as they are.

        Args:
            within: how many seconds later is too late.

        Returns:
            How many attempts were executed.

        Raises:
            AssertionError: if runs are left then.
        """
        end = self.clock.now + within
        done = self.work()
        while (due := self.ledger.take(()).next_due) is not None:
            if due > end:
                left = [run for run in self.ledger.runs(limit=10**6) if run.state not in FINAL]
                states = ", ".join(f"{run.subscription or run.id} is {run.state}" for run in left)
                raise AssertionError(f"Not all has ended after {within:,.0f} s. {states}.")
            done += self._advance_to(due)
        return done

    def _advance_to(self, end: float) -> int:
        done = self.work()
        while (due := self.ledger.take(()).next_due) is not None and due <= end:
            self.clock.advance_to(due)
            done += self.work()
        self.clock.advance_to(end)
        return done + self.work()

    # -- the worker -----------------------------------------------------------------------------

    def execute(self, message: Message) -> Any:
        """Execute a message as a worker does, and return what Celery's tracer does."""
        if message.headers.get(KIND_HEADER) == "invoke" and message.task in self._invoked:
            return self._stand_in(message, self._invoked[message.task])
        app = self._fanout.app
        task: Any = app.tasks[message.task]
        self._fanout.wrapper.wrap(task)
        request: dict[str, Any] = {
            "id": message.run_id,
            "task": task.name,
            "root_id": message.run_id,
            "parent_id": None,
            "retries": message.retries,
            "is_eager": True,
            "hostname": "test",
            "callbacks": [],
            "errbacks": [],
            "chain": list(message.chain),
            "headers": dict(message.headers),
            "delivery_info": {"is_eager": True},
        }
        tracer = build_tracer(task.name, task, eager=True, propagate=False, app=app)
        token = test_engine.set(self._engine)
        try:
            traced: Any = tracer(message.run_id, list(message.args), dict(message.kwargs), request)
        finally:
            test_engine.reset(token)
        if traced.info is None and message.chain:
            self._go_on(message, traced.retval)
        return traced

    def _go_on(self, message: Message, value: Any) -> None:
        """Do what Celery does when a link has returned: publish the next one."""
        *rest, last = message.chain  # Celery's chain option has the last link first
        link: Any = signature(last, app=self._fanout.app)
        args = () if link.immutable else (value,)
        options = {**link.options, "chain": rest}
        self._inbox.publish_task(link, args, options)

    def _stand_in(self, message: Message, end: Any) -> None:
        """End an invoked run with what the test gave for its task, without executing that."""
        how: dict[str, Any]
        claim = self.ledger.claim(
            message.run_id, boot_id(), uuid.uuid4().hex, retries=message.retries
        )
        if claim.status != "claimed":
            return
        if isinstance(end, BaseException):
            error = {**describe(end), "traceback": ""}
            state, how = RunState.FAILED, {"error": error, "reason": "error"}
        else:
            state, how = RunState.SUCCEEDED, {"result": str(kombu_json.dumps(end))}
        settled = self.ledger.settle(message.run_id, claim.token, state, **how)
        self.level2.wakeups.wake(settled.woken)

    def crash(self, run_id: str, error: Mapping[str, str]) -> None:
        """Tell the ledger that the process which executed a run has died."""
        settled = self.ledger.abandon(run_id, boot_id(), error, final=False)
        self.level2.wakeups.wake(settled.woken)

    def put_back(self, run_id: str) -> None:
        """Begin an execution of a run anew, as if its message was delivered again."""
        run = self.ledger.run(run_id)
        assert run is not None  # noqa: S101 - it is being executed
        self.ledger.settle(run_id, run.token, RunState.PENDING, reason="replayed")
        self.level2.wakeups.wake([run_id])


def _stand_ins(fanout: Fanout, invoked: Mapping[Any, Any]) -> dict[str, Any]:
    """Return by name what stands in for tasks. With a typo the task itself would be called."""
    found = {str(getattr(task, "name", task)): end for task, end in invoked.items()}
    registered: Any = fanout.app.tasks
    tasks = [str(name) for name in registered]
    for name in found:
        if name not in tasks:
            hint = did_you_mean(nearest(name, tasks), "Pass the task itself.")
            raise LookupError(f"invoked= names {name!r}, which is no task of the app. {hint}")
    return found
