"""A run that this worker has claimed: its checkpoints, its clock, and its changes, all fenced."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_task_logger

from celery_fanout.emitting.chains import (
    BATCH_HEADER,
    BATCHED,
    BRANCH_HEADER,
    GENERATION_HEADER,
    KIND_HEADER,
    STORE_LEFT_HEADER,
    STORE_RETRIES_HEADER,
)
from celery_fanout.exceptions import StoreUnavailable, Superseded
from celery_fanout.model.boot import boot_id
from celery_fanout.model.failpoints import hit
from celery_fanout.model.ids import event_key
from celery_fanout.model.jsondata import encode
from celery_fanout.stores import field_of
from celery_fanout.stores.ledger import NewEvent, NewRun

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from celery_fanout.running.execution import Engine, Run
    from celery_fanout.stores import StepKey
    from celery_fanout.stores.ledger import Claim, Ledger, Settled
    from celery_fanout.stores.states import RunState

__all__ = ["ClaimedRun", "claim"]

# the name that docs/how-to/monitoring.md gives it
logger = get_task_logger("celery_fanout.claims")

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


def claim(engine: Engine, run: Run, request: Any) -> tuple[Claim, ClaimedRun | None]:
    """Claim the run that a message names.

    Args:
        engine: what it is executed with.
        run: the run.
        request: the message's request.

    Returns:
        The answer, and what to execute it with if it is this worker's now.

    Raises:
        StoreUnavailable: if the ledger does not answer.
    """
    ledger = engine.ledger
    assert ledger is not None  # noqa: S101 - the caller looked
    headers: Mapping[str, Any] = request.headers or {}
    asked = partial(
        ledger.claim,
        run.id,
        boot_id(),
        uuid.uuid4().hex[:8],
        retries=request.retries or 0,
        put_back=bool(headers.get(STORE_RETRIES_HEADER)),
        left=int(headers.get(STORE_LEFT_HEADER) or 0),
    )
    patience = ledger.rules.lease
    patience_here = min(patience, 5.0)  # the message can wait elsewhere
    answer: Claim = patiently(patience_here, asked)
    if answer.status == "unknown":
        lost = _recreated(ledger, run, headers, engine)
        if lost is not None:
            answer = patiently(patience_here, partial(asked, recreate=lost))
    if answer.status not in ("claimed", "completing"):
        return answer, None
    if answer.crashes:
        logger.warning(
            "Run %s goes on here: the process that had it died (crash %d of at most %d)",
            run.id,
            answer.crashes,
            ledger.rules.max_crashes,
            extra={"action": "run_taken_over"},
        )
    given: Any = headers.get(BRANCH_HEADER)
    branch = None if given is None else (str(given[0]), int(given[1]))
    return answer, ClaimedRun(ledger, run.id, answer, branch, patience)


def _recreated(
    ledger: Ledger, run: Run, headers: Mapping[str, Any], engine: Engine
) -> NewEvent | None:
    """Return what a run is recorded with if Redis has lost its data, inside the window."""
    kind: Any = headers.get(KIND_HEADER, "event")
    event = run.event
    age = time.time() - event.time.timestamp()
    if kind not in ("event", "then") or age > ledger.rules.dedup_window:
        return None
    batched = BATCHED if BATCH_HEADER in headers else ""
    # the limits of a batch are by its first event, which nobody knows any more
    flow = None
    if engine.flow is not None and kind == "event" and not batched and ledger.supports_flow:
        flow = engine.flow(run.subscription, event)
    asks = engine.cancels if kind == "event" else None
    cancel_on = () if asks is None else asks(run.subscription, event)
    new = NewRun(run.id, run.subscription, kind, message=batched, cancel_on=cancel_on, flow=flow)
    return NewEvent(
        key=event_key(event.name, event.id),
        name=event.name,
        attributes=encode(event.attributes()),
        data=encode(event.data),
        runs=[new],
        generation=int(headers.get(GENERATION_HEADER, 0)),
    )
