"""Interrupting a step's function after a time, where Python can."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery_fanout.exceptions import StepTimeout, StepTimeoutUnsupported

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["time_limit"]


@contextmanager
def time_limit(step: str, seconds: float | None) -> Generator[None]:
    """Raise :class:`StepTimeout` in the block after ``seconds``.

    Raises:
        StepTimeoutUnsupported: in a thread, which nothing can interrupt.
    """
    if seconds is None:
        yield
        return
    monkey: Any = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        gevent: Any = sys.modules["gevent"]
        with gevent.Timeout(seconds, StepTimeout(step, seconds)):
            yield
        return
    if threading.current_thread() is not threading.main_thread() or not hasattr(
        signal, "setitimer"
    ):
        raise StepTimeoutUnsupported(step)

    def interrupt(*_: object) -> None:
        raise StepTimeout(step, seconds)

    handler = signal.signal(signal.SIGALRM, interrupt)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, left, interval)
    finally:  # also if the time was over in the very line above
        signal.signal(signal.SIGALRM, handler)
