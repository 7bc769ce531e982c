"""Many relays on one outbox, killed while they race, and a broker that is away for long."""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from contextlib import ExitStack

import pytest

from tests.contrib.django.conftest import (
    Project,
    Script,
    database,
    mariadb_server,
    migrated,
    project,
)
from tests.contrib.django.relaying import Relay, attempts, deliveries, messages, write
from tests.processes import wait_until
from tests.servers import RedisServer

__all__ = ["database", "mariadb_server", "migrated", "project"]  # the fixtures

on = pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
postgresql = pytest.mark.parametrize("database", ["postgresql"], indirect=True)

#: Connections to this database but ours.
OTHERS = (
    "SELECT pid FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


#: Where there are ten relays in the full form.
MANY = 4

#: What a relay says at its end.
ENDED = re.compile(r"relay ended: ([\d,]+) published")


def events_of(project: Project) -> Counter[tuple[str, str]]:
    """Return how often the subscriber ran for which event."""
    return Counter((entry["name"], entry["id"]) for entry in project.ran())


def writer(project: Project, rows: int, name: str = "changed") -> Script:
    """Return a process that commits rows, 50 at a time, as fast as it can."""
    return project.start(
        f"""
        from celery_fanout import Event
        print("begun", flush=True)
        for start in range(0, {rows}, 50):
            with transaction.atomic():
                emit_many([Event("order/{name}", id=f"e-{{start + n}}") for n in range(50)],
                          delivery="outbox")
        """,
        "begun",
    )


def kill_while(
    project: Project, racing: list[Relay], chance: random.Random, rows: int, kills: int
) -> None:
    """Kill relays at random while rows are written, until the outbox is empty."""
    for kill in range(kills):
        with writer(project, rows // kills, f"part{kill}") as writing:
            began, moment = time.monotonic(), chance.uniform(0.0, 0.5)
            wait_until(lambda began=began, moment=moment: time.monotonic() - began > moment)
            victim = chance.choice(racing)
            victim.kill()
            victim.start()
            wait_until(lambda writing=writing: not writing.alive, timeout=60)
    wait_until(lambda: not project.database.names(), timeout=300)


@on
@pytest.mark.parametrize("relays", [2, 10])
@pytest.mark.timeout(600)
def test_relays_race(project: Project, relays: int, bounded: bool) -> None:
    """On level 1, where each message that is published twice would be seen: there is none."""
    project.settings(CELERY_FANOUT_STORE_URL="backend")
    rows, relays = (1_000, min(relays, MANY)) if bounded else (10_000, relays)
    with ExitStack() as stack:
        racing = [
            stack.enter_context(Relay(project, "--batch", "20", "--poll", "0.05"))
            for _ in range(relays)
        ]
        write(project, rows)
        wait_until(lambda: not project.database.names(), timeout=300)
        for relay in racing:
            relay.terminate()
            relay.wait_for_end()
        shares = [int(ENDED.findall(relay.log)[-1].replace(",", "")) for relay in racing]
    ids = messages(project)
    assert len(set(ids)) == rows
    assert len(ids) == sum(shares) == rows
    assert sum(share > 0 for share in shares) > 1, shares
    print(f"{relays} relays, {rows} rows, no duplicate; shares {shares}")  # noqa: T201


@on
@pytest.mark.parametrize("relays", [2, 10])
@pytest.mark.timeout(600)
def test_relays_race_and_are_killed(
    project: Project, relays: int, chance: random.Random, bounded: bool
) -> None:
    """Each event is delivered, and the ledger sees to it that each run is executed once."""
    rows, kills = (600, 2) if bounded else (10_000, 20)
    relays = min(relays, MANY) if bounded else relays
    arguments = ("--batch", "20", "--lease", "2", "--poll", "0.2")
    with ExitStack() as stack:
        racing = [stack.enter_context(Relay(project, *arguments)) for _ in range(relays)]
        for _ in range(2):
            stack.enter_context(project.worker())
        kill_while(project, racing, chance, rows, kills)
        wait_until(lambda: len(events_of(project)) == rows, timeout=300)
        wait_until(lambda: not messages(project), timeout=60)
    assert set(events_of(project).values()) == {1}
    runs = int(project.run("print(sum(get_fanout().runs.counts().values()))"))
    assert runs == rows


@postgresql
@pytest.mark.timeout(600)
def test_relays_are_killed_where_there_is_no_ledger(
    project: Project, chance: random.Random, bounded: bool
) -> None:
    """Nothing is lost. What a killed relay had just published, is published twice."""
    project.settings(CELERY_FANOUT_STORE_URL="backend")
    rows, kills, batch = (1_000, 4, 20) if bounded else (10_000, 20, 20)
    arguments = ("--batch", str(batch), "--lease", "2", "--poll", "0.2")
    with ExitStack() as stack:
        racing = [stack.enter_context(Relay(project, *arguments)) for _ in range(3)]
        kill_while(project, racing, chance, rows, kills)
    times = Counter(messages(project))
    assert len(times) == rows
    twice = sum(times.values()) - rows
    assert twice <= kills * batch
    print(f"{rows} rows, {kills} kills: {twice} events were published twice")  # noqa: T201


@postgresql
@pytest.mark.timeout(600)
@pytest.mark.parametrize("level", [1, 2])
def test_the_broker_is_away_for_a_minute(project: Project, level: int, bounded: bool) -> None:
    """It costs no event an attempt, and the relays do not knock all the time."""
    if level == 1:
        project.settings(CELERY_FANOUT_STORE_URL="backend")
    rows, seconds = (500, 6) if bounded else (5_000, 60)
    with RedisServer(appendonly=True) as redis, ExitStack() as stack:
        project.environment |= {"TEST_BROKER": redis.url(0), "TEST_BACKEND": redis.url(1)}
        redis.stop()
        write(project, rows)
        racing = [stack.enter_context(Relay(project, "--poll", "0.2")) for _ in range(2)]
        began = time.monotonic()
        wait_until(lambda: time.monotonic() - began > seconds, timeout=seconds + 10)
        for relay in racing:
            # the pauses double: 1, 2, 4, ... seconds, and half of that at least
            assert 2 <= relay.log.count("The broker or the ledger is away") <= 12
        assert attempts(project) == {0: rows}
        redis.start()
        wait_until(lambda: not project.database.names(), timeout=120)
        assert all("could not be published" not in relay.log for relay in racing)
        assert len(set(messages(project))) == rows


@postgresql
@pytest.mark.timeout(600)
def test_the_database_restarts_while_relays_work(
    project: Project, chance: random.Random, bounded: bool
) -> None:
    """Backends are terminated over and over: nothing is lost."""
    rows, breaks = (1_000, 5) if bounded else (10_000, 40)
    with ExitStack() as stack:
        racing = [
            stack.enter_context(Relay(project, "--batch", "20", "--lease", "2", "--poll", "0.2"))
            for _ in range(3)
        ]
        stack.enter_context(project.worker())
        for number in range(breaks):
            write(project, rows // breaks, f"part{number}")
            for (pid,) in project.database.fetch(OTHERS):
                if chance.random() < 0.5:
                    project.database.fetch(f"SELECT pg_terminate_backend({pid})")
        wait_until(lambda: not project.database.names(), timeout=300)
        assert all(relay.alive for relay in racing)
        wait_until(lambda: len(deliveries(project)) == rows, timeout=300)
        wait_until(lambda: not messages(project), timeout=60)
    assert set(deliveries(project).values()) == {1}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.timeout(600)
def test_one_relay_on_sqlite(project: Project, bounded: bool) -> None:
    """Beside a process that writes all the time, and killed in between."""
    rows = 300 if bounded else 3_000
    script = f"""
        print("begun", flush=True)
        for n in range({rows}):
            with transaction.atomic():
                emit("order/changed", id=f"e-{{n}}", delivery="outbox")
    """
    with (
        project.start(script, "begun") as writer,
        Relay(project, "--poll", "0.05", "--lease", "1") as relay,
        project.worker(),
    ):
        while writer.alive:
            count = len(deliveries(project))
            wait_until(lambda count=count: len(deliveries(project)) > count or not writer.alive)
            relay.kill()
            relay.start()
        wait_until(lambda: len(deliveries(project)) == rows, timeout=120)
        wait_until(lambda: not project.database.names() and not messages(project))
    assert set(deliveries(project).values()) == {1}
