"""The group ``celery -A proj fanout``, with the commands of every other module but ``command``.

Exit codes: 0 done, 1 the command found or met a problem, 2 wrong usage.
"""

from __future__ import annotations

from typing import Any

import click

from celery_fanout.cli import changes, check, emit, limits, processes, runs, subscriptions


@click.group()
def fanout(**_: Any) -> None:
    """Events, their subscribers, and their runs."""


for module in (changes, check, emit, limits, processes, runs, subscriptions):
    for each in vars(module).values():
        if isinstance(each, click.Command):
            fanout.add_command(each)
