"""The model as a service that is at times overloaded: calls fail on purpose, just so often."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from example_project.documents.model.categories import Classification
from example_project.documents.model.categories import classify as _classify
from example_project.documents.model.entities import extract as _extract
from example_project.documents.model.summary import summarize as _summarize

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CALLS = ("classify", "extract", "summarize")


class ModelUnavailable(Exception):  # noqa: N818 - named for the problem
    """The model could not answer now; the same call may succeed later."""


class FlakyModel:
    """The model of this package, whose first calls per document raise `ModelUnavailable`.

    `fail` says how many: `{"classify": 2}` fails the first two `classify` calls for each document
    and answers all later ones. A document is known by its text. The calls are counted in memory,
    or, with a `state_dir`, in files there, so that all processes that share the directory share
    the count.

    `wait` is called at the start of every call, before it fails or answers: pass, say,
    `lambda: time.sleep(0.5)` for a model that takes its time.
    """

    def __init__(
        self,
        fail: Mapping[str, int] | None = None,
        *,
        state_dir: str | os.PathLike[str] | None = None,
        wait: Callable[[], object] | None = None,
    ) -> None:
        self._fail = dict(fail or {})
        for call in self._fail:
            if call not in CALLS:
                raise ValueError(
                    f"The model has no call {call!r} to fail. Its calls: {', '.join(CALLS)}."
                )
        self._state_dir = Path(state_dir) if state_dir is not None else None
        self._wait = wait
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def summarize(self, text: str, sentences: int = 3) -> str:
        """Return a summary of the text, like `summarize` of this package, unless the call fails."""
        self._admit("summarize", text)
        return _summarize(text, sentences)

    def classify(self, text: str, categories: list[str]) -> Classification:
        """Return the text's category, like `classify` of this package, unless the call fails."""
        self._admit("classify", text)
        return _classify(text, categories)

    def extract(self, text: str, fields: list[str]) -> dict[str, list[str]]:
        """Return what the text mentions, like `extract` of this package, unless the call fails."""
        self._admit("extract", text)
        return _extract(text, fields)

    def _admit(self, call: str, text: str) -> None:
        if self._wait is not None:
            self._wait()
        failures = self._fail.get(call, 0)
        if failures and self._number_of(call, text) <= failures:
            raise ModelUnavailable("503 overloaded")

    def _number_of(self, call: str, text: str) -> int:
        """Count this call, and return which one it is for this document, from 1."""
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        key = f"{call}-{digest}"
        if self._state_dir is not None:
            return _append_to(self._state_dir / key)
        with self._lock:
            self._counts[key] += 1
            return self._counts[key]


def _append_to(path: Path) -> int:
    """Add one byte to a file, and return its place.

    O_APPEND makes the write atomic between processes, and leaves the descriptor, which is this
    call's own, at the end of what it wrote. So two calls never get the same number, and no lock is
    needed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, b".")
        return os.lseek(descriptor, 0, os.SEEK_CUR)
    finally:
        os.close(descriptor)
