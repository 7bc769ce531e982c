"""Leaving the worker and coming back without spending a retry.

The message is published again under the same task id with a countdown. A long wait goes in hops,
because Redis delivers a message again that a worker holds for longer than ``visibility_timeout``,
and RabbitMQ closes the channel after ``consumer_timeout``.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from celery.exceptions import Ignore, Reject
from kombu.exceptions import OperationalError

from celery_fanout.exceptions.warnings import SwallowedSuspensionWarning
from celery_fanout.model.headers import RESUME_HEADER, STORE_LEFT_HEADER, STORE_RETRIES_HEADER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery import Celery

    from celery_fanout.running.execution import Clock, Execution

__all__ = ["BranchDone", "NotClaimed", "Suspended", "Suspension", "warn_swallowed"]

#: The longest that one message waits in a worker, in seconds. RabbitMQ's consumer_timeout is 30
#: minutes by default.
MAX_HOP = 600.0

#: kombu's default visibility_timeout for Redis, in seconds.
VISIBILITY_TIMEOUT = 3600.0


class Suspended(Ignore):
    """Raised through a subscriber's body when the run leaves the worker.

    Derives from :class:`celery.exceptions.Ignore`, which ``autoretry_for`` lets pass.

    Args:
        until: POSIX time at which the run goes on.
        reason: ``"sleep"``, ``"step-retry"``, ``"delay"``, ``"store"``, ``"event"``, ``"invoke"``
            or ``"parallel"``.
        step: the step's id, if it is a step.
        group: on level 2: the child runs or the wait that it is suspended for, until then at most.
    """

    def __init__(self, until: float, reason: str, step: str | None = None, group: str = "") -> None:
        super().__init__(until, reason, step, group)
        self.until = until
        self.reason = reason
        self.step = step
        self.group = group

    def __str__(self) -> str:
        where = f" in step {self.step!r}" if self.step else ""
        return f"The run was suspended ({self.reason}{where})."


class Suspension:
    """Publishes a run again, to go on later.

    Args:
        app: the Celery app.
        clock: where the time comes from.
    """

    def __init__(self, app: Celery, clock: Clock) -> None:
        self._app = app
        self._clock = clock

    @property
    def max_hop(self) -> float:
        """The longest countdown of one message, in seconds."""
        options: Mapping[str, Any] = self._app.conf.broker_transport_options or {}
        return min(MAX_HOP, float(options.get("visibility_timeout") or VISIBILITY_TIMEOUT) / 2)

    def hop(self, until: float) -> float:
        """Return the countdown of the next message on the way to ``until``, in seconds."""
        return min(max(0.0, until - self._clock()), self.max_hop)

    def republish(
        self,
        task: Any,
        request: Any,
        until: float,
        *,
        store_retries: int | None = None,
        left: int = 0,
    ) -> None:
        """Publish the run that ``request`` belongs to again.

        Args:
            task: its task.
            request: its request.
            until: POSIX time at which it goes on.
            store_retries: how often it was put back because the store did not answer.
            left: the token of the claim that is left so.

        Raises:
            Reject: if the broker does not take the message and the old one is still there.
            OperationalError: if it does not and the old one is gone.
        """
        headers = dict(request.headers or {})
        # Celery's worker puts this one beside ours when the broker delivers a message again
        headers.pop("redelivered", None)
        headers.pop(STORE_RETRIES_HEADER, None)
        headers.pop(STORE_LEFT_HEADER, None)
        headers[RESUME_HEADER] = until
        if store_retries is not None:
            headers[STORE_RETRIES_HEADER] = store_retries
        if left:
            headers[STORE_LEFT_HEADER] = left
        signature = task.signature_from_request(
            request,
            retries=request.retries,
            countdown=self.hop(until),
            expires=None,  # it meant the first start
            ignore_result=request.ignore_result,  # Celery 5.5 forgets it
            headers=headers,
            argsrepr=getattr(request, "argsrepr", None),
            kwargsrepr=getattr(request, "kwargsrepr", None),
        )
        try:
            signature.apply_async(add_to_parent=False)
        except OperationalError as exc:
            if task.acks_late:
                raise Reject(exc, requeue=True) from exc
            raise


class NotClaimed(Ignore):
    """A message that is not to be executed: a duplicate, a stale one, one that came early."""


class BranchDone(Ignore):
    """Raised through the body when the item of ``step.parallel`` that it was replayed for is done.

    Args:
        value: the item's value.
    """

    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self.value = value


def warn_swallowed(execution: Execution, place: str, *, stacklevel: int = 2) -> None:
    """Warn that the body caught a suspension."""
    error = execution.suspension
    frame = error.__traceback__ if error else None
    while frame is not None and frame.tb_next and __file__ == frame.tb_frame.f_code.co_filename:
        frame = frame.tb_next
    where = f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame else "the body"
    warnings.warn(
        SwallowedSuspensionWarning(
            f"{execution.run.task} caught the suspension raised at {where} {place}; it is raised "
            "again. Let celery.exceptions.Ignore pass: put `except Ignore: raise` before "
            "`except Exception`."
        ),
        stacklevel=stacklevel,
    )
