"""Tests of the site as any Django project has them: `python -m example_project.manage test`.

`simulate()` is the library's: the real engine on a ledger in memory, with a clock that is moved.
"""

from __future__ import annotations

import base64
import json
import re
import tempfile
import uuid
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client, TestCase, override_settings
from django.urls import reverse

from celery_fanout import RunOutcome, RunState, emit, get_fanout
from celery_fanout.testing import simulate
from example_project.inbox.documents import id_of_delivery
from example_project.inbox.events import DocumentUploaded
from example_project.inbox.management.commands.send_document import signed
from example_project.inbox.models import Document, Reading
from example_project.inbox.progress import EVENT, card_of
from example_project.inbox.tasks import FAILURES, RETRIES
from example_project.website import celery_app

INVOICE = Path(__file__).parent.parent / "sample_documents" / "invoice.md"


class SiteTestCase(TestCase):
    def setUp(self) -> None:
        stack = ExitStack()
        self.addCleanup(stack.close)
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(override_settings(MODEL_DIR=Path(directory), MODEL_SECONDS=0))
        self.simulation = stack.enter_context(simulate(celery_app))

    def upload(self, **data: Any) -> Any:
        data.setdefault("trouble", "none")
        with self.captureOnCommitCallbacks(execute=True):
            return self.client.post("/", data)

    def uploaded(self, **data: Any) -> Document:
        response = self.upload(**data)
        self.assertEqual(response.status_code, 302, response.content.decode())
        return Document.objects.get()

    def page(self, document: Document) -> str:
        return self.client.get(document.get_absolute_url()).content.decode()

    def badges(self, document: Document) -> list[str]:
        page = self.client.get(reverse("inbox:progress", args=[document.pk])).content.decode()
        return re.findall(r'class="badge \w+">([^<]+)<', page)


class UploadTests(SiteTestCase):
    def test_a_file(self) -> None:
        document = self.uploaded(file=SimpleUploadedFile("in.md", "\ufeff# Invoice 7".encode()))
        self.assertEqual(
            (document.name, document.text, document.source), ("in.md", "# Invoice 7", "form")
        )
        event = get_fanout(celery_app).runs.event(str(document.pk), EVENT)
        self.assertEqual(len(event.runs), 3)
        self.assertIn('"name":"in.md"', event.data)

    def test_a_pasted_text(self) -> None:
        document = self.uploaded(pasted="## Dear Ada\n\nyours, Bo")
        self.assertEqual((document.name, document.text), ("Dear Ada", "## Dear Ada\n\nyours, Bo"))

    def test_a_sample(self) -> None:
        document = self.uploaded(sample="invoice.md")
        self.assertEqual(document.text, INVOICE.read_text())

    def test_what_is_refused(self) -> None:
        def file(name: str, content: bytes) -> dict[str, Any]:
            return {"file": SimpleUploadedFile(name, content)}

        for data, told in (
            ({}, "Choose a file, paste a text, or take a sample."),
            ({"pasted": " \n "}, "Choose a file, paste a text, or take a sample."),
            ({"pasted": "a", **file("a.md", b"a")}, "These are several documents."),
            ({"pasted": "a", "sample": "invoice.md"}, "These are several documents."),
            ({"sample": "../settings.py"}, "is not one of the available choices"),
            ({"pasted": "a", "trouble": "?"}, "is not one of the available choices"),
            (file("a.pdf", b"a"), "It should end in .md, .markdown, .txt or .text."),
            (file("a.md", b"\xff\xfe"), "This is no UTF-8 text. Save it as UTF-8."),
            (file("a.md", b"a\0b"), "This is no text: it contains null characters."),
            (file("a.md", b" \n"), "This document is empty."),
            (file("a.md", b"a" * 204_801), "This document has 200.0\xa0KB. Send one of at most"),
            ({"pasted": "é" * 102_401}, "Send one of at most"),
        ):
            with self.subTest(told=told):
                response = self.upload(**data)
                self.assertContains(response, told)
        self.assertFalse(Document.objects.exists())
        self.assertFalse(get_fanout(celery_app).runs.events())

    def test_the_largest(self) -> None:
        self.assertEqual(len(self.uploaded(pasted="a" * 204_800).text), 204_800)

    def test_what_a_document_says_is_only_text(self) -> None:
        document = self.uploaded(pasted="<script>alert(1)</script>\nInvoice")
        self.simulation.finish()
        for page in (self.page(document), self.client.get("/").content.decode()):
            self.assertNotIn("<script>alert", page)
            self.assertIn("&lt;script&gt;alert(1)", page)

    def test_a_form_of_another_site_is_refused(self) -> None:
        client = Client(enforce_csrf_checks=True)
        self.assertEqual(client.post("/", {"pasted": "a", "trouble": "none"}).status_code, 403)

    def test_no_event_without_its_document(self) -> None:
        with self.captureOnCommitCallbacks() as callbacks:
            response = self.client.post("/", {"pasted": "a", "trouble": "none"})
        self.assertEqual(response.status_code, 302)
        self.assertEqual(len(callbacks), 1)
        self.assertFalse(get_fanout(celery_app).runs.events())  # not before the commit
        callbacks[0]()
        self.assertTrue(get_fanout(celery_app).runs.events())


class ProgressTests(SiteTestCase):
    def test_from_waiting_to_done(self) -> None:
        document = self.uploaded(pasted=INVOICE.read_text())
        ready = "Waiting for a worker"
        self.assertEqual(self.badges(document), [ready, ready, "Waiting for its turn"])
        self.assertIn('data-ended="false"', self.page(document))
        self.assertIn('http-equiv="refresh"', self.page(document))
        self.simulation.finish()
        self.assertEqual(self.badges(document), ["Done"] * 3)
        page = self.page(document)
        for text in (
            'data-ended="true"',
            "<strong>invoice</strong>",
            "Katharina Vogel",
            "3 of 3 done.",
        ):
            self.assertIn(text, page)
        self.assertNotIn("refresh", page)
        self.assertEqual(
            set(Reading.objects.values_list("subject", flat=True)),
            {"summary", "category", "entities"},
        )

    def test_it_fails_twice_and_recovers(self) -> None:
        document = self.uploaded(pasted=INVOICE.read_text(), trouble="busy")
        self.simulation.work()
        self.assertEqual(self.badges(document), ["Done", "Will try again", "Done"])
        page = self.page(document)
        for text in ("Tries again", "in 2 s,", "ModelUnavailable: 503 overloaded", "2 of 3 done"):
            self.assertIn(text, page)
        self.simulation.finish()
        self.assertEqual(self.badges(document), ["Done"] * 3)
        self.assertInHTML(
            "<li><code>fetch</code> done once, in attempt 1; 2 later attempts took it from the "
            "checkpoint</li>",
            self.page(document),
        )
        document.refresh_from_db()
        self.assertEqual(document.fetches, 3)  # one for each subscriber, and 5 attempts

    def test_what_was_found_out_is_being_saved(self) -> None:
        document = self.uploaded(pasted=INVOICE.read_text())
        self.simulation.finish()
        runs = get_fanout(celery_app).runs
        event = runs.event(str(document.pk), EVENT)
        run = replace(runs.get(event.runs[0]), state=RunState.COMPLETING, finished=None)
        tail = RunOutcome(run.id, RunState.PENDING)
        card = card_of(runs, event, run, tail, "summary", {}, detailed=False)
        self.assertEqual((card.badge, card.words), ("working", "Saving"))
        self.assertEqual([attempt.outcome for attempt in card.attempts], ["done"])

    def test_it_fails_for_good(self) -> None:
        document = self.uploaded(pasted=INVOICE.read_text(), trouble="down")
        self.simulation.finish()
        self.assertEqual(self.badges(document), ["Done", "Failed", "Done"])
        self.assertIn('data-ended="true"', self.page(document))
        self.assertIn("Sign in to try again", self.page(document))
        self.assertEqual(FAILURES[Document.Trouble.DOWN], RETRIES["max_retries"] + 1)

    def test_the_ledger_has_forgotten(self) -> None:
        document = Document.objects.create(name="a.md", text="a")
        Reading.objects.create(document=document, subject="summary", value="A summary.")
        self.assertEqual(self.badges(document), ["Done", "Not in the ledger", "Not in the ledger"])
        self.assertIn("A summary.", self.page(document))

    def test_the_list(self) -> None:
        self.assertContains(self.client.get("/"), "Nothing yet.")
        document = self.uploaded(pasted="Dear Ada")
        self.assertContains(self.client.get("/"), "summary: waiting for a worker")
        self.assertContains(self.client.get("/progress/"), document.get_absolute_url())
        self.simulation.finish()
        self.assertContains(self.client.get("/progress/"), 'data-ended="true"')

    def test_many_documents_have_pages(self) -> None:
        for number in range(11):
            Document.objects.create(name=f"document {number}", text="a")
        self.assertContains(self.client.get("/"), "Page 1 of 2")
        self.assertContains(self.client.get("/?page=2"), "document 0")
        self.assertContains(self.client.get("/?page=nonsense"), "Page 1 of 2")

    def test_what_is_not_there(self) -> None:
        for name in ("inbox:document", "inbox:progress"):
            self.assertEqual(self.client.get(reverse(name, args=[uuid.uuid4()])).status_code, 404)

    def test_an_event_twice_saves_one_result(self) -> None:
        document = self.uploaded(pasted="Dear Ada")
        emit(
            DocumentUploaded(id=document.pk, name=document.name),
            id=str(document.pk),
            app=celery_app,
        )
        self.simulation.finish()
        self.assertEqual(Reading.objects.count(), 3)
        document.refresh_from_db()
        self.assertEqual(document.fetches, 3)


class RetryTests(SiteTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.document = self.uploaded(pasted=INVOICE.read_text(), trouble="down")
        self.simulation.finish()
        runs = get_fanout(celery_app).runs
        (self.run_id,) = (run.id for run in runs.list(state="failed"))
        self.url = reverse("inbox:retry", args=[self.document.pk, self.run_id])

    def sign_in(self, *permissions: str) -> None:
        user = User.objects.create_user("ada")
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        self.client.force_login(user)

    def test_try_again(self) -> None:
        self.sign_in("retry_run")
        self.assertIn('<button id="retry-category">Try again</button>', self.page(self.document))
        response = self.client.post(self.url, follow=True)
        self.assertContains(response, "It is tried again.")
        self.simulation.finish()
        self.assertEqual(self.badges(self.document), ["Done"] * 3)
        self.document.refresh_from_db()
        self.assertEqual(self.document.fetches, 3)

    def test_twice(self) -> None:
        self.sign_in("retry_run")
        self.client.post(self.url)
        response = self.client.post(self.url, follow=True)
        self.assertContains(response, 'class="message error"')
        self.assertContains(response, "cannot be retried")

    def test_who_may_not(self) -> None:
        self.assertRedirects(
            self.client.post(self.url),
            f"/admin/login/?next={self.url}",
            fetch_redirect_response=False,
        )
        self.sign_in()
        self.assertEqual(self.client.post(self.url).status_code, 403)
        self.assertNotIn('<button id="retry', self.page(self.document))
        self.assertEqual(self.badges(self.document)[1], "Failed")

    def test_not_by_a_link_or_from_another_site(self) -> None:
        self.sign_in("retry_run")
        self.assertEqual(self.client.get(self.url).status_code, 405)
        client = Client(enforce_csrf_checks=True)
        client.force_login(User.objects.get())
        self.assertEqual(client.post(self.url).status_code, 403)

    def test_the_run_of_another_document(self) -> None:
        self.sign_in("retry_run")
        other = Document.objects.create(name="other", text="a")
        url = reverse("inbox:retry", args=[other.pk, self.run_id])
        self.assertEqual(self.client.post(url).status_code, 404)


class WebhookTests(SiteTestCase):
    def send(self, delivery: str = "msg_1", secret: str | None = None, **data: Any) -> int:
        body = json.dumps({"type": "document.sent", **data}).encode()
        headers = signed(delivery, body, secret or settings.WEBHOOK_SECRET)
        client = Client(enforce_csrf_checks=True)
        with self.captureOnCommitCallbacks(execute=True):
            return client.post(
                "/webhooks/documents/", body, content_type="application/json", headers=headers
            ).status_code

    def test_a_document(self) -> None:
        self.assertEqual(self.send(name="in.md", text=INVOICE.read_text()), 202)
        self.assertFalse(Document.objects.exists())  # it is an event as yet
        self.simulation.finish()
        document = Document.objects.get()
        self.assertEqual(document.pk, id_of_delivery("msg_1"))
        self.assertEqual((document.name, document.text), ("in.md", INVOICE.read_text()))
        self.assertContains(self.client.get("/"), "sent by a webhook")
        self.assertEqual(self.badges(document), ["Done"] * 3)

    def test_a_delivery_that_comes_twice(self) -> None:
        for _ in range(2):
            self.assertEqual(self.send(name="in.md", text="Dear Ada", trouble="none"), 202)
        self.simulation.finish()
        self.assertEqual(Document.objects.get().fetches, 3)

    def test_what_is_refused(self) -> None:
        with self.assertLogs("celery_fanout.contrib.django.webhooks", "WARNING"):
            other = "whsec_" + base64.b64encode(b"another secret, as long").decode()
            self.assertEqual(self.send(secret=other, name="in.md", text="a"), 403)
            for data in (
                {"name": "in.md"},
                {"name": "in.md", "text": " "},
                {"name": "in.md", "text": "a\0b"},
                {"name": "in.md", "text": "a" * 204_801},
                {"name": "", "text": "a"},
                {"name": "n" * 201, "text": "a"},
                {"name": "in.md", "text": "a", "trouble": "?"},
            ):
                with self.subTest(data=str(data)[:60]):
                    self.assertEqual(self.send(**data), 400)
            self.assertEqual(self.send(name="in.md", text="a" * 300_000), 413)
        self.simulation.finish()
        self.assertFalse(Document.objects.exists())


class SecurityTests(SiteTestCase):
    def test_every_page_has_a_policy(self) -> None:
        for url in ("/", "/admin/login/", "/nothing/"):
            headers = self.client.get(url).headers
            self.assertTrue(headers["Content-Security-Policy"].startswith("default-src 'none';"))
            self.assertEqual(headers["X-Content-Type-Options"], "nosniff")

    def test_nothing_is_inline_or_from_elsewhere(self) -> None:
        document = self.uploaded(sample="invoice.md")
        self.simulation.finish()
        for page in (self.client.get("/").content.decode(), self.page(document)):
            self.assertIsNone(
                re.search(r"\sstyle=|\son\w+=|<style|<script(?! src=\"/static/)", page)
            )
            self.assertIsNone(re.search(r"<(script|link|img)\b[^>]*=\"(https?:)?//", page))

    def test_another_host_is_refused(self) -> None:
        self.assertEqual(self.client.get("/", headers={"host": "example.org"}).status_code, 400)

    def test_the_admin(self) -> None:
        self.client.force_login(User.objects.create_superuser("root"))
        document = self.uploaded(sample="invoice.md")
        self.simulation.finish()
        self.assertContains(self.client.get("/admin/inbox/document/"), "invoice.md")
        self.assertContains(
            self.client.get(f"/admin/inbox/document/{document.pk}/change/"), "Katharina Vogel"
        )
