"""Limits, which several shards cannot hold together: a limit is counted in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from celery_fanout.exceptions import StoreUnsupported

if TYPE_CHECKING:
    from celery_fanout.stores.redis.shards.locating import Shards


class ShardedLimits:
    """The part of the sharded ledger that refuses limits.

    Args:
        shards: the shards.
    """

    def __init__(self, shards: Shards) -> None:
        self._shards = shards

    supports_flow = False

    def _refuse(self, *_args: Any, **_options: Any) -> NoReturn:
        raise StoreUnsupported(
            f"A ledger with {self._shards.number} shards",
            "limits",
            "Set fanout_shards to 1 for them.",
        )

    gates = holders = preview = tune = tuned = _refuse
