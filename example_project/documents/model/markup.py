"""From a document as it was written (plain, Markdown, reStructuredText) to blocks of plain text.

A block is what a reader sees as one unit: a heading, a paragraph, a list item, a `Key: value` line,
a table cell. Code, badges, rules and link targets are left out. Everything here is one pass over
the lines, with patterns that cannot backtrack far, so that a document costs time linear in its
length.
"""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Kind(Enum):
    """What a block is to its reader."""

    HEADING = "heading"
    PROSE = "prose"
    ITEM = "item"
    FIELD = "field"
    CELL = "cell"


@dataclass(frozen=True, slots=True)
class Block:
    """One unit of a document, free of markup and on one line."""

    kind: Kind
    text: str


# A line that is shorter than this, before a line that starts with a capital, was not wrapped: it is
# a line of an address, a signature or a list without bullets.
UNWRAPPED = 45

_FENCE = re.compile(r"\s{0,3}(`{3,}|~{3,})")
_ATX = re.compile(r"\s{0,3}#{1,6}\s+(.*?)\s*#*$")
_UNDERLINE = re.compile(r"\s{0,3}([=\-~^\"'+*#])\1{2,}\s*$")
_GRID = re.compile(r"\s*[|+:=\- ]*[-=]{2,}[|+:=\- ]*$")
_REFERENCE = re.compile(r"\s{0,3}\[[^\]\n]{1,80}\]:\s*\S+")
_DIRECTIVE = re.compile(r"\s*\.\.(?:\s+(\S[^:]{0,60}):{1,2}|\s|$)")
_INVISIBLE = (_UNDERLINE, _GRID, _REFERENCE, re.compile(r"\s+:[\w-]{1,30}:(?:\s|$)"))
_SPOKEN_DIRECTIVES = {"note", "warning", "tip", "important", "hint", "attention", "caution"}
_ITEM = re.compile(
    r"\s*(?:[-*+•–]|\(?\d{1,3}[.)]|\(?[a-z]\)|\(?[ivx]{1,4}\)|\d{1,2}(?:\.\d{1,2}){1,3}\.?)\s+(?=\S)"
)
_NUMBERED_HEADING = re.compile(
    r"\s*(?:(?:Article|Section|Chapter|Part|Schedule|Annex)\s+)?\d{1,2}(?:\.\d{1,2}){0,3}"
    r"[.):]?\s+[A-Z][\w ,&'’/()-]{1,60}$"
)
_FIELD = re.compile(r"[A-Z][\w .'’/&()-]{0,38}:(?:\s|$)")
_WIDE_GAP = re.compile(r"\S(?:\s{3,}|\t+)(?=\S)")

_IMAGE = re.compile(r"!\[[^\]]{0,300}\](?:\([^()]{0,500}\)|\[[^\]]{0,100}\])")
_LINK = re.compile(r"\[([^\[\]]{0,300})\](?:\([^()]{0,500}\)|\[[^\[\]]{0,100}\])")
_FOOTNOTE = re.compile(r"\[\^[^\]]{1,40}\]")
_RST_LINK = re.compile(r"`([^`<>]{1,200}?)\s*<[^<>`]{1,300}>`__?")
_RST_ROLE = re.compile(r":[a-z][a-z:+-]{0,30}:`~?([^`]{1,200})`")
_RST_SUBSTITUTION = re.compile(r"\|[\w-]{1,40}\|")
_AUTOLINK = re.compile(r"<((?:https?|mailto|ftp):[^<>\s]{1,500}|[\w.+-]{1,64}@[^<>\s]{1,200})>")
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,500}>")
_CODE = re.compile(r"(`{1,2})([^`]{1,300})\1(?:__?\b)?")
_EMPHASIS = re.compile(r"(?<![\w*])(\*{1,3})(?=\S)([^*\n]{1,300}?)(?<=\S)\1(?!\w)")
_UNDERSCORES = re.compile(r"(?<!\w)(_{1,2})(?=\S)([^_\n]{1,300}?)(?<=\S)\1(?!\w)")
_ESCAPE = re.compile(r"\\([\\`*_{}\[\]()#+.!|>~-])")


def blocks(text: str) -> list[Block]:
    """Return the blocks of a document, in order."""
    found: list[Block] = []
    open_kind: Kind | None = None
    open_lines: list[str] = []

    def close() -> None:
        nonlocal open_kind
        joined = " ".join(open_lines)
        if len(open_lines) > 1:
            joined = _inline(joined)  # for a link or an emphasis that was wrapped
        if open_kind is not None and joined:
            found.append(Block(open_kind, joined))
        open_kind = None
        open_lines.clear()

    for kind, line in _lines(text):
        if kind is None:
            close()
        elif kind is not Kind.PROSE:
            close()
            open_kind, open_lines[:] = kind, [line]
            if kind is not Kind.ITEM:
                close()
        elif open_kind is None or _starts_anew(open_lines[-1], line):
            close()
            open_kind, open_lines[:] = kind, [line]
        else:
            open_lines.append(line)
    close()
    return found


def _starts_anew(previous: str, line: str) -> bool:
    return len(previous) < UNWRAPPED and not line[0].islower() and not previous.endswith((",", "-"))


def _lines(text: str) -> Iterator[tuple[Kind | None, str]]:
    """Yield each visible line with its kind, and (None, "") where a block ends."""
    raw = _without_comments(_normalised(text)).split("\n")
    start = _end_of_front_matter(raw)
    for line in raw[1:start]:
        yield Kind.FIELD, line.strip()
    for index, line in _outside_code(raw, start):
        if not line.strip() or any(pattern.match(line) for pattern in _INVISIBLE):
            yield None, ""
        else:
            following = raw[index + 1].rstrip() if index + 1 < len(raw) else ""
            yield from _visible(line, following, raw[index - 1].strip() if index else "")


def _outside_code(raw: list[str], start: int) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not code, each with its index; an empty one in place of code."""
    markdown = any(line.startswith(("#", "```", "~~~")) for line in raw)
    in_code = False  # indented code, which ends at the next line that is not indented
    in_item = False  # a list item, whose further paragraphs are indented too
    index = start
    while index < len(raw):
        line = raw[index].expandtabs(4).rstrip()
        blank_before = not index or not raw[index - 1].strip()
        index += 1
        if in_code and (not line or line[0] == " "):
            continue
        in_code = False
        if fence := _FENCE.match(line):
            index = _end_of_fence(raw, index, fence[1])
            yield index - 1, ""
        elif directive := _DIRECTIVE.match(line):
            in_code = (directive[1] or "").strip() not in _SPOKEN_DIRECTIVES
            yield index - 1, ""
        elif markdown and blank_before and not in_item and line.startswith("    "):
            in_code = True
        else:
            in_item = bool(_ITEM.match(line)) or (in_item and line[:1] in ("", " "))
            in_code = line.endswith("::")
            yield index - 1, line[:-1] if in_code else line


def _visible(line: str, following: str, before: str) -> Iterator[tuple[Kind | None, str]]:
    """Yield what a reader sees of one line that is not code."""
    if atx := _ATX.match(line):
        yield Kind.HEADING, _inline(atx[1])
        return
    line = re.sub(r"^\s{0,3}(?:>\s?)+", "", line)
    if line.count("|") >= 2 and (line.lstrip().startswith("|") or " | " in line):
        yield from _cells(line.strip().strip("|").split("|"))
        return
    plain = _inline(line)
    if not plain:
        yield None, ""
    elif _UNDERLINE.match(following) and following.strip()[0] in "=-~^" and _is_title(line, before):
        yield Kind.HEADING, plain
    elif len(_WIDE_GAP.findall(line.strip())) >= 2 and not _ITEM.match(line):
        yield from _cells(re.split(r"\s{3,}|\t+", line.strip()))
    elif not before and not following.strip() and _is_plain_heading(plain, line):
        yield Kind.HEADING, plain
    elif item := _ITEM.match(line):
        yield Kind.ITEM, _inline(line[item.end() :])
    elif _FIELD.match(plain) and not plain.endswith((".", "!", "?", ",", ";")) and len(plain) < 100:
        yield Kind.FIELD, plain
    else:
        yield Kind.PROSE, plain


def _cells(cells: list[str]) -> Iterator[tuple[Kind | None, str]]:
    for cell in cells:
        if plain := _inline(cell):
            yield Kind.CELL, plain


def _is_title(line: str, before: str) -> bool:
    return len(line) < 120 and (not before or bool(_UNDERLINE.match(before)))


def _is_plain_heading(plain: str, line: str) -> bool:
    """Say whether a line that stands alone is a heading by its form: numbered, or in capitals."""
    if plain.endswith((".", "!", "?", ",", ";")) or len(plain) > 70:
        return False
    letters = [c for c in plain if c.isalpha()]
    capitals = len(letters) > 3 and all(c.isupper() for c in letters) and ":" not in plain
    return capitals or bool(_NUMBERED_HEADING.match(line))


def _inline(line: str) -> str:
    """Return a line without its inline markup: links become their text, images disappear."""
    if "`" in line:
        line = _RST_LINK.sub(r"\1", line)
        line = _RST_ROLE.sub(r"\1", line)
        line = _CODE.sub(r"\2", line)
    if "[" in line:
        line = _IMAGE.sub("", line)
        line = _FOOTNOTE.sub("", _LINK.sub(r"\1", line))
        line = line.replace("[]", "")
    if "<" in line:
        line = _AUTOLINK.sub(r"\1", line)
        line = _TAG.sub("", line)
    if "|" in line:
        line = _RST_SUBSTITUTION.sub("", line)
    if "*" in line:
        line = _EMPHASIS.sub(r"\2", line)
    if "_" in line:
        line = _UNDERSCORES.sub(r"\2", line)
    if "\\" in line:
        line = _ESCAPE.sub(r"\1", line)
    if "&" in line:
        line = html.unescape(line)
    return " ".join(line.split())


def _normalised(text: str) -> str:
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    return unicodedata.normalize("NFC", text.replace("\x0c", "\n").replace("\x00", ""))


def _without_comments(text: str) -> str:
    """Return the text without HTML comments; one that is never closed is left as it is."""
    kept: list[str] = []
    position = 0
    while (start := text.find("<!--", position)) >= 0:
        end = text.find("-->", start)
        if end < 0:
            break
        kept.append(text[position:start])
        position = end + 3
    kept.append(text[position:])
    return "".join(kept)


def _end_of_front_matter(raw: list[str]) -> int:
    """Return the index after a YAML header between two `---` lines, or 0."""
    if raw[0].strip() == "---":
        for index, line in enumerate(raw[1:60], start=1):
            if line.strip() == "---":
                return index
            if not re.match(r"[\w-]+:|\s|$", line):
                break
    return 0


def _end_of_fence(raw: list[str], index: int, fence: str) -> int:
    """Return the index after the closing fence; one that is never closed runs to the end."""
    while index < len(raw):
        line = raw[index].strip()
        index += 1
        if line.startswith(fence) and not line.strip(fence[0]):
            break
    return index
