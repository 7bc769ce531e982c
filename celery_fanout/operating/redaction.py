"""What people are shown of data: without its secrets.

The ledger has data as they are, and so has the Python API. What the command line and Django's admin
show went through ``fanout_redact``, or through :func:`redact` below.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from celery.utils.imports import symbol_by_name
from kombu.utils import json as kombu_json

from celery_fanout.exceptions import InvalidSetting
from celery_fanout.model.jsondata import encode
from celery_fanout.stores.checkpoints import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from celery_fanout.model.settings import Settings
    from celery_fanout.stores.records import EventRecord, RunRecord

    Redact = Callable[[str, Any], Any]

# not Celery's get_logger: its loggers say nothing in a process that has no logging set up
logger = logging.getLogger(__name__)

#: What stands in the place of a secret.
REDACTED = "[redacted]"

#: What a key contains whose value is a secret; compared in lower case, letters and digits only.
_SECRET = re.compile(
    "passw(or)?d|passphrase|secret|token|authori[sz]ation|cookie|credential|signature"
    "|apikey|accesskey|privatekey|encryptionkey|sessionid|cvv|cvc|^ssn$|iban$|^auth$|^pwd$|^pin$"
    "|^pass$|passcode|passkey|^t?otp|otp(code)?$|onetimecode|jwt|dsn$|database(url|uri)"
    "|connectionstring"
)

#: What a name is called that stands beside its value: ``{"name": "password", "value": "..."}``.
_NAMES = ("name", "key", "field", "header")

#: The password in a URL, and the parameters of one.
_URL_PASSWORD = re.compile(r"(?<=://)([^\s/?#@:]*):[^\s/?#]*@(?=[^\s/?#@]*)")
_URL_PARAMETER = re.compile(r"(?<=[?&#;])([^\s=&#;]+)=([^\s&#;]+)")


def redact(name: str, data: Any) -> Any:
    """Return a copy of data without the values whose keys sound like secrets.

    Such are ``password``, ``api_key``, ``accessToken``, ``Authorization``, ``Set-Cookie``, however
    they are written. Numbers of tokens are none: ``{"prompt_tokens": 812}`` stays. The name may be
    in the data, too: ``["Authorization", "..."]``, ``{"name": "password", "value": "..."}``. Of a
    URL the password and such parameters are left out.

    Args:
        name: the event's name.
        data: its data, or the value of a step, of one of its runs.
    """
    if isinstance(data, dict):
        mapping: dict[Any, Any] = cast("Any", data)
        named = [mapping[key] for key in _NAMES if isinstance(mapping.get(key), str)]
        hidden = {"value"} if any(_is_secret(each, "") for each in named) else set[str]()
        return {
            key: REDACTED if key in hidden or _is_secret(str(key), value) else redact(name, value)
            for key, value in mapping.items()
        }
    if isinstance(data, (list, tuple)):
        items: list[Any] = cast("Any", data)
        if len(items) == 2 and isinstance(items[0], str) and _is_secret(*items):  # noqa: PLR2004
            return [items[0], REDACTED]  # such as a header
        return [redact(name, value) for value in items]
    return _redacted_urls(data) if isinstance(data, str) and "://" in data else data


def _redacted_urls(text: str) -> str:
    """Return a text without the passwords and secret parameters of the URLs in it."""

    def parameter(found: re.Match[str]) -> str:
        return f"{found[1]}={REDACTED}" if _is_secret(found[1], found[2]) else found[0]

    return _URL_PARAMETER.sub(parameter, _URL_PASSWORD.sub(rf"\1:{REDACTED}@", text))


def redacted_key(event: str, limit: str, key: str, redact: Redact) -> str:
    """Return the value of a limit's key, unless the key sounds like that of a secret.

    Args:
        event: the event's name.
        limit: the limit's name, such as ``"concurrency shop.mail@order/paid by customer.token"``.
        key: the value of its key.
        redact: what is done to values.
    """
    word = limit.rpartition(" by ")[2].rpartition(".")[2]
    shown: Any = redact(event, {word: key})
    as_pair = isinstance(shown, dict) and word in shown
    return str(cast("Any", shown)[word] if as_pair else cast("Any", shown))


def _is_secret(key: str, value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return False
    plain = re.sub(r"[^a-z0-9]", "", key.lower())
    match = _SECRET.search(plain)
    if match is None:
        return False
    return not (match[0] == "token" and isinstance(value, (int, float)))


def redactor_of(settings: Settings) -> Redact:
    """Return the function that ``fanout_redact`` names, made safe; by default :func:`redact`.

    Where the function raises, a note about that is shown in place of the data.

    Raises:
        InvalidSetting: if there is no such function.
    """
    chosen: Any = settings.redact
    if chosen is None:
        return redact
    function: Any = chosen
    if isinstance(chosen, str):
        wanted = "the dotted path of a function of an event's name and data"
        try:
            function = symbol_by_name(chosen)
        except Exception as exc:
            problem = f"{chosen!r}, which cannot be imported ({type(exc).__name__}: {exc})"
            raise InvalidSetting("fanout_redact", problem, wanted) from exc
        if not callable(function):
            problem = f"{chosen!r}, which is {type(function).__name__}"
            raise InvalidSetting("fanout_redact", problem, wanted)

    def safely(name: str, data: Any) -> Any:
        try:
            shown = function(name, data)
            kombu_json.dumps(shown)  # it will have to be written somewhere
        except Exception as exc:  # noqa: BLE001 - whatever it is, the data must not be shown
            # not its message: it may quote the data
            logger.error("fanout_redact raised %s for %s", type(exc).__name__, name)  # noqa: TRY400
            return f"[fanout_redact raised {type(exc).__name__}]"
        return shown

    return safely


def redacted_event(event: EventRecord, redact: Redact) -> EventRecord:
    """Return an event as it may be shown."""
    return replace(event, data=encode(redact(event.name, json.loads(event.data))))


def redacted_run(run: RunRecord, name: str, redact: Redact, *, texts: bool = True) -> RunRecord:
    """Return a run with its detail as it may be shown.

    Args:
        run: the run.
        name: the name of its event.
        redact: what is done to values.
        texts: whether the messages of errors, and their tracebacks, are shown: no rule about keys
            can look into those.
    """
    detail = dict(run.detail)
    checkpoints: Mapping[str, str] = detail["checkpoints"]
    detail["checkpoints"] = {
        field: _checkpoint(text, name, redact, texts=texts) for field, text in checkpoints.items()
    }
    if detail["result"] is not None:
        # written by kombu: dates and the like have a form of their own there, which stays
        detail["result"] = encode(redact(name, json.loads(detail["result"])))
    if detail["message"]:
        detail["message"] = _message(detail["message"], name, redact)
    if not texts:
        if detail["error"] is not None:
            detail["error"] = {"type": detail["error"].get("type")}
        detail["attempts"] = [
            {**attempt, "error": (attempt["error"] or "").partition(":")[0]}
            for attempt in detail["attempts"]
        ]
    return replace(run, detail=detail)


def _checkpoint(text: str, name: str, redact: Redact, *, texts: bool) -> str:
    checkpoint = Checkpoint.loads(text)
    value = checkpoint.value
    if isinstance(value, dict) and value.keys() == {"a", "d"}:  # an event that it waited for
        event: Any = cast("Any", value)
        attributes: Any = event["a"]
        if isinstance(attributes, dict) and "type" in attributes:
            waited = str(cast("Any", attributes)["type"])
            checkpoint.value = {"a": attributes, "d": redact(waited, event["d"])}
            return checkpoint.dumps()
    if checkpoint.status == "done":
        checkpoint.value = redact(name, value)
    if checkpoint.error is not None and not texts:
        checkpoint.error = {"type": checkpoint.error.get("type", ""), "message": ""}
    return checkpoint.dumps()


def _message(text: str, name: str, redact: Redact) -> str:
    message: Any = json.loads(text)
    signature: Any = message.get("signature")
    for key in ("args", "kwargs"):
        if signature and key in signature:
            signature[key] = redact(name, signature[key])
    return encode(message)
