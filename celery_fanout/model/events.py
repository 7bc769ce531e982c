"""Events: immutable records with CloudEvents attributes, their names and patterns.

Attribute names follow CloudEvents 1.0.2 (https://github.com/cloudevents/spec); ``name`` is its
``type``, because that is the word a Python programmer expects beside ``data``.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from celery_fanout.exceptions import InvalidEvent, InvalidEventName, InvalidPattern
from celery_fanout.model.jsondata import as_json_data, encode

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
PATTERN = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._/-]{0,198}[./])?\*")

#: Attributes that travel as ``ce_*`` headers: CloudEvents' binary mode with Kafka's prefix.
HEADER_PREFIX = "ce_"

#: Extension attributes that are fields of an Event.
EXTENSIONS = ("traceparent", "correlationid", "causationid")

#: No chain of events is longer than such a number.
MAX_DEPTH_DIGITS = 9

#: The extension attribute that carries an event's depth.
DEPTH = "causationdepth"


def check_name(name: object) -> str:
    """Return ``name`` if it may name an event.

    Raises:
        InvalidEventName: if it may not.
    """
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        raise InvalidEventName(name if isinstance(name, str) else repr(name))
    return name


def check_pattern(pattern: object) -> str:
    """Return ``pattern`` if it is an event name or ends in ``*`` after ``/`` or ``.``.

    Raises:
        InvalidPattern: if it is neither.
    """
    if isinstance(pattern, str) and (NAME.fullmatch(pattern) or PATTERN.fullmatch(pattern)):
        return pattern
    raise InvalidPattern(pattern if isinstance(pattern, str) else repr(pattern))


def patterns_of(name: str) -> list[str]:
    """Return every pattern that matches ``name``, the name itself first and ``*`` last."""
    cuts = [i + 1 for i, char in enumerate(name[:-1]) if char in "/."]
    return [name, *(f"{name[:cut]}*" for cut in reversed(cuts)), "*"]


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened, as it is delivered to every subscriber.

    Attributes:
        name: what happened, such as ``"document/uploaded"`` (CloudEvents ``type``).
        data: JSON data; what subscribers receive as their first argument. Do not change it.
        id: unique per name; a second emit of the same name and id gives the same runs.
        source: where it happened, a URI reference.
        time: when it happened, with a time zone.
        subject: what it happened to, within the source.
        dataschema: URI of the schema that the data adheres to.
        traceparent: W3C trace context, from the CloudEvents extension of that name.
        correlationid: id of the first event of the chain of events that this one belongs to.
        causationid: id of the run that emitted it.
        depth: how many events led to it, each emitted by a run of the one before.
    """

    name: str
    data: Any = None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    source: str = "/"
    time: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.timezone.utc))
    subject: str | None = None
    dataschema: str | None = None
    traceparent: str | None = None
    correlationid: str | None = None
    causationid: str | None = None
    depth: int = 0

    def attributes(self) -> dict[str, str]:
        """Return the CloudEvents context attributes, without data and without empty ones."""
        attributes = {
            "specversion": "1.0",
            "id": self.id,
            "source": self.source,
            "type": self.name,
            "time": _rfc3339(self.time),
        }
        for key in ("subject", "dataschema", *EXTENSIONS):
            value = getattr(self, key)
            if value is not None:
                attributes[key] = value
        if self.depth:
            attributes[DEPTH] = str(self.depth)
        return attributes

    def headers(self) -> dict[str, str]:
        """Return the attributes as ``ce_*`` message headers."""
        return {HEADER_PREFIX + key: value for key, value in self.attributes().items()}

    @classmethod
    def from_headers(cls, headers: Mapping[str, Any], data: Any) -> Event | None:
        """Rebuild an event from ``ce_*`` headers; ``None`` if there is none in them."""
        if HEADER_PREFIX + "id" not in headers or HEADER_PREFIX + "type" not in headers:
            return None
        cut = len(HEADER_PREFIX)
        return from_attributes(
            {key[cut:]: value for key, value in headers.items() if key.startswith(HEADER_PREFIX)},
            data,
        )

    def to_cloudevent(self) -> dict[str, Any]:
        """Return the event in CloudEvents' structured mode: one JSON object."""
        return {
            **self.attributes(),
            "datacontenttype": "application/json",
            "data": self.data,
        }

    def to_cloudevent_binary(self) -> tuple[dict[str, str], bytes]:
        """Return the event in CloudEvents' binary mode for HTTP: headers and body."""
        headers = {f"ce-{key}": _percent_encode(v) for key, v in self.attributes().items()}
        headers["content-type"] = "application/json"
        return headers, encode(self.data).encode()

    @classmethod
    def from_cloudevent(
        cls, event: Mapping[str, Any] | bytes | str, headers: Mapping[str, str] | None = None
    ) -> Event:
        """Read a CloudEvent.

        Args:
            event: in structured mode the JSON object, as a mapping or as text; in binary mode the
                body.
            headers: the HTTP headers. Case does not matter. Their Content-Type tells the modes
                apart, as a structured message may carry the ``ce-`` headers too (CloudEvents' HTTP
                binding, sections 3 and 3.2.3).

        Raises:
            InvalidEvent: if it is no CloudEvent 1.0 with JSON data.
        """
        lowered = {key.lower(): value for key, value in (headers or {}).items()}
        structured = _media_type(lowered.get("content-type")).startswith("application/cloudevents")
        if "ce-specversion" in lowered and not structured:
            attributes: dict[str, Any] = {
                key[3:]: _percent_decode(value)
                for key, value in lowered.items()
                if key.startswith("ce-")
            }
            attributes["datacontenttype"] = lowered.get("content-type", "application/json")
            data = event if isinstance(event, (bytes, str)) else encode(event)
            return _from_cloudevent(attributes, _load_body(attributes, data))
        body = _load_json("?", event) if isinstance(event, (bytes, str)) else event
        if not hasattr(body, "items"):
            raise InvalidEvent("?", "is no JSON object", "Pass one CloudEvent, not a batch.")
        attributes = dict(body)
        if "data_base64" in attributes:
            raw = _decode_base64(attributes)
            return _from_cloudevent(attributes, _load_body(attributes, raw))
        return _from_cloudevent(attributes, attributes.pop("data", None))


def _load_json(name: str, text: bytes | str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise InvalidEvent(name, f"is no JSON ({exc})", "Send JSON in UTF-8.") from exc


def _decode_base64(attributes: dict[str, Any]) -> bytes:
    import base64  # rarely needed

    try:
        return base64.b64decode(attributes.pop("data_base64"), validate=True)
    except (TypeError, ValueError) as exc:
        remedy = "Encode the bytes of the JSON text, or put JSON into data."
        raise InvalidEvent(
            _type_of(attributes), "has a data_base64 that is no Base64", remedy
        ) from exc


def _media_type(content_type: object) -> str:
    return str(content_type or "").partition(";")[0].strip().lower()


def _load_body(attributes: Mapping[str, Any], body: bytes | str) -> Any:
    media_type = _media_type(attributes.get("datacontenttype")) or "application/json"
    if not media_type.endswith(("/json", "+json")):  # what CloudEvents' JSON format calls JSON
        remedy = "Send application/json; other content belongs into a store, with a reference here."
        raise InvalidEvent(_type_of(attributes), f"carries {media_type}", remedy)
    if not body:
        return None
    return _load_json(_type_of(attributes), body)


def _type_of(attributes: Mapping[str, Any]) -> str:
    return str(attributes.get("type", "?"))


def _from_cloudevent(attributes: Mapping[str, Any], data: Any) -> Event:
    version = attributes.get("specversion")
    if version != "1.0":
        problem = f"has specversion {version!r}"
        raise InvalidEvent(_type_of(attributes), problem, "Send CloudEvents 1.0.")
    for key in ("id", "source", "type"):
        value = attributes.get(key)
        if not isinstance(value, str) or not value:
            remedy = "CloudEvents 1.0 requires id, source and type, each a non-empty string."
            raise InvalidEvent(_type_of(attributes), f"has no {key}", remedy)
    name = check_name(attributes["type"])
    return from_attributes(attributes, as_json_data(name, data))


def from_attributes(attributes: Mapping[str, Any], data: Any) -> Event:
    """Rebuild an event from its attributes, as :meth:`Event.attributes` returned them."""
    optional = {key: attributes.get(key) for key in ("subject", "dataschema", *EXTENSIONS)}
    return Event(
        name=attributes["type"],
        data=data,
        id=attributes["id"],
        source=attributes.get("source") or "/",
        time=parse_time(attributes["type"], attributes.get("time")),
        depth=_depth(attributes.get(DEPTH)),
        **{key: None if value is None else str(value) for key, value in optional.items()},
    )


def _depth(value: object) -> int:
    text = str(value)
    return int(text) if text.isdecimal() and len(text) <= MAX_DEPTH_DIGITS else 0


def parse_time(name: str, value: object) -> dt.datetime:
    """Return an RFC 3339 text or a datetime as an aware datetime; now if it is ``None``.

    Raises:
        InvalidEvent: if it is no time, or has no time zone.
    """
    if value is None:
        return dt.datetime.now(dt.timezone.utc)
    if isinstance(value, str):
        # Python 3.10 reads neither "Z" nor fractions of other than 3 or 6 digits
        text = re.sub(r"[zZ]$", "+00:00", value)
        text = re.sub(r"\.(\d{1,6})\d*", lambda found: f".{found[1]:0<6}", text)
        try:
            value = dt.datetime.fromisoformat(text)
        except ValueError as exc:
            raise InvalidEvent(
                name, f"has the time {value!r}", "Use RFC 3339, such as 2026-11-22T10:00:00Z."
            ) from exc
    if not isinstance(value, dt.datetime) or value.tzinfo is None:
        raise InvalidEvent(
            name,
            f"has the time {value!r}, which names no instant",
            "Use a datetime with a time zone, such as datetime.now(timezone.utc).",
        )
    return value


def _rfc3339(time: dt.datetime) -> str:
    offset = time.utcoffset() or dt.timedelta(0)
    if offset % dt.timedelta(minutes=1):  # such as local mean time, which RFC 3339 cannot say
        time = time.astimezone(dt.timezone.utc)
    text = time.isoformat()
    return f"{text[:-6]}Z" if text.endswith("+00:00") else text


#: What CloudEvents' HTTP binding asks to be percent-encoded (section 3.1.3.2).
_UNSAFE = re.compile(r"[^\x21\x23\x24\x26-\x7e]")


def _percent_encode(value: str) -> str:
    return _UNSAFE.sub(lambda c: "".join(f"%{byte:02X}" for byte in c[0].encode()), value)


def _percent_decode(value: str) -> str:
    from urllib.parse import unquote  # only needed for binary mode

    # RFC 7230's quoted strings are unquoted first, as CloudEvents' section 3.1.3.2 asks
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    return unquote(value)
