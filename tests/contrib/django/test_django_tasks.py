"""A Task of ``django.tasks`` subscribes to events, and Celery calls it."""

from __future__ import annotations

import json

import django
import pytest

from tests.contrib.django.conftest import Project
from tests.processes import wait_until

MODULE = "django.tasks" if django.VERSION >= (6, 0) else "django_tasks"
#: So that any queue's name will do.
TASKS = {"default": {"BACKEND": f"{MODULE}.backends.immediate.ImmediateBackend", "QUEUES": []}}


@pytest.fixture
def chores(project: Project) -> Project:
    project.settings(CELERY_IMPORTS=["tests.contrib.django.chores"], TASKS=TASKS)
    return project


pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def test_celery_calls_it(chores: Project) -> None:
    chores.run(
        """
        for name in ("swept", "counted", "waited", "slow", "hurried"):
            emit(f"chore/{name}", {"room": "hall"}, id=name)
        """
    )
    ended = """
        runs = get_fanout(app).runs
        import json
        results = {}
        for record in runs.list():
            if not record.subscription.endswith("*"):
                result = runs.get(record.id).detail["result"]
                results[record.subscription.rpartition(".")[2]] = json.loads(result or "null")
        print(json.dumps([sorted({str(run.state) for run in runs.list()}), results]))
        """
    with chores.worker(args=["--queues", "celery,slow,fast"]):
        wait_until(lambda: json.loads(chores.run(ended))[0] == ["succeeded"], 60)
    assert json.loads(chores.run(ended))[1] == {
        "sweep@chore/swept": "swept hall",
        "count@chore/counted": ["RUNNING", [{"room": "hall"}], True],
        "wait@chore/waited": "waited for HALL",
        "slow@chore/slow": "slowly",
        "hurried@chore/hurried": "fast",
    }
    counted = [line for line in chores.ran() if line["task"] == "count"]
    assert [line["attempt"] for line in counted] == [1, 2]
    assert {line["id"] for line in counted} == {line["run"] for line in counted} != {""}
    swept = [line["name"] for line in chores.ran() if line["task"] == "sweep"]
    others = ["chore/counted", "chore/hurried", "chore/slow", "chore/waited"]
    assert sorted(swept) == sorted([*others, "chore/swept", "chore/swept"])


def test_it_stays_a_task_of_django(chores: Project) -> None:
    out = chores.run(
        """
        from tests.contrib.django.chores import slow, sweep, wait
        print(type(sweep).__module__, sweep.call({"room": "attic"}))
        print(sweep.enqueue({"room": "cellar"}).return_value)
        get_fanout(app).load()
        subs = {sub.id: sub for sub in get_fanout(app).registry}
        one = subs["tests.contrib.django.chores.slow@chore/slow"]
        print(one.task.name, one.options, one.task.__module__)
        print(subs["tests.contrib.django.chores.hurried@chore/hurried"].options)
        print("tests.contrib.django.chores.sweep@chore/*" in subs)
        """
    )
    assert out.splitlines() == [
        f"{MODULE}.base swept attic",
        "swept cellar",
        "tests.contrib.django.chores.slow {'queue': 'slow'} tests.contrib.django.chores",
        "{'queue': 'fast'}",
        "True",
    ]


PRIORITY = (
    "has the priority 5, and Celery's are others. Give it none, and use "
    "on_event(..., options={'priority': ...})."
)
DEFERRED = "has run_after. Use emit(delay=), or step.sleep_until() in the task."
TWO = (
    "cannot be called with the event's data alone (missing a required argument: 'other'). Give it "
    "exactly one required argument."
)
CONTEXT = (
    "cannot be called with the event's data alone (too many positional arguments). Give it "
    "exactly one required argument, after the context."
)


@pytest.mark.parametrize(
    ("declared", "error"),
    [
        ("task(priority=5)(wrong)", f"wrong {PRIORITY}"),
        ("deferred(task(wrong))", f"wrong {DEFERRED}"),
        ("task(two)", f"two {TWO}"),
        ("task(takes_context=True)(context_only)", f"context_only {CONTEXT}"),
    ],
)
def test_what_celery_cannot_do_is_refused(chores: Project, declared: str, error: str) -> None:
    out = chores.run(
        f"""
        from django.utils import timezone
        try:
            from django.tasks import task
        except ImportError:
            from django_tasks import task
        from celery_fanout import on_event
        from celery_fanout.exceptions import InvalidSubscription
        def wrong(data): pass
        def two(data, other): pass
        def context_only(context): pass
        def deferred(task):
            # the backend at hand refuses it already; others do not
            object.__setattr__(task, "run_after", timezone.now())
            return task
        found = {declared}
        try:
            on_event("chore/wrong")(found)
        except InvalidSubscription as exc:
            print(exc)
        """
    )
    assert out.strip() == f"The subscriber __main__.{error}"
