"""Sends documents to the site by webhook, as another program would."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.urls import reverse

from example_project.inbox.documents import id_of_delivery

if TYPE_CHECKING:
    from django.core.management.base import CommandParser


def signed(delivery: str, body: bytes, secret: str) -> dict[str, str]:
    """Return the headers of a delivery, as standardwebhooks.com has them."""
    now = str(int(time.time()))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{delivery}.{now}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": delivery,
        "webhook-timestamp": now,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


class Command(BaseCommand):
    help = "Send documents to the site by webhook."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("files", nargs="+", type=Path, help="text or Markdown files")
        parser.add_argument(
            "--url",
            default=os.environ.get("EXAMPLE_URL", "http://127.0.0.1:8000/"),
            help="where the site is (default: %(default)s)",
        )

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002 - Django's
        for file in options["files"]:
            try:
                text = file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as exc:
                raise CommandError(f"{file} is no text that can be read: {exc}") from exc
            self._send(file.name, text, options["url"].rstrip("/"))

    def _send(self, name: str, text: str, url: str) -> None:
        body = json.dumps({"type": "document.sent", "name": name, "text": text}).encode()
        delivery = f"msg_{uuid.uuid4().hex}"
        headers = signed(delivery, body, settings.WEBHOOK_SECRET)
        request = urllib.request.Request(  # noqa: S310 - where the user says
            f"{url}{reverse('inbox:webhook')}",
            data=body,
            headers={"content-type": "application/json", **headers},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - see above
                status = answer.status
        except urllib.error.HTTPError as exc:
            raise CommandError(
                f"{name} was refused with {exc.code}: {exc.read().decode()} Was the environment "
                "loaded that `make example` has named?"
            ) from exc
        except urllib.error.URLError as exc:
            raise CommandError(
                f"{url} does not answer ({exc.reason}). Start it with: make example"
            ) from exc
        path = reverse("inbox:document", args=[id_of_delivery(delivery)])
        self.stdout.write(f"{status} {name}: {url}{path}")
