"""What the admin's pages are made of: values as text, filters, and what can be done."""

from __future__ import annotations

import datetime as dt
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import admin
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from django.http import HttpRequest

    from celery_fanout.operating.control import Bulk, RunControl
    from celery_fanout.subscribing.registry import Registry

    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin

#: How many records a page of a list has.
PAGE = 50

#: How many subscriptions, or names of events, the sidebar offers.
MAX_CHOICES = 50

#: How much of a value is shown, in characters.
MAX_VALUE = 20_000

TIMES = {
    "1h": (3600, gettext_lazy("Past hour")),
    "1d": (86_400, gettext_lazy("Past 24 hours")),
    "7d": (7 * 86_400, gettext_lazy("Past 7 days")),
}


class ReadOnlyAdmin(ModelAdmin):
    """What nobody adds, edits or deletes by hand: emit() and workers write it, and it expires.

    To delete a row of the outbox would lose its event.
    """

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return that nobody may."""
        del request
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return that nobody may."""
        del request, obj
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return that nobody may."""
        del request, obj
        return False

    def _context(self, request: HttpRequest, title: Any) -> dict[str, Any]:
        request.current_app = self.admin_site.name
        return {
            **self.admin_site.each_context(request),
            "title": title,
            "opts": self.opts,
            "media": self.media,
        }


@dataclass(frozen=True)
class Change:
    """Something that can be done with records.

    Attributes:
        permission: codename of the permission that it needs.
        label: what the list calls it.
        button: what a record's own page calls it.
        question: what is asked before.
        explanation: what it will do.
        done: what the admin's log says, in English: it is kept.
        success: what the user is told, for a ``count`` of records.
        apply: does it, with the ids of the records and a reason.
        makes_runs: whether it makes new runs.
    """

    permission: str
    label: Any
    button: Any
    question: Any
    explanation: Any
    done: str
    success: Any
    apply: Callable[[RunControl, Sequence[str], str], Bulk]
    makes_runs: bool = False


def when(timestamp: float | None) -> dt.datetime | None:
    """Return a POSIX time as the project's templates show times."""
    if timestamp is None:
        return None
    moment = dt.datetime.fromtimestamp(timestamp, dt.timezone.utc)
    return (
        moment if settings.USE_TZ else timezone.make_naive(moment, timezone.get_default_timezone())
    )


def pretty(value: Any) -> str:
    """Return a value as JSON to be read. Numbers stay as they are, however long."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    if len(text) <= MAX_VALUE:
        return text
    more = _("%(count)s characters more") % {"count": f"{len(text) - MAX_VALUE:,}"}
    return f"{text[:MAX_VALUE]}\n\u2026 {more}"


def may_see_data(request: HttpRequest) -> bool:
    """Whether the user may see the data of events, and what runs return and raise."""
    user: Any = request.user
    return bool(user.has_perm("celery_fanout.view_event_data"))


def choices_of(
    filters: Mapping[str, str], name: str, title: Any, choices: Sequence[tuple[str, Any]]
) -> dict[str, Any]:
    """Return a filter for the list's sidebar.

    Args:
        filters: what the list is filtered by.
        name: the parameter of the filter.
        title: what it is called.
        choices: pairs of value and text.
    """
    others = {key: value for key, value in filters.items() if key != name}
    chosen = filters.get(name, "")
    options = list(choices)
    if chosen and chosen not in {value for value, _ in options}:
        options.append((chosen, chosen))
    return {
        "title": title,
        "choices": [
            {
                "text": text,
                "query": "?" + urlencode({**others, name: value} if value else others),
                "selected": value == chosen,
            }
            for value, text in [("", _("All")), *options]
        ],
    }


def since_choices(filters: Mapping[str, str], title: Any) -> dict[str, Any]:
    """Return the filter by time; see :func:`choices_of`."""
    return choices_of(filters, "since", title, [(key, text) for key, (_s, text) in TIMES.items()])


def name_choices(filters: Mapping[str, str], registry: Registry) -> dict[str, Any]:
    """Return the filter by the names of events that somebody subscribes to."""
    names = sorted({sub.pattern for sub in registry if "*" not in sub.pattern})[:MAX_CHOICES]
    return choices_of(filters, "name", gettext_lazy("event"), [(name, name) for name in names])


def since_of(filters: Mapping[str, str]) -> float | None:
    """Return the time since which a list was asked for."""
    period = TIMES.get(filters.get("since", ""))
    return None if period is None else time.time() - period[0]
