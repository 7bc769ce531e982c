"""The events of this app."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID  # noqa: TC003 - pydantic looks it up

from pydantic import AfterValidator, BaseModel, Field

from celery_fanout import event_type
from example_project.inbox.documents import checked_text
from example_project.inbox.models import Document


@event_type("document/received")
class DocumentReceived(BaseModel):
    """Somebody sent a document by webhook; it is not in the database yet."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    text: Annotated[str, AfterValidator(checked_text)]
    trouble: Document.Trouble = Document.Trouble.BUSY


@event_type("document/uploaded")
class DocumentUploaded(BaseModel):
    """A document is in the database."""

    id: UUID
    name: str
