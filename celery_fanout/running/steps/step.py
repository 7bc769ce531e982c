"""``step.*``: named parts of a run. Once its result is stored, a step is not executed again.

The path of ``step.run``: number the call, look for its checkpoint, call the function, store the
result, return it as it will be read back.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from celery_fanout.exceptions import InvalidStep
from celery_fanout.model.event_types import name_of
from celery_fanout.model.ids import child_id
from celery_fanout.running.execution import current_step
from celery_fanout.running.steps.calling import run_in_place, run_step
from celery_fanout.running.steps.emitting import emit_step
from celery_fanout.running.steps.entering import enter
from celery_fanout.running.steps.invoking import invoke_step
from celery_fanout.running.steps.parallel import parallel_step
from celery_fanout.running.steps.policy import NO_RETRIES, StepPolicy
from celery_fanout.running.steps.sleeping import sleep_step
from celery_fanout.running.steps.waiting import wait_step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from celery import Task
    from pydantic import BaseModel

    from celery_fanout.model.events import Event


P = ParamSpec("P")
R = TypeVar("R")


class BoundStep:
    """``step`` with options: ``step.options(max_retries=3).run(...)``."""

    def __init__(self, policy: StepPolicy) -> None:
        self._policy = policy

    def run(self, id: str, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Like :meth:`Step.run`, with these options."""
        execution = enter(id)
        if execution is None:
            called: R = run_in_place(id, self._policy, fn, args, kwargs)
            return called
        value: R = run_step(execution, id, self._policy, fn, args, kwargs)
        return value


class Step:
    """Durable steps of the run that the calling code belongs to.

    Outside of a run every method simply does its work, so that tasks can be called and tested
    directly: ``run`` calls the function, with the retries of ``options`` but without waiting
    between them, ``sleep`` returns at once, ``emit`` emits.

    Args:
        emit: publishes an event of the app that is current, for steps outside of a run.
    """

    def __init__(self, emit: Callable[..., Any]) -> None:
        self._emit = emit

    def run(self, id: str, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call ``fn(*args, **kwargs)`` once in this run and return its result.

        Later attempts of the run get the stored result. The value comes back as it is stored, as
        JSON, already the first time; where ``fn`` is annotated with a return type, it comes back
        as that type. An exception of ``fn`` is not stored: it leaves this call, and the task's
        own retries decide.

        Args:
            id: the step's name. Calls with the same name are numbered in their order.
            fn: the function.
            *args: its arguments.
            **kwargs: its keyword arguments.

        Raises:
            StepFailed: if the step has failed for good, in this attempt or an earlier one.
            NestedStep: if it is called inside another step.
            InvalidStep: if ``id`` is no text of 1 to 200 characters.
        """
        execution = enter(id)
        if execution is None:
            return fn(*args, **kwargs)
        value: R = run_step(execution, id, NO_RETRIES, fn, args, kwargs)
        return value

    def options(
        self,
        *,
        max_retries: int = 0,
        retry_backoff: float | bool = False,
        retry_backoff_max: float = 600,
        retry_jitter: bool = True,
        retry_on: type[Exception] | tuple[type[Exception], ...] = Exception,
        timeout: float | None = None,
    ) -> BoundStep:
        """Return ``step`` with retries of the step's own, as Celery's options of these names.

        They are durable, counted per step, spend no retry of the task, and leave the worker free
        while they wait. When they are exhausted :class:`StepFailed` is raised into the task, now
        and on every later attempt.

        Args:
            max_retries: how often the step is tried again.
            retry_backoff: ``True`` or a number of seconds: wait 1, 2, 4, ... times that long.
                Without it the step is tried again at once.
            retry_backoff_max: the longest wait, in seconds.
            retry_jitter: wait a random time up to the one computed.
            retry_on: the exceptions that are worth another try; any other leaves the call.
            timeout: how long one call of the function may take, in seconds. Only where Python
                can interrupt a function: in prefork, solo and gevent workers.

        Raises:
            InvalidStep: if a value cannot be used.
        """
        backoff = (retry_backoff, retry_backoff_max, retry_jitter)
        return BoundStep(StepPolicy(max_retries, *backoff, retry_on, timeout).validated())

    def sleep(self, id: str, duration: float | dt.timedelta) -> None:
        """Leave the worker and go on after a time. Spends no retry of the task.

        Args:
            id: the step's name.
            duration: seconds, or a timedelta.

        Raises:
            InvalidStep: if ``duration`` is neither.
            SleepTooLong: if the store would drop the run's checkpoints before its end.
        """
        seconds = _seconds(id, "duration", duration)
        execution = enter(id)
        if execution is not None:
            sleep_step(execution, id, lambda: execution.now() + seconds)

    def sleep_until(self, id: str, when: dt.datetime | float) -> None:
        """Leave the worker and go on at a time. Spends no retry of the task.

        Args:
            id: the step's name.
            when: a datetime with a time zone, or a POSIX timestamp.

        Raises:
            InvalidStep: if ``when`` has no time zone, or is no time.
            SleepTooLong: if the store would drop the run's checkpoints before then.
        """
        if isinstance(when, dt.datetime):
            if when.tzinfo is None:
                raise InvalidStep(
                    id,
                    f"sleeps until {when.isoformat()}, which names no instant",
                    "Use a datetime with a time zone, such as datetime.now(timezone.utc).",
                )
            when = when.timestamp()
        instant = _seconds(id, "time", when, "a datetime with a time zone, or a POSIX timestamp")
        execution = enter(id)
        if execution is not None:
            sleep_step(execution, id, lambda: instant)

    def emit(
        self,
        id: str,
        event: Any,
        data: Any = None,
        *,
        subject: str | None = None,
        source: str | None = None,
        time: dt.datetime | str | None = None,
        delay: float | dt.timedelta | None = None,
    ) -> str:
        """Emit an event once in this run and return its id.

        The event's ``causationid`` is this run's id, and its ``correlationid`` that of the event
        which this run handles.

        Args:
            id: the step's name.
            event: an event name, or an instance of a typed event.
            data: the event's data.
            subject: what the event is about, within the source.
            source: where it happened; ``fanout_source`` by default.
            time: when it happened; now by default.
            delay: seconds, or a timedelta, before subscribers start.

        Raises:
            InvalidEvent: if the event cannot be emitted.
            EmitError: on level 1, if publishing was cut short; the next attempt repeats it with the
                same ids.
        """
        options = {"subject": subject, "source": source, "time": time, "delay": delay}
        execution = enter(id)
        if execution is None:
            return str(self._emit(event, data, **options).event.id)
        return emit_step(execution, id, event, data, **options)

    def wait_for_event(
        self,
        id: str,
        event: str | type[BaseModel],
        *,
        match: Mapping[str, Any] | None = None,
        timeout: float | dt.timedelta,
    ) -> Event | None:
        """Leave the worker until an event is emitted, and return it; ``None`` if none came in time.

        Events that were emitted since this run was recorded count too, as far back as
        ``fanout_event_retention``. Level 2. Outside of a run it returns ``None``.

        Args:
            id: the step's name.
            event: the event's name, or a typed event; no pattern.
            match: what the event's data must have: dotted paths to texts, numbers, booleans or
                ``None``, such as ``{"document.id": "d-1"}``. Any event of this name by default.
            timeout: seconds, or a timedelta.

        Raises:
            InvalidStep: if an argument cannot be used.
            StoreUnsupported: on level 1.
        """
        seconds = _seconds(id, "timeout", timeout)
        name = event if isinstance(event, str) else name_of(event)[0]
        execution = enter(id)
        if execution is None:
            return None
        return wait_step(execution, id, name, match, seconds)

    def invoke(self, id: str, task: Task[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call another Celery task once in this run, and return its result.

        The run leaves the worker meanwhile. The task is a run of its own, with its own retries.
        Level 2. Outside of a run the task's function is called.

        Args:
            id: the step's name.
            task: the task.
            *args: its arguments.
            **kwargs: its keyword arguments.

        Raises:
            StepFailed: if the task failed for good, or was cancelled.
            InvalidStep: if the arguments do not fit the task, or JSON cannot carry them.
            StoreUnsupported: on level 1.
        """
        execution = enter(id)
        if execution is None:
            called: R = task(*args, **kwargs)
            return called
        value: R = invoke_step(execution, id, task, args, kwargs)
        return value

    def parallel(self, id: str, calls: Iterable[Sequence[Any]]) -> list[Any]:
        """Make several calls at the same time, each as a Celery task of its own.

        Each call replays the body up to this step and makes its call there, so functions may be
        closures. A call that raises is tried again as the task's own retries say, by itself. The
        run leaves the worker until all calls have ended. Level 2. Outside of a run the calls are
        made one after another.

        Args:
            id: the step's name.
            calls: for each call the function and its arguments: ``[(ask, "a"), (ask, "b")]``.

        Returns:
            The results in the order of the calls, as they are read back; see :meth:`run`.

        Raises:
            StepFailed: if a call failed for good; the first of them.
            StoreUnsupported: on level 1.
        """
        execution = enter(id)
        listed: list[Any] = list(calls)
        if execution is None:
            return [fn(*args) for fn, *args in listed]
        return parallel_step(execution, id, listed)

    @property
    def idempotency_key(self) -> str | None:
        """A key for the effect of the step that is being executed.

        The same whenever this step of this run is executed again, for services that take an
        ``Idempotency-Key``. ``None`` outside of a step.
        """
        step = current_step.get()
        return child_id(step[1], *step[2]) if step else None


def _seconds(id: str, what: str, value: Any, wanted: str = "seconds or a timedelta") -> float:
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    try:
        return float(value)
    except (TypeError, ValueError):  # no retry of the task would mend it
        raise InvalidStep(id, f"has the {what} {value!r}", f"Use {wanted}.") from None
