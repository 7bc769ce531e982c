"""Step values: what is stored, and what comes back.

A value comes back as JSON stores it, already on the first run, so that a first run and a resumed
one see the same thing; where the step's function is annotated, as the type it names.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import inspect
import json
import types
import typing
import warnings
import weakref
from dataclasses import is_dataclass
from typing import Any, cast

from pydantic import (
    BaseModel,
    PydanticSchemaGenerationError,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import PydanticSerializationError, to_jsonable_python

from celery_fanout.exceptions import StepValueWarning

#: Annotations for which JSON as it is read back is all there is to say.
_PLAIN = {Any, None, type(None), str, int, float, bool, dict, list, object, inspect.Signature.empty}


#: Annotations by function: evaluating them costs as much as storing a step.
_annotations: weakref.WeakKeyDictionary[types.FunctionType, Any] = weakref.WeakKeyDictionary()


def _annotation(fn: Any) -> Any:
    if type(fn) is not types.FunctionType:
        return _evaluated(fn)
    if fn not in _annotations:
        _annotations[fn] = _evaluated(fn)
    return _annotations[fn]


def _evaluated(fn: Any) -> Any:
    fn = inspect.unwrap(fn)
    while isinstance(fn, functools.partial):
        fn = fn.func
    if isinstance(fn, type):
        return cast("Any", fn)
    if not isinstance(fn, (types.FunctionType, types.MethodType)):
        fn = getattr(cast("Any", type(fn)), "__call__", fn)  # noqa: B004 - to be looked at
    if "return" not in getattr(fn, "__annotations__", {}):
        return Any
    try:
        return typing.get_type_hints(fn, include_extras=True)["return"]
    except Exception:  # noqa: BLE001 - evaluates foreign code: names for type checkers, mostly
        return Any


@functools.lru_cache(maxsize=1024)
def _adapter_of(annotation: Any) -> TypeAdapter[Any] | None:
    try:
        return TypeAdapter(annotation)
    except (PydanticSchemaGenerationError, PydanticUserError, NameError):
        return None


def _adapter(fn: Any) -> TypeAdapter[Any] | None:
    annotation = _annotation(fn)
    try:
        if annotation in _PLAIN or isinstance(annotation, typing.TypeVar):
            return None
        return _adapter_of(annotation)
    except TypeError:  # not hashable, such as Annotated with a list
        return None


def to_stored(fn: Any, value: Any) -> Any:
    """Return a value as something that kombu's JSON can carry, if that is possible."""
    adapter = _adapter(fn)
    if adapter is not None:
        try:
            return adapter.dump_python(
                value, mode="json", by_alias=True, round_trip=True, warnings="none"
            )
        except (PydanticSerializationError, UnicodeDecodeError, RecursionError):
            pass  # it does not fit its annotation; from_stored() says so
    if isinstance(value, (BaseModel, enum.Enum)) or is_dataclass(value):
        return to_jsonable_python(value)
    return value


def from_stored(step: str, fn: Any, value: Any) -> Any:
    """Return a stored value as the type that the step's function is annotated with."""
    adapter = _adapter(fn)
    if adapter is None:
        return value
    try:
        return adapter.validate_python(value)
    except ValidationError as exc:
        with contextlib.suppress(ValidationError, TypeError):
            # what is strict takes JSON's forms of dates, tuples and the like only from JSON
            return adapter.validate_json(json.dumps(value))
        warnings.warn(
            StepValueWarning(
                f"The value of the step {step!r} does not fit {_annotation(fn)!r} "
                f"({exc.error_count()} problem(s)) and is returned as it is stored. Correct the "
                f"annotation, or what {getattr(fn, '__qualname__', fn)!s} returns."
            ),
            stacklevel=2,
        )
        return value
