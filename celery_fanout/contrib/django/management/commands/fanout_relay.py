"""``manage.py fanout_relay``: publish what is in the outbox."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseError
from django.db import connections

from celery_fanout.app.fanout import get_fanout
from celery_fanout.contrib.django.management.arguments import positive
from celery_fanout.contrib.django.outbox.leasing import Outbox
from celery_fanout.contrib.django.outbox.relay import Options, Relay
from celery_fanout.contrib.django.outbox.stop import Stop
from celery_fanout.exceptions import FanoutError, NoApp

if TYPE_CHECKING:
    from django.core.management.base import CommandParser

    from celery_fanout.app.fanout import Fanout
    from celery_fanout.contrib.django.outbox.relay import Counts

#: How many rows may be claimed at once: each is a parameter of one statement, and SQLite allows for
#: 32,766.
MAX_BATCH = 10_000

HELP = """\
Publish the events that wait in the outbox, and delete their rows.

It goes on until SIGTERM or Ctrl-C, finishes the batch that it has, and gives back what it has not
published. Several may run at the same time. While broker, ledger or database are away it waits for
them. An event whose publishing fails fanout_outbox_max_attempts times is kept as a dead row.
"""

EPILOG = """\
With --once it ends when nothing is due any more. Exit codes then: 0 nothing is left and nothing
was given up, 1 something is left, or was given up, or went wrong, 2 wrong usage.
"""


class Command(BaseCommand):
    """The relay's command."""

    help = HELP

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Add what the exit codes mean."""
        return super().create_parser(prog_name, subcommand, epilog=EPILOG, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        add = parser.add_argument
        seconds = positive(float)
        add(
            "--database",
            metavar="ALIAS",
            help="the database that has the outbox (default: fanout_outbox_database)",
        )
        add(
            "--batch",
            type=positive(int, MAX_BATCH),
            default=100,
            metavar="ROWS",
            help="how many rows are claimed at once (default: 100)",
        )
        add(
            "--lease",
            type=seconds,
            default=60.0,
            metavar="SECONDS",
            help="within this time a batch must be published and deleted, or another relay does "
            "it again (default: 60)",
        )
        add(
            "--poll",
            type=seconds,
            default=1.0,
            metavar="SECONDS",
            help="time between two looks at an empty outbox; PostgreSQL with psycopg 3 wakes the "
            "relay at once (default: 1)",
        )
        add(
            "--backoff",
            type=seconds,
            default=30.0,
            metavar="SECONDS",
            help="time before an event that failed is tried again; it doubles (default: 30)",
        )
        add("--once", action="store_true", help="publish what is due, and end")
        add(
            "--single",
            action="store_true",
            help="promise that this is the only relay, on SQLite and other databases without SKIP "
            "LOCKED",
        )
        add(
            "--liveness-file",
            type=Path,
            metavar="FILE",
            help="touched whenever the database has answered, idle or not",
        )

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002 - Django's
        """Run the relay."""
        if options["verbosity"]:
            _show_log()
        fanout = _project()
        alias: str = options["database"] or fanout.settings.outbox_database
        if alias not in connections:
            names = ", ".join(sorted(connections))
            raise CommandError(f"There is no database {alias!r} in DATABASES. It has: {names}.")
        if options["liveness_file"] is not None:
            _try_to_touch(options["liveness_file"])
        outbox = Outbox(alias, options["lease"])
        how = Options(
            options["batch"], options["poll"], options["backoff"], options["liveness_file"]
        )
        with Stop() as stop:
            relay = Relay(outbox, fanout.settings, how, stop)
            if options["once"]:
                self._drain(relay, outbox, single=options["single"])
            else:

                def begin() -> None:
                    _check(outbox, single=options["single"])
                    self.stdout.write(f"relay ready: the outbox of the database {alias!r}.")

                relay.run(begin)
                self.stdout.write(f"relay ended: {_told(relay.counts)}.")

    def _drain(self, relay: Relay, outbox: Outbox, *, single: bool) -> None:
        try:
            _check(outbox, single=single)
            reason = relay.drain()
            left = outbox.left()
        except DatabaseError as exc:
            raise CommandError(
                f"The database {outbox.alias!r} does not answer ({exc}). Try again when it does."
            ) from exc
        self.stdout.write(f"{_told(relay.counts)}, {left:,} left.")
        if left or relay.counts.dead:
            raise CommandError(reason and f"{reason[0].upper()}{reason[1:]}.")


def _told(counts: Counts) -> str:
    return f"{counts.published:,} published, {counts.failed:,} failed, {counts.dead:,} given up"


def _try_to_touch(file: Path) -> None:
    try:
        file.touch()
    except OSError as exc:
        raise CommandError(
            f"--liveness-file cannot be written: {exc}. Name a file in a directory that is there."
        ) from exc


def _project() -> Fanout:
    """Return what belongs to the project's Celery app, with all its subscribers.

    Raises:
        CommandError: if there is no app, or it cannot be used.
    """
    try:
        fanout = get_fanout()
        fanout.load()
        fanout.settings  # noqa: B018 - read once, and validated
    except NoApp as exc:
        raise CommandError(
            f"{exc} In a Django project that is a line in the package of its settings: "
            "from .celery import app as celery_app."
        ) from exc
    except (FanoutError, ImportError) as exc:
        raise CommandError(f"The project's Celery app cannot be used. {exc}") from exc
    return fanout


def _check(outbox: Outbox, *, single: bool) -> None:
    """Raise if this relay must not, or cannot, work on an outbox.

    Raises:
        CommandError: if that is so.
        django.db.Error: if the database does not answer.
    """
    if not outbox.exists:
        raise CommandError(
            f"The database {outbox.alias!r} has no outbox. "
            f"Run: manage.py migrate celery_fanout --database {outbox.alias}"
        )
    if not outbox.skips_locked and not single:
        raise CommandError(
            f"The database {outbox.alias!r} does not know SKIP LOCKED, by which several relays "
            "share an outbox. Use PostgreSQL, MySQL 8.0.1 or MariaDB 10.6; or run one relay only, "
            "and say so with --single."
        )


def _show_log() -> None:
    """Show what the relay logs, in a project whose LOGGING says nothing about it."""
    logger = logging.getLogger("celery_fanout")
    if logger.hasHandlers():
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("[%(asctime)s: %(levelname)s] %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
