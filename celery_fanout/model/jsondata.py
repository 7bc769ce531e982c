"""What JSON can carry, checked before anything is sent.

``json.dumps`` alone turns the key ``1`` into ``"1"``, writes NaN, which is no JSON, and lets half
a surrogate pair through, which the other side cannot decode.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import json
import math
import uuid
from dataclasses import fields, is_dataclass
from typing import Any, cast

from pydantic import BaseModel

from celery_fanout.exceptions import InvalidEventData

#: Deeper nesting is a mistake, and decoders stop somewhere (Python's own near 1,000).
MAX_DEPTH = 100

#: Python reads and writes no whole numbers above 4,300 digits (its ``int_max_str_digits``).
MAX_BITS = 14_000

# json.dumps makes a new one for every call that has options
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)

#: What kombu writes in place of a type that JSON does not have.
TYPED = {"__type__", "__value__"}


def encode(data: Any) -> str:
    """Return compact JSON text."""
    return _ENCODER.encode(data)


def as_json_data(name: str, data: Any) -> Any:
    """Return a copy of ``data`` made of dicts, lists, strings, numbers, booleans and ``None``.

    Dates and times become ISO 8601 texts, UUIDs and Decimals their text, enums their value,
    tuples lists, pydantic models and dataclasses dicts.

    Args:
        name: the event's name, for the error.
        data: what the caller passed.

    Raises:
        InvalidEventData: if JSON cannot carry it. The error names the place.
    """
    return _convert(name, data, "data", 0, set())


def _convert(name: str, value: object, path: str, depth: int, inside: set[int]) -> Any:
    kind = type(value)
    if kind is str:
        return _text(name, value, path)
    if value is None or kind is bool:
        return value
    if kind is int:
        return _whole(name, value, path)
    if kind is float:
        return _number(name, value, path)
    if kind is dict or kind is list or kind is tuple:
        return _container(name, value, path, depth, inside)
    return _other(name, value, path, depth, inside)


def _text(name: str, value: Any, path: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        raise InvalidEventData(
            name,
            path,
            "its text holds half a surrogate pair",
            "Decode the text properly, or clean it with .encode(errors='replace').decode().",
        ) from exc
    # not str(value): enums and Django's SafeString have a __str__ of their own
    return str.__str__(value)


def _whole(name: str, value: Any, path: str) -> int:
    if value.bit_length() > MAX_BITS:
        raise InvalidEventData(name, path, "its number is too long for JSON", "Use a text instead.")
    return int(value)


def _number(name: str, value: Any, path: str) -> float:
    if not math.isfinite(value):
        raise InvalidEventData(
            name, path, f"{value} is no JSON number", "Use None or a text instead."
        )
    return float(value)


def _container(name: str, value: Any, path: str, depth: int, inside: set[int]) -> Any:
    itself = id(value)
    if itself in inside:
        raise InvalidEventData(
            name, path, "it contains itself", "Emit a reference instead of the object."
        )
    if depth >= MAX_DEPTH:
        raise InvalidEventData(
            name, path, f"it is nested deeper than {MAX_DEPTH} levels", "Emit flatter data."
        )
    if isinstance(value, dict) and cast("Any", value).keys() == TYPED:
        raise InvalidEventData(
            name,
            path,
            "it has exactly the keys '__type__' and '__value__', which Celery's JSON decoder takes "
            "for an encoded object",
            "Rename one of them.",
        )
    inside.add(itself)
    try:
        if isinstance(value, dict):
            found = cast("Any", value)
            return {
                _key(name, key, path): _convert(name, item, f"{path}[{key!r}]", depth + 1, inside)
                for key, item in found.items()
            }
        return [
            _convert(name, item, f"{path}[{index}]", depth + 1, inside)
            for index, item in enumerate(value)
        ]
    finally:
        inside.discard(itself)


def _key(name: str, key: Any, path: str) -> str:
    if not isinstance(key, str):
        raise InvalidEventData(
            name, path, f"its key {key!r} is no string", "Use strings as keys: JSON has no others."
        )
    return _text(name, key, f"the key {key!r} of {path}")


def _dump(name: str, model: BaseModel, path: str) -> Any:
    try:
        return model.model_dump(mode="json", by_alias=True)  # as it is validated
    except ValueError as exc:  # pydantic's PydanticSerializationError is one
        problem = f"{type(model).__name__} cannot be written as JSON ({exc})"
        raise InvalidEventData(name, path, problem, "Give its fields types that JSON has.") from exc


def _other(  # noqa: PLR0911 - one line per kind of value
    name: str, value: Any, path: str, depth: int, inside: set[int]
) -> Any:
    if isinstance(value, enum.Enum):
        return _convert(name, value.value, path, depth, inside)
    if isinstance(value, (dt.datetime, dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, (uuid.UUID, decimal.Decimal)):
        return str(value)
    if isinstance(value, BaseModel):
        return _convert(name, _dump(name, value, path), path, depth, inside)
    if is_dataclass(value) and not isinstance(value, type):
        plain = {item.name: getattr(value, item.name) for item in fields(value)}
        return _convert(name, plain, path, depth, inside)
    # subclasses, such as Django's SafeString or an OrderedDict
    if isinstance(value, str):
        return _text(name, value, path)
    if isinstance(value, int):
        return _whole(name, value, path)
    if isinstance(value, float):
        return _number(name, float(value), path)
    if isinstance(value, (dict, list, tuple)):
        return _container(name, value, path, depth, inside)
    raise InvalidEventData(
        name,
        path,
        f"JSON has no {type(value).__name__}",
        "Convert it to a dict, list, string or number first.",
    )
