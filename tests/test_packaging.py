"""What users install."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import zipfile
from pathlib import Path

import click
import pytest

import celery_fanout

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist, and the wheel that is built from it."""
    directory = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", directory, ROOT],
        check=True,
        capture_output=True,
    )
    return directory


def test_the_contents_are_as_listed(dist: Path) -> None:
    command = [sys.executable, ROOT / "scripts/check-dist", dist]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_wheel_has_the_whole_package(dist: Path) -> None:
    (path,) = dist.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        names = {name for name in wheel.namelist() if name.startswith("celery_fanout/")}
    files = (file for file in (ROOT / "celery_fanout").rglob("*") if file.is_file())
    assert names == {
        str(file.relative_to(ROOT)) for file in files if "__pycache__" not in file.parts
    }


def test_a_wrong_wheel_is_found_out(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "wrong-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("celery_fanout/__init__.py", "")
        wheel.writestr("tests/test_it.py", "")
        wheel.writestr("celery_fanout-1.dist-info/METADATA", "")
    command = [sys.executable, ROOT / "scripts/check-dist", tmp_path]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stdout.splitlines() == [
        "wrong-1-py3-none-any.whl: is wrong",
        "  tests/test_it.py: not a file of the package",
        "  celery_fanout/py.typed: missing",
        "  celery_fanout-1.dist-info/licenses/LICENSE: missing",
        "  entry points are {}",
        "  entry point celery_fanout.cli:fanout: no such module in the wheel",
        "  entry point celery_fanout.testing.pytest_plugin: no such module in the wheel",
        f"{tmp_path}/*.tar.gz: is wrong",
        "  expected one, found 0",
    ]


def test_the_version_is_the_one_in_the_metadata() -> None:
    assert celery_fanout.__version__ == importlib.metadata.version("celery-fanout")


def test_celery_finds_the_command() -> None:
    (entry_point,) = importlib.metadata.entry_points(group="celery.commands", name="fanout")
    assert isinstance(entry_point.load(), click.Command)


def test_pytest_finds_the_plugin(request: pytest.FixtureRequest) -> None:
    assert request.config.pluginmanager.has_plugin("celery_fanout")


@pytest.mark.parametrize("module", ["", ".cli", ".testing.pytest_plugin"])
def test_nothing_optional_is_imported(module: str) -> None:
    program = (
        "import sys\n"
        "for name in ('django', 'sqlalchemy', 'sentry_sdk', 'opentelemetry', 'cloudevents'):\n"
        "    sys.modules[name] = None\n"
        f"import celery_fanout{module}\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=ROOT, check=True)
