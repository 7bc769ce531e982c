"""What ``emit()`` returns: the event, and one handle per run."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from celery.exceptions import TimeoutError as CeleryTimeoutError

from celery_fanout.emitting.results import RunResult
from celery_fanout.exceptions import EmissionTimeout, NotPublishedYet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery import Celery
    from celery.result import AsyncResult

    from celery_fanout.model.events import Event
    from celery_fanout.stores.ledger import Ledger
    from celery_fanout.subscribing.registry import Subscription

__all__ = ["Emission", "Outcome", "RunHandle", "is_ignored", "note_published"]


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


def note_published(emission: Emission, runs: Sequence[RunHandle]) -> None:
    """Tell an emission whose event waited that it is published now."""
    emission.runs[:] = runs
    # frozen for those who were handed it, and they hold this very object
    object.__setattr__(emission, "published", True)


def _outcome(run: RunHandle, timeout: float | None) -> Outcome:
    if run.ignored and run.eager is None:
        return Outcome(run, ignored=True)
    result: Any = run.result
    # waiting takes a second at least, and for ever with a timeout of 0 before Celery 5.7
    if timeout is not None and timeout <= 0 and not result.ready():
        raise CeleryTimeoutError
    value = result.get(timeout=None if timeout is None else max(timeout, 0.001), propagate=False)
    if result.failed() or isinstance(value, BaseException):
        return Outcome(run, error=value)
    return Outcome(run, value=value)
