"""How a run of the ledger ended, for who waits for it.

An ``AsyncResult`` would wait for ever: Celery stores nothing where the ledger keeps the results.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from celery import result as celery_result
from celery.exceptions import TimeoutError as CeleryTimeoutError
from kombu.utils import json as kombu_json

from celery_fanout.exceptions import RunFailed
from celery_fanout.stores.states import FINAL, RunState

if TYPE_CHECKING:
    from celery_fanout.stores.ledger import Ledger, RunOutcome

__all__ = ["RunResult", "error_of", "value_of"]

#: The first and the longest pause between two looks at the ledger, in seconds.
PAUSE, PAUSE_MAX = 0.005, 0.25


def value_of(outcome: RunOutcome) -> Any:
    """Return what the chain of a run returned; ``None`` if that was not kept."""
    return None if outcome.result is None else kombu_json.loads(outcome.result)


def error_of(outcome: RunOutcome) -> RunFailed | None:
    """Return the error of a run that failed or was cancelled. It is data: nothing is imported."""
    if outcome.state is RunState.CANCELLED:
        return RunFailed(f"The run was cancelled: {outcome.reason}")
    if outcome.state is not RunState.FAILED:
        return None
    found = outcome.error or {}
    kind, message = str(found.get("type", "?")), str(found.get("message", ""))
    error = RunFailed(message if kind == RunFailed.__name__ else f"{kind}: {message}")
    error.error_type = kind
    return error


class RunResult:
    """The outcome of a run, like Celery's ``AsyncResult``.

    Args:
        ledger: the ledger.
        run_id: the run.

    Attributes:
        id: the run.
    """

    def __init__(self, ledger: Ledger, run_id: str) -> None:
        self._ledger = ledger
        self.id = run_id
        self._final: RunOutcome | None = None

    def outcome(self) -> RunOutcome:
        """Return what the ledger has now."""
        if self._final is not None:
            return self._final
        found = self._ledger.outcomes([self.id])[0]
        if found.state is RunState.SUCCEEDED:  # any other end may be reopened
            self._final = found
        return found

    @property
    def run_state(self) -> RunState | None:
        """The state of the run, or of the link at which its chain is; ``None`` if it is unknown."""
        return self.outcome().state

    @property
    def state(self) -> str:
        """The state in Celery's words: PENDING, STARTED, RETRY, SUCCESS, FAILURE or REVOKED."""
        return _CELERY_STATES.get(self.outcome().state, "PENDING")

    status = state

    def ready(self) -> bool:
        """Whether it has ended."""
        return self.outcome().state in FINAL

    def successful(self) -> bool:
        """Whether it has succeeded."""
        return self.outcome().state is RunState.SUCCEEDED

    def failed(self) -> bool:
        """Whether it has failed or was cancelled."""
        return self.outcome().state in (RunState.FAILED, RunState.CANCELLED)

    @property
    def result(self) -> Any:
        """What it returned, or the error; ``None`` before its end."""
        outcome = self.outcome()
        return error_of(outcome) or value_of(outcome)

    @property
    def traceback(self) -> str | None:
        """The text of the traceback of a dead letter."""
        error = self.outcome().error
        return None if error is None else str(error.get("traceback", ""))

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,  # noqa: FBT001, FBT002 - as Celery's
        disable_sync_subtasks: bool = True,  # noqa: FBT001, FBT002 - as Celery's
        **_: Any,
    ) -> Any:
        """Wait for its end, and return what it returned.

        Args:
            timeout: in seconds; ``None``: for ever.
            propagate: whether to raise its error; it is returned otherwise.
            disable_sync_subtasks: whether to refuse this inside a task.

        Raises:
            RunFailed: if it failed or was cancelled.
            celery.exceptions.TimeoutError: if it has not ended by then.
            RuntimeError: inside a task, as from Celery's own results: all workers could wait for
                one another. ``celery.result.allow_join_result()`` allows it.
        """
        if disable_sync_subtasks:
            blocking: Any = celery_result  # its types lack this
            blocking.assert_will_not_block()
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = PAUSE
        outcome = self.outcome()
        while outcome.state not in FINAL:
            left = pause if deadline is None else min(pause, deadline - time.monotonic())
            if left <= 0:
                raise CeleryTimeoutError(f"The run {self.id} has not ended after {timeout} s.")
            threading.Event().wait(left)
            pause = min(2 * pause, PAUSE_MAX)
            outcome = self.outcome()
        error = error_of(outcome)
        if error is None:
            return value_of(outcome)
        if propagate:
            raise error
        return error


_CELERY_STATES: dict[RunState | None, str] = {
    RunState.RUNNING: "STARTED",
    RunState.COMPLETING: "STARTED",
    RunState.SUSPENDED: "STARTED",
    RunState.RETRYING: "RETRY",
    RunState.SUCCEEDED: "SUCCESS",
    RunState.FAILED: "FAILURE",
    RunState.CANCELLED: "REVOKED",
}
