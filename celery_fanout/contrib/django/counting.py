"""A counter of OpenTelemetry's, for projects that have it. The library is not imported here."""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_fanout.model.events import Event

__all__ = ["count_failed"]


def count_failed(events: Sequence[Event], *, kept: bool) -> None:
    """Count events that could not be published after their commit.

    Args:
        events: the events.
        kept: whether the outbox has them now.
    """
    metrics: Any = sys.modules.get("opentelemetry.metrics")
    if metrics is None:
        return
    for event in events:
        _counter(metrics).add(1, {"event": event.name, "kept": kept})


@cache  # its library complains of one that is made twice
def _counter(metrics: Any) -> Any:
    return metrics.get_meter("celery_fanout").create_counter(
        "celery_fanout.publish_failures",
        unit="{event}",
        description="Events that could not be published after their transaction had committed.",
    )
