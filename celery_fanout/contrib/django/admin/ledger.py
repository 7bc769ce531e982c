"""What the admin pages of events and of runs have in common.

They are written by hand, on the ledger's own lists and cursors: there is no table that Django could
query. Nothing on them changes anything but the actions, each of which asks first, needs a
permission of its own, and is written into the admin's log.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from celery_fanout.app.fanout import get_fanout
from celery_fanout.contrib.django.admin.parts import ReadOnlyAdmin, may_see_data
from celery_fanout.exceptions import ControlError, FanoutError, StoreUnavailable, StoreUnsupported
from celery_fanout.operating.redaction import redactor_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from django.http import HttpRequest, HttpResponse
    from django.urls import URLPattern

    from celery_fanout.app.fanout import Fanout
    from celery_fanout.contrib.django.admin.parts import Change
    from celery_fanout.operating.control import RunControl
    from celery_fanout.operating.paging import Page
    from celery_fanout.operating.reading import RunReader

#: How many records may be changed at once here. The command line takes more.
MAX_CHANGED = 200

#: How much of a reason is kept.
MAX_REASON = 500


def shows_errors(view: Any) -> Any:
    """Let a view answer with a page where the ledger is missing or away."""

    @functools.wraps(view)
    def answered(self: LedgerAdmin, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        try:
            return view(self, request, *args, **kwargs)
        except FanoutError as exc:
            return self.refuse(request, exc)

    return answered


def _hide(name: str, data: Any) -> Any:
    """Return nothing, whatever the data: for those who may not see them."""
    del name, data


class LedgerAdmin(ReadOnlyAdmin):
    """Lists, shows and changes records of the ledger.

    Attributes:
        filters: the parameters of the list.
        changes: what can be done, by name.
        list_template: how the table of a list is made.
        detail_template: how a record's page is made.
    """

    filters: Sequence[str] = ()
    changes: Mapping[str, Change] = {}
    list_template = ""
    detail_template = ""

    # -- what the records are: for subclasses ---------------------------------------------------

    def find(self, control: RunReader, id: str) -> Any:
        """Return a model that has a record.

        Raises:
            ControlError: if the ledger has none with this id.
        """
        raise NotImplementedError

    def search(self, control: RunReader, text: str) -> str:
        """Return the address of what somebody looks for; ``""`` if nothing was found."""
        raise NotImplementedError

    def page(self, control: RunReader, filters: Mapping[str, str], cursor: str) -> Page[Any]:
        """Return a page of records."""
        raise NotImplementedError

    def rows(
        self, request: HttpRequest, control: RunReader, records: Sequence[Any]
    ) -> list[dict[str, Any]]:
        """Return records as rows of the list's table, each with its ``id``."""
        raise NotImplementedError

    def sidebar(self, fanout: Fanout, filters: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return the filters; see :func:`choices_of`."""
        raise NotImplementedError

    def detail(self, request: HttpRequest, fanout: Fanout, model: Any) -> dict[str, Any]:
        """Return what the template of a record's page needs."""
        raise NotImplementedError

    def possible(self, model: Any) -> Sequence[str]:
        """Return what can be done with a record in its state."""
        raise NotImplementedError

    # -- permissions ----------------------------------------------------------------------------

    def _may(self, request: HttpRequest, change: Change) -> bool:
        user: Any = request.user
        return bool(user.has_perm(f"{self.opts.app_label}.{change.permission}"))

    def _redact(self, request: HttpRequest, fanout: Fanout) -> Callable[[str, Any], Any]:
        return redactor_of(fanout.settings) if may_see_data(request) else _hide

    # -- addresses ------------------------------------------------------------------------------

    def get_urls(self) -> list[URLPattern]:
        """The list, and a page and a history for each record."""
        view, name = self.admin_site.admin_view, f"{self.opts.app_label}_{self.opts.model_name}"
        return [
            path("", view(self.changelist_view), name=f"{name}_changelist"),
            path("<path:object_id>/history/", view(self.history_view), name=f"{name}_history"),
            path("<path:object_id>/change/", view(self.change_view), name=f"{name}_change"),
        ]

    def address(self, page: str, *args: str, model: str = "") -> str:
        """Return the address of an admin page of events or runs."""
        name = f"admin:{self.opts.app_label}_{model or self.opts.model_name}_{page}"
        return reverse(name, args=args, current_app=self.admin_site.name)

    # -- pages ----------------------------------------------------------------------------------

    @shows_errors
    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """List records, or do something with those that were chosen."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        fanout = get_fanout()
        control = fanout.runs
        if request.method == "POST":
            return self._act(request, control)
        text = request.GET.get("q", "").strip()
        if text:
            address = self.search(control, text)
            if address:
                return HttpResponseRedirect(address)
            words = _("The ledger has nothing called “%(text)s”.") % {"text": text}
            self.message_user(request, words, messages.WARNING)
        filters = {name: request.GET[name] for name in self.filters if request.GET.get(name)}
        page = self.page(control, filters, request.GET.get("before", ""))
        offered = {name: one for name, one in self.changes.items() if self._may(request, one)}
        context = {
            **self._context(request, _("Select %s to view") % self.opts.verbose_name),
            "rows": self.rows(request, control, [] if text else page.records),
            "filters": self.sidebar(fanout, filters),
            "given": filters,
            "query": text,
            "offered": {name: one.label for name, one in offered.items()},
            "older": not text and page.older and urlencode({**filters, "before": page.older}),
            "latest": urlencode(filters) if request.GET.get("before") else None,
            **(extra_context or {}),
        }
        return TemplateResponse(request, self.list_template, context)

    @shows_errors
    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show one record."""
        del form_url
        if not self.has_view_permission(request):
            raise PermissionDenied
        fanout = get_fanout()
        try:
            model = self.find(fanout.runs, unquote(object_id))
        except ControlError as exc:
            self.message_user(request, str(exc), messages.WARNING)
            return HttpResponseRedirect(self.address("changelist"))
        offered = {
            name: self.changes[name].button
            for name in self.possible(model)
            if self._may(request, self.changes[name])
        }
        context = {
            **self._context(request, str(model)),
            "object": model,
            "record": model.record,
            "offered": offered,
            "may_see_data": may_see_data(request),
            **self.detail(request, fanout, model),
            **(extra_context or {}),
        }
        return TemplateResponse(request, self.detail_template, context)

    @shows_errors
    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show what was done with one record."""
        return super().history_view(request, object_id, extra_context)

    def get_object(self, request: HttpRequest, object_id: str, from_field: Any = None) -> Any:
        """Return one record, or ``None``."""
        del request, from_field
        try:
            return self.find(get_fanout().runs, object_id)
        except ControlError:
            return None

    def refuse(self, request: HttpRequest, error: FanoutError) -> HttpResponse:
        """Say why there is nothing to be seen, and what helps."""
        context = {
            **self._context(request, str(self.opts.verbose_name_plural).capitalize()),
            "error": str(error),
            "unsupported": isinstance(error, StoreUnsupported),
            "unavailable": isinstance(error, StoreUnavailable),
        }
        return TemplateResponse(request, "admin/celery_fanout/no_ledger.html", context)

    # -- changes --------------------------------------------------------------------------------

    def _act(self, request: HttpRequest, control: RunControl) -> HttpResponse:
        change = self.changes.get(request.POST.get("action", ""))
        ids = list(dict.fromkeys(request.POST.getlist("_selected_action")))
        problem = ""
        if change is None:
            problem = _("No action selected.")
        elif not self._may(request, change):
            raise PermissionDenied
        elif not ids:
            problem = _("Nothing is selected, so nothing was changed.")
        elif len(ids) > MAX_CHANGED:
            problem = _("At most %(count)d can be changed at once here.") % {"count": MAX_CHANGED}
        if problem or change is None:
            self.message_user(request, problem, messages.WARNING)
            return HttpResponseRedirect(request.get_full_path())
        chosen: dict[str, Any] = {}
        for id_ in ids:
            try:
                chosen[id_] = self.find(control, id_)
            except ControlError as exc:  # noqa: PERF203 - each by itself
                self.message_user(request, str(exc), messages.WARNING)
        if request.POST.get("post") and chosen:
            self._change(request, control, change, chosen)
        elif chosen:
            return self._ask(request, change, chosen)
        detail = request.POST.get("_detail", "")
        return HttpResponseRedirect(
            self.address("change", detail) if detail in chosen else request.get_full_path()
        )

    def _ask(self, request: HttpRequest, change: Change, chosen: Mapping[str, Any]) -> HttpResponse:
        detail = request.POST.get("_detail", "")
        back = self.address("change", detail) if detail in chosen else request.get_full_path()
        context = {
            **self._context(request, change.question),
            "explanation": change.explanation,
            "action": request.POST["action"],
            "chosen": [
                {"id": id_, "text": str(model), "url": self.address("change", id_)}
                for id_, model in chosen.items()
            ],
            "detail": detail,
            "back": back,
            "max_reason": MAX_REASON,
        }
        return TemplateResponse(request, "admin/celery_fanout/confirm.html", context)

    def _change(
        self,
        request: HttpRequest,
        control: RunControl,
        change: Change,
        chosen: Mapping[str, Any],
    ) -> None:
        user: Any = request.user
        text = " ".join(request.POST.get("reason", "").split())[:MAX_REASON]
        reason = f"by {user.get_username()}" + (f": {text}" if text else "")
        bulk = change.apply(control, list(chosen), reason)
        for id_ in bulk.changed:
            said = f"{change.done}. {text}" if text else f"{change.done}."
            self.log_change(request, chosen[id_], said)
        for problem in bulk.problems.values():
            self.message_user(request, str(problem), messages.WARNING)
        if bulk.changed:
            words = [change.success % {"count": len(bulk.changed)}]
            if change.makes_runs:
                new = ngettext("%(count)d new run.", "%(count)d new runs.", len(bulk.new))
                words.append(new % {"count": len(bulk.new)})
            self.message_user(request, " ".join(words), messages.SUCCESS)
