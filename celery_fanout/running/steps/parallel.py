"""``step.parallel``: several calls at the same time, each as a run of its own.

The run of an item replays the body up to the step, and makes the item's call there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from celery_fanout import signals
from celery_fanout.exceptions import InvalidStep
from celery_fanout.model.ids import child_id
from celery_fanout.model.jsondata import encode
from celery_fanout.running.steps.calling import call_function
from celery_fanout.running.steps.checkpoints import load, read_back, step_failed
from celery_fanout.running.steps.entering import check_function, claimed_of
from celery_fanout.running.steps.leaving import suspend_for_children
from celery_fanout.running.steps.values import from_stored, to_stored
from celery_fanout.running.suspending import BranchDone
from celery_fanout.stores.checkpoints import field_of
from celery_fanout.stores.records import NewRun

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery_fanout.running.execution import Execution
    from celery_fanout.stores.checkpoints import StepKey

#: Items of one ``step.parallel``, at most: the outcome of each is a checkpoint of the run.
MAX_ITEMS = 10_000


def parallel_step(
    execution: Execution, id: str, items: Sequence[tuple[Callable[..., Any], Any]]
) -> list[Any]:
    """Return the results of calls that are each a task of its own, in their order.

    Raises:
        StepFailed: if one failed; the first, by position.
        Suspended: until all have ended.
        BranchDone: in the run of an item, when that is done.
    """
    claimed = claimed_of(execution, "step.parallel")
    calls = [_call(id, item) for item in items]
    if len(calls) > MAX_ITEMS:
        raise InvalidStep(id, f"has {len(calls):,} items", f"Use at most {MAX_ITEMS:,}.")
    key = execution.next_key(id)
    group = field_of(key)
    keys: list[StepKey] = [(id, key[1], index) for index in range(len(calls))]
    if claimed.branch is not None:
        item_group, index = claimed.branch
        if item_group == group:
            raise _item_done(execution, key, index, calls)
        return _results_before_item(execution, keys, calls)
    checkpoints = [load(execution, key) for key in keys]
    if not all(checkpoint is not None and checkpoint.final for checkpoint in checkpoints):
        children = [
            NewRun(
                child_id(claimed.run_id, "parallel", *key),
                execution.run.subscription,
                "parallel",
                queue="",
                message=encode({"branch": [group, index]}),
                field=field_of(key),
                group=group,
            )
            for index, key in enumerate(keys)
        ]
        raise suspend_for_children(execution, claimed, "parallel", id, group, children)
    results: list[Any] = []
    for key, checkpoint, (fn, _) in zip(keys, checkpoints, calls, strict=True):
        assert checkpoint is not None  # noqa: S101 - seen above
        results.append(read_back(execution, key, checkpoint, fn))
    return results


def _call(id: str, item: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    listed = isinstance(item, (tuple, list))
    parts: tuple[Any, ...] = tuple(cast("Any", item)) if listed else (item,)
    if not parts:
        raise InvalidStep(id, "has an item without a function", "Use pairs: (function, argument).")
    check_function(id, parts[0])
    return parts[0], parts[1:]


def _item_done(
    execution: Execution,
    step: StepKey,
    index: int,
    calls: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]],
) -> BranchDone:
    """Execute the item that this run was made for, and return what to raise."""
    id, number = step[:2]
    if index >= len(calls):
        raise InvalidStep(
            id,
            f"has {len(calls)} items now, and had at least {index + 1} when it was begun",
            "What decides the items must come from the event or from a step.",
        )
    fn, args = calls[index]
    value = call_function(execution, (id, number, index), fn, args, {})
    signals.step_completed.send(
        sender=execution.task,
        run=execution.run,
        step=id,
        number=number,
        cached=False,
        attempts=execution.run.attempt,
    )
    return execution.leave(BranchDone(to_stored(fn, value)))


def _results_before_item(
    execution: Execution,
    keys: Sequence[StepKey],
    calls: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]],
) -> list[Any]:
    """Return the results of a step that comes before the one this run was made for."""
    results: list[Any] = []
    for key, (fn, _) in zip(keys, calls, strict=True):
        checkpoint = load(execution, key)
        if checkpoint is None or not checkpoint.final:
            raise InvalidStep(
                key[0],
                "was met on the way to another parallel step, and has no results",
                "Call the same steps in the same order each time: what decides that must come "
                "from the event or from a step.",
            )
        if checkpoint.status == "failed":
            raise step_failed(key, checkpoint)
        results.append(from_stored(key[0], fn, checkpoint.value))
    return results
