"""``manage.py fanout ...``: the commands of ``celery -A proj fanout``, for the project's app."""

from __future__ import annotations

import argparse
import contextlib
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections

from celery_fanout.cli import fanout
from celery_fanout.exceptions import NoApp
from celery_fanout.running.current import app_in_use

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Options that manage.py has dealt with before it calls a command.
SETTLED = ("--settings", "--pythonpath")


class Command(BaseCommand):
    """Hands everything to the commands that there are, options and exit codes included."""

    help = "Events, their subscribers, and their runs: see `manage.py fanout --help`."
    requires_system_checks = ()  # `fanout check` is one of the commands

    def add_arguments(self, parser: CommandParser) -> None:
        """For ``call_command("fanout", "runs", "--json")``."""
        parser.add_argument("args", nargs=argparse.REMAINDER)

    def print_help(self, prog_name: str, subcommand: str) -> None:
        """Print what the commands are: ``manage.py help fanout``."""
        del prog_name
        _call(["--help"], f"manage.py {subcommand}")

    def run_from_argv(self, argv: list[str]) -> None:
        """Run a command of the command line, and exit with its exit code."""
        try:
            _call(_own(argv[2:]), _program(argv), standalone_mode=True)
        except NoApp as exc:
            self.stderr.write(f"Error: {exc}")
            sys.exit(1)
        finally:
            connections.close_all()

    def handle(self, *args: str, **options: Any) -> None:
        """Run a command for ``call_command``.

        Raises:
            CommandError: if its exit code is not 0.
        """
        del options
        out: Any = self.stdout
        err: Any = self.stderr
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = _call(args, "fanout")
            except click.ClickException as exc:
                raise CommandError(exc.format_message(), returncode=exc.exit_code) from exc
            except NoApp as exc:
                raise CommandError(str(exc)) from exc
        if status:
            raise CommandError(f"fanout {' '.join(args)}: see above.", returncode=status)


def _program(argv: Sequence[str]) -> str:
    name = argv[0].rpartition("/")[2]
    return f"{'python -m django' if name == '__main__.py' else name} {argv[1]}"


def _own(arguments: Sequence[str]) -> list[str]:
    """Return the arguments without those of manage.py itself."""
    ours: list[str] = []
    left = iter(arguments)
    for argument in left:
        if argument == "--":
            return [*ours, argument, *left]
        if argument in SETTLED:
            next(left, None)
        elif not argument.startswith(tuple(f"{option}=" for option in SETTLED)):
            ours.append(argument)
    return ours


def _call(arguments: Sequence[str], program: str, *, standalone_mode: bool = False) -> int:
    exit_code: Any = fanout.main(
        args=list(arguments),
        prog_name=program,
        obj=SimpleNamespace(app=app_in_use()),  # as Celery's own command line has it
        standalone_mode=standalone_mode,
    )
    return int(exit_code or 0)
