"""Webhooks: who may send them, what is emitted, and what each mistake is answered."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest

from tests.contrib.django.conftest import Project
from tests.contrib.django.inside import INSIDE, django_process, in_django
from tests.integration.webhooks import payloads
from tests.processes import free_port, wait_until

if INSIDE:
    from asgiref.sync import async_to_sync
    from django.core.asgi import get_asgi_application
    from django.core.wsgi import get_wsgi_application
    from django.db import connection
    from django.http import HttpResponse
    from django.test import AsyncClient, Client, RequestFactory, override_settings
    from django.urls import path
    from django.utils.datastructures import CaseInsensitiveMapping

    from celery_fanout.contrib.django.exceptions import InvalidWebhook
    from celery_fanout.contrib.django.models import OutboxEvent
    from celery_fanout.contrib.django.webhooks import GitHub, StandardWebhooks, Stripe, webhook
    from celery_fanout.exceptions import InvalidEventName
    from celery_fanout.testing import capture

__all__ = ["django_process"]

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_plJ3nmyCDGBKInavdOK15jsl"
BODY = b'{"type": "user.created", "id": "evt_1", "name": "Zo\xc3\xab"}'
NAMES = {"user.created": "user/created"}


def is_equal(found: object, expected: object) -> None:
    assert found == expected, f"\n{found!r}\nis not\n{expected!r}"


# --- what senders do -----------------------------------------------------------------------------


def standard(
    body: bytes = BODY, secret: str = SECRET, age: int = 0, event_id: str = "msg_1"
) -> dict[str, str]:
    sent = str(int(time.time()) - age)
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, f"{event_id}.{sent}.".encode() + body, "sha256")
    return {
        "webhook-id": event_id,
        "webhook-timestamp": sent,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def stripe(body: bytes = BODY, secret: str = SECRET, age: int = 0) -> dict[str, str]:
    sent = int(time.time()) - age
    digest = hmac.digest(secret.encode(), f"{sent}.".encode() + body, "sha256").hex()
    return {"Stripe-Signature": f"t={sent},v0=unused,v1={digest}"}


def github(
    body: bytes = BODY, secret: str = SECRET, event: str = "user", event_id: str = "d-1"
) -> dict[str, str]:
    digest = hmac.digest(secret.encode(), body, "sha256").hex()
    return {
        "X-GitHub-Delivery": event_id,
        "X-GitHub-Event": event,
        "X-Hub-Signature-256": f"sha256={digest}",
    }


def send(
    view: Callable[..., Any],
    headers: dict[str, str],
    body: bytes = BODY,
    content_type: str = "application/json",
    method: str = "POST",
    **extra: Any,
) -> HttpResponse:
    """Send a request to a view through all of Django, CSRF checks included."""
    with override_settings(ROOT_URLCONF=(path("hook/", view),)):
        client = Client(enforce_csrf_checks=True, raise_request_exception=True)
        found: HttpResponse = client.generic(
            method, "/hook/", body, content_type, headers=headers, **extra
        )
    return found


def emitted(
    view: Callable[..., Any], headers: dict[str, str], body: bytes = BODY, **options: Any
) -> tuple[int, list[Any]]:
    """Return the status, and the names, ids and data of the events."""
    with capture() as events:
        status = send(view, headers, body, **options).status_code
        return status, [(event.name, event.id, event.data) for event in events]


SENDERS = {"standard": standard, "stripe": stripe, "github": github}
IDS = {"standard": "msg_1", "stripe": "evt_1", "github": "d-1"}


def view_of(sender: str, *secrets: str, names: Any = None, **options: Any) -> Callable[..., Any]:
    verifiers = {"standard": StandardWebhooks, "stripe": Stripe, "github": GitHub}
    names = names or {**NAMES, "user": "user/created"}
    return webhook(verifiers[sender](*(secrets or [SECRET])), names, **options)


every_sender = pytest.mark.parametrize("sender", ["standard", "stripe", "github"])

# --- the schemes ---------------------------------------------------------------------------------


@in_django
def test_the_examples_of_the_standard():
    # from the specification and from the reference implementations
    for secret, event_id, sent, body, signature in [
        (
            SECRET,
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1614265330,
            b'{"test": 2432232314}',
            "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        ),
        (
            OTHER,
            "msg_loFOjxBNrRLzqYUf",
            1731705121,
            b'{"event_type":"ping","data":{"success":true}}',
            "rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=",
        ),
        # what standardwebhooks 1.1 signs
        (SECRET, "msg_1", 1700000000, BODY_OF_THE_LIBRARY, LIBRARY_SIGNATURE),
    ]:
        headers = CaseInsensitiveMapping(
            {
                "Webhook-Id": event_id,
                "Webhook-Timestamp": str(sent),
                "Webhook-Signature": f"v1,{signature}",
            }
        )
        for text in (secret, secret.removeprefix("whsec_")):
            assert StandardWebhooks(text).verify(headers, body, sent)
            assert StandardWebhooks(text).verify(headers, body, sent + 300)
            assert StandardWebhooks(text).verify(headers, body, sent - 300)
            assert not StandardWebhooks(text).verify(headers, body, sent + 301)
            assert not StandardWebhooks(text).verify(headers, body, sent - 301)
            assert StandardWebhooks(text, tolerance=900).verify(headers, body, sent + 900)
            assert not StandardWebhooks(text).verify(headers, body + b" ", sent)


BODY_OF_THE_LIBRARY = '{"type": "user.created", "name": "Zoë"}'.encode()
LIBRARY_SIGNATURE = "pSWe1p/K3DSGhJUj8tGLxwrnM/v+955YyG8aIIDgWP0="


@in_django
def test_the_example_of_github():
    headers = CaseInsensitiveMapping(
        {
            "X-Hub-Signature-256": "sha256="
            "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
        }
    )
    verifier = GitHub("It's a Secret to Everybody")
    assert verifier.verify(headers, b"Hello, World!", 0)
    assert not verifier.verify(headers, b"Hello, World?", 0)


@in_django
def test_what_stripes_own_library_signs():
    signature = "795b72f42ae6c3f4aaa1f75d5f7cb9d13175477233d6bae3adecc27ed91a5171"
    body = b'{"id": "evt_1", "object": "event", "type": "invoice.paid"}'
    v0 = "6ffbb59b2300aae63f272406069a9788598b792a944a07aba816edb039989a39"
    for header in (f"t=1492774577,v1={signature}", f"t=1492774577, v1={signature}, v0={v0}"):
        headers = CaseInsensitiveMapping({"Stripe-Signature": header})
        assert Stripe("whsec_test_secret").verify(headers, body, 1492774577)
        assert not Stripe("whsec_test_secret").verify(headers, body, 1492774577 + 301)
        assert not Stripe("whsec_other").verify(headers, body, 1492774577)
    is_equal(Stripe("whsec_x").describe({}, json.loads(body)), ("evt_1", ["invoice.paid"]))


@every_sender
@in_django
def test_a_delivery_becomes_an_event_with_its_id(sender: str):
    status, events = emitted(view_of(sender), SENDERS[sender]())
    is_equal((status, events), (202, [("user/created", IDS[sender], json.loads(BODY))]))


@every_sender
@in_django
def test_several_secrets(sender: str):
    view = view_of(sender, OTHER, SECRET)
    for secret in (SECRET, OTHER):
        is_equal(emitted(view, SENDERS[sender](secret=secret))[0], 202)
    is_equal(emitted(view, SENDERS[sender](secret="whsec_aaaaaaaaaaaaaaaa"))[0], 403)


@in_django
def test_several_signatures():
    right, wrong = standard(), standard(secret=OTHER)
    view = view_of("standard")
    key = "webhook-signature"
    for signatures, status in [
        (f"{wrong[key]} {right[key]}", 202),
        (f"v1a,abc v2 {right[key]}", 202),
        (f"{wrong[key]} {wrong[key]}", 403),
        (right[key].replace("v1,", "v1a,"), 403),
        (right[key].replace("v1,", ""), 403),
    ]:
        is_equal(emitted(view, {**right, key: signatures})[0], status)
    good, bad = stripe()["Stripe-Signature"], stripe(secret=OTHER)["Stripe-Signature"]
    other = bad.split(",")[-1]
    view = view_of("stripe")
    for header, status in [
        (f"{good},{other}", 202),
        (good.replace(",v1=", f",{other},v1="), 202),
        (bad, 403),
        (good.replace("v1=", "v0="), 403),
        (f"{good},t=1", 403),
    ]:
        is_equal(emitted(view, {"Stripe-Signature": header})[0], status)


@in_django
def test_the_headers_of_svix():
    headers = {key.replace("webhook", "svix"): value for key, value in standard().items()}
    view = webhook(StandardWebhooks(SECRET, prefix="svix"), NAMES)
    is_equal(emitted(view, headers)[1], [("user/created", "msg_1", json.loads(BODY))])


# --- what is refused -----------------------------------------------------------------------------


@every_sender
@in_django
def test_signatures_that_are_wrong(sender: str):
    view, right = view_of(sender), SENDERS[sender]()
    is_equal(emitted(view, SENDERS[sender](secret=OTHER)), (403, []))
    is_equal(emitted(view, SENDERS[sender](b"{}")), (403, []))
    name = next(name for name in right if "ignature" in name)
    for wrong in ("", "v1,", "sha256=", "t=", "t=,v1=", "=", "\xe9", "x" * 4000, right[name][:-1]):
        is_equal(emitted(view, {**right, name: wrong}), (403, []))
    is_equal(emitted(view, {key: value for key, value in right.items() if key != name}), (403, []))
    answer = send(view, {})
    is_equal(answer.content, b"The signature is missing, wrong or out of date.")


@pytest.mark.parametrize("sender", ["standard", "stripe"])
@in_django
def test_times_that_are_not_now(sender: str):
    view = view_of(sender)
    is_equal(emitted(view, SENDERS[sender](age=290))[0], 202)
    is_equal(emitted(view, SENDERS[sender](age=-290))[0], 202)
    is_equal(emitted(view, SENDERS[sender](age=400)), (403, []))
    is_equal(emitted(view, SENDERS[sender](age=-400)), (403, []))


@in_django
def test_what_is_signed_cannot_be_exchanged():
    view, right = view_of("standard"), standard()
    later = str(int(right["webhook-timestamp"]) + 1)
    for change in [
        {"webhook-id": "msg_2"},
        {"webhook-id": ""},
        {"webhook-timestamp": later},
        {"webhook-timestamp": f"{right['webhook-timestamp']}.0"},
        {"webhook-timestamp": f"+{right['webhook-timestamp']}"},
        {"webhook-timestamp": "9" * 5000},
        {"webhook-timestamp": "nan"},
        {"webhook-timestamp": ""},
    ]:
        is_equal(emitted(view, {**right, **change}), (403, []))


@in_django
def test_no_id_or_no_type():
    for body, headers in [
        (b'{"type": "user.created"}', {}),
        (b'{"type": "user.created", "id": 7}', {}),
        (b'{"type": "user.created", "id": ""}', {}),
        (b'{"id": "evt_1"}', {}),
        (b'{"id": "evt_1", "type": ["user.created"]}', {}),
    ]:
        is_equal(emitted(view_of("stripe"), stripe(body) | headers, body), (400, []))
    for name in ("X-GitHub-Event", "X-GitHub-Delivery"):
        headers = {key: value for key, value in github().items() if key != name}
        is_equal(emitted(view_of("github"), headers), (400, []))
    is_equal(emitted(view_of("github"), github(event_id="x" * 1001)), (400, []))


@in_django
def test_other_methods():
    for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"):
        answer = send(view_of("github"), github(), method=method)
        is_equal((answer.status_code, answer["Allow"]), (405, "POST"))


@in_django
def test_other_content_types():
    view = view_of("github")
    for kind, status in [
        ("application/json; charset=utf-8", 202),
        ("APPLICATION/JSON", 202),
        ("application/cloudevents+json", 202),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("text/plain", 415),
        ("", 415),
    ]:
        is_equal(emitted(view, github(), content_type=kind)[0], status)


@in_django
def test_bodies_that_are_no_json_object():
    deep = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    for body in [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 1}}',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": ' + b"1" * 5000 + b"}",
        b'{"a": "\xff"}',
        b'\xef\xbb\xbf{"a": 1}',
        '{"a": 1}'.encode("utf-16"),
        b'{"a": "\\ud800"}',
        b'{"a": {"__type__": "x", "__value__": 1}}',
        b"payload=%7B%7D",
        deep,
    ]:
        status, events = emitted(view_of("github"), github(body), body)
        is_equal((body[:40], status, events), (body[:40], 411 if not body else 400, []))


@in_django
def test_bodies_that_are_too_large():
    body = json.dumps({"text": "x" * 2000}).encode()
    view = view_of("github", max_size=1000)
    is_equal(emitted(view, github(body), body), (413, []))
    # what Content-Length says decides before anything is read
    is_equal(emitted(view, github(), CONTENT_LENGTH="1001"), (413, []))
    is_equal(emitted(view, github(), CONTENT_LENGTH="9" * 5000), (413, []))
    for length in ("-1", "1.0", "x", "\u0663"):
        is_equal(emitted(view, github(), CONTENT_LENGTH=length), (400, []))
    # and what arrives, whatever it says
    request = RequestFactory().post("/", body, "application/json", headers=github(body))
    request.META["CONTENT_LENGTH"] = "10"
    is_equal(view(request).status_code, 413)
    # larger than what Django takes elsewhere, and than what an event may be
    with override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=100):
        is_equal(emitted(view_of("github"), github(body), body)[0], 202)
    body = json.dumps({"text": "x" * 300_000}).encode()
    is_equal(emitted(view_of("github"), github(body), body), (413, []))


@in_django
def test_a_body_that_a_middleware_has_read():
    request = RequestFactory().post("/", BODY, "application/json", headers=github())
    assert request.body
    with capture() as events:
        is_equal(view_of("github")(request).status_code, 202)
    is_equal(len(events), 1)


# --- names ---------------------------------------------------------------------------------------


@in_django
def test_types_that_nobody_asked_for():
    is_equal(emitted(view_of("standard", names={"x": "y"}), standard()), (204, []))
    view = view_of("standard", names={"x": "y"}, refuse_others=True)
    is_equal(emitted(view, standard()), (400, []))
    is_equal(emitted(view_of("standard", names=lambda kind: None), standard()), (204, []))


@in_django
def test_githubs_actions():
    body = b'{"action": "opened", "issue": {}}'
    for names, expected in [
        ({"issues": "a"}, ["a"]),
        ({"issues.opened": "b", "issues": "a"}, ["b"]),
        ({"issues.closed": "c"}, []),
        ({"opened": "d"}, []),
        (lambda kind: f"github/{kind}", ["github/issues.opened"]),
        ({"issues": "e"}.get, ["e"]),
    ]:
        _, events = emitted(view_of("github", names=names), github(body, event="issues"), body)
        is_equal([name for name, _, _ in events], expected)


@in_django
def test_a_function_that_makes_no_name():
    with pytest.raises(InvalidEventName):
        emitted(view_of("standard", names=lambda kind: "not a name"), standard())


@in_django
def test_real_payloads_of_github():
    view = view_of("github", names=lambda kind: f"github/{kind}")
    given = payloads()
    assert len(given) > 100
    for number, payload in enumerate(given):
        body = json.dumps(payload["data"], ensure_ascii=number % 2 == 0).encode()
        kind = payload["event"].partition("/")[2].partition(".")[0]
        headers = github(body, event=kind, event_id=f"d-{number}")
        action = payload["data"].get("action")
        name = f"github/{kind}.{action}" if action else f"github/{kind}"
        expected = (202, [(name, f"d-{number}", payload["data"])])
        is_equal(emitted(view, headers, body), expected)


@in_django
def test_a_verifier_of_ones_own():
    class Shared:
        def verify(self, headers, body, now):
            return headers.get("X-Token") == "token"

        def describe(self, headers, data):
            return headers.get("X-Id"), [data["kind"]]

    view = webhook(Shared(), {"a": "shared/a"})
    body = b'{"kind": "a"}'
    is_equal(
        emitted(view, {"X-Token": "token", "X-Id": "1"}, body),
        (202, [("shared/a", "1", {"kind": "a"})]),
    )
    is_equal(emitted(view, {"X-Id": "1"}, body), (403, []))


# --- making the view -----------------------------------------------------------------------------


def mistakes() -> dict[str, tuple[Callable[[], Any], str]]:
    """Return what is refused, and the whole message."""
    no_secret = "has no secret. Pass it; without one anybody could send."
    empty = "has an empty secret (number {}). Pass texts; look whether the setting is there."
    base64_remedy = (
        "StandardWebhooks has a secret that is no Base64. Pass it as the sender shows it, such as "
        "whsec_ and 32 letters and digits."
    )
    stripe_remedy = (
        "Stripe has a secret that does not begin with whsec_. Pass the signing secret of the "
        "webhook endpoint, not an API key."
    )
    right = GitHub(SECRET)
    return {
        "github none": (GitHub, f"GitHub {no_secret}"),
        "standard none": (StandardWebhooks, f"StandardWebhooks {no_secret}"),
        "stripe none": (Stripe, f"Stripe {no_secret}"),
        "empty": (lambda: GitHub("a", ""), f"GitHub {empty.format(2)}"),
        "not there": (lambda: GitHub(None), f"GitHub {empty.format(1)}"),
        "bytes": (
            lambda: GitHub(b"x"),
            (
                "GitHub has a secret that is no text but a bytes. Pass "
                "texts; look whether the setting "
                "is there."
            ),
        ),
        "whsec": (lambda: StandardWebhooks("whsec_?"), base64_remedy),
        "only whsec": (lambda: StandardWebhooks("whsec_"), base64_remedy),
        "public key": (lambda: StandardWebhooks("whpk_MfKQ9r8GKYqrTwjU"), base64_remedy),
        "api key": (lambda: Stripe("sk_live_abc"), stripe_remedy),
        "stripe whsec": (lambda: Stripe("whsec_"), stripe_remedy),
        "tolerance": (
            lambda: Stripe(SECRET, tolerance=0),
            "Stripe has the tolerance 0. Use seconds, greater than 0 and up to a day.",
        ),
        "verifier": (
            lambda: webhook(GitHub, NAMES),
            (
                "A webhook does not know who sends it. Pass GitHub(secret), "
                "StandardWebhooks(secret), "
                "Stripe(secret), or a verifier of your own."
            ),
        ),
        "names": (
            lambda: webhook(right, ["user"]),
            (
                "A webhook has names that are neither a mapping nor a "
                "function. Pass a dict: what the "
                "sender calls it, and the name of the event."
            ),
        ),
        "no names": (
            lambda: webhook(right, {}),
            "A webhook emits nothing. Name the types to emit, and the event of each.",
        ),
        "size": (
            lambda: webhook(right, NAMES, max_size=0),
            "A webhook has the max_size 0. Use a number of bytes greater than 0.",
        ),
    }


@pytest.mark.parametrize(
    "case",
    [
        *("github none", "standard none", "stripe none", "empty", "not there", "bytes", "whsec"),
        *("only whsec", "public key", "api key", "stripe whsec", "tolerance", "verifier", "names"),
        *("no names", "size"),
    ],
)
@in_django
def test_a_view_that_could_not_work_is_refused_when_it_is_made(case: str):
    make, message = mistakes()[case]
    with pytest.raises(InvalidWebhook, match=f"^{re.escape(message)}$"):
        make()


@in_django
def test_a_name_that_cannot_be_is_refused_when_the_view_is_made():
    with pytest.raises(InvalidEventName):
        webhook(GitHub(SECRET), {"push": "not a name"})


# --- delivering ----------------------------------------------------------------------------------


@in_django
def test_the_outbox_takes_it_in_a_transaction_of_its_own():
    is_equal(send(view_of("github", delivery="outbox"), github()).status_code, 202)
    is_equal(
        [(row.name, row.event_id) for row in OutboxEvent.objects.all()], [("user/created", "d-1")]
    )


@in_django
def test_an_outbox_that_is_not_there():
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE celery_fanout_outbox RENAME TO elsewhere")
    try:
        is_equal(send(view_of("github", delivery="outbox"), github()).status_code, 503)
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE elsewhere RENAME TO celery_fanout_outbox")


@in_django
def test_where_a_login_is_required():
    middleware = [
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.auth.middleware.LoginRequiredMiddleware",
    ]
    with override_settings(MIDDLEWARE=middleware):
        is_equal(emitted(view_of("github"), github())[0], 202)


@in_django
def test_under_asgi():
    view = view_of("standard")

    async def post() -> int:
        answer = await AsyncClient(enforce_csrf_checks=True).post(
            "/hook/", BODY, "application/json", headers=standard()
        )
        return int(answer.status_code)

    with override_settings(ROOT_URLCONF=(path("hook/", view),)), capture() as events:
        is_equal(async_to_sync(post)(), 202)
    is_equal([event.id for event in events], ["msg_1"])


@in_django
def test_a_chunked_body_under_asgi():
    async def ask() -> list[Any]:
        headers = [(key.lower().encode(), value.encode()) for key, value in github().items()]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": "/hook/",
            "query_string": b"",
            "headers": [*headers, (b"content-type", b"application/json")],
        }
        parts = [
            {"type": "http.request", "body": BODY[:10], "more_body": True},
            {"type": "http.request", "body": BODY[10:], "more_body": False},
        ]
        sent: list[Any] = []

        async def receive() -> Any:
            if parts:
                return parts.pop(0)
            await asyncio.Event().wait()
            return None

        async def answer(message: Any) -> None:
            sent.append(message)

        await get_asgi_application()(scope, receive, answer)
        return sent

    with override_settings(ROOT_URLCONF=(path("hook/", view_of("github")),)):
        found = async_to_sync(ask)()
    is_equal(found[0]["status"], 411)


@in_django
def test_a_chunked_body_under_wsgi():
    class Quiet(WSGIRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    with override_settings(ROOT_URLCONF=(path("hook/", view_of("github")),)):
        server = make_server("127.0.0.1", 0, get_wsgi_application(), handler_class=Quiet)
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with socket.create_connection(server.server_address) as client:
            lines = ["POST /hook/ HTTP/1.1", "Host: x", "Content-Type: application/json"]
            lines += [f"{key}: {value}" for key, value in github().items()]
            lines += ["Transfer-Encoding: chunked", "Connection: close", "", f"{len(BODY):x}", ""]
            client.sendall("\r\n".join(lines).encode() + BODY + b"\r\n0\r\n\r\n")
            answer = client.makefile("rb").read()
        thread.join()
        server.server_close()
    assert b" 411 " in answer.splitlines()[0], answer


# --- with a broker -------------------------------------------------------------------------------

SCRIPT = """
from django.test import Client, override_settings
from django.urls import path
from celery_fanout.contrib.django.webhooks import webhook
from tests.contrib.django.test_webhooks import github, send, view_of

body = b'{"number": "1"}'
view = view_of("github", names={"order": "order/placed"})
def deliver():
    return send(view, github(body, event="order"), body).status_code
"""

sqlite_only = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@sqlite_only
def test_a_delivery_that_is_sent_again_runs_nothing_again(project: Project) -> None:
    told = project.told(SCRIPT + "tell(deliver(), deliver(), published())")
    assert told == [202, 202, ["d-1"]]
    with project.worker():
        wait_until(lambda: len(project.ran()) >= 2)
        project.told(SCRIPT + "tell(deliver())")
        project.told("emission = emit('order/other', {}, id='last'); tell(len(emission.runs))")
        wait_until(lambda: any(line["id"] == "last" for line in project.ran()))
    ran = sorted((line["task"], line["id"]) for line in project.ran())
    assert ran == [("invoice", "d-1"), ("record", "d-1"), ("record", "last")]


@pytest.mark.parametrize("atomic", [True, False])
@sqlite_only
def test_a_publish_that_fails_is_answered_so_that_it_is_sent_again(
    project: Project, atomic: bool
) -> None:
    url = f"redis://127.0.0.1:{free_port()}"
    databases = json.loads(project.environment["TEST_DATABASES"])
    databases["default"]["ATOMIC_REQUESTS"] = atomic
    nobody = {"TEST_BROKER": f"{url}/0", "TEST_BACKEND": f"{url}/1"}
    project.environment["TEST_DATABASES"] = json.dumps(databases)
    project.settings(CELERY_FANOUT_PUBLISH_TIMEOUT=0.5)
    assert project.told(SCRIPT + "tell(deliver())", **nobody) == [503]
    assert project.told(SCRIPT + "tell(deliver(), published())") == [202, ["d-1"]]
