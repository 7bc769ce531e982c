"""The events of this app."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel

from celery_fanout import event_type


@event_type("document/uploaded")
class DocumentUploaded(BaseModel):
    """A document is in the database."""

    id: UUID
    name: str
