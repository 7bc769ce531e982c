"""The functions that run and simulate subscribers, and what the pytest fixture ``fanout`` gives."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery_fanout.app.fanout import get_fanout
from celery_fanout.emitting.drafting import draft_event
from celery_fanout.running.current import current_run
from celery_fanout.testing.capturing import capture
from celery_fanout.testing.inbox import Clock
from celery_fanout.testing.runs import TestRun
from celery_fanout.testing.simulation import Simulation

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from contextlib import AbstractContextManager

    from celery import Celery

    from celery_fanout.app.fanout import Fanout
    from celery_fanout.subscribing.registry import Subscription
    from celery_fanout.testing.capturing import CapturedEvents


def run(
    subscriber: Any,
    data: Any = None,
    *,
    event: str | None = None,
    id: str | None = None,
    crash_after: str | None = None,
    always_replay: bool = False,
    invoked: Mapping[Any, Any] | None = None,
    clock: Clock | None = None,
    app: Celery | None = None,
) -> TestRun:
    """Execute the first attempt of a subscriber's run in memory.

    Flow control does not hold it back, and a batch is one of this event; :func:`simulate` honours
    limits.

    Args:
        subscriber: the task.
        data: the event's data.
        event: the event's name; needed if the task subscribes to more than one, or by a pattern.
        id: the event's id.
        crash_after: id of a step after whose result is stored the worker crashes.
        always_replay: start the body again after every step, which finds bodies that call other
            steps the second time. Code outside of steps runs once per step then.
        invoked: what becomes of tasks that the run invokes, instead of executing them: for each
            task what it returns, or the exception that it fails with.
        clock: the clock; a new one by default.
        app: the Celery app; the task's by default.

    Raises:
        NonDeterministicBody: with ``always_replay``, if the body called other steps on replay.
        LookupError: if the task has no such subscription, or ``invoked`` names no task.
        MissingExtra: without the extra ``celery-fanout[testing]``.
        TypeError: if ``subscriber`` is no task.
    """
    fanout = get_fanout(app or getattr(subscriber, "app", None))
    fanout.load()
    subscription = _subscription(fanout, subscriber, event)
    drafted = draft_event(
        fanout.settings, event or subscription.pattern, data, id=id, cause=current_run()
    )
    found = TestRun(
        fanout,
        subscription,
        drafted,
        clock or Clock(),
        always_replay=always_replay,
        invoked=invoked,
    )
    return found.resume(crash_after=crash_after)


@contextmanager
def simulate(
    app: Celery | None = None,
    *,
    invoked: Mapping[Any, Any] | None = None,
    clock: Clock | None = None,
) -> Generator[Simulation]:
    """Record in memory what is emitted in the block, and execute the runs when the test says so.

    Args:
        app: the Celery app; the current one by default.
        invoked: see :func:`run`.
        clock: the clock; a new one by default.

    Raises:
        MissingExtra: without the extra ``celery-fanout[testing]``.
    """
    fanout = get_fanout(app)
    fanout.load()
    simulation = Simulation(fanout, clock, invoked=invoked)
    with simulation.current():
        yield simulation


def _subscription(fanout: Fanout, task: Any, event: str | None) -> Subscription:
    name = getattr(task, "name", None)
    if not isinstance(name, str):
        raise TypeError(f"{task!r} is no Celery task. Put @app.task or @shared_task above it.")
    every = [sub for sub in fanout.registry if sub.task.name == name]
    own = every
    if event is not None:
        matching = {sub.id for sub in fanout.registry.candidates(event)}
        own = [sub for sub in every if sub.id in matching]
    if not every:
        raise LookupError(f"{task.name} has no subscription. Put @on_event above the task.")
    if not own:
        patterns = ", ".join(repr(sub.pattern) for sub in every)
        raise LookupError(f"{task.name} does not subscribe to {event!r}, but to {patterns}.")
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

    def capture(self) -> AbstractContextManager[CapturedEvents]:
        """See :func:`capture`."""
        return capture(self.app)

    def simulate(self, **options: Any) -> AbstractContextManager[Simulation]:
        """See :func:`simulate`."""
        return simulate(self.app, **options)

    def run(self, subscriber: Any, data: Any = None, **options: Any) -> TestRun:
        """See :func:`run`."""
        options.setdefault("app", self.app)
        return run(subscriber, data, **options)
