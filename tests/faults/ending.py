"""Workers that were told to stop, and what watches over them."""

from __future__ import annotations

import time

from tests.processes import wait_until
from tests.servers import Worker

__all__ = ["ended", "ended_or_killed"]

#: How long a worker may take to end, in seconds. A pool process whose last result was read while
#: the worker stops waits 30 s until it is counted (billiard: ``Worker._ensure_messages_consumed``).
LONGEST_END = 75

#: When a supervisor kills a worker that was told to stop at once, in seconds: above those 30 s.
KILLED_AFTER = 45


def ended(worker: Worker) -> None:
    """Wait until a worker has ended by itself, and clear up after it."""
    wait_until(lambda: not worker.alive, LONGEST_END, lambda: worker.log_since_start[-3000:])
    worker.kill()


def ended_or_killed(worker: Worker, seconds: float = KILLED_AFTER) -> None:
    """Wait until a worker has ended, and kill it if it takes too long, as a supervisor does.

    SIGQUIT may find a worker of Celery's while it hands a job to a pool process. Then it waits for
    the result for ever, inside the handler of the signal (``ResultHandler.on_stop_not_started``).
    """
    begun = time.monotonic()
    wait_until(lambda: not worker.alive or time.monotonic() - begun > seconds, seconds + 30)
    worker.kill()
