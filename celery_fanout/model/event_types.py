"""Typed events: a pydantic model for the data of an event, and checking data before it is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from celery_fanout.exceptions import (
    DuplicateEventType,
    EventTooLarge,
    InvalidEventData,
    InvalidEventType,
)
from celery_fanout.model.events import check_name
from celery_fanout.model.jsondata import as_json_data, encode

if TYPE_CHECKING:
    from collections.abc import Callable

ModelT = TypeVar("ModelT", bound=BaseModel)

_types: dict[str, type[BaseModel]] = {}
_names: dict[type[BaseModel], tuple[str, str | None]] = {}


def event_type(
    name: str, *, dataschema: str | None = None
) -> Callable[[type[ModelT]], type[ModelT]]:
    """Register a pydantic model as the type of an event's data.

    Afterwards ``on_event(Model)`` and ``emit(Model(...))`` work, and data emitted under that name
    is validated where it is emitted.

    Args:
        name: the event name.
        dataschema: URI of the schema, for the CloudEvents attribute of that name.

    Raises:
        InvalidEventName: if the name is none.
        DuplicateEventType: if another class already has that name.
        InvalidEventType: if the class is no pydantic model.
    """
    check_name(name)

    def register(model: type[ModelT]) -> type[ModelT]:
        if not is_model(model):
            raise InvalidEventType(
                getattr(model, "__name__", repr(model)),
                "is no pydantic model",
                "Derive the class from pydantic.BaseModel.",
            )
        earlier = _types.get(name)
        if earlier is not None and _place(earlier) != _place(model):
            raise DuplicateEventType(name, _place(earlier), _place(model))
        _types[name] = model  # the newer one wins: a module that is reloaded defines it again
        _names[model] = (name, dataschema)
        return model

    return register


def is_model(item: object) -> bool:
    """Whether something is a pydantic model: not everybody runs a type checker."""
    return isinstance(item, type) and issubclass(item, BaseModel)


def _place(model: type) -> str:
    return f"{model.__module__}.{model.__qualname__}"


def model_of(name: str) -> type[BaseModel] | None:
    """Return the model registered for an event name, if any."""
    return _types.get(name)


def name_of(model: type[BaseModel]) -> tuple[str, str | None]:
    """Return the event name and the dataschema of a registered model.

    Raises:
        InvalidEventType: if the model was not registered.
    """
    for base in model.__mro__:  # a subclass of an event's type is that event too
        if base in _names:
            return _names[base]
    raise InvalidEventType(
        model.__name__,
        "is the type of no event",
        f'Decorate it: @event_type("...") above class {model.__name__}.',
    )


def checked_data(name: str, data: Any, limit: int) -> Any:
    """Return data as JSON data that every subscriber receives: validated, copied, measured.

    Args:
        name: the event's name.
        data: what the caller passed.
        limit: ``fanout_max_event_size``, in bytes of UTF-8 JSON.

    Raises:
        InvalidEventData: if JSON cannot carry it, or it does not fit the event's type.
        EventTooLarge: if it is larger than ``limit``.
    """
    model = model_of(name)
    if model is not None:
        data = _fit(name, model, data)
    data = as_json_data(name, data)
    size = len(encode(data).encode())
    if size > limit:
        raise EventTooLarge(name, size, limit)
    return data


def _fit(name: str, model: type[BaseModel], data: Any) -> Any:
    try:
        fitted = data if isinstance(data, model) else model.model_validate(data)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        path = "".join(f"[{part!r}]" for part in first["loc"])
        raise InvalidEventData(
            name,
            f"data{path}",
            f"{first['msg']} ({exc.error_count()} problem(s) in all)",
            f"The event's type is {_place(model)}.",
        ) from exc
    return fitted
