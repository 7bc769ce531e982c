"""Leaving the worker, and coming back without spending a retry: level 1, and what is put back.

On level 2 a suspension is a timer of the ledger, see ``settling``. A message is published again
only if it is put back because the store does not answer; on level 1 always.

It is published under the same task id with a countdown. A long wait goes in hops,
because Redis delivers a message again that a worker holds for longer than ``visibility_timeout``,
and RabbitMQ closes the channel after ``consumer_timeout``.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from celery.exceptions import Ignore, Reject
from celery.utils.log import get_task_logger
from kombu.exceptions import OperationalError

from celery_fanout import signals
from celery_fanout.exceptions import RunFailed
from celery_fanout.exceptions.warnings import SwallowedSuspensionWarning
from celery_fanout.model.headers import RESUME_HEADER, STORE_LEFT_HEADER, STORE_RETRIES_HEADER
from celery_fanout.running.execution import execution_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from celery import Celery

    from celery_fanout.exceptions import StoreUnavailable
    from celery_fanout.running.execution import Execution

logger = get_task_logger(__name__)

#: The longest that one message waits in a worker, in seconds. RabbitMQ's consumer_timeout is 30
#: minutes by default.
MAX_HOP = 600.0

#: kombu's default visibility_timeout for Redis, in seconds.
VISIBILITY_TIMEOUT = 3600.0

#: How often a run is put back in a row while the store does not answer, before it fails. With the
#: pauses below that is about an hour.
MAX_STORE_RETRIES = 70
STORE_PAUSE_MAX = 60.0


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


@dataclass(eq=False, repr=False)
class Republisher:
    """Publishes the message of a run again, so that it goes on later.

    Args:
        app: the Celery app.
        clock: returns the POSIX time in seconds.
    """

    _app: Celery
    _clock: Callable[[], float]

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


def put_off_if_early(execution: Execution) -> None:
    """Level 1: send a message that came early on its way again, without calling the body.

    Raises:
        Suspended: if it did, and there is something to wait for.
    """
    headers: Mapping[str, Any] = execution.request.headers or {}
    until = headers.get(RESUME_HEADER)
    if until is not None and not execution.is_due(until):
        leave_worker(execution, Suspended(until, "delay"))


def leave_worker(execution: Execution, suspended: Suspended) -> None:
    """Level 1: leave the worker until ``suspended.until``; where nothing waits, skip the time.

    Raises:
        Suspended: unless the time was skipped.
    """
    engine = execution.engine
    if not engine.waits:
        execution.restart()
        execution.skipped += max(0.0, suspended.until - execution.now())
        return
    engine.republish(execution.task, execution.request, suspended.until)
    announce(execution, suspended)
    raise suspended


def announce(execution: Execution, suspended: Suspended) -> None:
    """Tell the receivers of ``run_suspended``."""
    signals.run_suspended.send(
        sender=execution.task,
        run=execution.run,
        until=suspended.until,
        reason=suspended.reason,
        step=suspended.step,
    )


def put_back(execution: Execution, error: StoreUnavailable) -> NoReturn:
    """Leave the worker, to try again later, because the store did not answer.

    Raises:
        Suspended: always, unless
        RunFailed: it was put back too often, or nothing waits.
    """
    request, engine = execution.request, execution.engine
    headers: Mapping[str, Any] = request.headers or {}
    retries = headers.get(STORE_RETRIES_HEADER) or 0
    if retries >= MAX_STORE_RETRIES or not engine.waits:
        raise RunFailed(f"{error.store} could not be reached: {error.reason}") from error
    logger.warning("%s", error)
    until = engine.clock() + min(STORE_PAUSE_MAX, 2.0**retries)
    begun = execution_of(request)
    if begun is None or begun.claimed is None:
        left = int(headers.get(STORE_LEFT_HEADER) or 0)
    else:
        left = begun.claimed.token
    engine.republish(execution.task, request, until, store_retries=retries + 1, left=left)
    suspended = Suspended(until, "store")
    announce(execution, suspended)
    raise suspended from error


def warn_swallowed(execution: Execution, place: str, *, stacklevel: int = 2) -> None:
    """Warn that the body caught a suspension."""
    error = execution.leaving
    frame = error.__traceback__ if error else None  # the first is that of what caught it
    where = f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame else "the body"
    warnings.warn(
        SwallowedSuspensionWarning(
            f"{execution.run.task} caught the suspension raised at {where} {place}; it is raised "
            "again. Let celery.exceptions.Ignore pass: put `except Ignore: raise` before "
            "`except Exception`."
        ),
        stacklevel=stacklevel,
    )
