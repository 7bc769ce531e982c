"""Processes of our own: the fast worker, and a keeper without a worker.

The fast worker gives up kombu's emulation of acknowledgements, which costs more than half of a
worker's time on Redis. It stays at-least-once, because a message is only a wake-up: the ledger
sends again what this worker had when it died. So nothing but recorded runs may be in its queue.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from celery_fanout.app.checks import store_url
from celery_fanout.exceptions import InvalidSetting, StoreUnsupported
from celery_fanout.keeping.lost_messages import LostMessages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery_fanout.app.fanout import Fanout
    from celery_fanout.app.ledger_parts import Level2

POOLS = ("solo", "threads")


def _level2(fanout: Fanout, feature: str) -> Level2:
    if fanout.level2 is None:
        raise StoreUnsupported.on_level_1(f"The store of the app {fanout.app.main!r}", feature)
    return fanout.level2


def run_keeper(fanout: Fanout, say: Callable[[str], Any]) -> None:
    """Run a keeper until SIGTERM or SIGINT.

    Args:
        fanout: the app's.
        say: told when it starts and when it ends.

    Raises:
        StoreUnsupported: on level 1, and of a ledger in memory, which no other process sees.
    """
    fanout.load()
    level2 = _level2(fanout, "a keeper")
    if store_url(fanout).startswith("memory://"):
        raise StoreUnsupported(
            f"The store of the app {fanout.app.main!r}, which is in memory,",
            "a keeper in a process of its own",
            "Each process has its own: leave fanout_keeper on, or use Redis.",
        )
    # it consumes from no queue, so it looks at all
    lost = LostMessages(fanout.app, level2.ledger, level2.queues)
    keeper = level2.keeper(redrive=True, lost=lost)

    def end(*_: object) -> None:
        keeper.end()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    say("keeper ready.")
    keeper.run_forever()
    lost.close()
    say("keeper ended.")


def run_fast_worker(fanout: Fanout, options: Sequence[str]) -> None:
    """Start a worker without the broker's acknowledgements.

    Args:
        fanout: the app's.
        options: further options of ``celery worker``.

    Raises:
        StoreUnsupported: on level 1.
        InvalidSetting: if ``fanout_queue`` is not set, or the pool cannot be used.
    """
    app = fanout.app
    _level2(fanout, "a fast worker")
    queue = fanout.settings.queue
    if queue is None:
        raise InvalidSetting("fanout_queue", "not set", "the name of a queue for fast workers")
    pool = _option(options, "-P", "--pool") or "solo"
    if pool not in POOLS:
        # a prefork child would tell its parent of every run, which costs what is saved
        raise InvalidSetting("--pool", repr(pool), f"one of {', '.join(POOLS)}")
    if _option(options, "-Q", "--queues"):
        raise InvalidSetting("--queues", "given", f"left out: it is fanout_queue, {queue!r}")
    given: dict[str, Any] = dict(app.conf.broker_transport_options or {})
    app.conf.broker_transport_options = {**given, "ack_emulation": False}
    fanout.wrapper.only_runs = True
    arguments = ["worker", "--queues", queue, "--pool", pool]
    arguments += ["--without-gossip", "--without-mingle"]
    app.worker_main([*arguments, *_without_pool(options)])


def _option(options: Sequence[str], short: str, long: str) -> str | None:
    for index, word in enumerate(options):
        if word in (short, long):
            return options[index + 1] if index + 1 < len(options) else ""
        for name in (f"{long}=", short):
            if word.startswith(name) and word != long:
                return word[len(name) :]
    return None


def _without_pool(options: Sequence[str]) -> list[str]:
    kept: list[str] = []
    skip = False
    for word in options:
        if skip:
            skip = False
        elif word in ("-P", "--pool"):
            skip = True
        elif not word.startswith(("-P", "--pool=")):
            kept.append(word)
    return kept
