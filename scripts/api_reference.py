"""What the generated API reference needs besides mkdocstrings; ``zensical.toml`` names it.

Sphinx roles in docstrings become links, since mkdocstrings prints a role as it stands. And a
function whose overloads name what it takes as keyword arguments is shown with those.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

import celery_fanout

ROLE = re.compile(r":(?:attr|class|exc|func|meth|mod):`~?([\w.]+)`")
VARIADIC = (griffe.ParameterKind.var_keyword, griffe.ParameterKind.var_positional)


def _link(match: re.Match[str]) -> str:
    """Return a link to what the API reference has, and code for everything else."""
    name = match[1].removeprefix("celery_fanout.")
    if name in celery_fanout.__all__:
        return f"[`{name}`][celery_fanout.{name}]"
    return f"`{name.rpartition('.')[2]}`"


class ApiReference(griffe.Extension):
    """Rewrites docstrings, and joins overloads."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(_link, obj.docstring.value).replace("``", "`")

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Join the overloads of all functions."""
        for module in pkg.modules.values():
            for function in module.functions.values():
                if function.overloads and any(p.kind in VARIADIC for p in function.parameters):
                    self._join(function)

    @staticmethod
    def _join(function: griffe.Function) -> None:
        known = {parameter.name: parameter for parameter in function.parameters}
        longest = max(function.overloads or [], key=lambda overload: len(overload.parameters))
        found = [known.get(parameter.name, parameter) for parameter in longest.parameters]
        function.parameters = griffe.Parameters(*found)
        function.overloads = None
