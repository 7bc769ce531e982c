"""The keeper: renews leases, wakes what is due, and sends again what was lost.

Threads in the main process of every worker. Any number of them may run: each change is one atomic
script of the ledger, by the ledger's clock. In the main process, not in a pool child, so that a
child stuck in C code keeps its lease, and a dead one loses it.
"""

from __future__ import annotations

import threading
import time
import weakref
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

from celery import signals as celery_signals
from celery.utils.log import get_logger

from celery_fanout.exceptions import FanoutError, StoreUnavailable
from celery_fanout.model.headers import RUN_HEADER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery_fanout.stores.ledger import Ledger
    from celery_fanout.stores.records import Taken

logger = get_logger(__name__)

#: How often timers are looked at, in seconds: what is due goes out that much late at most.
TICK = 1.0

#: The same while throttles let in runs: as late as costs no throughput, ``LATE`` of ``limits.lua``.
BUSY_TICK = 0.1

#: How many runs are taken at a time.
BATCH = 500

#: How many follow-ups are recorded at a time.
FOLLOW_UPS_AT_ONCE = 100

#: How often the indexes are swept, in seconds.
SWEEP = 60.0

#: How many runs one sweep removes, so that none blocks the ledger for long.
SWEEP_AT_ONCE = 1000


class Held:
    """The runs that a worker has: those in its pool, and those that it received and not begun."""

    def __init__(self) -> None:
        # with an ETA or a rate limit, a request is in no list of Celery's
        self._received: weakref.WeakSet[Any] = weakref.WeakSet()
        self._lock = threading.Lock()

    def listen(self) -> None:
        """Begin to note what is received."""
        celery_signals.task_received.connect(self._on_received, weak=False)

    def stop(self) -> None:
        """Note nothing more."""
        celery_signals.task_received.disconnect(self._on_received)

    def _on_received(self, request: Any = None, **_: Any) -> None:
        if RUN_HEADER in request.request_dict:
            with self._lock:
                self._received.add(request)

    def ids(self) -> list[str]:
        """Return the ids of the runs."""
        from celery.worker import state

        run_ids: dict[str, None] = {}
        with self._lock:
            for request in list(self._received):
                if request.acknowledged and request.id not in state.requests:
                    self._received.discard(request)
                else:
                    run_ids[str(request.id)] = None
        # Celery's own list, which another thread changes meanwhile
        for request in list(dict(state.requests).values()):
            if RUN_HEADER in getattr(request, "request_dict", ()):
                run_ids[str(request.id)] = None
        return list(run_ids)


@dataclass(eq=False, repr=False)
class Keeper:
    """Looks after one ledger.

    Args:
        ledger: the ledger.
        publish: publishes what was taken; returns how many.
        follow_up: records what follows from the end of a run.
        boot: boot id of the worker; ``""`` for a keeper of its own, which holds nothing.
        held: the ids of the runs that the worker has.
        redrive: whether to look for what is due.
        lost: returns pairs of a queue and a time: runs published to it before then have left it.

    Attributes:
        redrive: the argument; turned off when the worker begins to stop.
    """

    _ledger: Ledger
    _publish: Callable[[Taken], int]
    _follow_up: Callable[[str], None]
    _: KW_ONLY
    boot: str = ""
    held: Callable[[], Sequence[str]] = list
    redrive: bool = True
    lost: Callable[[], Sequence[tuple[str, float]]] = list

    def __post_init__(self) -> None:
        self._last_held: list[str] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._pulse: threading.Thread | None = None
        self._beat_every = max(self._ledger.rules.lease / 6, 0.05)
        self._next: dict[str, float] = {}
        self._away = False
        self._back_at = float("-inf")
        self._away_lock = threading.Lock()  # so that one of the two threads logs an outage

    def start(self) -> None:
        """Start the threads."""
        self._stop.clear()
        if self.boot:
            # one of its own: a broker that hangs may hold up the other one for long, and a worker
            # whose leases are over has died as far as others can see
            self._pulse = threading.Thread(
                target=self._beat_forever, name="celery-fanout-heartbeat", daemon=True
            )
            self._pulse.start()
        self._thread = threading.Thread(
            target=self.run_forever, name="celery-fanout-keeper", daemon=True
        )
        self._thread.start()

    def leave(self) -> None:
        """Look for nothing more: the worker begins to stop.

        Celery clears its lists before its pool has stopped, so what is in them is noted now.
        """
        self.redrive = False
        if self.boot:
            self._last_held = list(self.held())

    def stop(self) -> None:
        """Stop the threads, and let go of what the worker still has."""
        self._stop.set()
        for thread in (self._thread, self._pulse):
            if thread is not None:
                thread.join(timeout=10)
        self._thread = self._pulse = None
        if self.boot:
            try:
                held = dict.fromkeys([*self._last_held, *self.held()])
                self._ledger.release(self.boot, list(held))
            except FanoutError as exc:
                logger.warning("%s", exc)

    def end(self) -> None:
        """Let :meth:`run_forever` return soon."""
        self._stop.set()

    def run_forever(self) -> None:
        """Work until it is stopped."""
        while not self._stop.is_set():
            try:
                self.tick()
            except StoreUnavailable as exc:
                self._note_away(exc, time.monotonic())
                self._next["take"] = time.monotonic() + TICK
            except Exception:
                # a keeper that ended would leave everything stuck, and nobody would know
                logger.exception("The keeper met an error, and goes on")
            self._stop.wait(self._pause())

    def _beat_forever(self) -> None:
        while True:
            began = time.monotonic()
            try:
                self._beat()
            except StoreUnavailable as exc:
                self._note_away(exc, began)
            except Exception:
                logger.exception("The heartbeat met an error, and goes on")
            if self._stop.wait(self._beat_every):
                return

    def _note_away(self, error: StoreUnavailable, when: float) -> None:
        with self._away_lock:
            if self._away or when < self._back_at:
                return  # known, or over: there was an answer since this heartbeat began
            self._away = True
        logger.warning("%s", error)

    def _pause(self) -> float:
        """Return the seconds until there is something to do."""
        if not self.redrive and self._pulse is not None:  # the heartbeat has its own thread
            return TICK
        first = min(self._next.values(), default=0.0)
        return min(max(first - time.monotonic(), 0.01), TICK)

    def tick(self) -> None:
        """Do what there is to do now.

        Raises:
            StoreUnavailable: if the ledger does not answer.
        """
        now = time.monotonic()
        self._beat_if_time(now)
        if self._away:
            # nobody could renew a lease while the ledger was away: that is no crash
            self._ledger.time()  # which may take its time: the grace begins when it answers
            with self._away_lock:
                self._away, self._back_at = False, time.monotonic()
        if not self.redrive:
            return
        if self._is_time("take", now, TICK):
            self._take(grace=now - self._back_at < self._ledger.rules.lease)
        if self._is_time("lost", now, self._ledger.rules.lease / 2):
            self._resend()
        if self._is_time("follow up", now, self._ledger.rules.grace):
            self._follow_up_ends()
        if self._is_time("sweep", now, SWEEP):
            self._sweep()

    def _follow_up_ends(self) -> None:
        older_than = self._ledger.rules.grace
        run_ids = self._ledger.awaiting_follow_up(older_than=older_than, limit=FOLLOW_UPS_AT_ONCE)
        for run_id in run_ids:
            self._follow_up(run_id)
        if len(run_ids) >= FOLLOW_UPS_AT_ONCE:
            self._next["follow up"] = 0.0  # there are more; timers are looked at in between

    def _resend(self) -> None:
        for queue, before in self.lost():
            run_ids = self._ledger.resend(queue, before, limit=BATCH)
            if run_ids:
                logger.info(
                    "Sent again what was lost on its way from %s: %d run(s)", queue, len(run_ids)
                )
                self._publish(self._ledger.take(run_ids))
            if len(run_ids) >= BATCH:
                self._next["lost"] = 0.0  # there are more; timers are looked at in between

    def _sweep(self) -> None:
        # as long as there is more: what ends in a minute must also go within one
        while self._ledger.sweep(limit=SWEEP_AT_ONCE) >= SWEEP_AT_ONCE and not self._stop.is_set():
            self._beat_if_time(time.monotonic())

    def _is_time(self, what: str, now: float, every: float) -> bool:
        if now < self._next.get(what, 0.0):
            return False
        self._next[what] = now + every
        return True

    def _beat_if_time(self, now: float) -> None:
        if self._pulse is None and self._is_time("beat", now, self._beat_every):
            self._beat()

    def _beat(self) -> None:
        held = list(self.held()) if self.boot else []
        if held:
            self._ledger.renew(self.boot, held)

    def _take(self, *, grace: bool) -> None:
        while not self._stop.is_set():
            taken = self._ledger.take(limit=BATCH, grace=grace)
            self._publish(taken)
            if len(taken.wakeups) < BATCH:
                wait = BUSY_TICK if taken.busy else TICK
                if taken.next_due is not None:
                    # a timer that is due before the next look; with others' keepers in mind
                    wait = min(max(taken.next_due - taken.now, 0.02), wait)
                self._next["take"] = time.monotonic() + wait
                return
            self._beat_if_time(time.monotonic())
