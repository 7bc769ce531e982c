"""Where documents are kept: a directory that all processes share, which counts every fetch.

`put` copies a file in and returns its id, `get` returns its text. Each `get` adds one line to an
append-only file, so that afterwards anyone can see who fetched what, and how often::

    document_id = storage.put("sample_documents/invoice.md")
    storage.get(document_id)
    storage.fetches(document_id)  # [Fetch(document_id="invoice-5f0c1e2a", ...)]

The directory is the environment variable `DOCUMENTS_DIR`, read at every call; without it, one that
belongs to the user, in the system's directory for temporary files.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import re
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from celery import current_app

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,99}")
_LOG = "fetches.jsonl"


class DocumentNotFound(LookupError):  # noqa: N818 - named for the problem
    """There is no document with this id."""

    def __init__(self, document_id: str, where: str) -> None:
        super().__init__(document_id, where)
        self.document_id = document_id
        self.where = where

    def __str__(self) -> str:
        return (
            f"There is no document {self.document_id!r} in {self.where}. Add it with "
            f"storage.put(path); if it was added, give all processes the same DOCUMENTS_DIR."
        )


class Fetch(NamedTuple):
    """One reading of a document."""

    document_id: str
    at: float
    """Seconds since the epoch."""
    process: int
    task: str
    """The name of the Celery task that fetched it; empty outside of one."""
    task_id: str
    """The id of that task, which stays the same over its retries."""


def directory() -> Path:
    """Return the directory of the documents; it is created if it does not exist."""
    configured = os.environ.get("DOCUMENTS_DIR")
    if configured:
        path = Path(configured)
        path.mkdir(parents=True, exist_ok=True)
        return path
    path = Path(tempfile.gettempdir()) / f"documents-{getpass.getuser()}"
    path.mkdir(mode=0o700, exist_ok=True)
    if path.is_symlink() or (hasattr(os, "getuid") and path.stat().st_uid != os.getuid()):
        raise PermissionError(
            f"{path} belongs to somebody else. Set DOCUMENTS_DIR to another directory."
        )
    return path


def put(path: str | os.PathLike[str]) -> str:
    """Add the file at `path`, and return its id; the same file again has the same id."""
    source = Path(path)
    return put_text(source.read_text(encoding="utf-8"), name=source.stem)


def put_text(text: str, name: str = "document") -> str:
    """Add a text, and return its id: a readable form of `name` and a digest of both."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:80] or "document"
    digest = hashlib.sha256(f"{name}\n{text}".encode()).hexdigest()[:8]
    document_id = f"{slug}-{digest}"
    _write_at_once(_path(document_id), text)
    return document_id


def get(document_id: str) -> str:
    """Return the text of a document, and count the fetch."""
    try:
        text = _path(document_id).read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise DocumentNotFound(document_id, str(directory())) from None
    _count(document_id)
    return text


def document_ids() -> list[str]:
    """Return the ids of all documents, sorted."""
    return sorted(path.stem for path in directory().glob("*.txt"))


def fetches(document_id: str | None = None) -> list[Fetch]:
    """Return every fetch so far, or those of one document, oldest first."""
    try:
        lines = (directory() / _LOG).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    found = [Fetch(**json.loads(line)) for line in lines]
    return [f for f in found if document_id is None or f.document_id == document_id]


def forget_fetches() -> None:
    """Start counting fetches from nothing."""
    (directory() / _LOG).unlink(missing_ok=True)


def _path(document_id: str) -> Path:
    # An id comes from outside, in an event: it must not reach beyond the directory.
    if not _ID.fullmatch(document_id):
        raise DocumentNotFound(document_id, str(directory()))
    return directory() / f"{document_id}.txt"


def _write_at_once(path: Path, text: str) -> None:
    """Write a file that other processes see whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("utf-8"))
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _count(document_id: str) -> None:
    task = current_app.current_task
    line = {
        "document_id": document_id,
        "at": time.time(),
        "process": os.getpid(),
        "task": task.name or "" if task else "",
        "task_id": task.request.id or "" if task else "",
    }
    # One write to a file opened with O_APPEND: lines of several processes do not mix.
    descriptor = os.open(directory() / _LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, (json.dumps(line) + "\n").encode())
    finally:
        os.close(descriptor)
