"""Warnings, apart from the errors because nobody catches them: they are filtered."""

from __future__ import annotations


class FanoutWarning(UserWarning):
    """Root of the warnings of celery-fanout."""


class NotDurableWarning(FanoutWarning):
    """A step was called where it is an ordinary call although a run is active."""


class StepValueWarning(FanoutWarning):
    """A step's value does not fit the annotation of its function and is returned untyped."""


class SwallowedSuspensionWarning(FanoutWarning):
    """An ``except`` clause in the task's body caught a suspension; it is raised again."""


class StepOrderWarning(FanoutWarning):
    """A body calls its steps in another order than when their results were stored."""
