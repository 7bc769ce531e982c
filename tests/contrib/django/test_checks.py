"""``manage.py check``, and what Celery's worker checks when it starts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import celery_fanout
from celery_fanout.app import checks as findings
from tests.contrib.django.conftest import Project
from tests.processes import free_port, wait_until

HERE = Path(celery_fanout.__file__).parent / "contrib" / "django"
IDS = r'"fanout\.([EWI]\d{3})"'

ONE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def checked(project: Project, *arguments: str, **settings: Any) -> dict[str, str]:
    """Return what ``manage.py check`` finds, by id; the text and the hint in one line."""
    project.settings(**settings)
    done = project.command("-m", "django", "check", *arguments)
    found = re.findall(
        r"^\?: \(celery_fanout\.([EWI]\d{3})\) (.*)\n\tHINT: (.*)$", done.stderr, re.MULTILINE
    )
    assert done.returncode == (1 if any(id_[0] == "E" for id_, _, _ in found) else 0), done.stderr
    assert bool(found) == ("identified some issues" in done.stderr + done.stdout), done.stderr
    return {id_: f"{text} | {hint}" for id_, text, hint in found}


@ONE
def test_nothing_to_say(project: Project) -> None:
    assert checked(project, CELERY_TASK_ACKS_LATE=True) == {}


@ONE
def test_all_that_fanout_check_finds(project: Project) -> None:
    project.environment["TEST_BACKEND"] = "cache+memory://"
    found = checked(project, CELERY_ACCEPT_CONTENT=["json", "pickle"], CELERY_FANOUT_LEASE=10)
    listed = json.loads(project.command("-m", "django", "fanout", "check", "--json").stdout)
    assert {f"fanout.{id_}": text for id_, text in found.items()} == {
        finding["id"]: f"{finding['message']} | {finding['remedy']}" for finding in listed
    }
    assert {"E003", "W002"} <= set(found)


@ONE
def test_a_wrong_setting(project: Project) -> None:
    assert checked(project, CELERY_FANOUT_LEAS=10) == {
        "E001": "There is no setting 'fanout_leas'. Did you mean 'fanout_lease'? "
        "| Correct the setting."
    }


@pytest.mark.parametrize("redact", ["no.such.function", "json.decoder"])
@ONE
def test_a_redaction_that_is_no_function(project: Project, redact: str) -> None:
    found = checked(project, CELERY_FANOUT_REDACT=redact)
    assert list(found) == ["E001"]
    assert f"fanout_redact is '{redact}'" in found["E001"]


@ONE
def test_a_project_without_a_celery_app(project: Project) -> None:
    project.environment["DJANGO_SETTINGS_MODULE"] = "tests.contrib.bare"
    done = project.command("-m", "django", "check")
    assert "(celery_fanout.E101) There is no Celery app in this process." in done.stderr
    assert "HINT: Import the Celery app in the __init__.py of the project's package" in done.stderr


@ONE
def test_a_module_that_cannot_be_imported(project: Project) -> None:
    found = checked(project, CELERY_IMPORTS=["tests.contrib.django.no_such_module"])
    assert found["E102"].startswith(
        "The tasks of the Celery app 'shop' cannot be imported: ModuleNotFoundError: "
    )


@ONE
def test_a_database_that_does_not_exist(project: Project) -> None:
    assert checked(project, CELERY_FANOUT_OUTBOX_DATABASE="elsewhere") == {
        "E103": "fanout_outbox_database is 'elsewhere', and DATABASES has no such alias. "
        "| Use one of: default."
    }


@ONE
def test_settings_that_nobody_reads(project: Project) -> None:
    project.environment["TEST_BARE_APP"] = "1"
    project.environment["DJANGO_SETTINGS_MODULE"] = "tests.contrib.bare"
    found = checked(project, CELERY_FANOUT_LEASE=10)
    assert found["W101"] == (
        "The Celery app 'bare' does not read these settings: CELERY_FANOUT_LEASE. | Configure it "
        'with app.config_from_object("django.conf:settings", namespace="CELERY"), and begin their '
        "names with CELERY_."
    )
    found = checked(project, CELERY_BROKER_URL="redis://elsewhere")
    assert (
        "does not read these settings: CELERY_FANOUT_LEASE, CELERY_BROKER_URL. |" in found["W101"]
    )


@ONE
def test_a_setting_without_the_prefix(project: Project) -> None:
    found = checked(project, FANOUT_DELIVERY="outbox", FANOUT_OF_SOMEBODY_ELSE=1)
    assert "does not read these settings: FANOUT_DELIVERY. |" in found["W101"]


@ONE
def test_an_outbox_without_skip_locked(project: Project) -> None:
    found = checked(project, CELERY_FANOUT_DELIVERY="outbox")
    assert list(found) == ["W102"]
    assert "'default', which has no SKIP LOCKED" in found["W102"]
    assert list(
        checked(
            project, CELERY_FANOUT_DELIVERY="on_commit", CELERY_FANOUT_ON_PUBLISH_ERROR="outbox"
        )
    ) == ["W102"]


@ONE
def test_eager_tasks_and_the_outbox(project: Project) -> None:
    found = checked(project, CELERY_FANOUT_DELIVERY="outbox", CELERY_TASK_ALWAYS_EAGER=True)
    assert {"W102", "W103", "I002"} == set(found)


@ONE
def test_a_table_that_is_not_there(project: Project, tmp_path: Path) -> None:
    empty = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "empty")}
    project.environment["TEST_DATABASES"] = json.dumps({"default": empty})
    assert checked(project) == {}  # not looked at
    assert not (tmp_path / "empty").exists()
    assert checked(project, "--database", "default") == {
        "W104": "The database 'default' has no table for the outbox yet. | Run manage.py migrate."
    }
    assert "OK" in project.manage("migrate", "--no-color")  # its own checks do not stop it
    assert checked(project, "--database", "default") == {}


@ONE
def test_a_database_that_is_away(project: Project) -> None:
    away = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "none",
        "HOST": "127.0.0.1",
        "PORT": free_port(),
    }
    project.environment["TEST_DATABASES"] = json.dumps({"default": away})
    assert checked(project) == {}
    assert checked(project, "--database", "default") == {}


@ONE
def test_a_project_without_steps_needs_no_result_backend(project: Project) -> None:
    project.environment["TEST_BACKEND"] = "disabled://"
    project.settings(CELERY_TASK_ACKS_LATE=True)
    done = project.command("-m", "django", "check")
    assert "WARNINGS:\n?: (celery_fanout.E004)" in done.stderr
    assert done.returncode == 0


@ONE
def test_no_server_is_asked(project: Project) -> None:
    for name in ("TEST_BROKER", "TEST_BACKEND"):
        project.environment[name] = f"redis://127.0.0.1:{free_port()}/0"
    assert checked(project) == {}


@ONE
def test_a_worker_that_starts_checks_once_and_works(project: Project) -> None:
    """Importing the tasks makes Celery run the checks, which import the tasks."""
    out = project.run(
        """
        from celery_fanout.contrib.django import checks
        print(len(checks.check_fanout()), len(list(get_fanout(app).registry)))
        emit("order/placed", {"number": "a"})
        """
    )
    assert out.split() == ["0", "2"]
    with project.worker():
        wait_until(lambda: len(project.ran()) == 2, 60)


@ONE
def test_an_emit_that_imports_the_tasks(project: Project) -> None:
    project.run('print(len(emit("order/placed", {"number": "a"}).runs))')
    out = project.run(
        """
        print(len(emit("order/placed", {"number": "b"}).runs))
        from django.core import checks
        print(checks.run_checks(tags=["celery_fanout"]))
        """
    )
    assert out.split() == ["2", "[]"]


def test_every_id_is_there_once_and_none_twice() -> None:
    ours = re.findall(IDS, (HERE / "checks.py").read_text())
    assert len(ours) == len(set(ours))
    theirs = set(re.findall(IDS, Path(findings.__file__).read_text()))
    assert not theirs & set(ours)
    assert all(int(id_[1:]) > 100 for id_ in ours)
