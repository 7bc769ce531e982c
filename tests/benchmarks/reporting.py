"""When and where something was measured, and the page that says so."""

from __future__ import annotations

import importlib.metadata
import io
import os
import platform
import time
from pathlib import Path
from typing import TextIO


class Tee(io.StringIO):
    """Keeps what is printed, and prints it.

    Args:
        terminal: where to.
    """

    def __init__(self, terminal: TextIO) -> None:
        super().__init__()
        self._terminal = terminal

    def write(self, text: str) -> int:
        self._terminal.write(text)
        return super().write(text)

    def flush(self) -> None:
        self._terminal.flush()


def circumstances() -> str:
    """Say when and where this is."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("celery", "kombu")]
    versions.append(f"redis-py {importlib.metadata.version('redis')}")
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{time.strftime('%d %B %Y, %H:%M')}. {os.cpu_count()} cores, load before it: {load}. "
        f"Python {platform.python_version()}, {', '.join(versions)}."
    )


def replace(page: Path, name: str, text: str) -> None:
    """Put what a benchmark printed where the page has it.

    Raises:
        LookupError: if the page has no place for it.
    """
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    before, _, rest = page.read_text().partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise LookupError(
            f"{page} has no place for {name}: add {begin} and {end}, each on a line of its own."
        )
    page.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}")
