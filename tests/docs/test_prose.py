"""Links lead somewhere, and one word means one thing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, ROOT

_LINK = re.compile(r"(?<!!)\[[^\]\n]+(?:\n[^\]\n]+)?\]\(([^)\s]+)\)")
_FENCED = re.compile(r"^ *(```+|~~~+).*?^ *\1 *$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]+`")

#: Words that mean something else to every reader, and what is said here instead.
AVOIDED = {
    "workflow": "run, chain",
    "job": "run, task",
    "handler": "subscriber",
    "listener": "subscriber",
    "message bus": "broker",
    "event bus": "broker",
}
#: Pages that are about others, in their words.
COMPARING = {"docs/explanation/comparison.md"}


def prose(page: str) -> str:
    """Return a page's text without its code."""
    return _CODE.sub("", _FENCED.sub("", PAGES[page].read_text()))


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as Python-Markdown and GitHub make them."""
    found = set(re.findall(r"^::: (\S+)$", path.read_text(), re.MULTILINE))
    for heading in re.findall(r"^#+ (.+)$", _FENCED.sub("", path.read_text()), re.MULTILINE):
        text = re.sub(r"[^\w\s-]", "", heading).strip().lower()
        found.add(re.sub(r"\s+", "-", text))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in _LINK.findall(_FENCED.sub("", PAGES[page].read_text())):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (PAGES[page].parent / path).resolve() if path else PAGES[page]
        assert file.is_file(), f"{page}: {target}"
        assert file.is_relative_to(ROOT), f"{page}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{page}: {target}"


@pytest.mark.parametrize("page", sorted(set(PAGES) - COMPARING))
def test_one_word_means_one_thing(page: str) -> None:
    text = prose(page).lower()
    assert [word for word in AVOIDED if re.search(rf"\b{word}s?\b", text)] == []


def test_the_files_named_in_how_it_works_are_there() -> None:
    text = PAGES["docs/explanation/how-it-works.md"].read_text()
    names = set(re.findall(r"`((?:\w+/)*\w+\.py)`", text))
    assert len(names) > 5
    assert {name for name in names if not (ROOT / "celery_fanout" / name).is_file()} == set()
