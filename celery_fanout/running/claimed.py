"""A run that this worker has claimed: its checkpoints, its clock, its changes, all fenced."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_task_logger
from kombu.utils import json as kombu_json

from celery_fanout.exceptions.runs import StoreUnavailable, Superseded
from celery_fanout.model.failpoints import hit
from celery_fanout.stores.checkpoints import StepKey, field_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery_fanout.stores.ledger import Ledger
    from celery_fanout.stores.records import Claim, Settled
    from celery_fanout.stores.states import RunState

logger = get_task_logger(__name__)


#: The first and the longest pause between two calls while the ledger does not answer, in seconds.
PAUSE, PAUSE_MAX = 0.05, 1.0


def patiently(patience: float, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call the ledger, again and again while it cannot be reached, for ``patience`` seconds.

    Every change of the ledger is safe to repeat.

    Raises:
        StoreUnavailable: when the time is over.
    """
    deadline = time.monotonic() + patience
    pause = PAUSE
    level = logging.WARNING  # once
    while True:
        try:
            return call(*args, **kwargs)
        except StoreUnavailable as exc:  # noqa: PERF203 - the wait below costs more
            if time.monotonic() > deadline:
                raise
            logger.log(level, "%s", exc)
            level = logging.DEBUG
            threading.Event().wait(pause)
            pause = min(2 * pause, PAUSE_MAX)


class ClaimedRun:
    """A run in execution, as the store of its steps and as what settles it.

    Args:
        ledger: where it was claimed.
        run_id: its id.
        claim: the answer.
        branch: for an item of ``step.parallel``: the step's field and the item's index.
        patience: how long to wait for a ledger that does not answer, in seconds.
    """

    # of a CheckpointStore: checkpoints are kept with their run, as long as it is
    keeps: float | None = None
    longest: float | None = None
    supports_extend = False
    keeps_setting = "fanout_success_retention"

    def __init__(
        self,
        ledger: Ledger,
        run_id: str,
        claim: Claim,
        branch: tuple[str, int] | None,
        patience: float,
    ) -> None:
        self.ledger = ledger
        self.name = ledger.name
        self.run_id = run_id
        self.token = claim.token
        self.created = claim.created
        self.branch = branch
        #: Whether the task has returned before: only its tail is left to be dispatched.
        self.has_returned = claim.status == "completing"
        self._result = claim.result
        self.buffered: dict[str, str] = {}
        self._patience = patience
        self._fields = dict(claim.checkpoints)
        self._offset = claim.now - time.monotonic()
        self._clock: Callable[[], float] | None = getattr(ledger, "clock", None)

    def now(self) -> float:
        """Return the ledger's time: that of the claim and what went by here since."""
        if self._clock is not None:  # a test's
            return self._clock()
        return self._offset + time.monotonic()

    def patiently(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the ledger, again and again while it cannot be reached, for a while."""
        return patiently(self._patience, call, *args, **kwargs)

    def learn(self, field: str, text: str) -> None:
        """Note what the ledger holds for a step now."""
        self._fields[field] = text

    def returned(self) -> Any:
        """Return what the task has returned before; ``None`` if that was not kept."""
        return None if self._result is None else kombu_json.loads(self._result)

    # -- the store of its steps -----------------------------------------------------------------

    def get(self, run_id: str, key: StepKey) -> str | None:  # noqa: ARG002 - the protocol's
        """Return a checkpoint's text. All were read with the claim."""
        return self._fields.get(field_of(key))

    def put(self, run_id: str, key: StepKey, text: str, *, final: bool) -> None:  # noqa: ARG002 - the protocol's
        """Store a checkpoint. One that is not final is written with the next change.

        Raises:
            Superseded: if the run is no longer this worker's.
            StoreUnavailable: if the ledger does not answer for a while.
        """
        field = field_of(key)
        if not final:
            self.buffered[field] = self._fields[field] = text
            return
        hit("step.before_store")
        stored = self.patiently(self.ledger.store, self.run_id, self.token, field, text, final=True)
        if stored is None:
            raise Superseded(self.run_id)
        hit("step.after_store")
        self.buffered.pop(field, None)
        self._fields[field] = stored

    def extend(self, run_id: str, keys: Sequence[StepKey], seconds: float) -> None:
        """Do nothing: checkpoints are kept with their run."""

    # -- its end --------------------------------------------------------------------------------

    def settle(self, to: RunState, **options: Any) -> Settled:
        """Leave the claim.

        Raises:
            Superseded: if the run is no longer this worker's.
            StoreUnavailable: if the ledger does not answer for a while.
        """
        settled: Settled = self.patiently(
            self.ledger.settle,
            self.run_id,
            self.token,
            to,
            checkpoints=self.buffered or None,
            **options,
        )
        if not settled.ok:
            raise Superseded(self.run_id)
        return settled
