"""The fan-in of an event: the task that is called when its last run has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kombu.exceptions import EncodeError
from kombu.utils import json as kombu_json

from celery_fanout.exceptions import InvalidEvent

if TYPE_CHECKING:
    from celery_fanout.emitting.emission import Emission

__all__ = ["fan_in_message", "fan_in_of"]


def fan_in_message(name: str, then: Any) -> str:
    """Return what ``then=`` means as JSON, as the ledger and the outbox keep it.

    Args:
        name: the event's name, for the error.
        then: a task or a signature.

    Raises:
        InvalidEvent: if it is neither, or JSON cannot carry its arguments.
    """
    signature: Any = then.s() if hasattr(then, "s") else then
    if not hasattr(signature, "get") or not signature.get("task"):
        raise InvalidEvent(name, f"has then={then!r}", "Use a task or a signature.")
    try:
        return str(kombu_json.dumps({"signature": dict(signature)}))
    except (EncodeError, TypeError, ValueError) as exc:
        problem = f"has then={signature['task']}, whose arguments JSON cannot carry ({exc})"
        raise InvalidEvent(name, problem, "Give it texts, numbers, lists and dicts.") from exc


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
