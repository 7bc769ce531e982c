"""What happens to a document: three subscribers, each on its own.

When the classifier's model is overloaded, only `classify` is tried again, and it does not fetch the
document a second time. Each subscriber has a tail, which saves what it found.
"""

from __future__ import annotations

import time
from typing import Any

from celery import shared_task
from django.conf import settings
from django.db import transaction
from django.db.models import F

from celery_fanout import Concurrency, current_event, emit, on_event, step
from example_project.documents.model import Classification, FlakyModel, ModelUnavailable
from example_project.inbox.documents import id_of_delivery
from example_project.inbox.events import DocumentReceived, DocumentUploaded
from example_project.inbox.models import Document, Reading

CATEGORIES = ["invoice", "contract", "report", "letter", "policy", "licence", "readme", "tutorial"]
FIELDS = ["names", "dates", "amounts", "companies"]
RETRIES: dict[str, Any] = {
    "autoretry_for": (ModelUnavailable,),
    "max_retries": 2,
    "retry_backoff": 2,
    "retry_jitter": False,
}

#: The model bears two callers, whoever they are and however many workers there are. Who waits for
#: it waits in the ledger, and takes no worker.
MODEL = Concurrency(2, scope="model")

#: How many calls of the classifier fail at first. `DOWN`: all of its attempts.
FAILURES = {Document.Trouble.NONE: 0, Document.Trouble.BUSY: 2, Document.Trouble.DOWN: 3}


def fetch(document_id: str) -> str:
    """Return a document's text. Anybody can see how often it was called."""
    Document.objects.filter(pk=document_id).update(fetches=F("fetches") + 1)
    return Document.objects.values_list("text", flat=True).get(pk=document_id)


def model_for(document_id: str) -> FlakyModel:
    """Return the model, as it behaves with this document, in all processes."""
    trouble = Document.objects.values_list("trouble", flat=True).get(pk=document_id)
    return FlakyModel(
        fail={"classify": FAILURES[Document.Trouble(trouble)]},
        state_dir=settings.MODEL_DIR / document_id,
        wait=lambda: time.sleep(settings.MODEL_SECONDS),
    )


@shared_task
def save(value: Any, subject: str) -> None:
    """The tail of each subscriber: it receives the result, and asks for the event."""
    event = current_event()
    assert event is not None  # noqa: S101 - it is called for an event only
    Reading.objects.update_or_create(
        document_id=event.data["id"], subject=subject, defaults={"value": value}
    )


@on_event(DocumentReceived)
@shared_task
def keep(received: dict[str, str]) -> str:
    """What came by webhook becomes a document like any other. Twice makes no second one."""
    event = current_event()
    assert event is not None  # noqa: S101 - it is called for an event only
    with transaction.atomic():
        document, _ = Document.objects.get_or_create(
            pk=id_of_delivery(event.id),
            defaults={**received, "source": Document.Source.WEBHOOK},
        )
        emit(DocumentUploaded(id=document.pk, name=document.name), id=str(document.pk))
    return str(document.pk)


@on_event(DocumentUploaded, then=save.s("summary"), concurrency=MODEL)
@shared_task(**RETRIES)
def summarize(document: dict[str, str]) -> str:
    text = step.run("fetch", fetch, document["id"])
    return step.run("summarize", model_for(document["id"]).summarize, text, sentences=2)


@on_event(DocumentUploaded, then=save.s("category"), concurrency=MODEL)
@shared_task(**RETRIES)
def classify(document: dict[str, str]) -> Classification:
    text = step.run("fetch", fetch, document["id"])
    return step.run("classify", model_for(document["id"]).classify, text, categories=CATEGORIES)


@on_event(DocumentUploaded, then=save.s("entities"), concurrency=MODEL)
@shared_task(**RETRIES)
def extract_entities(document: dict[str, str]) -> dict[str, list[str]]:
    text = step.run("fetch", fetch, document["id"])
    return step.run("extract", model_for(document["id"]).extract, text, fields=FIELDS)
