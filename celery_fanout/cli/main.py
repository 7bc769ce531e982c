"""The group ``celery -A proj fanout``, with the ``COMMANDS`` of every other module but ``command``.

Exit codes: 0 done, 1 the command found or met a problem, 2 wrong usage.
"""

from __future__ import annotations

from typing import Any

import click

from celery_fanout.cli import changes, check, emit, limits, processes, runs, subscriptions

__all__ = ["fanout"]

MODULES = (changes, check, emit, limits, processes, runs, subscriptions)


@click.group()
def fanout(**_: Any) -> None:
    """Events, their subscribers, and their runs."""


for module in MODULES:
    for each in module.COMMANDS:
        fanout.add_command(each)
