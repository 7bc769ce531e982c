"""``celery -A proj fanout ...``: one file per kind of command; ``main`` has the group."""

from celery_fanout.cli.main import fanout

__all__ = ["fanout"]
