"""The demo as people run it: a process of its own, whose output is looked at."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = sorted((ROOT / "example_project/sample_documents").iterdir())


def demo(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "example_project.demo", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=100,
    )


def check(out: str, documents: int) -> None:
    for line in (
        "fetch-content  done",
        "fetch-content  from its checkpoint",
        "ModelUnavailable: tries again in 1 s",
        "ModelUnavailable: tries again in 2 s",
        "attempt 3",
        "Timeline",
    ):
        assert line in out
    plural = "s" if documents > 1 else ""
    assert out.splitlines()[-1] == (
        f"{documents} event{plural}, {3 * documents} runs, {2 * documents} retries. "
        f"{6 * documents} steps executed, {2 * documents} read from their checkpoint. "
        f"{3 * documents} fetches: one per run, whatever failed later."
    )
    # only the classifier is tried again
    assert set(re.findall(r"(\w+) +attempt \d", out)) == {"classify"}


def test_the_demo_in_memory() -> None:
    done = demo(*SAMPLES)
    assert done.returncode == 0, done.stderr
    check(done.stdout, len(SAMPLES))
    for result in ("contract (", "invoice (", "letter (", "report ("):
        assert f"classify          {result}" in done.stdout


def test_the_demo_on_redis(redis_url: str) -> None:
    done = demo(SAMPLES[0], "--broker", redis_url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Broker: redis://")
    check(done.stdout, 1)


def test_its_default_documents_exist() -> None:
    from example_project.demo import default_files

    assert [path.name for path in default_files()[:2]] == ["README.md", "LICENSE"]


def test_a_missing_file_is_named() -> None:
    done = demo("nothing.txt")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "make demo: error: nothing.txt is no file."


@pytest.mark.parametrize("name", ["summarize", "classify", "extract_entities"])
def test_the_apps_subscribers(name: str) -> None:
    from celery_fanout import get_fanout
    from example_project.celery_app import app

    get_fanout(app).load()
    tasks = {
        sub.task.name for sub in get_fanout(app).registry if sub.pattern == "document/uploaded"
    }
    assert f"example_project.documents.tasks.{name}" in tasks
