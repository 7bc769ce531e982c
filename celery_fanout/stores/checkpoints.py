"""Where step results are kept: the protocol, its records, and the capability flags.

A store keeps texts under ``(run id, step key)``. It knows nothing of Celery messages or of what
the texts mean; :class:`Checkpoint` does.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Protocol

from kombu.utils import json as kombu_json

from celery_fanout.model.jsondata import encode

if TYPE_CHECKING:
    from collections.abc import Sequence

#: A step's id and the number of the call with that id in its attempt, from 1; for an item of
#: ``step.parallel`` also its index. A tuple, so that no id that a user writes can collide with a
#: numbered one.
StepKey = tuple[str, int] | tuple[str, int, int]

Status = Literal["done", "failed", "retrying", "waiting"]

#: Version of the records, so that newer code can read those of older code.
VERSION = 1


@lru_cache(maxsize=4096)  # a worker meets the same steps in run after run
def field_of(key: StepKey) -> str:
    """Return what a ledger calls the checkpoint of a step."""
    return "s" + encode(list(key))


def key_of(field: str) -> StepKey:
    """Return the step whose checkpoint a ledger calls so.

    Args:
        field: a key of ``RunRecord.detail["checkpoints"]``.

    Returns:
        The step's id and the number of the call with that id, from 1; for an item of
        ``step.parallel`` also its index.
    """
    key: Any = tuple(json.loads(field[1:]))
    return key  # type: ignore[no-any-return]


class CheckpointStore(Protocol):
    """What every store can do. ``tests/conformance`` holds for all of them.

    Attributes:
        name: what messages call it.
        keeps: how long a checkpoint is kept at least, in seconds; ``None``: for ever.
        supports_extend: whether :meth:`extend` can prolong that.
        longest: how long a checkpoint can be kept at most, extended if that is possible, in
            seconds; ``None``: for ever.
        keeps_setting: the setting that decides ``keeps``.
    """

    name: str
    keeps: float | None
    longest: float | None
    supports_extend: bool
    keeps_setting: str

    def get(self, run_id: str, key: StepKey) -> str | None:
        """Return the text stored under a key, or ``None``.

        Raises:
            StoreUnavailable: if the store does not answer.
        """
        ...

    def put(self, run_id: str, key: StepKey, text: str, *, final: bool) -> None:
        """Store a text under a key, in place of an earlier one that was not final.

        Raises:
            StoreUnavailable: if the store does not answer.
        """
        ...

    def extend(self, run_id: str, keys: Sequence[StepKey], seconds: float) -> None:
        """Keep what is stored under these keys for at least ``seconds`` from now.

        Raises:
            StoreUnavailable: if the store does not answer.
        """
        ...


@dataclass
class Checkpoint:
    """What is known about one step of one run.

    Attributes:
        status: ``"done"`` with a value, ``"failed"`` for good with an error, ``"retrying"`` after
            an error, or ``"waiting"`` for a time.
        value: the value, as it is read back.
        error: type and message of the last error.
        attempts: how often the step's function was called.
        due: POSIX time at which the step goes on.
        stored: POSIX time at which it was stored.
    """

    status: Status
    value: Any = None
    error: dict[str, str] | None = None
    attempts: int = 0
    due: float | None = None
    stored: float | None = None
    version: int = field(default=VERSION)

    @property
    def final(self) -> bool:
        """Whether the checkpoint will not change any more."""
        return self.status in ("done", "failed")

    def dumps(self) -> str:
        """Return the record as JSON, with kombu's encoding of datetimes, UUIDs and the like.

        Raises:
            TypeError: if the value cannot be encoded.
            ValueError: if the value contains itself or is nested too deeply.
        """
        record: dict[str, Any] = {"v": self.version, "s": self.status, "n": self.attempts}
        if self.status == "done":
            record["r"] = self.value
        if self.error is not None:
            record["e"] = self.error
        if self.due is not None:
            record["d"] = self.due
        if self.stored is not None:
            record["t"] = round(self.stored, 6)  # fine enough to tell the order of steps
        return str(kombu_json.dumps(record, separators=(",", ":")))

    @classmethod
    def loads(cls, text: str) -> Checkpoint:
        """Read a record of this or an older version.

        Args:
            text: a value of ``RunRecord.detail["checkpoints"]``.
        """
        record = kombu_json.loads(text)
        return cls(
            status=record["s"],
            value=record.get("r"),
            error=record.get("e"),
            attempts=record.get("n", 0),
            due=record.get("d"),
            stored=record.get("t"),
            version=record.get("v", 1),
        )
