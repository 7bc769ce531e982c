"""What a worker would receive, kept in memory; and the clock that a test moves."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from celery_fanout.emitting.publishing import Publisher

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery_fanout.app.fanout import Fanout
    from celery_fanout.emitting.chains import FrozenChain


class Clock:
    """A clock that only moves when it is told to.

    Args:
        now: the POSIX time at which it stands; the real time by default.
    """

    def __init__(self, now: float | None = None) -> None:
        self.now = round(time.time(), 6) if now is None else now  # the ledger keeps no more

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
    """Keeps what it is to publish.

    Args:
        fanout: the app's parts.
        alone: whether the links that follow a run are left out.

    Attributes:
        messages: what workers would receive next.
    """

    def __init__(self, fanout: Fanout, *, alone: bool) -> None:
        super().__init__(fanout.app, fanout.settings, fanout.templates)
        self.messages: deque[Message] = deque()
        self._alone = alone

    def publish(self, chains: Sequence[FrozenChain], countdown: float | None = None) -> None:
        """Keep chains."""
        del countdown  # the ledger's timers see to delays
        for chain in chains:
            self.messages.append(
                Message(
                    chain.run_id,
                    chain.subscription.task.name,
                    chain.args,
                    {},
                    {**(chain.subscription.options.get("headers") or {}), **chain.headers},
                    chain.retries,
                    [] if self._alone else list(chain.links or ()),
                )
            )
            chain.state = "published"

    def publish_task(
        self, signature: Any, args: tuple[Any, ...], options: Mapping[str, Any]
    ) -> str:
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
