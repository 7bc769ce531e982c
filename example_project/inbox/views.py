from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required, permission_required
from django.core.paginator import Paginator
from django.db import transaction
from django.http import Http404
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from celery_fanout import FanoutError, emit, get_fanout
from example_project.inbox.events import DocumentUploaded
from example_project.inbox.forms import UploadForm
from example_project.inbox.models import Document
from example_project.inbox.progress import progress_of, progress_of_many
from example_project.website import celery_app

if TYPE_CHECKING:
    from uuid import UUID

    from django.http import HttpRequest, HttpResponse

PAGE = 10


@never_cache
def inbox(request: HttpRequest) -> HttpResponse:
    """The documents, the latest first; and a form that sends one more."""
    form = UploadForm(request.POST or None, request.FILES or None)
    if request.method == "POST" and form.is_valid():
        return redirect(_upload(form))
    return render(request, "inbox/inbox.html", {"form": form, **_page(request)})


def _upload(form: UploadForm) -> Document:
    # The event is published after the commit: no worker can look for a row that is not there yet,
    # and if the row is rolled back there is no event.
    with transaction.atomic():
        document: Document = form.save()
        emit(DocumentUploaded(id=document.pk, name=document.name), id=str(document.pk))
    return document


def _page(request: HttpRequest) -> dict[str, Any]:
    page = Paginator(Document.objects.defer("text"), PAGE).get_page(request.GET.get("page"))
    found = progress_of_many(page)
    return {"page": page, "documents": found, "ended": all(each.ended for each in found)}


@require_safe
@never_cache
def inbox_progress(request: HttpRequest) -> HttpResponse:
    """What a script asks for while anything goes on: the list alone."""
    return render(request, "inbox/_list.html", _page(request))


@require_safe
@never_cache
def document(request: HttpRequest, pk: UUID) -> HttpResponse:
    """One document, and what the subscribers make of it."""
    found = get_object_or_404(Document, pk=pk)
    return render(request, "inbox/document.html", {"progress": progress_of(found)})


@require_safe
@never_cache
def document_progress(request: HttpRequest, pk: UUID) -> HttpResponse:
    """What a script asks for while anything goes on: the cards alone."""
    found = get_object_or_404(Document.objects.defer("text"), pk=pk)
    return render(request, "inbox/_cards.html", {"progress": progress_of(found)})


@require_POST
@login_required
@permission_required("celery_fanout.retry_run", raise_exception=True)
def retry(request: HttpRequest, pk: UUID, run_id: UUID) -> HttpResponse:
    """Run a failed run of this document again, with the results of its finished steps."""
    found = get_object_or_404(Document, pk=pk)
    cards = progress_of(found, detailed=False).cards
    if str(run_id) not in {card.run_id for card in cards}:
        raise Http404("This document has no such run.")
    try:
        get_fanout(celery_app).runs.retry(str(run_id), f"by {request.user.get_username()}")
    except FanoutError as exc:  # somebody else was faster, or the ledger is away
        messages.error(request, str(exc))
    else:
        messages.success(request, "It is tried again. What its finished steps found is kept.")
    return redirect(found)
