"""What commands share: the app, ``--json``, errors in one line, filters, tables, progress."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import sys
import time
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

#: The states of a run. Not from the enum: ``celery --help`` imports this, and should stay quick.
STATES = (
    *("pending", "gated", "published", "running", "suspended", "retrying", "completing"),
    *("succeeded", "failed", "cancelled"),
)
#: How many of something at most.
NUMBER = click.IntRange(min=1)
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def command(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the app's Fanout, ``--json``, and errors as one line and exit code 1."""

    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @click.pass_context
    @functools.wraps(fn)
    def called(ctx: click.Context, /, **options: Any) -> None:
        # Celery 5.7 passes the user's preload options on to plug-in commands
        names = {parameter.name for parameter in ctx.command.params}
        options = {name: value for name, value in options.items() if name in names}
        from celery_fanout.app.fanout import get_fanout
        from celery_fanout.exceptions import FanoutError, StoreRefused, StoreUnavailable

        try:
            fn(get_fanout(ctx.obj.app), **options)
        except StoreUnavailable as exc:  # its own text is about the run that it puts back
            reason = exc.reason.rstrip(".")
            if isinstance(exc, StoreRefused):
                problem = f"{exc.store} answers and refuses ({reason})."
                remedy = "`celery fanout check --connect` tells more."
            else:
                problem = f"{exc.store} cannot be reached ({reason})."
                remedy = "Start it, or mend fanout_store_url. `celery fanout check` tells more."
            raise click.ClickException(f"{problem} {remedy}") from exc
        except FanoutError as exc:
            raise click.ClickException(str(exc)) from exc

    return called


def ago(_ctx: Any, _param: Any, value: str | None) -> float | None:
    """Read a duration such as ``90s``, ``2h`` or ``7d`` as the time that long ago."""
    if value is None:
        return None
    duration = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", value)
    if duration is None:
        raise click.BadParameter(f"{value!r} is no duration. Use 90s, 15m, 2h or 7d.")
    return time.time() - float(duration[1]) * UNITS[duration[2]]


def run_filters(*, state: bool = True, error: bool = True) -> Callable[[Any], Any]:
    """Give a command the options that choose runs."""
    options = [
        click.option("--subscription", help="Only those of the subscription with this id."),
        click.option("--name", help="Only those of events with this name."),
        click.option("--since", callback=ago, help="Only those that changed since: 90s, 2h, 7d."),
    ]
    if error:
        options.append(
            click.option("--error", "error_type", help="Only those that failed with this class.")
        )
    if state:
        options.insert(
            0, click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
        )

    return options_of(*options)


def options_of(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a decorator that gives a command several options, listed in this order."""
    return lambda fn: functools.reduce(lambda done, option: option(done), reversed(options), fn)


def limit_option(text: str = "How many at most.") -> Callable[[Any], Any]:
    """Return the option that says how many records are shown."""
    return click.option("--limit", type=NUMBER, default=20, show_default=True, help=text)


def read_json(argument: str | None) -> Any:
    """Read the argument DATA: JSON, ``"-"`` for standard input, or ``@FILE``."""
    if argument is None:
        return None
    text: str = argument
    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            with click.open_file(text[1:]) as file:
                text = str(file.read())
    except (OSError, ValueError) as exc:  # the second of what is not in UTF-8, or no path
        raise click.UsageError(f"DATA cannot be read: {exc}.") from exc
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise click.UsageError(
            f"DATA is no JSON ({exc}). Quote it for the shell: '{{\"id\": 1}}'."
        ) from exc


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, err: bool = False) -> None:
    """Print aligned columns; an empty last column leaves no spaces behind."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip(), err=err)


@contextlib.contextmanager
def progress(label: str, length: int) -> Generator[Callable[[int], None] | None, None, None]:
    """Show a bar on standard error while something long goes on, if that is a terminal.

    Yields:
        What is called again and again with how many more are done; ``None`` if nobody watches.
    """
    if not sys.stderr.isatty():
        yield None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr, show_pos=True) as bar:
        yield bar.update
