"""Limits, which several shards cannot hold together: a limit is counted in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_fanout.exceptions import StoreUnsupported

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_fanout.stores.limits import Flow, Gate, GateRecord, Holder, Preview, Tuned
    from celery_fanout.stores.redis.shards.locating import Shards

__all__ = ["ShardedLimits"]


class ShardedLimits:
    """The part of the sharded ledger that refuses limits.

    Args:
        shards: the shards.
    """

    def __init__(self, shards: Shards) -> None:
        self._shards = shards

    supports_flow = False

    def gates(self, *, limit: str | None = None, most: int = 100) -> list[GateRecord]:  # noqa: ARG002 - the protocol's
        """Refuse to list limits."""
        raise self._refusal

    def holders(self, gates: Sequence[Gate], *, most: int = 100) -> list[Holder]:  # noqa: ARG002 - the protocol's
        """Refuse to look at limits."""
        raise self._refusal

    def preview(self, flow: Flow) -> Preview:  # noqa: ARG002 - the protocol's
        """Refuse to look at limits."""
        raise self._refusal

    def tune(self, limit: str, at_most: int | None, per: float | None = None) -> None:  # noqa: ARG002 - the protocol's
        """Refuse to change a limit."""
        raise self._refusal

    def tuned(self) -> list[Tuned]:
        """Refuse to list limits."""
        raise self._refusal

    @property
    def _refusal(self) -> StoreUnsupported:
        return StoreUnsupported(
            f"A ledger with {self._shards.number} shards",
            "limits",
            "Set fanout_shards to 1 for them.",
        )
