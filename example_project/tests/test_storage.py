"""Documents are found again, by every process, and every fetch is counted."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from celery import Celery

from example_project.documents import storage

ROOT = Path(__file__).resolve().parents[2]
INVOICE = ROOT / "example_project" / "sample_documents" / "invoice.md"


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOCUMENTS_DIR", str(tmp_path / "documents"))
    return tmp_path / "documents"


def test_what_was_put_is_got() -> None:
    document_id = storage.put(INVOICE)
    assert document_id.startswith("invoice-")
    assert storage.get(document_id) == INVOICE.read_text(encoding="utf-8")


def test_the_same_document_has_the_same_id_and_another_has_another() -> None:
    assert storage.put(INVOICE) == storage.put(str(INVOICE))
    ids = {storage.put_text("a"), storage.put_text("b"), storage.put_text("a", name="other")}
    assert len(ids) == 3
    assert storage.document_ids() == sorted([*ids, storage.put(INVOICE)])


@pytest.mark.parametrize("text", ["", "a\r\nb\rc\n", "Ärger, 文, 🚢\n", "x" * 1_000_000])
def test_every_character_is_kept(text: str) -> None:
    assert storage.get(storage.put_text(text)) == text


@pytest.mark.parametrize("name", ["", "Ünïcode / ../.. name?", "x" * 500])
def test_any_name_gives_a_usable_id(name: str) -> None:
    document_id = storage.put_text("text", name=name)
    assert storage.get(document_id) == "text"


def test_a_document_that_is_not_there(directory: Path) -> None:
    with pytest.raises(storage.DocumentNotFound) as caught:
        storage.get("d-1")
    assert str(caught.value) == (
        f"There is no document 'd-1' in {directory}. Add it with storage.put(path); "
        "if it was added, give all processes the same DOCUMENTS_DIR."
    )
    assert storage.fetches() == []


@pytest.mark.parametrize("document_id", ["../secret", "/etc/passwd", "a/b", "", ".", "A", "a\n"])
def test_an_id_does_not_reach_beyond_the_directory(directory: Path, document_id: str) -> None:
    directory.mkdir()
    (directory.parent / "secret.txt").write_text("secret")
    with pytest.raises(storage.DocumentNotFound):
        storage.get(document_id)


def test_fetches_are_counted_per_document() -> None:
    one, other = storage.put_text("one"), storage.put_text("other")
    assert storage.fetches() == []
    for document_id in (one, other, one):
        storage.get(document_id)
    assert [fetch.document_id for fetch in storage.fetches()] == [one, other, one]
    assert [fetch.process for fetch in storage.fetches(one)] == [os.getpid()] * 2
    assert all(fetch.task == fetch.task_id == "" for fetch in storage.fetches())
    storage.forget_fetches()
    storage.forget_fetches()
    assert storage.fetches() == []


def test_a_fetch_names_the_celery_task_that_it_was_for() -> None:
    app = Celery("reading", broker="memory://", backend="cache+memory://", set_as_current=False)

    @app.task(name="read")
    def read(document_id: str) -> str:
        return storage.get(document_id)

    document_id = storage.put_text("text")
    assert read.apply((document_id,), task_id="run-1").get() == "text"
    (fetch,) = storage.fetches(document_id)
    assert (fetch.task, fetch.task_id) == ("read", "run-1")


def test_threads_lose_no_fetch() -> None:
    document_id = storage.put_text("text")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(storage.get, [document_id] * 200))
    assert len(storage.fetches(document_id)) == 200


def test_other_processes_see_the_documents_and_are_counted() -> None:
    document_id = storage.put_text("text")
    program = (
        "import sys; from example_project.documents import storage\n"
        "assert [storage.get(sys.argv[1]) for _ in range(50)] == ['text'] * 50"
    )
    command = [sys.executable, "-c", program, document_id]
    running = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    assert [process.wait(timeout=60) for process in running] == [0, 0, 0]
    fetches = storage.fetches(document_id)
    assert len(fetches) == 150
    assert {fetch.process for fetch in fetches} == {process.pid for process in running}


def test_a_document_is_seen_whole_or_not_at_all(directory: Path) -> None:
    for _ in range(20):
        storage.put_text("text")
    assert sorted(path.suffix for path in directory.iterdir()) == [".txt"]


class TestWithoutADirectory:
    @pytest.fixture(autouse=True)
    def temporary(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.delenv("DOCUMENTS_DIR")
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        return tmp_path

    def test_documents_lie_in_one_of_the_users_own(self, temporary: Path) -> None:
        assert storage.get(storage.put_text("text")) == "text"
        (path,) = temporary.iterdir()
        assert path == storage.directory()
        assert stat.S_IMODE(path.stat().st_mode) == 0o700

    def test_somebody_elses_is_refused(self, temporary: Path) -> None:
        own = storage.directory()
        own.rmdir()
        (temporary / "elsewhere").mkdir()
        own.symlink_to(temporary / "elsewhere")
        with pytest.raises(PermissionError, match=r"belongs to somebody else\. Set DOCUMENTS_DIR"):
            storage.put_text("text")
