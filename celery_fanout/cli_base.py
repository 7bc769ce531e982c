"""What all commands share: the app, ``--json``, errors in one line, tables."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["command", "print_json", "print_table"]


def command(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the app's Fanout, ``--json``, and errors as one line and exit code 1."""

    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @click.pass_context
    @functools.wraps(fn)
    def called(ctx: click.Context, /, **options: Any) -> None:
        # Celery 5.7 passes the user's preload options on to plug-in commands
        known = {parameter.name for parameter in ctx.command.params}
        options = {key: value for key, value in options.items() if key in known}
        from celery_fanout.app import get_fanout
        from celery_fanout.exceptions import FanoutError

        try:
            fn(get_fanout(ctx.obj.app), **options)
        except FanoutError as exc:
            raise click.ClickException(str(exc)) from exc

    return called


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns; an empty last column leaves no spaces behind."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())
