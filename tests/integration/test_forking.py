"""What the tests fork is as what they would otherwise start; see tests/forking.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import forking

PROGRAM = """
import json, os, sys
print(json.dumps({
    "argv": sys.argv,
    "path": sys.path,
    "name": __name__,
    "file": globals().get("__file__"),
    "cwd": os.getcwd(),
    "environment": dict(os.environ),
    "descriptors": sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:3],
    "buffered": sys.stdout.write_through,
    "bytecode": sys.dont_write_bytecode,
    "ours": sorted(name for name in sys.modules if name.startswith(("celery_fanout", "tests"))),
    "read": sys.stdin.read(),
}))
print("an error", file=sys.stderr)
sys.exit(3)
"""


@pytest.mark.parametrize(
    "words",
    [["-c", PROGRAM, "an argument"], ["-m", "program", "--option"], ["program.py", "a", "b"]],
    ids=["code", "module", "file"],
)
@pytest.mark.parametrize("settings", [{}, {"DJANGO_SETTINGS_MODULE": "nowhere"}], ids=str)
def test_a_program_is_as_if_started(words: list[str], settings: Any, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, *words]
    env = {
        "LC_ALL": "C.UTF-8",
        "PATH": os.environ["PATH"],
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": f"{tmp_path}/one:{tmp_path}/two",
        "PYTHONUNBUFFERED": "1",
        "WHAT": "ever",
        **settings,
    }
    assert forking.can_fork(command, env)
    forked = forking.run(command, cwd=tmp_path, env=env, stdin="a question")
    started = subprocess.run(
        command,
        cwd=tmp_path,
        env=env,
        input="a question",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (forked.returncode, forked.stderr) == (3, "an error\n")
    assert (started.returncode, started.stderr) == (3, "an error\n")
    assert json.loads(forked.stdout) == json.loads(started.stdout)


def test_it_leads_a_session_and_is_killed_by_signals(tmp_path: Path) -> None:
    code = "import os; assert os.getsid(0) == os.getpgrp() == os.getpid(); os.kill(os.getpid(), 9)"
    assert forking.run([sys.executable, "-c", code], cwd=tmp_path).returncode == -signal.SIGKILL


def test_one_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    code = "import os, signal; open('pid', 'w').write(str(os.getpid())); signal.pause()"
    with pytest.raises(subprocess.TimeoutExpired):
        forking.run([sys.executable, "-c", code], cwd=tmp_path, timeout=2)
    pid = (tmp_path / "pid").read_text() if (tmp_path / "pid").exists() else ""
    assert not pid or not Path("/proc", pid).exists()


@pytest.mark.parametrize(
    ("command", "env"),
    [
        ([sys.executable, "-W", "error", "-c", "pass"], {}),
        ([sys.executable, "-m", "celery", "worker", "--pool", "gevent"], {}),
        ([sys.executable, "-c", "pass"], {"PYTHONHASHSEED": "0"}),
        ([sys.executable, "-c", "pass"], {"COVERAGE_PROCESS_START": "x"}),
        ([sys.executable, "-c", "#" * forking.LONGEST], {}),
        (["redis-server", "--port", "0"], {}),
    ],
    ids=["option", "greenlets", "variable", "coverage", "long", "another program"],
)
def test_what_depends_on_how_an_interpreter_starts_is_started(
    command: list[str], env: dict[str, str]
) -> None:
    assert not forking.can_fork(command, env)
