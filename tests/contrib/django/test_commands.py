"""``manage.py fanout`` and ``manage.py fanout_outbox``."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.contrib.django.conftest import Project
from tests.contrib.django.words import BIG, SECRET

ONE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

DEAD = """
    import json
    from django.utils import timezone
    now = timezone.now()
    def row(name, id_, dead):
        return OutboxEvent.objects.create(app="shop", name=name, event_id=id_, event="{}",
            created_at=now, available_at=now, dead_at=now if dead else None,
            attempts=5 * dead, last_error="ValueError: no" * dead)
    print(json.dumps([row("a/b", "1", 0).pk, *(row("a/b", str(n), 1).pk for n in (2, 3, 4)),
                      row("c/d", "5", 1).pk]))
"""


def fanout(project: Project, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = project.command("-m", "django", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    return done


@ONE
def test_the_commands_of_celery_fanout(project: Project) -> None:
    done = fanout(project, "fanout", "emit", "order/placed", '{"number": "a"}', "--json")
    runs = json.loads(done.stdout)["runs"]
    listed = json.loads(fanout(project, "fanout", "runs", "--json").stdout)
    assert {run["run"] for run in runs} == {run["id"] for run in listed}
    help_ = fanout(project, "fanout", "--help").stdout
    assert help_.startswith("Usage: python -m django fanout [OPTIONS] COMMAND [ARGS]...")
    assert "dead-letters" in help_
    assert "dead-letters" in fanout(project, "help", "fanout").stdout
    assert "--state" in fanout(project, "fanout", "runs", "--help").stdout


@ONE
def test_exit_codes_and_errors(project: Project) -> None:
    done = fanout(project, "fanout", "show", "no-such-run", code=1)
    assert "Error: The ledger has no run 'no-such-run'" in done.stderr
    assert "No such command 'nonsense'" in fanout(project, "fanout", "nonsense", code=2).stderr
    project.environment["DJANGO_SETTINGS_MODULE"] = "tests.contrib.bare"
    done = fanout(project, "fanout", "runs", code=1)
    assert done.stderr.startswith("Error: There is no Celery app in this process.")


@ONE
def test_options_of_manage_py_itself(project: Project) -> None:
    settings = project.environment.pop("DJANGO_SETTINGS_MODULE")
    for given in (["--settings", settings], [f"--settings={settings}"]):
        done = fanout(project, "fanout", "subscriptions", *given, "--pythonpath=.", "--json")
        assert len(json.loads(done.stdout)) == 2
    done = fanout(project, "fanout", "explain", "--settings", settings, "--", "order/placed", "-1")
    assert "tests.contrib.django.shop.tasks.record@order/*" in done.stdout


@ONE
def test_call_command(project: Project) -> None:
    out = project.run(
        """
        from io import StringIO
        from django.core.management import CommandError, call_command
        buffer = StringIO()
        call_command("fanout", "explain", "order/placed", "--json", stdout=buffer)
        print(len(buffer.getvalue().split("matches")) - 1)
        for arguments in (["show", "no-such-run"], ["nonsense"], ["check", "--fail-on", "warning"]):
            try:
                call_command("fanout", *arguments, stdout=StringIO(), stderr=StringIO())
            except CommandError as exc:
                print(exc.returncode, exc)
        """,
        TEST_SETTINGS=json.dumps({"CELERY_FANOUT_STORE_URL": "memory://"}),
    )
    lines = out.splitlines()
    assert lines[0] == "4"  # once as a key, once in the reason, for both subscriptions
    assert lines[1].startswith("1 The ledger has no run 'no-such-run'")
    assert lines[2] == "2 No such command 'nonsense'."
    assert lines[3] == "1 fanout check --fail-on warning: see above."


@ONE
def test_what_is_printed_of_data_is_redacted(project: Project) -> None:
    project.settings(CELERY_IMPORTS=["tests.contrib.django.desk"])
    data = {"password": SECRET, "number": BIG, "prompt_tokens": 812}
    fanout(project, "fanout", "emit", "desk/nobody", json.dumps(data), "--id", "e-1")
    for arguments in (["show", "e-1"], ["show", "e-1", "--json"], ["events", "--json"]):
        out = fanout(project, "fanout", *arguments).stdout
        assert SECRET not in out
        assert "[redacted]" in out
        assert str(BIG) in out
        assert "812" in out
    project.settings(CELERY_FANOUT_REDACT="tests.contrib.django.desk.redact")
    (event,) = json.loads(fanout(project, "fanout", "events", "--json").stdout)
    assert event["data"] == "ours: desk/nobody"


def test_how_the_outbox_is(project: Project) -> None:
    assert project.manage("fanout_outbox") == "0 pending; 0 dead.\n"
    assert json.loads(project.manage("fanout_outbox", "--json")) == {
        "database": "default",
        "pending": 0,
        "oldest": None,
        "dead": 0,
    }
    project.run(DEAD)
    assert project.manage("fanout_outbox").startswith("1 pending, the oldest since ")
    found = json.loads(project.manage("fanout_outbox", "--json"))
    assert 0 < found.pop("oldest") < 60
    assert found == {"database": "default", "pending": 1, "dead": 4}


def test_without_the_table(project: Project) -> None:
    project.manage("migrate", "celery_fanout", "zero")
    done = fanout(project, "fanout_outbox", code=1)
    project.manage("migrate", "celery_fanout")
    assert done.stderr == (
        "CommandError: The database 'default' has no table celery_fanout_outbox. "
        "Run: manage.py migrate celery_fanout --database default\n"
    )


def test_dead_rows_are_listed_and_requeued(project: Project) -> None:
    waiting, *dead = json.loads(project.run(DEAD))
    assert project.manage("fanout_outbox", "--dead").splitlines()[-1].endswith("ValueError: no")
    done = fanout(project, "fanout_outbox", "--dead", "--limit", "3")
    assert len(done.stdout.splitlines()) == 3
    assert done.stderr == "There are more: these are the latest 3. See --limit.\n"
    listed = json.loads(project.manage("fanout_outbox", "--dead", "--json"))
    assert {row["id"] for row in listed} == set(dead)
    assert project.manage("fanout_outbox", "--requeue", str(dead[0])) == "1 event(s) requeued.\n"
    done = fanout(project, "fanout_outbox", "--requeue", str(dead[1]), str(waiting), code=1)
    assert f"No dead row has this number: {waiting}. Nothing was changed." in done.stderr
    assert json.loads(project.manage("fanout_outbox", "--name", "c/d", "--json")) == {"requeued": 1}
    rows = project.database.fetch(
        "SELECT id, attempts FROM celery_fanout_outbox WHERE dead_at IS NULL ORDER BY id"
    )
    assert rows == [(waiting, 0), (dead[0], 0), (dead[3], 0)]
    assert project.manage("fanout_outbox", "--all") == "2 event(s) requeued.\n"
    assert project.manage("fanout_outbox", "--dead") == "The outbox has no dead row.\n"


@ONE
def test_wrong_usage(project: Project) -> None:
    for arguments in (["--requeue"], ["--all", "--name", "x"], ["--requeue", "1", "--all"]):
        done = fanout(project, "fanout_outbox", *arguments, code=1)
        assert "Say which: --requeue ID ..., --all, or --name NAME." in done.stderr
    done = fanout(project, "fanout_outbox", "--requeue", "0", str(10**30), code=1)
    assert f"No dead row has this number: 0, {10**30}. Nothing was changed." in done.stderr
    done = fanout(project, "fanout_outbox", "--dead", "--all", code=1)
    assert "--dead lists, and the others requeue: use one of them." in done.stderr
    for limit in ("0", "-1", "many"):
        done = fanout(project, "fanout_outbox", "--dead", "--limit", limit, code=2)
        assert f"{limit!r} is not a whole number greater than 0" in done.stderr
    done = fanout(project, "fanout_outbox", "--database", "nowhere", code=1)
    assert "DATABASES has no 'nowhere'. It has: default." in done.stderr


@ONE
def test_an_event_that_is_emitted_into_the_outbox(project: Project) -> None:
    project.settings(CELERY_FANOUT_DELIVERY="outbox", CELERY_FANOUT_OUTBOX_REQUIRE_ATOMIC=False)
    done = fanout(project, "fanout", "emit", "order/placed", '{"number": "a"}', "--id", "o-1")
    assert done.stdout == "order/placed  o-1\nIt waits in the outbox for a relay.\n"
    assert done.stderr == ""
