from __future__ import annotations

import uuid
from typing import Any, ClassVar

from django.db import models
from django.urls import reverse


class Document(models.Model):
    """What somebody sent. Its id is also the id of its event, by which the ledger is asked."""

    class Source(models.TextChoices):
        FORM = "form", "the form"
        WEBHOOK = "webhook", "a webhook"

    class Trouble(models.TextChoices):
        """How the model that classifies behaves with this document."""

        BUSY = "busy", "Overloaded: fails twice, then answers"
        DOWN = "down", "Down: fails until somebody presses “Try again”"
        NONE = "none", "Well: answers at once"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=200)
    text = models.TextField()
    source = models.CharField(max_length=10, choices=Source.choices, default=Source.FORM)
    trouble = models.CharField(max_length=10, choices=Trouble.choices, default=Trouble.BUSY)
    uploaded_at = models.DateTimeField(auto_now_add=True)
    fetches = models.PositiveIntegerField(default=0, editable=False)

    class Meta:
        ordering: ClassVar[list[str]] = ["-uploaded_at", "id"]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["-uploaded_at", "id"], name="inbox_latest"),
        ]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("inbox:document", args=[self.pk])


class Reading(models.Model):
    """What one subscriber found out about a document."""

    document = models.ForeignKey(Document, models.CASCADE, related_name="readings")
    subject = models.CharField(max_length=20)
    value: models.JSONField[Any, Any] = models.JSONField()
    saved_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["document", "subject"], name="inbox_one_reading"),
        ]

    def __str__(self) -> str:
        return f"{self.subject} of {self.document_id}"
