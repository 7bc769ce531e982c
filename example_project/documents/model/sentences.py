"""Cutting plain text into sentences, and sentences into words that can be compared."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from example_project.documents.model.vocabulary import (
    ABBREVIATIONS,
    COMPANY_ABBREVIATIONS,
    SENTENCE_STARTERS,
    STOP_WORDS,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_END = re.compile(
    r"""(?<![.!?…])([.!?…]+["'”’)\]]{0,4})\s+(?=["'“‘(\[]{0,4}[^\W_a-z])|([。！？]+[」』”]?)\s*"""
)
_LAST_WORD = re.compile(r"[\w.&'’-]+$")
_NEXT_WORD = re.compile(r"[\"'“‘(\[]*([\w'’]+)")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]$")
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_]+(?:['’.-][^\W_]+)*")


def split_sentences(text: str) -> list[str]:
    """Return the sentences of one block of plain text.

    A full stop ends a sentence unless it belongs to an abbreviation ("Dr.", "No. 5"), an initial
    ("J. Smith"), or a short form that goes on ("Acme Inc. and ...").
    """
    return [sentence for sentence in _split(text) if sentence]


def _split(text: str) -> Iterator[str]:
    start = 0
    for end in _END.finditer(text):
        stop = end.end(1) if end[1] else end.end(2)
        if end[1] == "." and not _is_full_stop(text, start, end.start(1), end.end()):
            continue
        yield text[start:stop].strip()
        start = end.end()
    yield text[start:].strip()


def _is_full_stop(text: str, start: int, dot: int, after: int) -> bool:
    last = _LAST_WORD.search(text[max(start, dot - 40) : dot])
    if last is None:
        return True
    word = last[0].lstrip(".'’").lower()
    following = _NEXT_WORD.match(text[after : after + 40])
    next_word = following[1] if following else ""
    if word in ABBREVIATIONS:
        return word == "no" and not next_word[:1].isdigit()
    if word in COMPANY_ABBREVIATIONS or _INITIALS.match(word):
        return next_word in SENTENCE_STARTERS
    return True


def words(text: str) -> list[str]:
    """Return the words of a text in lower case; of a script without spaces, its characters."""
    return [word.lower() for word in _WORD.findall(text)]


def terms(text: str) -> list[str]:
    """Return the words that carry meaning, stemmed: "payments" and "payment" compare equal."""
    return [
        stem(word)
        for word in words(text)
        if word not in STOP_WORDS and (len(word) > 1 or word > "\u3000")
    ]


def stem(word: str) -> str:
    """Return a word without its commonest English endings."""
    word = word.removesuffix("'s").removesuffix("’s")
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 5 and word.endswith(("sses", "ches", "shes", "xes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ing", "ed"):
        if len(word) > len(ending) + 3 and word.endswith(ending):
            return _undoubled(word.removesuffix(ending))
    return word.removesuffix("e") if len(word) > 4 else word


def _undoubled(word: str) -> str:
    return word[:-1] if word[-1] == word[-2] and word[-1] not in "lsz" else word
