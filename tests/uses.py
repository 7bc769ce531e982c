"""Which names of the package are defined where, and which modules use them. Nothing is imported."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

#: A module and a name in it.
Place = tuple[str, str]


def room_of(module: str) -> str:
    """Return the room of a module; ``""`` for the package itself."""
    return module.partition(".")[2].partition(".")[0]


class Uses:
    """The public top-level names of a package.

    Args:
        package: its directory.

    Attributes:
        names: what each name is: ``"class"``, ``"function"`` or ``"constant"``.
        users: the modules that use it; its own, if it does so besides defining it.
    """

    def __init__(self, package: Path) -> None:
        self._package = package.name
        self._trees = {
            _module(file, package.parent): ast.parse(file.read_text())
            for file in sorted(package.rglob("*.py"))
        }
        self.names: dict[Place, str] = {
            (module, name): kind
            for module, tree in self._trees.items()
            for name, kind in _definitions(tree)
            if not name.startswith("_")
        }
        self.users: dict[Place, set[str]] = defaultdict(set)
        self._imported = {
            (module, alias.asname or alias.name): (source, alias.name)
            for module, tree in self._trees.items()
            for source, alias in self._imports(tree)
        }
        for module, tree in self._trees.items():
            self._note(module, tree)

    def rooms(self, place: Place) -> set[str]:
        """Return the rooms that use a name. The package's own list of public names is no use."""
        return {room_of(user) for user in self.users[place]} - {""}

    def origin(self, place: Place) -> Place:
        """Return where a name is defined that another module may only pass on."""
        while place not in self.names and place in self._imported:
            place = self._imported[place]
        return place

    def _imports(self, tree: ast.Module) -> Iterator[tuple[str, ast.alias]]:
        for node in ast.walk(tree):
            source = node.module if isinstance(node, ast.ImportFrom) else None
            if source is not None and source.partition(".")[0] == self._package:
                assert isinstance(node, ast.ImportFrom)
                yield from ((source, alias) for alias in node.names)

    def _note(self, module: str, tree: ast.Module) -> None:
        modules: dict[str, str] = {}
        for source, alias in self._imports(tree):
            if f"{source}.{alias.name}" in self._trees:
                modules[alias.asname or alias.name] = f"{source}.{alias.name}"
            else:
                self.users[self.origin((source, alias.name))].add(module)
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                if (module, node.id) in self.names:
                    self.users[module, node.id].add(module)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                source = modules.get(node.value.id)
                if source is not None:
                    self.users[self.origin((source, node.attr))].add(module)


def _module(file: Path, root: Path) -> str:
    return ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def _definitions(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name, "function"
            case ast.ClassDef(name=name):
                yield name, "class"
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name, "constant"
