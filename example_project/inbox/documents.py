"""What a document is, however it comes in."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.template.defaultfilters import filesizeformat


def check_size(size: int) -> None:
    if size > settings.MAX_DOCUMENT_SIZE:
        raise ValueError(
            f"This document has {filesizeformat(size)}. Send one of at most "
            f"{filesizeformat(settings.MAX_DOCUMENT_SIZE)}."
        )


def checked_text(text: str) -> str:
    """Return the text of a document, or say why it is none."""
    check_size(len(text.encode()))
    if "\0" in text:
        raise ValueError("This is no text: it contains null characters.")
    if not text.strip():
        raise ValueError("This document is empty.")
    return text


def id_of_delivery(delivery: str) -> uuid.UUID:
    """Return the id of the document that a webhook's delivery brought: always the same."""
    return uuid.uuid5(uuid.NAMESPACE_OID, delivery)
