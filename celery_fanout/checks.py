"""Public. What ``fanout check`` finds, for programs; apart because it is imported by this path."""

from __future__ import annotations

from celery_fanout.app.checks import Finding, findings

__all__ = ["Finding", "findings"]
