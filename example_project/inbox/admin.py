from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import admin

from example_project.inbox.models import Document, Reading

if TYPE_CHECKING:
    from django.http import HttpRequest


class ReadingInline(admin.TabularInline):
    model = Reading
    extra = 0
    can_delete = False
    readonly_fields = ("subject", "value", "saved_at")

    def has_add_permission(self, request: HttpRequest, obj: object = None) -> bool:  # noqa: ARG002
        return False


@admin.register(Document)
class DocumentAdmin(admin.ModelAdmin):
    list_display = ("name", "source", "trouble", "uploaded_at", "fetches")
    list_filter = ("source", "trouble")
    search_fields = ("name",)
    date_hierarchy = "uploaded_at"
    readonly_fields = ("id", "source", "uploaded_at", "fetches")
    inlines = (ReadingInline,)

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002
        """Nobody here: a row alone is no event, and nobody would read it."""
        return False
