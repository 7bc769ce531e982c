"""A view that receives webhooks: checks who sent them, and emits them as events.

::

    from celery_fanout.contrib.django.webhooks import GitHub, webhook

    urlpatterns = [
        path("hooks/github/", webhook(GitHub(settings.GITHUB_SECRET), {"push": "github/push"})),
    ]

The signature is computed over the body as it came, before anything is made of it. The delivery's id
becomes the event's id, so that a delivery that is sent again is de-duplicated as any event is.
"""

from __future__ import annotations

import json
import logging
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from django.contrib.auth.decorators import login_not_required
from django.db import DatabaseError, connections, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, UnreadablePostError
from django.views.decorators.csrf import csrf_exempt

from celery_fanout.app.api import emit
from celery_fanout.app.fanout import get_fanout
from celery_fanout.contrib.django.exceptions import InvalidWebhook, NoOutbox
from celery_fanout.contrib.django.signatures import GitHub, StandardWebhooks, Stripe, Verifier
from celery_fanout.exceptions import EmitError, EventTooLarge, InvalidEvent
from celery_fanout.model.events import check_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from celery import Celery

    from celery_fanout.app.api import Delivery

    Names = Mapping[str, str] | Callable[[str], str | None]

__all__ = ["GitHub", "StandardWebhooks", "Stripe", "Verifier", "webhook"]

# not Celery's get_logger: its loggers say nothing in a process that has no logging set up
logger = logging.getLogger(__name__)

MAX_SIZE = 1024 * 1024


def webhook(
    verifier: Verifier,
    names: Names,
    *,
    max_size: int = MAX_SIZE,
    refuse_others: bool = False,
    delivery: Delivery | None = None,
    using: str | None = None,
    app: Celery | None = None,
) -> Callable[[HttpRequest], HttpResponse]:
    """Return a view that emits the webhooks of one sender as events.

    The event's data are the JSON object that was sent, its id is that of the delivery. The view
    needs no CSRF token and no login, and runs in no transaction of ``ATOMIC_REQUESTS``: when it
    answers 202, the event is published, or in the outbox. It works under WSGI and ASGI.

    =====  ===================================================================================
    202    the event was emitted, perhaps not for the first time
    204    its type is not among the names; it is ignored
    400    it is not what this sender sends: no JSON object, no id, nothing that can be emitted
    403    the signature is missing or wrong, or the time in it is
    405    it is no POST
    411    its size is not told: no Content-Length
    413    it is larger than ``max_size`` or ``fanout_max_event_size``
    415    it is not JSON by its Content-Type
    503    it could not be published; the sender should try again
    =====  ===================================================================================

    Args:
        verifier: who sends: :class:`GitHub`, :class:`StandardWebhooks`, :class:`Stripe`, or an
            object of your own with the same two methods.
        names: which types of the sender's are emitted, and by which event names: a mapping, or a
            function that takes the type and returns the name, or ``None``.
        max_size: the largest body that is read, in bytes.
        refuse_others: answer 400 to types that are not among the names, instead of 204.
        delivery: as of :func:`~celery_fanout.emit`; ``fanout_delivery`` by default.
        using: as of :func:`~celery_fanout.emit`.
        app: the Celery app; the current one by default.

    Raises:
        InvalidWebhook: if there are no names, or the size is no number of bytes.
        InvalidEventName: if a name cannot name an event.
    """
    _check(verifier, names, max_size)
    receiver = _Receiver(verifier, names, max_size, refuse_others, delivery, using, app)

    def receive(request: HttpRequest) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        try:
            return _answer(receiver.receive(request))
        except _Refused as refused:
            logger.warning("A webhook was answered with %s: %s", refused.status, refused.text)
            return _answer(refused.status, refused.text)

    view: Any = csrf_exempt(login_not_required(receive))
    for alias in connections:
        # a failed publish has to be known before the answer
        view = transaction.non_atomic_requests(using=alias)(view)
    return view  # type: ignore[no-any-return]


class _Refused(Exception):  # noqa: N818 - an answer
    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text


def _answer(status: int, text: str = "") -> HttpResponse:
    return HttpResponse(text, status=status, content_type="text/plain; charset=utf-8")


@dataclass(frozen=True)
class _Receiver:
    verifier: Verifier
    names: Names
    max_size: int
    refuse_others: bool
    delivery: Delivery | None
    using: str | None
    app: Celery | None

    def receive(self, request: HttpRequest) -> int:
        """Check a request and emit it; return the status."""
        body = _read(request, self.max_size)
        if not self.verifier.verify(request.headers, body, time.time()):
            raise _Refused(403, "The signature is missing, wrong or out of date.")
        data = _load(body)
        event_id, types = self.verifier.describe(request.headers, data)
        if not event_id or not types:
            raise _Refused(400, "The delivery has no id or no type.")
        name = self._name_of(types)
        if name is not None:
            self._emit(name, data, event_id)
            return 202
        logger.info("A webhook of the type %.100r is not emitted", types[0])
        if self.refuse_others:
            raise _Refused(400, "Nobody asked for this type.")
        return 204

    def _name_of(self, types: Sequence[str]) -> str | None:
        for kind in types:
            name = self.names(kind) if callable(self.names) else self.names.get(kind)
            if name is not None:
                return check_name(name)
        return None

    def _emit(self, name: str, data: Any, event_id: str) -> None:
        try:
            self._publish(name, data, event_id)
        except EventTooLarge as exc:
            raise _Refused(413, "The data are too large.") from exc
        except InvalidEvent as exc:
            # not what it says, which may quote the data
            logger.warning("A webhook cannot be emitted as %s: %s", name, type(exc).__name__)
            raise _Refused(400, "The data cannot be used.") from exc
        except (EmitError, NoOutbox, DatabaseError) as exc:
            logger.error(  # noqa: TRY400 - texts of errors may quote data
                "A webhook could not be emitted as %s: %s", name, type(exc).__name__
            )
            raise _Refused(503, "Try again later.") from exc

    def _publish(self, name: str, data: Any, event_id: str) -> None:
        settings = get_fanout(self.app).settings
        is_for_outbox = (self.delivery or settings.delivery) == "outbox"
        database = self.using or settings.outbox_database
        with transaction.atomic(using=database) if is_for_outbox else nullcontext():
            emit(name, data, id=event_id, delivery=self.delivery, using=self.using, app=self.app)


def _check(verifier: Any, names: Any, max_size: Any) -> None:
    if not callable(getattr(verifier, "verify", None)) or isinstance(verifier, type):
        problem = "does not know who sends it"
        remedy = "Pass GitHub(secret), StandardWebhooks(secret), Stripe(secret), or a verifier of "
        remedy += "your own."
    elif not callable(names) and not hasattr(names, "items"):
        problem = "has names that are neither a mapping nor a function"
        remedy = "Pass a dict: what the sender calls it, and the name of the event."
    elif not callable(names) and not names:
        problem, remedy = "emits nothing", "Name the types to emit, and the event of each."
    else:
        for name in () if callable(names) else names.values():
            check_name(name)
        if isinstance(max_size, int) and not isinstance(max_size, bool) and max_size > 0:
            return
        problem, remedy = f"has the max_size {max_size!r}", "Use a number of bytes greater than 0."
    raise InvalidWebhook("A webhook", problem, remedy)


def _read(request: HttpRequest, max_size: int) -> bytes:
    """Return the body, of which no more is read than is allowed."""
    length = str(request.META.get("CONTENT_LENGTH") or "")
    if not length:  # such as a chunked body; Django reads those to their end, or not at all
        raise _Refused(411, "Send a Content-Length.")
    if not (length.isascii() and length.isdigit()):
        raise _Refused(400, "The Content-Length is no number.")
    if len(length) > len(str(max_size)) or int(length) > max_size:
        raise _Refused(413, "The body is too large.")
    media_type = (request.content_type or "").lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise _Refused(415, "Send application/json.")
    try:
        body: bytes = request.read(max_size + 1)  # not request.body, which has another limit
    except UnreadablePostError as exc:
        raise _Refused(400, "The body ended too early.") from exc
    if len(body) > max_size:
        raise _Refused(413, "The body is too large.")
    return body


def _load(body: bytes) -> dict[str, Any]:
    try:
        data: Any = json.loads(body.decode(), object_pairs_hook=_unique)  # emit() refuses NaN
    except (ValueError, RecursionError) as exc:
        raise _Refused(400, "The body is no JSON.") from exc
    if not isinstance(data, dict):
        raise _Refused(400, "The body is no JSON object.")
    return cast("dict[str, Any]", data)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise ValueError("two keys are the same")  # and readers differ about which counts
    return mapping
