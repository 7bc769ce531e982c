"""Comparing what the documentation says a program prints with what it prints.

``...`` stands for any text within a line, and on a line of its own for any number of lines. Ids,
times, durations and temporary directories need no ``...``: they are real, pasted, and different
each time.
"""

from __future__ import annotations

import re

_CHANGING = [
    (re.compile(r"\x1b\[[0-9;]*m"), ""),
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "<uuid>"),
    (
        re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|\+00:00)?"),
        "<time>",
    ),
    (re.compile(r"\b\d+\.\d+s\b"), "<duration>"),
    (re.compile(r"ForkPoolWorker-\d+"), "ForkPoolWorker-N"),
]


def normal(text: str) -> str:
    """Return a text with everything replaced that is different each time."""
    for pattern, name in _CHANGING:
        text = pattern.sub(name, text)
    return "".join(f"{line.rstrip()}\n" for line in text.strip("\n").splitlines())


def _regex(expected: str) -> str:
    parts = []
    for line in normal(expected).splitlines():
        if line.strip() == "...":
            parts.append(r"(?:.*\n)*?")
        else:
            parts.append(r".*?".join(re.escape(piece) for piece in line.split("...")) + r"\n")
    return "".join(parts)


def matches(expected: str, found: str) -> bool:
    """Say whether a program printed what is expected."""
    return re.fullmatch(_regex(expected), normal(found)) is not None


def appears(expected: str, found: str) -> bool:
    """Say whether the expected lines are among those printed, one after the other."""
    return re.search(rf"^{_regex(expected)}", normal(found), re.MULTILINE) is not None
