"""Steps that need a ledger: waiting for an event, calling tasks, fanning out inside a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from kombu.utils import json as kombu_json

from celery_fanout import signals
from celery_fanout.exceptions import InvalidStep
from celery_fanout.model.ids import child_id
from celery_fanout.model.jsondata import encode
from celery_fanout.running.steps.checkpoints import (
    announce_completed,
    invoke_function,
    load,
    step_failed,
)
from celery_fanout.running.steps.entering import check_function, claimed_of, lost_run, suspend
from celery_fanout.running.steps.values import from_stored, to_stored
from celery_fanout.running.suspending import BranchDone
from celery_fanout.stores.checkpoints import field_of
from celery_fanout.stores.ledger import NewRun

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery_fanout.running.execution import Claimed, Execution
    from celery_fanout.stores.checkpoints import StepKey

__all__ = ["invoke_step", "parallel_step"]

#: Items of one ``step.parallel``, at most: the outcome of each is a checkpoint of the run.
MAX_ITEMS = 10_000


def invoke_step(
    execution: Execution, id: str, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Return what another task returned, called once in this run.

    Raises:
        StepFailed: if it failed.
        Suspended: until it has ended.
    """
    claimed = claimed_of(execution, "step.invoke")
    key = execution.next_key(id)
    field = field_of(key)
    checkpoint = load(execution, key)
    if checkpoint is None or not checkpoint.final:
        signature: Any = task.s(*args, **kwargs) if hasattr(task, "s") else None
        if signature is None or not hasattr(task, "name"):
            raise InvalidStep(id, f"was given {task!r}, which is no task", "Pass a Celery task.")
        _check_arguments(id, task, args, kwargs)
        try:
            message = str(kombu_json.dumps({"signature": dict(signature)}))
        except Exception as exc:  # values may bring encoders of their own
            raise InvalidStep(
                id, f"has arguments that JSON cannot carry ({exc})", "Pass plain values."
            ) from exc
        child = NewRun(
            child_id(claimed.run_id, "invoke", *key),
            execution.run.subscription,
            "invoke",
            message=message,
            field=field,
            group=field,
        )
        _spawn(execution, claimed, field, [child])
        raise suspend(execution, float("inf"), "invoke", id, field)
    if checkpoint.status == "failed":
        raise step_failed(key, checkpoint)
    announce_completed(execution, key, checkpoint, cached=True)
    return from_stored(id, task.run, checkpoint.value)


def _check_arguments(id: str, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    header = getattr(task, "__header__", None)
    if header is None or not getattr(task, "typing", False):
        return
    try:
        header(*args, **kwargs)  # what apply_async checks before it publishes
    except TypeError as exc:
        raise InvalidStep(id, f"cannot call {task.name} so ({exc})", "Correct them.") from exc


def _spawn(execution: Execution, claimed: Claimed, group: str, children: Sequence[NewRun]) -> None:
    settled = claimed.patiently(
        claimed.ledger.spawn, claimed.run_id, claimed.token, group, children
    )
    if not settled.ok:
        raise lost_run(execution, claimed)
    if execution.engine.wake is not None:
        execution.engine.wake([child.id for child in children])


def parallel_step(
    execution: Execution, id: str, items: Sequence[tuple[Callable[..., Any], Any]]
) -> list[Any]:
    """Return the results of calls that are each a task of its own, in their order.

    Raises:
        StepFailed: if one failed; the first, by position.
        Suspended: until all have ended.
    """
    claimed = claimed_of(execution, "step.parallel")
    calls = [_call(id, item) for item in items]
    if len(calls) > MAX_ITEMS:
        raise InvalidStep(id, f"has {len(calls):,} items", f"Use at most {MAX_ITEMS:,}.")
    name, number = execution.next_key(id)[:2]
    group = field_of((name, number))
    if claimed.branch is not None:
        return _branch(execution, claimed, group, calls)
    keys: list[StepKey] = [(name, number, index) for index in range(len(calls))]
    found = [load(execution, key) for key in keys]
    if not all(checkpoint is not None and checkpoint.final for checkpoint in found):
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
        _spawn(execution, claimed, group, children)
        raise suspend(execution, float("inf"), "parallel", id, group)
    results: list[Any] = []
    for key, checkpoint, (fn, _) in zip(keys, found, calls, strict=True):
        assert checkpoint is not None  # noqa: S101 - seen above
        if checkpoint.status == "failed":
            raise step_failed(key, checkpoint)
        announce_completed(execution, key, checkpoint, cached=True)
        results.append(from_stored(id, fn, checkpoint.value))
    return results


def _call(id: str, item: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    listed = isinstance(item, (tuple, list))
    given: tuple[Any, ...] = tuple(cast("Any", item)) if listed else (item,)
    if not given:
        raise InvalidStep(id, "has an item without a function", "Use pairs: (function, argument).")
    check_function(id, given[0])
    return given[0], given[1:]


def _branch(
    execution: Execution,
    claimed: Claimed,
    group: str,
    calls: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]],
) -> list[Any]:
    """Execute the item that this run was made for, if it is one of this step."""
    assert claimed.branch is not None  # noqa: S101 - the caller looked
    wanted, index = claimed.branch
    if wanted != group:
        # an earlier parallel step of the body: its results are the parent's checkpoints
        found: list[Any] = []
        for number, (fn, _) in enumerate(calls):
            name, count = _parsed(group)
            checkpoint = load(execution, (name, count, number))
            if checkpoint is None or not checkpoint.final:
                raise InvalidStep(
                    name,
                    "was met on the way to another parallel step, and has no results",
                    "Call the same steps in the same order each time: what decides that must come "
                    "from the event or from a step.",
                )
            if checkpoint.status == "failed":
                raise step_failed((name, count, number), checkpoint)
            found.append(from_stored(name, fn, checkpoint.value))
        return found
    if index >= len(calls):
        raise InvalidStep(
            _parsed(group)[0],
            f"has {len(calls)} items now, and had at least {index + 1} when it was begun",
            "What decides the items must come from the event or from a step.",
        )
    fn, args = calls[index]
    name, count = _parsed(group)
    value = invoke_function(execution, (name, count, index), fn, args)
    signals.step_completed.send(
        sender=execution.task,
        run=execution.run,
        step=name,
        number=count,
        cached=False,
        attempts=execution.run.attempt,
    )
    done = BranchDone(to_stored(fn, value))
    execution.suspension = done
    raise done


def _parsed(group: str) -> tuple[str, int]:
    from celery_fanout.stores.checkpoints import key_of

    key = key_of(group)
    return key[0], key[1]
