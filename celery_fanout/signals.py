"""What others can listen to: the Celery signals of celery-fanout.

They are sent in the process where the thing happens and carry no event data: connect a receiver
with ``run_failed.connect(receiver, weak=False)``. A receiver that raises is logged by Celery and
disturbs nothing. ``sender`` is the Celery app for ``event_emitted``, and the task for all others.
:mod:`celery_fanout.contrib.django.signals` has one more.

Public: the names in ``__all__``.
"""

from __future__ import annotations

from celery.utils.dispatch import Signal

__all__ = [
    "event_emitted",
    "run_failed",
    "run_started",
    "run_succeeded",
    "run_suspended",
    "step_completed",
    "step_failed",
]

#: An event was published. ``event``: the :class:`~celery_fanout.Event`; ``runs``: its
#: :class:`~celery_fanout.RunHandle` objects, an empty list when nothing subscribes to it.
event_emitted = Signal(name="event_emitted", providing_args=["event", "runs"])

#: An attempt of a run begins. ``run``: the :class:`~celery_fanout.Run`.
run_started = Signal(name="run_started", providing_args=["run"])

#: A run returned and Celery dispatched what follows it. ``run``; ``runtime``: seconds of the
#: last attempt.
run_succeeded = Signal(name="run_succeeded", providing_args=["run", "runtime"])

#: A run ended for good in an error. ``run``; ``exception``. When the process that executed it was
#: killed, by a hard time limit for example, the worker's main process sends it, from Celery 5.7 on;
#: before, only ``on_failure=`` and Celery's ``task_failure`` tell of that.
run_failed = Signal(name="run_failed", providing_args=["run", "exception"])

#: A run left the worker. ``run``; ``until``: a POSIX timestamp, infinity while it waits for child
#: runs only; ``reason``: ``"sleep"``, ``"step-retry"``, ``"event"``, ``"invoke"``, ``"parallel"``,
#: ``"delay"`` or ``"store"``; ``step``: the step id or ``None``.
run_suspended = Signal(name="run_suspended", providing_args=["run", "until", "reason", "step"])

#: A step has its value. ``run``; ``step``: the step id; ``number``: of the call with that id,
#: from 1; ``cached``: whether the value came from its checkpoint; ``attempts``.
step_completed = Signal(
    name="step_completed", providing_args=["run", "step", "number", "cached", "attempts"]
)

#: A step's function raised. ``run``; ``step``; ``number``; ``attempts``; ``error_type``;
#: ``final``: whether it failed for good.
step_failed = Signal(
    name="step_failed",
    providing_args=["run", "step", "number", "attempts", "error_type", "final"],
)
