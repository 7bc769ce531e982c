"""Ids that are the same whenever and wherever they are computed."""

from __future__ import annotations

import uuid

from celery_fanout.jsondata import encode

__all__ = ["child_id", "run_id"]

_NAMESPACE = uuid.UUID("8ad6a4a5-ff0c-5b1f-9a0e-0b1c5a5d1f3e")


def run_id(event_name: str, event_id: str, subscription_id: str, generation: int = 0) -> str:
    """Return the id of a run: the same whenever and wherever it is computed."""
    name = encode([event_name, event_id, subscription_id, generation])
    return str(uuid.uuid5(_NAMESPACE, name))


def child_id(parent: str, *path: str | int) -> str:
    """Return the id of something that belongs to a run: a tail's link, a checkpoint."""
    return str(uuid.uuid5(uuid.UUID(parent), encode(path)))
