"""What happens to an uploaded document: three subscribers, each on its own.

When the classifier's model is overloaded, only `classify` is tried again, and it does not fetch the
document a second time.
"""

import json
from typing import Any

from celery import shared_task

from celery_fanout import current_event, on_event, step
from example_project.documents import storage
from example_project.documents.model import Classification, FlakyModel, ModelUnavailable

CATEGORIES = ["invoice", "contract", "report", "letter", "policy", "licence", "readme", "tutorial"]
FIELDS = ["names", "dates", "amounts", "companies"]

#: The model's first two `classify` calls for every document fail.
llm = FlakyModel(fail={"classify": 2})

RETRIES: dict[str, Any] = {
    "autoretry_for": (ModelUnavailable,),
    "max_retries": 4,
    "retry_backoff": True,
    "retry_jitter": False,
}


@on_event("document/uploaded")
@shared_task(rate_limit="600/m", **RETRIES)
def summarize(document: dict[str, str]) -> str:
    content = step.run("fetch-content", storage.get, document["id"])
    return step.run("summarize", llm.summarize, content, sentences=2)


@on_event("document/uploaded")
@shared_task(**RETRIES)
def classify(document: dict[str, str]) -> Classification:
    content = step.run("fetch-content", storage.get, document["id"])
    return step.run("classify", llm.classify, content, categories=CATEGORIES)


@shared_task
def save_entities(entities: dict[str, list[str]]) -> dict[str, list[str]]:
    """The tail of `extract_entities`: it receives the result, and asks for the event."""
    event = current_event()
    name = event.data["id"] if event else "no event"
    storage.put_text(json.dumps(entities), name=f"entities of {name}")
    return entities


@on_event("document/uploaded", then=save_entities)
@shared_task(**RETRIES)
def extract_entities(document: dict[str, str]) -> dict[str, list[str]]:
    content = step.run("fetch-content", storage.get, document["id"])
    return step.run("extract", llm.extract, content, fields=FIELDS)
