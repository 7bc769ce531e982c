"""What ``emit()`` returns: the event, and one handle per run, which tells how the run ended.

On level 2 that is asked of the ledger: Celery stores nothing where the ledger keeps the results, so
an ``AsyncResult`` would wait for ever.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from celery import result as celery_result
from celery.exceptions import TimeoutError as CeleryTimeoutError
from kombu.utils import json as kombu_json

from celery_fanout.exceptions import (
    EmissionTimeout,
    NotPublishedYet,
    RunFailed,
    StoreRefused,
    StoreUnavailable,
)
from celery_fanout.signals import event_emitted
from celery_fanout.stores.states import FINAL, RunState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery import Celery
    from celery.result import AsyncResult

    from celery_fanout.emitting.chains import FrozenEvent
    from celery_fanout.model.events import Event
    from celery_fanout.stores.ledger import Ledger
    from celery_fanout.stores.records import RunOutcome
    from celery_fanout.subscribing.registry import Subscription

#: The first and the longest pause between two looks at the ledger, in seconds.
PAUSE, PAUSE_MAX = 0.005, 0.25


@dataclass
class RunHandle:
    """One run of an emission.

    Attributes:
        id: the run's id, and the subscriber's task id.
        subscription: the subscription it handles the event for.
    """

    _app: Celery = field(repr=False)
    id: str
    _result_id: str = field(repr=False)
    subscription: Subscription
    _ledger: Ledger | None = field(default=None, repr=False)
    eager: Any = field(default=None, repr=False)
    published: bool = field(default=True, repr=False)

    @cached_property
    def result(self) -> AsyncResult[Any] | RunResult:
        """The result of the chain: of its last link, or of the subscriber if it has none.

        On level 2 what the ledger has of it; on level 1 Celery's result. There, when a link fails,
        Celery marks the links after it as failed with the same error.
        """
        # the same object every time: an RPC backend delivers a result once
        if self.eager is not None:
            return self.eager  # type: ignore[no-any-return]
        if self._ledger is not None:
            return RunResult(self._ledger, self.id)
        return self._app.AsyncResult(self._result_id)

    def get(self, timeout: float | None = None) -> Any:
        """Wait for the run, and return what its chain returned.

        Args:
            timeout: in seconds; ``None``: for ever, also if the run's record has expired, as with
                Celery's results.

        Raises:
            RunFailed: on level 2, if it failed or was cancelled; on level 1 what it failed with.
            celery.exceptions.TimeoutError: if it has no outcome by then.
        """
        return self.result.get(timeout=timeout)

    @property
    def ignored(self) -> bool:
        """Whether no result will be stored, so that nothing can be waited for."""
        if not self.published:
            return True
        if self._ledger is not None:
            return False  # how it ended is known, whatever it returned
        task: Any = self.subscription.task
        options: Mapping[str, Any] = self.subscription.options
        if self.subscription.tail:
            last = self.subscription.tail[-1]
            task = cast("Any", self._app.tasks).get(last["task"])
            options = last.get("options") or {}
        return is_ignored(task, options)


def is_ignored(task: Any, options: Mapping[str, Any]) -> bool:
    """Whether Celery stores no result of a task that is published with these options."""
    ignored = options.get("ignore_result")
    return bool(getattr(task, "ignore_result", False) if ignored is None else ignored)


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        run: the run.
        value: what the chain returned; ``None`` if it failed.
        error: what it failed with; ``None`` if it did not.
        ignored: whether the result is not stored, so that neither is known.
    """

    run: RunHandle
    value: Any = None
    error: BaseException | None = None
    ignored: bool = False

    @property
    def ok(self) -> bool:
        """Whether the run is known to have succeeded."""
        return self.error is None and not self.ignored


@dataclass(frozen=True)
class Emission:
    """An event that was published, or that is going to be.

    Attributes:
        event: the event.
        runs: one handle per subscription that matched, in the order of their declaration. Empty as
            long as the event is not published.
        published: whether it is published. In Django it may wait for the end of a transaction; if
            this process then publishes it, this and ``runs`` change. What is published from the
            outbox is published elsewhere.
    """

    event: Event
    runs: list[RunHandle]
    published: bool = True

    def get(self, timeout: float | None = None) -> list[Outcome]:
        """Wait for all runs and return their outcomes, errors included, in the order of ``runs``.

        Like ``AsyncResult.get()`` it must not be called inside a task, where it would wait for
        workers that may all be waiting so: use ``step.invoke``, or ``emit(then=)``.

        Args:
            timeout: how long to wait for all of them together, in seconds; ``None``: for ever.

        Raises:
            EmissionTimeout: if some had no outcome by then. It has those of the others.
            NotPublishedYet: if the event still waits for its transaction, or in the outbox.
            RuntimeError: inside a task; ``celery.result.allow_join_result()`` allows it.
        """
        if not self.published:
            raise NotPublishedYet(self.event.name, self.event.id)
        until = None if timeout is None else time.monotonic() + timeout
        outcomes: dict[str, Outcome] = {}
        late: list[str] = []
        for run in self.runs:
            left = None if until is None else until - time.monotonic()
            try:
                outcomes[run.id] = _outcome(run, left)
            except CeleryTimeoutError:
                late.append(run.subscription.id)
        if late:
            error = EmissionTimeout(self.event.name, self.event.id, timeout or 0.0, late)
            error.outcomes = [outcomes[run.id] for run in self.runs if run.id in outcomes]
            raise error
        return [outcomes[run.id] for run in self.runs]


def _outcome(run: RunHandle, timeout: float | None) -> Outcome:
    if run.ignored and run.eager is None:
        return Outcome(run, ignored=True)
    result: Any = run.result
    # waiting takes a second at least, and for ever with a timeout of 0 before Celery 5.7
    over = timeout is not None and timeout <= 0
    if over and not isinstance(result, RunResult) and not result.ready():
        raise CeleryTimeoutError
    value = result.get(timeout=None if timeout is None else max(timeout, 0.001), propagate=False)
    if isinstance(value, BaseException) or result.failed():
        return Outcome(run, error=value)
    return Outcome(run, value=value)


def report(
    app: Celery,
    frozen: Sequence[FrozenEvent],
    ledger: Ledger | None = None,
    results: Mapping[str, Any] | None = None,
) -> list[Emission]:
    """Return the emissions of events, and tell the receivers of ``event_emitted``.

    Args:
        app: the Celery app.
        frozen: the events, with the chains that were published.
        ledger: what has the results of runs that Celery does not store.
        results: what eager runs have returned, by run id.
    """
    emissions: list[Emission] = []
    for each in frozen:
        runs: list[RunHandle] = []
        for chain in each.chains:
            keeper = None if chain.celery_results else ledger
            handle = RunHandle(app, chain.run_id, chain.result_id, chain.subscription, keeper)
            if results is not None:
                handle.eager = results.get(chain.run_id)
            runs.append(handle)
        emissions.append(Emission(each.event, runs))
        event_emitted.send(sender=app, event=each.event, runs=runs)
    return emissions


def value_of(outcome: RunOutcome) -> Any:
    """Return what the chain of a run returned; ``None`` if that was not kept."""
    return None if outcome.result is None else kombu_json.loads(outcome.result)


def error_of(outcome: RunOutcome) -> RunFailed | None:
    """Return the error of a run that failed or was cancelled. It is data: nothing is imported."""
    if outcome.state is RunState.CANCELLED:
        return RunFailed(f"The run was cancelled: {outcome.reason}")
    if outcome.state is not RunState.FAILED:
        return None
    data = outcome.error or {}
    kind, message = str(data.get("type", "?")), str(data.get("message", ""))
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
        [outcome] = self._ledger.outcomes([self.id])
        if outcome.state is RunState.SUCCEEDED:  # any other end may be reopened
            self._final = outcome
        return outcome

    def _look(self) -> tuple[RunOutcome | None, StoreUnavailable | None]:
        """Return what the ledger has, or why that is not known: a restart is waited for."""
        try:
            return self.outcome(), None
        except StoreRefused:
            raise
        except StoreUnavailable as exc:
            return None, exc

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
            StoreRefused: if the ledger answers and refuses; one that is away is waited for.
            celery.exceptions.TimeoutError: if it has not ended by then.
            RuntimeError: inside a task, as from Celery's own results: all workers could wait for
                one another. ``celery.result.allow_join_result()`` allows it.
        """
        if disable_sync_subtasks:
            blocking: Any = celery_result  # its types lack this
            blocking.assert_will_not_block()
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = PAUSE
        while True:
            outcome, away = self._look()
            if outcome is not None and outcome.state in FINAL:
                break
            left = pause if deadline is None else min(pause, deadline - time.monotonic())
            if left <= 0:
                text = f"The run {self.id} has not ended after {timeout} s"
                text += "." if away is None else f": {away.store} cannot be reached."
                raise CeleryTimeoutError(text) from away
            threading.Event().wait(left)
            pause = min(2 * pause, PAUSE_MAX)
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
