"""``celery -A proj fanout check``: what may go wrong with the app's configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from celery_fanout.cli.command import command, print_json

if TYPE_CHECKING:
    from celery_fanout.app.fanout import Fanout


@click.command()
@click.option("--connect", is_flag=True, help="Also connect to the broker and the store.")
@click.option(
    "--fail-on",
    type=click.Choice(["error", "warning"]),
    default="error",
    show_default=True,
    help="The least that makes the exit code 1.",
)
@command
def check(fanout: Fanout, connect: bool, fail_on: str, as_json: bool) -> None:
    """Look for settings that lose or repeat work.

    Each finding comes with its remedy. The reference lists them all.
    """
    from celery_fanout.app.checks import findings
    from celery_fanout.app.live_checks import live_findings

    all_findings = findings(fanout)
    if connect:
        all_findings += live_findings(fanout)
    if as_json:
        print_json([vars(finding) for finding in all_findings])
    else:
        for finding in all_findings:
            click.echo(f"{finding.level.upper():8} {finding.id}  {finding.message}")
            click.echo(f"{'':8} -> {finding.remedy}")
        errors = sum(finding.level == "error" for finding in all_findings)
        warnings = sum(finding.level == "warning" for finding in all_findings)
        click.echo(f"{errors} error(s), {warnings} warning(s).")
    failing = {"error"} if fail_on == "error" else {"error", "warning"}
    if any(finding.level in failing for finding in all_findings):
        raise click.exceptions.Exit(1)
