"""What a document mentions: one function per field, all of them over the same blocks."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from example_project.documents.model.companies import find_companies
from example_project.documents.model.markup import Block, blocks
from example_project.documents.model.people import find_people
from example_project.documents.model.values import find_amounts, find_dates, find_percentages

if TYPE_CHECKING:
    from collections.abc import Callable

_FINDERS: dict[str, Callable[[list[Block]], list[str]]] = {
    "amounts": lambda document: find_amounts([block.text for block in document]),
    "companies": lambda document: find_companies([block.text for block in document]),
    "dates": lambda document: find_dates([block.text for block in document]),
    "names": find_people,
    "percentages": lambda document: find_percentages([block.text for block in document]),
}


class UnknownField(ValueError):  # noqa: N818 - named for the problem
    """`extract` was asked for a field that it cannot find."""

    def __init__(self, field: str) -> None:
        super().__init__(field)
        self.field = field

    def __str__(self) -> str:
        near = get_close_matches(self.field, _FINDERS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return f"Unknown field {self.field!r}.{hint} Known fields: {', '.join(sorted(_FINDERS))}."


def known_fields() -> list[str]:
    """Return the fields that `extract` can find."""
    return sorted(_FINDERS)


def extract(text: str, fields: list[str]) -> dict[str, list[str]]:
    """Return what a text mentions, per field: as written, in order of appearance, each once.

    The fields are "dates", "names" (of people), "amounts" (of money), "companies", "percentages".
    """
    for field in fields:
        if field not in _FINDERS:
            raise UnknownField(field)
    document = blocks(text)
    return {field: _FINDERS[field](document) for field in fields}
