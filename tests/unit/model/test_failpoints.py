"""Places where a process breaks, each tried in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from celery_fanout.model.failpoints import hit
from tests.processes import wait_until

PROGRAM = """
import sys
from celery_fanout.model.failpoints import hit
for number in range(int(sys.argv[1])):
    try:
        hit("here")
    except ConnectionError as exc:
        print(exc)
    hit("there")
    print(number, flush=True)
"""


def begin(
    directory: Path, points: str, times: int = 3, more: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        **(more or {}),
        "CELERY_FANOUT_FAILPOINTS": points,
        "CELERY_FANOUT_FAILPOINT_DIR": str(directory),
    }
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(times)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(directory: Path, points: str, times: int = 3) -> tuple[int, list[str]]:
    process = begin(directory, points, times)
    output, _ = process.communicate(timeout=30)
    return process.returncode, output.split("\n")[:-1]


def test_without_the_variable_nothing_happens() -> None:
    hit("here")


@pytest.mark.parametrize(
    ("action", "code"),
    [("kill", -signal.SIGKILL), ("killworker", -signal.SIGKILL), ("exit", 1)],
)
def test_a_process_ends(tmp_path: Path, action: str, code: int) -> None:
    assert run(tmp_path, f"here={action}@2") == (code, ["0"])


def test_an_error_is_raised_once(tmp_path: Path) -> None:
    assert run(tmp_path, "here=raise") == (0, ["failpoint here", "0", "1", "2"])


def test_or_from_then_on(tmp_path: Path) -> None:
    code, lines = run(tmp_path, "elsewhere=kill;here=raise@2+")
    assert (code, lines) == (0, ["0", "failpoint here", "1", "failpoint here", "2"])


def test_the_next_process_goes_on_counting(tmp_path: Path) -> None:
    assert run(tmp_path, "there=exit@5") == (0, ["0", "1", "2"])
    assert run(tmp_path, "there=exit@5") == (1, ["0"])
    assert run(tmp_path, "there=exit@5") == (0, ["0", "1", "2"])


def test_a_thread_hangs_until_it_is_let_go(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with begin(tmp_path, "here=hang@2", more={"CELERY_FANOUT_FAILPOINT_FILE": str(gate)}) as held:
        passed = tmp_path / "here"
        wait_until(lambda: passed.exists() and passed.stat().st_size == 2)
        assert held.poll() is None
        gate.touch()
        output, _ = held.communicate(timeout=30)
    assert output.split() == ["0", "1", "2"]


def test_a_typo_is_an_error(tmp_path: Path) -> None:
    process = begin(tmp_path, "here=explode")
    _, error = process.communicate(timeout=30)
    assert process.returncode == 1
    assert error.splitlines()[-1] == (
        "ValueError: CELERY_FANOUT_FAILPOINTS: 'here=explode'; "
        "actions are ('kill', 'killworker', 'exit', 'raise', 'hang')"
    )
