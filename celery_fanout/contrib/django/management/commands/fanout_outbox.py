"""``manage.py fanout_outbox``: how the outbox is, and requeueing what relays gave up."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError, ProgrammingError, connections

from celery_fanout.app.fanout import get_fanout
from celery_fanout.contrib.django.management.arguments import positive
from celery_fanout.contrib.django.models import OutboxEvent
from celery_fanout.contrib.django.outbox.requeueing import dead_rows, requeue, status
from celery_fanout.exceptions import FanoutError
from celery_fanout.operating.texts import age

if TYPE_CHECKING:
    from django.core.management.base import CommandParser


class Command(BaseCommand):
    """Says how the outbox is, or requeues dead rows."""

    requires_system_checks = ()  # a monitor asks often, and wants nothing else
    help = "Say how many events the outbox has, or requeue those that relays gave up."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        parser.add_argument(
            "--requeue",
            nargs="*",
            metavar="ID",
            type=int,
            help="Let relays publish dead rows again: those with these numbers, or with --all or "
            "--name.",
        )
        parser.add_argument("--all", action="store_true", help="Requeue all dead rows.")
        parser.add_argument("--name", help="Requeue the dead rows of events with this name.")
        parser.add_argument("--dead", action="store_true", help="List the dead rows.")
        parser.add_argument(
            "--limit", type=positive(int), default=20, help="How many to list at most (20)."
        )
        parser.add_argument("--json", action="store_true", dest="as_json", help="Print JSON.")
        parser.add_argument("--database", help="Default: the one of fanout_outbox_database.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do what the options say.

        Raises:
            CommandError: if they make no sense, or there is no such database.
        """
        del args
        try:
            alias = options["database"] or get_fanout().settings.outbox_database
        except FanoutError as exc:
            raise CommandError(str(exc)) from exc
        if alias not in connections:
            raise CommandError(f"DATABASES has no {alias!r}. It has: {', '.join(connections)}.")
        try:
            self._do(alias, options)
        except (OperationalError, ProgrammingError) as exc:
            model: Any = OutboxEvent
            table = model._meta.db_table
            if table in connections[alias].introspection.table_names():
                raise
            raise CommandError(
                f"The database {alias!r} has no table {table}. "
                f"Run: manage.py migrate celery_fanout --database {alias}"
            ) from exc

    def _do(self, alias: str, options: dict[str, Any]) -> None:
        if options["requeue"] is not None or options["all"] or options["name"]:
            if options["dead"]:
                raise CommandError("--dead lists, and the others requeue: use one of them.")
            self._requeue(alias, options)
        elif options["dead"]:
            self._dead(alias, options)
        else:
            self._status(alias, options)

    def _status(self, alias: str, options: dict[str, Any]) -> None:
        outbox = status(alias)
        if options["as_json"]:
            self.stdout.write(json.dumps(outbox, indent=2))
            return
        oldest = "" if outbox["oldest"] is None else f", the oldest since {age(outbox['oldest'])}"
        self.stdout.write(f"{outbox['pending']:,} pending{oldest}; {outbox['dead']:,} dead.")

    def _dead(self, alias: str, options: dict[str, Any]) -> None:
        limit: int = options["limit"]
        rows = list(dead_rows(alias).order_by("-dead_at", "id")[: limit + 1])
        dead: list[dict[str, Any]] = [
            {
                "id": row.pk,
                "name": row.name,
                "event_id": row.event_id,
                "dead_at": row.dead_at,
                "attempts": row.attempts,
                "last_error": row.last_error,
            }
            for row in rows[:limit]
        ]
        if len(rows) > limit:
            self.stderr.write(f"There are more: these are the latest {limit:,}. See --limit.")
        if options["as_json"]:
            self.stdout.write(json.dumps(dead, indent=2, default=str))
            return
        for row in dead:
            error = (row["last_error"].splitlines() or [""])[0]
            self.stdout.write(f"{row['id']}  {row['name']}  {row['event_id']}  {error}")
        if not dead:
            self.stdout.write("The outbox has no dead row.")

    def _requeue(self, alias: str, options: dict[str, Any]) -> None:
        ids: list[int] = options["requeue"] or []
        if bool(ids) + bool(options["all"]) + bool(options["name"]) != 1:
            raise CommandError("Say which: --requeue ID ..., --all, or --name NAME.")
        rows = dead_rows(alias)
        if ids:
            keys = [number for number in ids if 0 < number <= sys.maxsize]  # what a database takes
            missing = set(ids) - set(rows.filter(pk__in=keys).values_list("pk", flat=True))
            if missing:
                numbers = ", ".join(str(number) for number in sorted(missing))
                raise CommandError(f"No dead row has this number: {numbers}. Nothing was changed.")
            chosen = rows.filter(pk__in=ids)
        else:
            chosen = rows.filter(name=options["name"]) if options["name"] else rows.all()
        count = requeue(chosen)
        if options["as_json"]:
            self.stdout.write(json.dumps({"requeued": count}))
        else:
            self.stdout.write(f"{count:,} event(s) requeued.")
