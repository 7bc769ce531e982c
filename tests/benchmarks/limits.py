"""What limits cost: an event, a run, and a backlog, with each option beside none.

Everything is on level 2. What is compared takes turns; CPU time is that of the processes named.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence

from celery import Celery

from celery_fanout import emit, emit_many
from tests.benchmarks import backlog, limited
from tests.benchmarks.engines import queueing
from tests.benchmarks.limited import (
    BACKLOG,
    COLLECTING,
    FREE,
    NONE,
    REFUSING,
    SIZE,
    document,
    event_name,
    make_app,
)
from tests.benchmarks.measure import (
    commands_of,
    cpu_of_redis,
    microseconds,
    milliseconds,
    ratio,
    table,
    take_turns,
)
from tests.benchmarks.stage import Stage
from tests.servers import RedisServer

#: The most that an emit, or a run, may use of what one without options does.
BUDGET = 1.3

#: How many subscribers one event has, where what each costs is looked at.
SUBSCRIBERS = 20

#: How often each has its turn, and how many events or runs a turn has.
ROUNDS, EMITS, RUNS = 20, 40, 500

#: Of the events, each of which has a number of its own.
NUMBERS = itertools.count()

Figures = dict[str, dict[str, list[float]]]


class Emitter:
    """An app without workers, whose events are thrown away after each turn.

    Args:
        broker: its broker.
        ledger: its ledger; it may be the same.
        subscribers: how many an event has.
    """

    def __init__(self, broker: RedisServer, ledger: RedisServer, subscribers: int) -> None:
        self._broker, self._ledger = broker.client(), ledger.client()
        self._subscribers = subscribers
        self._app = make_app(subscribers, broker_url=broker.url(), result_backend=ledger.url())
        channel = self._app.connection_for_write().default_channel
        self._app.amqp.queues["celery"](channel).declare()

    def emit(self, option: str) -> None:
        """Emit one event."""
        data = document(next(NUMBERS))
        emit(event_name(option, self._subscribers), data, app=self._app)

    def commands(self, option: str) -> int:
        """Return how many commands an emit sends to the ledger, other than the first."""
        self.emit(option)
        return commands_of(self._ledger, lambda: self.emit(option))

    def turn(self, option: str, emits: int) -> dict[str, float]:
        """Emit so many events."""
        for key in self._ledger.scan_iter("{fanout}*", count=1000):
            self._ledger.unlink(key)
        self._broker.delete("celery")
        self.emit(option)  # whom a limit lets in
        redis = cpu_of_redis(self._ledger)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(emits):
            self.emit(option)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        redis = cpu_of_redis(self._ledger) - redis
        return {"cpu": cpu, "wall": wall, "redis": redis, "all": cpu + redis}


def of_emits(title: str, emitter: Emitter, rounds: int, emits: int) -> None:
    """Print one table: a row for each option."""
    options = [*FREE, *COLLECTING, *REFUSING]
    found = take_turns(
        {option: lambda option=option: emitter.turn(option, emits) for option in options},
        rounds=rounds,
    )
    base = found[NONE]
    rows = []
    for option, figures in found.items():
        rows.append(
            [
                option,
                str(emitter.commands(option)),
                microseconds(figures["cpu"], emits),
                f"{ratio(figures['cpu'], base['cpu']):.2f}",
                microseconds(figures["redis"], emits),
                f"{ratio(figures['redis'], base['redis']):.2f}",
                f"{ratio(figures['all'], base['all']):.2f}",
            ]
        )
    head = ["option", "commands", "CPU us", "/ none", "Redis CPU us", "/ none", "both / none"]
    table(title, head, rows)


def events(option: str, count: int) -> Callable[[Celery], object]:
    """Return what emits events."""

    def publish(app: Celery) -> None:
        for start in range(0, count, 100):
            few = min(100, count - start)
            name = event_name(option)
            emit_many([(name, document(next(NUMBERS))) for _ in range(few)], app=app)

    return publish


def of_runs(pool: str, rounds: int, runs: int) -> None:
    """Print one table: a row for each option, of runs that start at once and of those that wait.

    Args:
        pool: of the worker.
        rounds: how often each has its turn.
        runs: how many runs a turn has.
    """
    bodies = dict.fromkeys((*FREE, *BACKLOG), runs)
    bodies[f"batch of {SIZE}"] = runs // SIZE
    with Stage(pool, site=limited) as stage:
        found: Figures = take_turns(
            {
                option: lambda option=option, count=count: stage.turn(events(option, runs), count)
                for option, count in bodies.items()
                if count
            },
            rounds=rounds,
        )
    base = found[NONE]
    rows = [
        [
            option,
            milliseconds(figures["worker"], runs),
            milliseconds(figures["redis"], runs),
            milliseconds(figures["all"], runs),
            f"{ratio(figures['worker'], base['worker']):.2f}",
            f"{ratio(figures['all'], base['all']):.2f}",
            f"{runs / max(1e-9, sorted(figures['wall'])[len(figures['wall']) // 2]):,.0f}",
        ]
        for option, figures in found.items()
    ]
    head = [
        "option",
        "worker CPU ms",
        "Redis CPU ms",
        "together",
        "worker / none",
        "all / none",
        "runs/s",
    ]
    table(f"One run (of a batch: one event), {pool} worker", head, rows)


def main(
    rounds: int = ROUNDS,
    size: int = 100_000,
    only: Sequence[str] = (),
    emits: int = EMITS,
    runs: int = RUNS,
) -> None:
    """Print the tables.

    Args:
        rounds: how often each option has its turn; a turn of runs takes longer, and has a quarter.
        size: how many runs wait in the longest backlog.
        only: of ``emit``, ``runs``, ``backlog``, ``queues``; by default all.
        emits: how many runs of emitted events a turn has.
        runs: how many runs a turn has that are executed.
    """
    few = max(1, rounds // 4)
    parts: dict[str, Callable[[], None]] = {
        "emit": lambda: _emits(rounds, emits),
        "runs": lambda: _runs(few, runs),
        "backlog": lambda: backlog.main(size, rounds),
        "queues": lambda: queueing.main(few, 2 * runs),
    }
    for part, measure in parts.items():
        if not only or part in only:
            measure()


def _emits(rounds: int, emits: int) -> None:
    with RedisServer() as redis, RedisServer() as other:
        for subscribers in (1, SUBSCRIBERS):
            words = f"{subscribers} subscriber{'s' if subscribers > 1 else ''}"
            few = max(1, emits // subscribers)
            for where, broker in (("one Redis", redis), ("a broker apart", other)):
                emitter = Emitter(broker, redis, subscribers)
                of_emits(f"One emit, {words}, {where}", emitter, rounds, few)


def _runs(rounds: int, runs: int) -> None:
    for pool in ("prefork", "fast"):
        of_runs(pool, rounds, runs)
