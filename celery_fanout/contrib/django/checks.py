"""What ``manage.py check`` says: all that ``fanout check`` finds, and what only Django knows.

The finding ``fanout.W005`` is the check ``celery_fanout.W005`` here; Django's own begin at 101.
Celery's worker runs the checks when it starts, and so does every process that imports its tasks for
the first time. So nothing here connects to a server, except to databases that Django was asked to
check (``check --database default``).
"""

from __future__ import annotations

import sys
import threading
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from django.conf import settings as django_settings
from django.core import checks
from django.db import DatabaseError, connections

from celery_fanout.app.checks import finding, findings
from celery_fanout.app.fanout import get_fanout
from celery_fanout.exceptions import ConfigurationError, NoApp
from celery_fanout.model.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from celery_fanout.app.checks import Finding
    from celery_fanout.app.fanout import Fanout

#: ``manage.py check --tag celery_fanout`` runs these alone.
TAG = "celery_fanout"

_MESSAGES: dict[str, Any] = {
    "error": checks.Error,
    "warning": checks.Warning,
    "info": checks.Info,
}
#: Errors that must not keep every command of manage.py from running: whoever uses no steps needs no
#: result backend.
_MILD = {"E004"}
#: So it is in every project in which this was installed a minute ago.
_LEFT_OUT = {"W001"}
_busy = threading.local()


def install() -> None:
    """Register the checks."""
    checks.register(check_fanout, TAG)
    checks.register(check_database, checks.Tags.database)


def _message(found: Finding) -> checks.CheckMessage:
    number = found.id.rpartition(".")[2]
    kind = _MESSAGES["warning" if number in _MILD else found.level]
    message: checks.CheckMessage = kind(
        found.message, hint=found.remedy, id=f"celery_fanout.{number}"
    )
    return message


def check_fanout(
    app_configs: Sequence[Any] | None = None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """Check the Celery app and its subscriptions, connecting to nothing."""
    del app_configs, kwargs
    # importing the tasks makes Celery run the checks, which would import the tasks
    if getattr(_busy, "here", False):
        return []
    _busy.here = True
    try:
        return [_message(each) for each in _findings() if each.id[-4:] not in _LEFT_OUT]
    finally:
        _busy.here = False


def _findings() -> Iterator[Finding]:
    try:
        fanout = get_fanout()
    except NoApp as exc:
        yield finding(
            "fanout.E101",
            str(exc),
            "Import the Celery app in the __init__.py of the project's package: "
            "from .celery import app as celery_app.",
        )
        return
    if fanout.loading:  # by an emit: not all is known yet
        return
    try:
        yield from findings(fanout)
    except Exception as exc:  # noqa: BLE001 - modules of the project raise what they like
        yield finding(
            "fanout.E102",
            f"The tasks of the Celery app {fanout.app.main!r} cannot be imported: "
            f"{type(exc).__name__}: {exc}",
            "emit() raises this too, so mend the module.",
        )
    yield from _unread(fanout)
    try:
        settings = fanout.settings
    except ConfigurationError:  # findings() said so
        return
    yield from _outbox(fanout, settings)


def _unread(fanout: Fanout) -> Iterator[Finding]:
    """Find settings of Django's that the Celery app does not read."""
    names, existing = dir(django_settings), _known(fanout)
    unread = [
        name
        for name in names
        if name.startswith("CELERY_FANOUT_") and name[len("CELERY_") :].lower() not in existing
    ]
    broker = getattr(django_settings, "CELERY_BROKER_URL", None)
    namespace: Any = getattr(fanout.app, "namespace", None)  # celery-types does not know it
    if broker and not namespace and broker != fanout.app.conf.broker_url:
        unread.append("CELERY_BROKER_URL")
    ours = {f"FANOUT_{field.name.upper()}" for field in fields(Settings)}
    unread += sorted(ours.intersection(names))  # for CELERY_FANOUT_...
    if unread:
        yield finding(
            "fanout.W101",
            f"The Celery app {fanout.app.main!r} does not read these settings: "
            f"{', '.join(unread)}.",
            'Configure it with app.config_from_object("django.conf:settings", namespace="CELERY"), '
            "and begin their names with CELERY_.",
        )


def _known(fanout: Fanout) -> set[str]:
    names = {str(key).lower() for key in fanout.app.conf}
    return {name.removeprefix("celery_") for name in names}


def _uses_outbox(settings: Settings) -> bool:
    return settings.delivery == "outbox" or settings.on_publish_error == "outbox"


def _outbox(fanout: Fanout, settings: Settings) -> Iterator[Finding]:
    alias = settings.outbox_database
    if alias not in connections:
        yield finding(
            "fanout.E103",
            f"fanout_outbox_database is {alias!r}, and DATABASES has no such alias.",
            f"Use one of: {', '.join(connections)}.",
        )
    elif _uses_outbox(settings) and connections[alias].vendor == "sqlite":
        yield _no_skip_locked(alias)
    if settings.delivery == "outbox" and fanout.app.conf.task_always_eager:
        yield finding(
            "fanout.W103",
            "task_always_eager is on, and events go into the outbox: they run nothing before a "
            "relay publishes them.",
            "In tests use celery_fanout.testing, or turn one of them off.",
        )


def _no_skip_locked(alias: str) -> Finding:
    return finding(
        "fanout.W102",
        f"The outbox is in the database {alias!r}, which has no SKIP LOCKED: one relay at a time "
        "can publish from it.",
        "Use PostgreSQL, MySQL 8 or MariaDB 10.6, or start one relay only.",
    )


def check_database(
    app_configs: Sequence[Any] | None = None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """Check the outbox's table, if Django was asked to look at its database."""
    del app_configs, kwargs
    try:
        settings = get_fanout().settings
    except ConfigurationError:  # check_fanout says so
        return []
    alias = settings.outbox_database
    if alias not in (databases or ()) or alias not in connections:
        return []
    return [_message(each) for each in _table(alias, settings)]


def _table(alias: str, settings: Settings) -> Iterator[Finding]:
    from celery_fanout.contrib.django.models import OutboxEvent

    model: Any = OutboxEvent
    connection = connections[alias]
    try:
        tables = connection.introspection.table_names()
        skips = connection.features.has_select_for_update_skip_locked
    except DatabaseError:  # whoever asks for the database will hear of it
        return
    # `migrate`, which makes it, runs the checks before
    if model._meta.db_table not in tables and "migrate" not in sys.argv[1:2]:
        yield finding(
            "fanout.W104",
            f"The database {alias!r} has no table for the outbox yet.",
            "Run manage.py migrate.",
        )
    if _uses_outbox(settings) and not skips and connection.vendor != "sqlite":
        yield _no_skip_locked(alias)
