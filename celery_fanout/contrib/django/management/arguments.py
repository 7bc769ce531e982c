"""Numbers as several management commands take them, so in none of these."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

#: No number is larger: as seconds it is more than thirty years, and a database's clock has an end.
MOST = 1_000_000_000


def positive(kind: type[int | float], most: int = MOST) -> Callable[[str], Any]:
    """Return what reads a number greater than 0, for ``add_argument(type=)``.

    Args:
        kind: ``int`` or ``float``; the latter are seconds.
        most: the largest that is allowed.
    """

    def read(text: str) -> Any:
        try:
            number = kind(text)
        except ValueError:
            number = 0
        if not 0 < number <= most:  # neither is NaN
            wanted = "a whole number" if kind is int else "a number of seconds"
            raise argparse.ArgumentTypeError(
                f"{text!r} is not {wanted} greater than 0 and up to {most:,}"
            )
        return number

    return read
