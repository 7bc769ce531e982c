"""What the fan-in of an event receives: what became of each of its runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery_fanout.emission import Emission

__all__ = ["fan_in_of"]


def fan_in_of(emission: Emission) -> list[dict[str, Any]]:
    """Return the outcomes of an emission whose runs have ended, as a fan-in receives them."""
    return [
        {
            "run": outcome.run.id,
            "subscription": outcome.run.subscription.id,
            "state": "succeeded" if outcome.error is None else "failed",
            "value": outcome.value,
            "error": None if outcome.error is None else str(outcome.error),
        }
        for outcome in emission.get()
    ]
