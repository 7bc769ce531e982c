"""``step.invoke``: another task, called once as a run of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kombu.utils import json as kombu_json

from celery_fanout.exceptions import InvalidStep
from celery_fanout.model.ids import child_id
from celery_fanout.running.steps.checkpoints import load, read_back
from celery_fanout.running.steps.entering import claimed_of
from celery_fanout.running.steps.leaving import suspend_for_children
from celery_fanout.stores.checkpoints import field_of
from celery_fanout.stores.records import NewRun

if TYPE_CHECKING:
    from celery_fanout.running.execution import Execution


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
        raise suspend_for_children(execution, claimed, "invoke", id, field, [child])
    return read_back(execution, key, checkpoint, task.run)


def _check_arguments(id: str, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    header = getattr(task, "__header__", None)
    if header is None or not getattr(task, "typing", False):
        return
    try:
        header(*args, **kwargs)  # what apply_async checks before it publishes
    except TypeError as exc:
        raise InvalidStep(id, f"cannot call {task.name} so ({exc})", "Correct them.") from exc
