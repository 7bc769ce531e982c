"""The root of all errors, apart because every other file of errors imports it."""

from __future__ import annotations

from celery.exceptions import CeleryError


class FanoutError(CeleryError):
    """Root of everything that celery-fanout raises."""
