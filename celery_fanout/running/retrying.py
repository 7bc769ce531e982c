"""``task.retry`` of a run on level 2: it raises its ``Retry``, and publishes nothing.

The ledger has a timer for the next attempt. So a retry whose publishing fails is not lost, and none
waits in a worker's memory for its ETA. A body that goes on after it, with ``throw=False`` or
because it caught the ``Retry``, and returns, is tried again all the same, as with Celery.
"""

from __future__ import annotations

import functools
from contextvars import ContextVar
from typing import Any

from celery.exceptions import Retry

from celery_fanout.running.execution import execution_of

_held: ContextVar[bool] = ContextVar("celery_fanout_retry_held", default=False)


def hold_retries(task: Any) -> None:
    """Keep the retries of a task's claimed runs from being published."""
    retry, from_request = task.retry, task.signature_from_request

    @functools.wraps(retry)
    def held_retry(*args: Any, **kwargs: Any) -> Any:
        execution = execution_of(task.request)
        if execution is None or execution.claimed is None:
            return retry(*args, **kwargs)
        token = _held.set(True)
        try:
            execution.retry = retry(*args, **kwargs)  # throw=False
        except Retry as raised:
            execution.retry = raised
            raise
        finally:
            _held.reset(token)
        return execution.retry

    @functools.wraps(from_request)
    def signature_from_request(*args: Any, **kwargs: Any) -> Any:
        signature = from_request(*args, **kwargs)
        if _held.get():
            signature.apply_async = _publish_nothing
        return signature

    task.retry = held_retry
    task.signature_from_request = signature_from_request


def _publish_nothing(*_: Any, **__: Any) -> None:
    """Stand in for ``Signature.apply_async``."""
