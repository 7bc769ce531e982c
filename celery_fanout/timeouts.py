"""Interrupting a step's function after a time, where Python can."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery_fanout.exceptions import StepTimeout, StepTimeoutUnsupported

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["time_limit"]


@contextmanager
def time_limit(step: str, seconds: float | None) -> Iterator[None]:
    """Raise :class:`StepTimeout` in the block after ``seconds``.

    Raises:
        StepTimeoutUnsupported: in a thread, which nothing can interrupt.
    """
    if seconds is None:
        yield
        return
    gevent: Any = sys.modules.get("gevent")
    if gevent is not None and gevent.monkey.is_module_patched("threading"):
        with gevent.Timeout(seconds, StepTimeout(step, seconds)):
            yield
        return
    if threading.current_thread() is not threading.main_thread() or not hasattr(
        signal, "setitimer"
    ):
        raise StepTimeoutUnsupported(step)

    def interrupt(signum: int, frame: object) -> None:
        raise StepTimeout(step, seconds)

    handler = signal.signal(signal.SIGALRM, interrupt)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left, interval)
        signal.signal(signal.SIGALRM, handler)
