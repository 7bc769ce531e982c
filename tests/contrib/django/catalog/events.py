from __future__ import annotations

from pydantic import BaseModel

from celery_fanout import event_type


@event_type("catalog/opened")
class CatalogOpened(BaseModel):
    shelf: int
