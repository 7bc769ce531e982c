"""Options of flow control, of events that are published after a commit or by a relay."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from tests.contrib.django.conftest import Project
from tests.contrib.django.relaying import Relay, once
from tests.processes import wait_until

both = pytest.mark.parametrize("delivery", ["on_commit", "outbox"])
sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
postgresql = pytest.mark.parametrize("database", ["postgresql"], indirect=True)

OPTIONS = ("concurrency", "throttle", "rate_limit", "debounce", "batch", "singleton", "idempotency")

#: Three events for each option.
EMIT = f"""
from celery_fanout import Event

with transaction.atomic():
    emit_many(
        [
            Event("limited/" + name, {{"shop": "one", "n": n}}, id=f"{{name}}-{{n}}")
            for n in range(3)
            for name in {OPTIONS!r}
        ],
        delivery=DELIVERY,
    )
"""

STATES = """
tell(*sorted(
    [run.subscription.partition("/")[2], str(run.state), run.reason.split(" tests.")[0]]
    for run in get_fanout(app).runs.list(limit=1000)
))
"""

#: Where the runs of those are before a worker looks at them: state and reason.
FIRST = {
    "concurrency": [("published", ""), *[("gated", "concurrency")] * 2],
    "throttle": [("published", ""), *[("gated", "throttle")] * 2],
    "rate_limit": [*[("published", "")] * 2, ("cancelled", "dropped: rate_limit")],
    "debounce": [("gated", "debounce")],
    "batch": [("published", "")],
    "singleton": [("published", ""), *[("cancelled", "dropped: singleton")] * 2],
    "idempotency": [("published", ""), *[("cancelled", "dropped: idempotency")] * 2],
}
#: And in the end. The next of the throttle may start in an hour.
LAST = {
    name: [("succeeded", "") if waits == ("published", "") else waits for waits in runs]
    for name, runs in FIRST.items()
} | {"concurrency": [("succeeded", "")] * 3, "debounce": [("succeeded", "")]}


def counted(runs: dict[str, list[tuple[str, str]]]) -> Counter[tuple[str, ...]]:
    return Counter((name, *run) for name, found in runs.items() for run in found)


@pytest.fixture
def limited(project: Project) -> Project:
    """The project with the limited subscribers."""
    project.settings(CELERY_IMPORTS=["tests.contrib.django.limited"])
    return project


def publish(project: Project, script: str, delivery: str) -> None:
    """Run a script that emits, and a relay if there is something for it to do."""
    project.run(f"DELIVERY = {delivery!r}\n{textwrap.dedent(script)}")
    if delivery == "outbox":
        code, told = once(project)
        assert code == 0, told


def states(project: Project) -> Counter[tuple[str, ...]]:
    """Return how many runs of which subscriber are in which state, and why."""
    return Counter(map(tuple, project.told(STATES)))


def ends(project: Project) -> None:
    """Have a worker do what may be done, and look at what came of it."""
    with project.worker(pool="threads", concurrency=3):
        wait_until(lambda: states(project) == counted(LAST), message=lambda: str(states(project)))
    data: dict[str, Any] = {}
    at_once = most = 0
    for entry in project.ran():
        at_once += {"begins": 1, "ends": -1}.get(entry["kind"], 0)
        most = max(most, at_once)
        if entry["kind"] == "run":
            data.setdefault(entry["task"].partition("/")[2], []).append(entry["data"])
    events = [{"shop": "one", "n": n} for n in range(3)]
    assert most == 1
    assert data["debounce"] == events[2:]
    assert data["batch"] == [events]
    assert data["singleton"] == data["idempotency"] == data["throttle"] == events[:1]
    # three threads: what may run at the same time runs in any order
    assert sorted(data["rate_limit"], key=itemgetter("n")) == events[:2]
    assert data["concurrency"] == events


@pytest.mark.parametrize(
    ("database", "delivery"),
    [
        *(("postgresql", "on_commit"), ("postgresql", "outbox")),
        *(("mariadb", "outbox"), ("sqlite", "outbox")),  # before a relay, no option meets a table
    ],
    indirect=["database"],
)
def test_each_option(limited: Project, delivery: str) -> None:
    publish(limited, EMIT, delivery)
    assert states(limited) == counted(FIRST)
    ends(limited)


@postgresql
def test_a_relay_that_publishes_twice_counts_once(limited: Project, tmp_path: Path) -> None:
    """It dies when it has published, and the next one does so again."""
    limited.environment["CELERY_FANOUT_FAILPOINT_DIR"] = str(tmp_path)
    limited.run(f"DELIVERY = 'outbox'\n{EMIT}")
    code, _ = once(limited, "--lease", "1", CELERY_FANOUT_FAILPOINTS="relay.before_delete=kill@1")
    assert code == -9
    assert len(limited.database.names()) == 3 * len(OPTIONS)
    assert states(limited) == counted(FIRST)
    with Relay(limited, "--poll", "0.05", "--batch", "4"):
        wait_until(lambda: not limited.database.names())
    ends(limited)


@sqlite
@both
def test_what_is_rolled_back_counts_for_nothing(limited: Project, delivery: str) -> None:
    publish(
        limited,
        """
        def tell_of(n, name):
            emit("limited/" + name, {"shop": "one", "n": n}, delivery=DELIVERY)

        def both(n):
            for name in ("rate_limit", "idempotency", "batch", "singleton"):
                tell_of(n, name)

        with rolled_back():
            both(0)
        with transaction.atomic():
            with rolled_back():
                both(1)
            both(2)
        """,
        delivery,
    )
    assert states(limited) == Counter(
        {
            ("rate_limit", "published", ""): 1,
            ("idempotency", "published", ""): 1,
            ("batch", "gated", "batch"): 1,
            ("singleton", "published", ""): 1,
        }
    )


@sqlite
@both
def test_a_key_that_cannot_be_worked_out_is_heard_of_by_whoever_emits(
    limited: Project, delivery: str
) -> None:
    limited.run(
        f"""
        def place():
            with transaction.atomic():
                Order.objects.create(number="1")
                emit("limited/function", {{}}, delivery={delivery!r})

        error = error_of(place)
        assert error.startswith("InvalidEvent: The event 'limited/function' cannot be"), error
        assert "shop_of" in error and "KeyError" in error, error
        assert not Order.objects.exists() and not OutboxEvent.objects.exists()
        assert published() == []
        """
    )


@sqlite
@both
def test_a_project_without_a_ledger_refuses_before_it_commits(
    limited: Project, delivery: str
) -> None:
    limited.settings(CELERY_FANOUT_STORE_URL="backend")
    limited.run(
        f"""
        def place():
            with transaction.atomic():
                Order.objects.create(number="1")
                emit("limited/batch", {{}}, delivery={delivery!r})

        error = error_of(place)
        assert error.startswith("StoreUnsupported: "), error
        assert "batch= of " in error and "It needs level 2" in error, error
        assert not Order.objects.exists() and not OutboxEvent.objects.exists()
        """
    )


@sqlite
def test_a_key_that_the_relay_cannot_work_out_holds_nothing_up(limited: Project) -> None:
    """The relay has newer code than the process that emitted."""
    limited.run(
        """
        from celery_fanout.contrib.django.outbox import rows
        from celery_fanout import Event
        from celery_fanout.emitting.delivery import Draft

        events = [Event("limited/function", data, id=name)
                  for name, data in {"no key": {}, "a": {"shop": 1}, "b": {"shop": 2}}.items()]
        rows.write_rows(Draft(get_fanout(app), events), "default")
        """
    )
    code, told = once(limited)
    assert code == 1
    assert "2 published, 1 failed, 0 given up, 1 left." in told
    assert json.loads(limited.run("import json; print(json.dumps(sorted(published())))")) == [
        "a",
        "b",
    ]
    ((error,),) = limited.database.fetch("SELECT last_error FROM celery_fanout_outbox")
    assert "shop_of" in error
