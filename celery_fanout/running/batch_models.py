"""Batches of pydantic models: what Celery's ``pydantic=True`` does with one model, for a list.

Celery gives a task a model where its parameter is annotated with one, and leaves a ``list[Model]``
a list of dicts. The subscriber of a batch gets models there too, by the same rules.
"""

from __future__ import annotations

import collections.abc
import inspect
import typing
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from celery.app import base as celery_base
from pydantic import BaseModel, TypeAdapter

from celery_fanout.emitting.broker.stock import is_stock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_converters: WeakKeyDictionary[Any, Callable[[Any], Any]] = WeakKeyDictionary()


def as_models(task: Any, data: Any) -> Any:
    """Return the data of a batch as the task wants it.

    Raises:
        ValidationError: pydantic's, if it does not fit.
    """
    convert = _converters.get(task)
    if convert is None:
        convert = _converters[task] = _converter(task)
    return convert(data)


def _converter(task: Any) -> Callable[[Any], Any]:
    wrapper = _pydantic_wrapper(getattr(task, "_orig_run", task.run))
    if wrapper is None:
        return _same
    body = wrapper.__wrapped__
    try:
        hints: Mapping[str, Any] = typing.get_type_hints(body)
    except (NameError, AttributeError, TypeError):  # Celery's own rule
        hints = getattr(body, "__annotations__", {})
    bound = not isinstance(inspect.getattr_static(task.__class__, "run", None), staticmethod)
    names = list(inspect.signature(body).parameters)[1 if bound else 0 :]
    wanted: Any = hints.get(names[0]) if names else None
    items = typing.get_args(wanted)
    if typing.get_origin(wanted) not in (list, collections.abc.Sequence) or not _is_model(*items):
        return _same
    adapter: TypeAdapter[Any] = TypeAdapter(wanted)
    options = _options(wrapper)
    context: dict[str, Any] = {**(options.get("context") or {})}
    context.update(celery_app=task.app, celery_task_name=task.name)
    strict = bool(options.get("strict"))
    return lambda data: adapter.validate_python(data, strict=strict, context=context)


def _same(data: Any) -> Any:
    return data


def _is_model(item: Any) -> bool:
    return isinstance(item, type) and issubclass(item, BaseModel)


def _pydantic_wrapper(function: Any) -> Any:
    """Return what Celery put around a task's function for ``pydantic=True``, if it did."""
    while function is not None:
        function = getattr(function, "__func__", function)
        if is_stock(function, celery_base):
            return function
        function = getattr(function, "__wrapped__", None)
    return None


def _options(wrapper: Any) -> dict[str, Any]:
    """Return the options of Celery's wrapper, which it keeps in itself or in its helpers."""
    options: dict[str, Any] = dict(inspect.getclosurevars(wrapper).nonlocals)
    for helper in list(options.values()):
        if is_stock(helper, celery_base):
            options = {**inspect.getclosurevars(helper).nonlocals, **options}
    return options
