"""A store that is opened by its first use, so that runs without steps need none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_fanout.stores.checkpoints import CheckpointStore

__all__ = ["lazy_store"]


class _LazyStore:
    def __init__(self, find: Callable[[], CheckpointStore]) -> None:
        self._find = find

    def __getattr__(self, name: str) -> Any:
        return getattr(self._find(), name)


def lazy_store(find: Callable[[], CheckpointStore]) -> CheckpointStore:
    """Return a store that asks ``find`` for the real one whenever it is used.

    Args:
        find: returns the store, the same each time.
    """
    return cast("CheckpointStore", _LazyStore(find))
