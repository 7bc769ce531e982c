"""What ``fanout check`` finds, for programs: the public path to what ``app.checks`` does.

Public: the names in ``__all__``.
"""

from __future__ import annotations

from celery_fanout.app.checks import Finding, findings

__all__ = ["Finding", "findings"]
