"""Whether a method is Celery's or kombu's own: one that was replaced has to be called."""

from __future__ import annotations

from types import FunctionType, MethodType
from typing import Any


def is_stock(function: Any, module: Any) -> bool:
    """Whether a function is one that a library ships, not a subclass's or a tool's wrapper.

    Wrappers copy names and attributes, but not the module that their code belongs to; some are
    no functions at all.
    """
    if type(function) is MethodType:
        function = function.__func__
    return type(function) is FunctionType and function.__globals__ is vars(module)
