"""``celery -A proj fanout ...``: one file for each kind of command; ``main`` has the group.

Options, output and exit codes. What a command does is in ``operating`` and ``app``.

May import ``app`` and what is below it.
Private: its modules may change without notice.
"""

from celery_fanout.cli.main import fanout

__all__ = ["fanout"]
