"""The relay: claim rows of the outbox, publish their events, delete them.

Publishing happens between two short transactions and inside none. A relay that dies in between
leaves rows that become available again when their lease ends, and their events are then published
a second time, with the same ids: so an event is published at least once.
"""

from __future__ import annotations

import logging
import math
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from django.db import Error as DatabaseError
from django.db import InterfaceError, OperationalError, connections

from celery_fanout.contrib.django.outbox.dispatch import problem_of, publish_rows
from celery_fanout.contrib.django.outbox.notify import Listener
from celery_fanout.model.failpoints import hit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from celery_fanout.contrib.django.models import OutboxEvent
    from celery_fanout.contrib.django.outbox.leasing import Lease, Outbox
    from celery_fanout.contrib.django.outbox.stop import Stop
    from celery_fanout.model.settings import Settings

logger = logging.getLogger("celery_fanout.relay")

#: The first and the longest pause while something is away, in seconds.
PAUSE = 1.0
MAX_PAUSE = 30.0

#: The longest pause before a failed row is tried again, in seconds.
MAX_BACKOFF = 3600.0

#: How often it is logged what was done, in seconds: if there is something new, and at all.
REPORT_BUSY = 10.0
REPORT_IDLE = 60.0

#: How often dead rows are looked for that are too old, in seconds, and how many go at once.
PRUNE_EVERY = 3600.0
PRUNE_BATCH = 1000


@dataclass(frozen=True)
class Options:
    """How a relay works.

    Attributes:
        batch: how many rows it claims at once, at most.
        poll: how often it looks when nothing tells it to, in seconds.
        backoff: the pause after a row's first failed attempt, in seconds; it doubles.
        liveness_file: touched whenever the database has answered.
    """

    batch: int = 100
    poll: float = 1.0
    backoff: float = 30.0
    liveness_file: Path | None = None


@dataclass
class Counts:
    """What a relay has done."""

    published: int = 0
    failed: int = 0
    dead: int = 0

    def __bool__(self) -> bool:
        return bool(self.published or self.failed or self.dead)


@dataclass
class Breaker:
    """A circuit breaker: while something is away one row is tried after each pause, then more.

    Attributes:
        most: how many rows may be claimed at once when all is well.
    """

    most: int
    pauses: int = 0
    limit: int = field(init=False)

    def __post_init__(self) -> None:
        self.limit = self.most

    def open(self) -> float:
        """Note that something is away; return how long to pause, in seconds."""
        self.limit = 1
        self.pauses += 1
        return jittered(doubled(PAUSE, self.pauses - 1, MAX_PAUSE))

    def close(self) -> None:
        """Note that it is there."""
        self.pauses = 0
        self.limit = min(self.limit * 2, self.most)


class Relay:
    """Publishes what is in the outbox of one database.

    Args:
        outbox: the outbox.
        settings: those of the project's Celery app.
        options: how to work.
        stop: whether to end.
    """

    def __init__(self, outbox: Outbox, settings: Settings, options: Options, stop: Stop) -> None:
        self._outbox = outbox
        self._settings = settings
        self._options = options
        self._stop = stop
        self._breaker = Breaker(options.batch)
        self._listener = Listener(outbox.alias)
        self._unsettled: tuple[Lease, list[OutboxEvent]] | None = None
        self._away = 0  # rounds, one after the other, that the database did not answer
        self._reason = ""
        self._pruned_at = time.monotonic()
        self._reported_at = -math.inf  # the first thing that is published is reported at once
        self._unreported = Counts()
        self.counts = Counts()

    def run(self, begin: Callable[[], None]) -> None:
        """Work until it is time to end. What is away is waited for.

        Args:
            begin: called as soon as the database answers, before anything else.
        """
        begun = False
        while not self._stop:
            try:
                if not begun:
                    begin()
                    begun = True
                pause = self._round()
                self._away = 0
                self._prune_now_and_then()
            except DatabaseError as exc:
                pause = self._lost_database(exc)
            self._report()
            if pause:
                self._wait(pause)
        self._report(last=True)
        self._listener.close()

    def drain(self) -> str:
        """Publish what is due; return why it ended before that, or an empty text.

        Raises:
            django.db.Error: if the database does not answer.
        """
        while not self._stop:
            lease = self._claim()
            if lease is None:
                self._prune()
                return ""
            if self._work(lease):
                return self._reason
        return "it was told to end"

    # -- one round -----------------------------------------------------------------------------

    def _round(self) -> float:
        """Publish one batch; return how long to wait before the next, in seconds."""
        self._settle()
        self._listener.open()
        self._listener.clear()  # before the look at the table: what comes after it, wakes
        lease = self._claim()
        if lease is None:
            return self._options.poll
        return self._work(lease)  # without a pause, for there may be more

    def _claim(self) -> Lease | None:
        lease = self._outbox.claim(self._breaker.limit)
        if self._options.liveness_file is not None:
            self._options.liveness_file.touch()
        return lease

    def _work(self, lease: Lease) -> float:
        """Publish what is leased; return how long to pause because something is away."""
        hit("relay.after_claim")
        done = publish_rows(lease.rows, lambda: lease.holds and not self._stop)
        hit("relay.before_delete")
        if done.published:
            self._unsettled = lease, done.published
            self._settle()
        for row, error in done.failed:
            self._fail(lease, row, error)
        if done.left:
            self._outbox.give_back(lease, done.left, 0.0)
        if not done.reason:
            self._breaker.close()
            return 0.0
        pause = self._breaker.open()
        self._outbox.give_back(lease, done.away, pause)
        self._reason = done.reason
        logger.warning(
            "The broker or the ledger is away (%s): %d event(s) wait, next try in %.1f s",
            done.reason,
            len(done.away),
            pause,
            extra={"action": "relay_broker_away"},
        )
        return pause

    def _settle(self) -> None:
        """Delete what was published, also when the database was away the first time."""
        if self._unsettled is None:
            return
        lease, rows = self._unsettled
        deleted = self._outbox.delete(lease, rows)
        self._unsettled = None
        self._count(published=len(rows))
        if deleted < len(rows):
            logger.warning(
                "A lease ended before %d of %d event(s) were published and their rows deleted: "
                "they are published again. A longer --lease or a smaller --batch avoids that",
                len(rows) - deleted,
                len(rows),
                extra={"action": "relay_lease_lost"},
            )

    def _fail(self, lease: Lease, row: OutboxEvent, error: Exception) -> None:
        text = problem_of(error)
        dead = row.attempts + 1 >= self._settings.outbox_max_attempts
        if dead:
            self._outbox.bury(lease, row, text)
        else:
            pause = jittered(doubled(self._options.backoff, row.attempts, MAX_BACKOFF))
            self._outbox.fail(lease, row, text, pause)
        self._count(failed=1, dead=int(dead))
        logger.log(
            logging.ERROR if dead else logging.WARNING,
            "Event %s[%s] of row %s could not be published (%s), attempt %d%s",
            row.name,
            row.event_id,
            row.pk,
            text.partition(":")[0],  # the rest may have data in it, and stands in the row
            row.attempts + 1,
            ": given up" if dead else "",
            extra={"action": "relay_event_dead" if dead else "relay_event_failed"},
        )

    # -- between rounds ------------------------------------------------------------------------

    def _lost_database(self, exc: DatabaseError) -> float:
        """Drop the connection; return how long to pause before the next, in seconds."""
        connections[self._outbox.alias].close()
        self._away += 1
        pause = jittered(doubled(PAUSE, self._away - 1, MAX_PAUSE))
        logger.warning(
            "The database %r does not answer (%s), next try in %.1f s",
            self._outbox.alias,
            _shown(exc),
            pause,
            extra={"action": "relay_database_away"},
        )
        return pause

    def _wait(self, seconds: float) -> None:
        # what is away needs its pause, whatever is notified meanwhile
        idle = not self._away and not self._breaker.pauses
        self._stop.wait(seconds, self._listener.files() if idle else ())

    def _prune_now_and_then(self) -> None:
        if time.monotonic() - self._pruned_at >= PRUNE_EVERY:
            self._pruned_at = time.monotonic()
            self._prune()

    def _prune(self) -> None:
        """Delete the dead rows that are too old, some at a time."""
        while not self._stop:
            deleted = self._outbox.prune(self._settings.outbox_retention, PRUNE_BATCH)
            if deleted:
                logger.info(
                    "%d dead row(s) were older than fanout_outbox_retention and are deleted",
                    deleted,
                    extra={"action": "relay_pruned"},
                )
            if deleted < PRUNE_BATCH:
                return

    # -- reporting -----------------------------------------------------------------------------

    def _count(self, **more: int) -> None:
        for counts in (self.counts, self._unreported):
            for name, number in more.items():
                setattr(counts, name, getattr(counts, name) + number)

    def _report(self, *, last: bool = False) -> None:
        """Log what was done: soon if something was, else now and then that it is alive."""
        quiet = time.monotonic() - self._reported_at
        if quiet < (REPORT_BUSY if self._unreported else REPORT_IDLE) and not (
            last and self._unreported
        ):
            return
        logger.info(
            "Published %d event(s), %d failed attempt(s), %d given up",
            self._unreported.published,
            self._unreported.failed,
            self._unreported.dead,
            extra={"action": "relay_alive"},
        )
        self._reported_at = time.monotonic()
        self._unreported = Counts()


def _shown(exc: DatabaseError) -> str:
    text = type(exc).__name__
    if isinstance(exc, (OperationalError, InterfaceError)):  # those of others may quote values
        text = f"{text}: {str(exc).partition(chr(10))[0]}"
    return text


def doubled(seconds: float, times: int, most: float) -> float:
    """Return a time doubled so many times, at most ``most``."""
    # after a day of an outage, 2.0**times would be more than a float can hold
    return min(seconds * 2.0 ** min(times, 64), most)


def jittered(seconds: float) -> float:
    """Return half of a time to all of it, so that many do not come back at once."""
    return seconds * (0.5 + random.random() / 2)
