"""What was written, without what no two executions have in common: times, processes, chance."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Any

__all__ = ["normalised", "word"]

#: What no two executions have in common, and what stands for it.
WORDS = tuple(
    (re.compile(pattern), stands_for)
    for pattern, stands_for in (
        (r'  File "[^"]+", line \d+, in .+\n(?:    .+\n)*', ""),  # of tracebacks
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)?", "<date>"),
        (
            r"\b[0-9a-f]{8}-[0-9a-f]{4}-[34][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}(-\d+)?\b",
            "<uuid>",
        ),
        # not a part of an id: some have that many digits
        (r"(?<![\w.-])1[7-9]\d{8}(\.\d+)?(?![\w-])", "<time>"),
        (r"\b(gen)?\d+@[\w.-]+", "<process>"),
        (r"worker-\d+@[\w.-]+", "<worker>"),
    )
)


def normalised(value: Any) -> Any:
    """Return a value without what no two executions have in common; JSON in texts is read."""
    if isinstance(value, dict):
        return {word(key): normalised(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [normalised(each) for each in value]
    if isinstance(value, (int, float)):
        text = str(value)
        return value if word(text) == text else word(text)
    if isinstance(value, bytes):
        value = value.decode()
    if not isinstance(value, str):
        return value
    if value[:1] in ("{", "["):
        with suppress(ValueError):
            return ["JSON", normalised(json.loads(value))]
    return word(value)


def word(value: Any) -> str:
    """Return a text without what no two executions have in common."""
    text: str = value.decode() if isinstance(value, bytes) else value
    for pattern, stands_for in WORDS:
        text = pattern.sub(stands_for, text)
    return text
