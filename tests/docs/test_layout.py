"""The page about the layout of the code is about the code that there is."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, ROOT

PACKAGE = ROOT / "celery_fanout"
PICTURE = ROOT / "docs/images/the-house.svg"
TEXT = PAGES["docs/explanation/the-house.md"].read_text()

_FILE = re.compile(r"`([\w/]+/[\w-]+\.(?:lua|py|md))`")
#: A file of the package, and what of it is meant: ``a/b.py` `name` and `Class.method``.
_NAMED = re.compile(r"`([\w/]+\.py)`\s+((?:`[\w.]+`)(?:\s+and\s+`[\w.]+`)*)")


def names_of(file: Path) -> set[str]:
    """Return what a file defines: functions, classes, and their methods and attributes."""
    names: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {
                f"{node.name}.{inner.name}"
                for inner in node.body
                if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef))
            }
    return names


def there(file: str) -> Path:
    """Return a file that the page names: below the package, or below the project."""
    return PACKAGE / file if (PACKAGE / file).exists() else ROOT / file


def test_the_picture_is_that_of_the_import_contract() -> None:
    drawn = subprocess.run(
        [sys.executable, ROOT / "scripts/draw-house"], check=True, capture_output=True, text=True
    )
    assert PICTURE.read_text() == drawn.stdout, "make house draws it anew"


def test_each_room_is_in_the_picture() -> None:
    drawn = re.findall(r'class="name"[^>]*>(\w+)<', PICTURE.read_text())
    rooms = {
        path.stem
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert sorted(drawn) == sorted(rooms - {"__init__"})


@pytest.mark.parametrize("file", sorted(set(_FILE.findall(TEXT))))
def test_a_file_that_is_named_is_there(file: str) -> None:
    assert there(file).is_file()


def named() -> list[tuple[str, str]]:
    return sorted(
        {
            (file, name)
            for file, names in _NAMED.findall(TEXT)
            for name in re.findall(r"`([\w.]+)`", names)
        }
    )


@pytest.mark.parametrize(("file", "name"), named())
def test_a_function_that_is_named_is_in_its_file(file: str, name: str) -> None:
    assert name in names_of(PACKAGE / file)


@pytest.mark.parametrize(
    "path",
    ["From emit to the broker", "From a message to a run", "From the ledger back to the broker"],
)
def test_each_verb_of_a_path_names_a_function(path: str) -> None:
    [section] = re.findall(rf"^## {path}.*?(?=^## )", TEXT, re.MULTILINE | re.DOTALL)
    rows = [line for line in section.splitlines() if re.match(r"\| (?!verb|-)", line)]
    assert len(rows) > 5
    assert [row for row in rows if not _NAMED.search(row)] == []
