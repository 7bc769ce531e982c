"""``celery -A proj fanout keeper | worker``: processes that run until they are told to end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from celery_fanout.cli.command import command, print_json

if TYPE_CHECKING:
    from celery_fanout.app.fanout import Fanout


@click.command()
@command
def keeper(fanout: Fanout, as_json: bool) -> None:
    """Look for what is due, in a process of its own.

    Only where fanout_keeper is off: by default every worker does this. Ends with SIGTERM or Ctrl-C.
    """
    from celery_fanout.app.processes import run_keeper

    run_keeper(fanout, lambda text: print_json({"status": text}) if as_json else click.echo(text))


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
@click.pass_context
def worker(ctx: click.Context, /, **_: Any) -> None:
    """Start a fast worker for the runs in fanout_queue.

    It gives up the broker's acknowledgements, because the ledger has them: what it loses is sent
    again. Further options are those of `celery worker`; the pool is solo or threads.
    """
    from celery_fanout.app.fanout import get_fanout
    from celery_fanout.app.processes import run_fast_worker
    from celery_fanout.exceptions import FanoutError

    try:
        run_fast_worker(get_fanout(ctx.obj.app), ctx.args)
    except FanoutError as exc:
        raise click.ClickException(str(exc)) from exc
