"""What a worker would receive, kept in memory; and the clock that a test moves."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from celery_fanout.emitting.publishing import Publisher

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_fanout.app.fanout import Fanout
    from celery_fanout.emitting.publishing import Delivery
    from celery_fanout.stores.memory.ledger import MemoryLedger

__all__ = ["Clock", "Inbox", "Message"]


class Clock:
    """A clock that only moves when it is told to.

    Args:
        now: the POSIX time at which it stands; the real time by default.
    """

    def __init__(self, now: float | None = None) -> None:
        self.now = time.time() if now is None else now

    def __call__(self) -> float:
        """Return the POSIX time in seconds."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        self.now += seconds

    def advance_to(self, timestamp: float) -> None:
        """Move the clock forward to a POSIX time; never back."""
        self.now = max(self.now, timestamp)


@dataclass
class Message:
    """What a worker would receive."""

    run_id: str
    task: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    headers: Mapping[str, Any]
    retries: int = 0
    chain: list[Any] = field(default_factory=list[Any])


class Inbox(Publisher):
    """Keeps what it is to publish."""

    def __init__(self, fanout: Fanout, ledger: MemoryLedger, *, alone: bool) -> None:
        run_eagerly: Any = None  # nothing is recorded eagerly
        hop: Any = None
        super().__init__(fanout.app, fanout.settings, fanout.registry, run_eagerly, hop, ledger)
        self.messages: deque[Message] = deque()
        self._alone = alone

    @property
    def ledger_results(self) -> bool:
        """Whether the ledger keeps what runs return: always, as Celery stores nothing here."""
        return True

    def deliver(self, deliveries: list[Delivery], resume_at: float | None = None) -> None:
        """Keep chains."""
        del resume_at
        for delivery in deliveries:
            chain = delivery.chain
            self.messages.append(
                Message(
                    chain.run_id,
                    chain.subscription.task.name,
                    chain.args,
                    {},
                    {**(chain.subscription.options.get("headers") or {}), **chain.headers},
                    chain.retries,
                    [] if self._alone else list(chain.chain or ()),
                )
            )
            delivery.state = "published"

    def send(self, signature: Any, args: tuple[Any, ...], options: dict[str, Any]) -> str:
        """Keep a task that is no subscriber."""
        whole = signature.clone(args)
        self.messages.append(
            Message(
                options["task_id"],
                whole["task"],
                tuple(whole.args),
                whole.kwargs,
                options["headers"],
                options.get("retries", 0),
                options.get("chain") or [],
            )
        )
        return ""
