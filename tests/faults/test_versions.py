"""Two versions of this package side by side: this one, and the one before (see ``versioning.py``).

What one has written into the ledger and the queues the other reads, and goes on with: when a new
version is rolled out, when it is rolled back, and while both are at work.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import redis

from celery_fanout.stores.states import RunState
from tests.faults.intervals import by_key, most_at_once
from tests.faults.normalising import normalised
from tests.faults.stories import BEFORE_IT_LEAVES, EARLY, UNTOUCHED, Stories
from tests.faults.versioning import Client, Versions, clients, open_versions
from tests.faults.versions_steps import AT_ONCE, LEASE
from tests.processes import family_of, wait_until
from tests.servers import Worker

__all__ = ["clients"]  # the fixture

S = RunState

#: What a run may be in besides when its version is killed: its time had just come.
UNDER_WAY = {"pending", "published", "running"}

#: Steps of which none may begin twice in one run.
ONCE = ("a", "b", "c", "saved", "double")


@contextmanager
def opened(
    request: pytest.FixtureRequest, path: Path, where: str, clients: dict[str, Client]
) -> Iterator[Versions]:
    broker = request.getfixturevalue("rabbit_url") if where == "rabbit" else ""
    with open_versions(path, broker=broker) as versions:
        versions.connect(*clients.values())
        yield versions


# --- one after the other --------------------------------------------------------------------------


def show_the_same(clients: dict[str, Client]) -> dict[str, Any]:
    """Have both versions show all that there is, and return it.

    Again, if they differ: how full a throttle is changes with time. When the next may start there
    is now, at any time, if nobody waits.
    """
    shown: dict[str, Any] = {}

    def same() -> bool:
        for name, client in clients.items():
            shown[name] = client.look()
            for limit in shown[name]["limits"]:
                if limit["kind"] == "throttle":
                    for each in (limit, *limit["keys"]):
                        del each["next_at"]
        return bool(shown["before"] == shown["this"])

    def differences() -> str:
        before, this = shown["before"], shown["this"]
        return "\n".join(f"{k}: {before[k]} is {this[k]}" for k in before if before[k] != this[k])

    wait_until(same, 10, differences)
    found: dict[str, Any] = shown["this"]
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", ["before", "this"])
@pytest.mark.parametrize("where", ["redis", "rabbit"])
def test_what_one_version_began_the_other_finishes(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    clients: dict[str, Client],
    bounded: bool,
    where: str,
    first: str,
) -> None:
    """A new version is rolled out, or back, while all there is is under way."""
    begins = clients[first]
    finishes = clients["this" if first == "before" else "before"]
    copies = 1 if bounded else 3
    with opened(request, tmp_path, where, clients) as versions:
        gate = tmp_path / "gate"
        stories = Stories(versions, lambda *_: gate, seconds=4 if bounded else 10)
        options: dict[str, Any] = {"pool": "threads", "concurrency": 4 * copies}
        worker = versions.start(begins.version, queues="celery", **options)
        begins.command("pause", "versions.paused@v/paused")
        begins.command("limits", "concurrency", "versions.busy@v/busy", "by", "key", "--set", "5")
        early = stories.begin(begins, EARLY * copies)
        stories.wait_until_left(early)
        last = stories.begin(begins, BEFORE_IT_LEAVES * copies)
        stories.wait_until_left(early + last)
        versions.kill(worker)
        stories.begin(begins, UNTOUCHED * copies)
        for _, state, expected in stories.elsewhere(stories.told):
            assert state in UNDER_WAY, expected
        written = versions.oracle.read()
        assert {r["code"] for r in written if "code" in r} == {str(begins.version.path)}

        shown = show_the_same(clients)
        repeated = finishes.emit_all([event for told in stories.told for event in told.events])
        assert [run for _, runs in repeated for run in runs] == [
            run for told in stories.told for run in told.runs
        ]
        stored = stored_steps(shown)
        finishes.command("resume", "versions.paused@v/paused")
        finishes.command("limits", "concurrency", "versions.busy@v/busy", "by", "key", "--reset")
        versions.start(finishes.version, concurrency=4)
        stories.go_on(finishes)
        gate.touch()

        versions.wait_until_ended()
        stories.check(show_the_same(clients))
        versions.check()
        check_what_was_written(versions, len(written), stored, finishes)
        run_again(versions, stories, finishes)
        show_the_same(clients)


def stored_steps(shown: dict[str, Any]) -> set[tuple[str, str]]:
    """Return run and name of each step whose result is stored."""
    return {
        (run["id"], json.loads(key)[0])
        for run in shown["runs"].values()
        for key, checkpoint in run["detail"]["checkpoints"].items()
        if checkpoint["s"] == "done"
    }


def check_what_was_written(
    versions: Versions, since: int, stored: set[tuple[str, str]], client: Client
) -> None:
    """The other version did the rest, and nothing but the rest."""
    written = versions.oracle.read()
    assert {r["code"] for r in written[since:]} == {str(client.version.path)}
    begun = {(r["run"], r["what"]) for r in written[since:] if "run" in r}
    assert not begun & stored
    often = Counter((r["run"], r["what"]) for r in written if r["what"] in ONCE)
    assert set(often.values()) == {1}


def run_again(versions: Versions, stories: Stories, client: Client) -> None:
    """What the first version ended the other one retries, reruns and replays."""
    ended = {told.events[0][0]: told for told in reversed(stories.told)}
    failed, plain = ended["v/fails"], ended["v/plain"]
    before = versions.counts(failed.runs[0])
    assert client.command("retry", failed.runs[0])["changed"] == failed.runs
    [rerun] = client.command("rerun", plain.runs[0], "--from", "b")["new"]
    [replayed] = client.command("replay", plain.events[0][2]["id"], "--name", "v/plain")["new"]
    versions.wait_until_ended()
    assert versions.run(failed.runs[0]).state is S.SUCCEEDED
    assert versions.counts(failed.runs[0]) == {**before, "b": 1}
    assert versions.counts(rerun) == {"body": 1, "b": 1, "c": 1}
    assert versions.counts(replayed) == {"body": 1, "a": 1, "b": 1, "c": 1}


# --- both at the same time ------------------------------------------------------------------------

#: What is emitted each time: the name, and options.
LOAD: tuple[tuple[str, dict[str, Any]], ...] = (
    ("v/plain", {}),
    ("v/sleeps", {}),
    ("v/waits", {}),
    ("v/calls", {}),
    ("v/quick-tail", {}),
    ("v/fan", {"then": "versions.sum_up"}),
    ("v/busy", {}),
    ("v/soon", {}),
)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("where", ["redis", "rabbit"])
def test_both_versions_are_at_work(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    clients: dict[str, Client],
    chance: random.Random,
    bounded: bool,
    where: str,
) -> None:
    """A rolling deploy under load; workers are killed, and replaced by the other version."""
    rounds, kills = (3, 2) if bounded else (10, 20)  # events of each kind and client, for each kill
    before, this = (clients[name].version for name in ("before", "this"))
    numbers = count()
    with opened(request, tmp_path, where, clients) as versions:
        starts = [before, this, this]
        workers = list(zip(starts, versions.start_all(*starts), strict=True))
        for kill in range(kills):
            begun, since = time.monotonic(), len(versions.oracle.read())
            load(clients, [next(numbers) for _ in range(2 * rounds)])
            leaves, comes = (this, before) if kill % 2 == 0 else (before, this)
            at = chance.choice([at for at, (version, _) in enumerate(workers) if version == leaves])
            victim = workers[at][1]
            wait_until(lambda victim=victim, since=since: works(versions, victim, since))
            versions.kill(victim)
            workers[at] = (comes, versions.start(comes))
            wait_until(lambda begun=begun: time.monotonic() - begun > 2)
        last = time.monotonic()
        versions.wait_until_ended(120)
        waited = time.monotonic() - last
        emitted = next(numbers)
        check_load(versions, show_the_same(clients), emitted)
        counts = versions.check(attempts=6 * kills)
        assert set(counts) == {S.SUCCEEDED}
        print(  # noqa: T201 - make test-faults ARGS=-s shows it
            f"{counts[S.SUCCEEDED]} runs, {kills} kills: at rest {waited:.1f} s after the last "
            f"({waited / LEASE:.1f} leases); {mixed(versions)} runs were those of both versions"
        )


def load(clients: dict[str, Client], numbers: Sequence[int]) -> None:
    """Have both versions emit at the same time; each answers those who wait for the other one."""
    before, this = clients.values()

    def events(some: Sequence[int]) -> list[Any]:
        return [
            (name, {"n": n, "key": f"k{n % 2}", "seconds": 0.3}, options)
            for n in some
            for name, options in LOAD
        ]

    def answers(some: Sequence[int]) -> list[Any]:
        return [("v/answer", {"to": {"n": n}, "text": "yes"}, {}) for n in some]

    for what in (events, answers):
        with ThreadPoolExecutor(2) as pool:
            halves = (numbers[::2], numbers[1::2])
            one, two = halves if what is events else reversed(halves)
            futures = [
                pool.submit(before.emit_all, what(one)),
                pool.submit(this.emit_all, what(two)),
            ]
            for future in futures:
                future.result()


def works(versions: Versions, worker: Worker, since: int) -> bool:
    """Say whether a worker has executed something of late."""
    pids = family_of(worker.pid)
    return any(record.get("pid") in pids for record in versions.oracle.read()[since:])


def mixed(versions: Versions) -> int:
    """Return how many runs were executed by both versions."""
    codes: dict[str, set[str]] = {}
    for record in versions.oracle.read():
        if "run" in record:
            codes.setdefault(record["run"], set()).add(record["code"])
    return sum(len(each) > 1 for each in codes.values())


def check_load(versions: Versions, shown: dict[str, Any], emitted: int) -> None:
    """All came to what they should, none of the limits was exceeded, and both versions did it."""
    results = Counter(
        (run["subscription"], json.dumps(run["detail"]["result"]))
        for run in shown["runs"].values()
        if run["kind"] == "event"
    )
    abc = json.dumps(["a", "b", "c"])
    for task in ("plain", "sleeps", "busy"):
        assert results[f"versions.{task}@v/{task}", abc] == emitted, task
    summed = [run["detail"]["result"] for run in shown["runs"].values() if run["kind"] == "fan-in"]
    saved = [["succeeded", "a"], ["succeeded", "a"], ["succeeded", {"saved": "a"}]]
    assert summed == [saved] * emitted
    batches = [
        run["detail"]["result"][0]
        for run in shown["runs"].values()
        if run["subscription"] == "versions.soon@v/soon"
    ]
    assert sorted(n for batch in batches for n in batch) == list(range(emitted))
    for key, each in by_key(versions.executions("busy")).items():
        assert most_at_once(each) <= AT_ONCE, key
    assert mixed(versions), "no run has met both versions"


# --- Django's outbox ------------------------------------------------------------------------------

#: Makes the tables, commits events, and says with which version.
WRITES = """
import django; django.setup()
import celery_fanout
from celery_fanout import Event, emit, emit_many
from django.core.management import call_command
from django.db import transaction
print(celery_fanout.__file__)
call_command("migrate", verbosity=0)
with transaction.atomic():
    emit("order/placed", {"text": "Gr\u00fc\u00dfe"}, id="1", subject="s", delivery="outbox")
    emit("order/later", {"n": 2}, id="2", delay=3600, expires=7200, delivery="outbox")
    emit_many([Event("order/many", [n], id=str(n)) for n in (3, 4)], delivery="outbox")
"""

#: Finds the tables as they should be, and publishes what is due.
RELAYS = """
import django; django.setup()
import celery_fanout
from django.core.management import call_command
print(celery_fanout.__file__)
call_command("migrate", check_unapplied=True, verbosity=0)
call_command("fanout_relay", once=True, single=True)
"""


@pytest.mark.parametrize("first", ["before", "this"])
def test_an_outbox_that_one_version_has_written_the_other_relays(
    tmp_path: Path, clients: dict[str, Client], redis_url: str, first: str
) -> None:
    """The rows are the same, and so is the schema."""
    second = "this" if first == "before" else "before"
    rows: dict[str, list[Any]] = {}

    def run(name: str, database: str, script: str) -> None:
        settings = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / database)}
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.contrib.django.settings",
            "PYTHONPATH": os.pathsep.join(map(str, clients[name].version.search_path())),
            "TEST_BACKEND": redis_url,
            "TEST_BROKER": redis_url,
            "TEST_DATABASES": json.dumps({"default": settings}),
        }
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=clients[name].version.path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.startswith(f"{clients[name].version.path}/celery_fanout/")

    def read(database: str) -> list[Any]:
        with closing(sqlite3.connect(tmp_path / database)) as connection:
            found = connection.execute("SELECT * FROM celery_fanout_outbox ORDER BY id")
            return found.fetchall()

    for name in (first, second):
        run(name, name, WRITES)
        rows[name] = normalised(read(name))
    assert rows[first] == rows[second]
    assert len(rows[first]) == 4
    run(second, first, RELAYS)
    assert read(first) == []
    with redis.Redis.from_url(redis_url) as client:
        sent = [json.loads(text)["headers"] for text in client.lrange("celery", 0, -1)]
    assert sorted((each["task"], each["ce_id"]) for each in sent) == [
        ("tests.contrib.django.shop.tasks.invoice", "1"),
        ("tests.contrib.django.shop.tasks.record", "1"),
        ("tests.contrib.django.shop.tasks.record", "3"),
        ("tests.contrib.django.shop.tasks.record", "4"),
    ]
