"""Calls that fail on purpose: exactly so often, in one process, in its threads, and in several."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from example_project.documents.model import FlakyModel, ModelUnavailable, classify

ROOT = Path(__file__).resolve().parents[2]


def failures(llm: FlakyModel, text: str, calls: int) -> list[bool]:
    """Say of each call whether it failed."""
    return [_fails(llm, text) for _ in range(calls)]


def _fails(llm: FlakyModel, text: str) -> bool:
    try:
        llm.classify(text, ["letter"])
    except ModelUnavailable:
        return True
    return False


def test_the_first_calls_for_each_document_fail() -> None:
    llm = FlakyModel(fail={"classify": 2})
    assert failures(llm, "Dear Ann,", 4) == [True, True, False, False]
    assert failures(llm, "Dear Bob,", 3) == [True, True, False]
    assert llm.classify("Dear Ann,", ["letter"]) == classify("Dear Ann,", ["letter"])


def test_other_calls_answer() -> None:
    llm = FlakyModel(fail={"classify": 2})
    assert llm.summarize("The ship sails at dawn.") == "The ship sails at dawn."
    assert llm.extract("It costs $5.", fields=["amounts"]) == {"amounts": ["$5"]}


def test_without_failures_it_is_the_model() -> None:
    assert failures(FlakyModel(), "Dear Ann,", 2) == [False, False]


def test_the_error_says_why_and_can_travel_between_processes() -> None:
    with pytest.raises(ModelUnavailable, match=r"^503 overloaded$") as caught:
        FlakyModel(fail={"extract": 1}).extract("text", ["names"])
    assert str(pickle.loads(pickle.dumps(caught.value))) == "503 overloaded"


def test_a_call_that_does_not_exist_cannot_fail() -> None:
    with pytest.raises(ValueError, match=r"no call 'translate' to fail\. Its calls: classify, ext"):
        FlakyModel(fail={"translate": 1})


@pytest.mark.parametrize("in_files", [False, True])
def test_threads_share_the_count(tmp_path: Path, *, in_files: bool) -> None:
    llm = FlakyModel(fail={"classify": 25}, state_dir=tmp_path if in_files else None)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(failures, [llm] * 8, ["Dear Ann,"] * 8, [10] * 8))
    assert sum(map(sum, found)) == 25


def test_a_new_model_goes_on_counting_in_its_state_directory(tmp_path: Path) -> None:
    state = tmp_path / "not" / "there yet"
    assert failures(FlakyModel(fail={"classify": 2}, state_dir=state), "a", 1) == [True]
    assert failures(FlakyModel(fail={"classify": 2}, state_dir=state), "a", 2) == [True, False]


def test_processes_share_the_count(tmp_path: Path) -> None:
    program = (
        "import sys; from example_project.tests.test_flaky import FlakyModel, failures\n"
        "llm = FlakyModel(fail={'classify': 25}, state_dir=sys.argv[1])\n"
        "print(sum(failures(llm, 'Dear Ann,', 20)))"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    running = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    counts = [int(process.communicate(timeout=60)[0]) for process in running]
    assert sum(counts) == 25


def test_every_call_waits_before_it_fails_or_answers() -> None:
    waited: list[str] = []
    llm = FlakyModel(fail={"classify": 1}, wait=lambda: waited.append("once"))
    assert failures(llm, "Dear Ann,", 2) == [True, False]
    llm.summarize("text")
    assert len(waited) == 3
