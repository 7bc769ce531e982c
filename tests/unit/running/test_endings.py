"""What each way to leave a body is, and which tasks decide themselves what a run returns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, Task
from celery.app.trace import _install_stack_protection, reset_worker_optimizations
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded

from celery_fanout import NonRetriable, RetryAfter
from celery_fanout.exceptions import (
    InvalidStep,
    RunFailed,
    StepFailed,
    StoreUnavailable,
    Superseded,
)
from celery_fanout.running.endings import (
    EndingKind,
    _has_own_call,
    body_raised,
    body_returned,
    task_raised,
    task_returned,
)
from celery_fanout.running.execution import Execution
from celery_fanout.running.retrying import hold_retries
from celery_fanout.running.suspending import BranchDone, NotClaimed, Suspended


def nothing() -> None: ...


class Calling(Task):
    abstract = True

    def __call__(self, *args: object, **kwargs: object) -> object:
        return super().__call__(*args, **kwargs)


def execution_of(
    base: type[Task] = Task, *, retries: int = 0, headers: Any = None, **options: Any
) -> Execution:
    """An attempt of a task that is tried once more at most."""
    app = Celery("endings", set_as_current=False)
    app.task(nothing, name="tell", base=base, max_retries=1, shared=False, **options)
    task: Any = app.tasks["tell"]
    task.push_request(id="r-1", args=(), kwargs={}, retries=retries, called_directly=False)
    task.request.headers = headers
    unused: Any = object()
    execution = Execution(unused, task, task.request, unused, claimed=unused)
    task.request.fanout_execution = execution  # so that a retry is not published
    hold_retries(task)
    return execution


def ended(error: Exception, **more: Any) -> tuple[EndingKind, type[BaseException]]:
    """Return the kind of ending that an error of the body is, and the class of what Celery sees."""
    execution = execution_of(**more)
    try:
        raise error
    except Exception as raised:  # noqa: BLE001 - as the code does
        ending = body_raised(execution, raised)
    with pytest.raises(BaseException) as seen:  # noqa: PT011 - which one is the question
        ending.conclude()
    assert seen.value is ending.error
    assert (seen.value is error) == (ending.cause is None)
    assert seen.value.__cause__ is ending.cause
    return ending.kind, type(seen.value)


class Boom(Exception): ...  # noqa: N818 - a test's


@pytest.mark.parametrize(
    ("error", "kind", "seen"),
    [
        (Boom(), EndingKind.FAILED, Boom),
        (SoftTimeLimitExceeded(), EndingKind.FAILED, SoftTimeLimitExceeded),
        (Retry(when=5), EndingKind.RETRY, Retry),
        (RetryAfter(5), EndingKind.RETRY, Retry),
        (NonRetriable(Boom()), EndingKind.FAILED, Boom),
        (NonRetriable("no"), EndingKind.FAILED, RunFailed),
        (StepFailed("charge", "Boom", "no", 3), EndingKind.FAILED, RunFailed),
        (InvalidStep("charge", "is wrong", "Mend it."), EndingKind.FAILED, RunFailed),
        (Ignore(), EndingKind.IGNORED, Ignore),
        (Reject("no", requeue=True), EndingKind.REQUEUED, Reject),
        (Reject("no"), EndingKind.REJECTED, Reject),
        (Suspended(7.0, "sleep", "a"), EndingKind.SUSPENDED, Suspended),
        (NotClaimed("running"), EndingKind.LOST, NotClaimed),
        (Superseded("r-1"), EndingKind.LOST, Superseded),
        (StoreUnavailable("Redis", "it is away"), EndingKind.LOST, StoreUnavailable),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_what_a_body_raises(error: Exception, kind: EndingKind, seen: type[BaseException]) -> None:
    assert ended(error) == (kind, seen)


def test_a_retry_that_is_not_left() -> None:
    error = RetryAfter(5, Boom("no"))
    assert ended(error, retries=1) == (EndingKind.FAILED, Boom)


def test_what_a_body_returns() -> None:
    ending = body_returned(execution_of(), {"a": 1})
    assert (ending.kind, ending.conclude(), ending.result) == (
        EndingKind.RETURNED,
        {"a": 1},
        '{"a":1}',
    )


def test_a_result_that_is_ignored_is_kept_for_who_needs_it() -> None:
    execution = execution_of(ignore_result=True)
    assert body_returned(execution, 1).result is None
    assert body_returned(execution_of(headers={"fanout_ignored": 1}), 1).result is None
    execution.tail = [{"task": "next"}]
    assert body_returned(execution, 1).result == "1"
    invoked = execution_of(ignore_result=True, headers={"fanout_kind": "invoke"})
    assert body_returned(invoked, 1).result == "1"


def test_a_result_that_cannot_be_kept() -> None:
    ending = body_returned(execution_of(), object())
    assert ending.kind is EndingKind.FAILED
    with pytest.raises(RunFailed, match=r"^Its result cannot be stored: ") as caught:
        ending.conclude()
    assert caught.value.__cause__ is ending.cause is not None


def test_a_body_that_returns_after_it_asked_for_a_retry() -> None:
    execution = execution_of()
    execution.retry = Retry(when=5)
    ending = body_returned(execution, "went on")
    assert (ending.kind, ending.error) == (EndingKind.RETRY, execution.retry)


def test_an_item_that_is_done() -> None:
    headers = {"fanout_kind": "parallel"}
    ending = body_raised(execution_of(headers=headers, ignore_result=True), BranchDone([1]))
    assert (ending.kind, ending.result) == (EndingKind.ITEM_DONE, "[1]")
    with pytest.raises(NotClaimed):
        ending.conclude()


def test_an_item_whose_value_cannot_be_kept() -> None:
    headers = {"fanout_kind": "parallel"}
    ending = body_raised(execution_of(headers=headers), BranchDone(object()))
    assert (ending.kind, type(ending.error)) == (EndingKind.FAILED, RunFailed)


def test_a_call_of_its_own_decides() -> None:
    execution = execution_of(Calling)
    ending = body_returned(execution, object())
    assert ending.kind is EndingKind.BODY_RETURNED
    assert ending.conclude() is ending.value
    assert task_returned(execution, "more").result == '"more"'
    error = Boom("late")
    assert (task_raised(error).kind, task_raised(error).error) == (EndingKind.FAILED, error)


# -- which tasks have a __call__ of their own ----------------------------------------------------


@pytest.fixture(params=[False, True], ids=["outside", "in a worker"])
def app(request: pytest.FixtureRequest) -> Iterator[Celery]:
    """An app, whose worker has put another ``__call__`` in the place of Celery's."""
    app = Celery("calls", set_as_current=False)
    if request.param:
        _install_stack_protection()
    yield app
    reset_worker_optimizations(app)


def test_only_a_call_of_its_own_counts(app: Celery) -> None:
    app.task(nothing, name="plain", shared=False)
    app.task(nothing, name="own", base=Calling, shared=False)
    app.finalize()
    assert (_has_own_call(app.tasks["plain"]), _has_own_call(app.tasks["own"])) == (False, True)
