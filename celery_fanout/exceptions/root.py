"""The root of all errors."""

from __future__ import annotations

from celery.exceptions import CeleryError


class FanoutError(CeleryError):
    """Root of everything that celery-fanout raises."""
