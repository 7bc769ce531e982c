"""The code blocks of the documentation: where they are and what they are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"

#: Every page whose code blocks are executed, by its path from the project's root.
PAGES = {
    str(path.relative_to(ROOT)): path for path in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
}

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>```+|~~~+)(?P<info>.*)$")
_TITLE = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: the page's path from the project's root.
        line: the number of its first line of content.
        language: what follows the fence.
        title: the name of the file that it is the content of, if it is.
        source: its content.
    """

    page: str
    line: int
    language: str
    title: str | None
    source: str

    @property
    def where(self) -> str:
        """What an error calls it."""
        return f"{self.page}:{self.line}"

    @property
    def padded(self) -> str:
        """Its content below empty lines, so that line numbers in tracebacks are the page's."""
        return "\n" * (self.line - 1) + self.source


def blocks_of(page: str) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    found: list[Block] = []
    open_fence: re.Match[str] | None = None
    content: list[str] = []
    for number, line in enumerate(PAGES[page].read_text().splitlines(), start=1):
        fence = _FENCE.match(line)
        if open_fence is None:
            if fence is not None:
                open_fence, content = fence, []
            continue
        ends = fence is not None and not fence["info"].strip()
        if ends and fence is not None and fence["ticks"].startswith(open_fence["ticks"]):
            info = open_fence["info"].strip()
            title = _TITLE.search(info)
            found.append(
                Block(
                    page,
                    number - len(content),
                    (info.split() or [""])[0],
                    title[1] if title else None,
                    "".join(f"{text}\n" for text in content),
                )
            )
            open_fence = None
        else:
            content.append(line.removeprefix(open_fence["indent"]))
    assert open_fence is None, f"{page}: a block is not closed"
    return found
