"""Tests that users of Django write, run as they run them: inside_testcase.py."""

from __future__ import annotations

from pathlib import Path

from tests.contrib.django.conftest import Project

INSIDE = Path(__file__).with_name("inside_testcase.py")


def test_with_pytest_django(project: Project, tmp_path: Path) -> None:
    ini = tmp_path / "pytest.ini"
    # our own configuration turns pytest-django off
    ini.write_text("[pytest]\npython_files = inside_*.py\nfilterwarnings = error\n")
    done = project.command("-m", "pytest", "-c", str(ini), "-p", "no:cacheprovider", str(INSIDE))
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    assert " passed" in done.stdout


def test_with_djangos_own_runner(project: Project) -> None:
    done = project.command(
        "-m", "django", "test", "tests.contrib.django.inside_testcase", "--noinput"
    )
    assert done.returncode == 0, done.stdout + done.stderr[-20_000:]
    assert "\nOK" in done.stderr
    assert "Ran 0 tests" not in done.stderr
