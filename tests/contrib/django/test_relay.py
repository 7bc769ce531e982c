"""``manage.py fanout_relay`` on real databases and brokers, killed and disturbed."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import kombu
import pytest

from tests.contrib.django.conftest import Database, Project
from tests.contrib.django.relaying import (
    Relay,
    attempts,
    deliveries,
    messages,
    once,
    write,
)
from tests.processes import wait_until
from tests.servers import ROOT, PostgresServer, RabbitServer, RedisServer

postgresql = pytest.mark.parametrize("database", ["postgresql"], indirect=True)
shared = pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)

EVENTS = 40

LEASED = "SELECT lease_token FROM celery_fanout_outbox WHERE lease_token IS NOT NULL"
#: Other connections to the same database of PostgreSQL.
OTHERS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
TOKENS = "SELECT DISTINCT lease_token FROM celery_fanout_outbox"


@pytest.fixture
def points(project: Project, tmp_path: Path) -> Path:
    """The file that lets go on what hangs at a failpoint."""
    project.environment["CELERY_FANOUT_FAILPOINT_DIR"] = str(tmp_path)
    project.environment["CELERY_FANOUT_FAILPOINT_FILE"] = str(tmp_path / "gate")
    return tmp_path / "gate"


@pytest.fixture
def level1(project: Project) -> Project:
    """The project without a ledger: nothing de-duplicates."""
    project.settings(CELERY_FANOUT_STORE_URL="backend")
    return project


@pytest.fixture
def own_redis(project: Project) -> Iterator[RedisServer]:
    """A Redis that the test may stop, and that keeps what it has."""
    with RedisServer(appendonly=True) as server:
        project.environment |= {"TEST_BROKER": server.url(0), "TEST_BACKEND": server.url(1)}
        yield server


def wait_for_empty(project: Project) -> None:
    """Wait until the outbox is empty."""
    wait_until(lambda: not project.database.names(), message="the outbox is not empty")


def write_later(project: Project, count: int) -> None:
    """Commit events named ``order/later`` whose runs start in an hour."""
    project.run(
        f"""
        with transaction.atomic():
            for _ in range({count}):
                emit("order/later", delay=3600, delivery="outbox")
        """
    )


def leased(project: Project) -> int:
    """Return how many rows have a lease."""
    return len(project.database.fetch(LEASED))


# -- what it does ---------------------------------------------------------------------------------


def test_what_is_due_reaches_its_subscribers(project: Project) -> None:
    write(project, EVENTS, "placed")
    code, told = once(project, "--batch", "15")
    assert code == 0
    assert told.startswith(f"{EVENTS} published, 0 failed, 0 given up, 0 left.\n")
    assert project.database.names() == []
    with project.worker():
        wait_until(lambda: len(project.ran()) >= 2 * EVENTS)
    assert set(deliveries(project).values()) == {1}


@postgresql
def test_a_notification_wakes_it(project: Project) -> None:
    with Relay(project, "--poll", "3600"):
        for _ in range(3):
            write(project, 1)
            wait_for_empty(project)


@pytest.mark.parametrize("database", ["mariadb", "sqlite"], indirect=True)
def test_polling_is_the_floor(project: Project) -> None:
    with Relay(project, "--poll", "0.05"):
        write(project, 3)
        wait_for_empty(project)


@postgresql
def test_it_listens_again_after_its_connection_broke(project: Project) -> None:
    with Relay(project, "--poll", "0.05") as relay:
        listening = f"{OTHERS} AND query LIKE 'LISTEN%'"
        wait_until(lambda: project.database.fetch(f"SELECT pid {listening}"))
        project.database.fetch(f"SELECT pg_terminate_backend(pid) {listening}")
        relay.wait_for_log("goes on polling")
        write(project, 3)
        wait_for_empty(project)


@postgresql
def test_a_lower_id_that_is_committed_later(project: Project, tmp_path: Path) -> None:
    """Neither lost nor waited for."""
    out_of_order(project, tmp_path)


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_a_lower_id_that_is_committed_later_on_mariadb(project: Project, tmp_path: Path) -> None:
    out_of_order(project, tmp_path)


def out_of_order(project: Project, directory: Path) -> None:
    gate = directory / "commit"
    script = f"""
        import threading
        from pathlib import Path
        with transaction.atomic():
            emit("order/early", id="early", delivery="outbox")
            print("written", flush=True)
            while not Path({str(gate)!r}).exists():
                threading.Event().wait(0.02)
    """
    with (
        project.start(script, "written") as early,
        Relay(project, "--poll", "0.05"),
        project.worker(),
    ):
        write(project, 1, "late")
        wait_until(lambda: deliveries(project) == {("record", "late-0"): 1})
        gate.touch()
        wait_until(lambda: not early.alive)
        wait_until(lambda: ("record", "early") in deliveries(project))
    assert set(deliveries(project).values()) == {1}


@postgresql
def test_events_with_a_delay_start_when_it_is_over(project: Project) -> None:
    write(project, 2)
    write_later(project, 2)
    assert once(project)[0] == 0
    states = project.run(
        "print(*sorted(str(run.state) for run in get_fanout().runs.list(limit=9)))"
    )
    assert states.split() == ["pending", "pending", "published", "published"]


@shared
def test_local_times(project: Project) -> None:
    """Without USE_TZ the columns have local times, and MariaDB's are those of its machine."""
    project.settings(USE_TZ=False, TIME_ZONE="Asia/Tokyo")
    project.environment["TZ"] = "America/New_York"
    write(project, 3)
    assert once(project)[0] == 0


@postgresql
def test_the_liveness_file_is_touched_when_there_is_nothing_to_do(
    project: Project, tmp_path: Path
) -> None:
    file = tmp_path / "alive"
    with Relay(project, "--poll", "0.05", "--liveness-file", str(file)):
        wait_until(file.exists)
        os.utime(file, (0, 0))
        wait_until(lambda: file.stat().st_mtime > 0)


@postgresql
def test_it_tells_what_it_does_and_nothing_of_the_data(level1: Project) -> None:
    project = level1
    write(project, 2, data={"iban": "DE89370400440532013000"})
    write(project, 1, "placed", data={"iban": "DE89370400440532013000"})
    project.settings(CELERY_TASK_ROUTES=["tests.contrib.django.refusing.route"])
    with Relay(project, "--poll", "0.05") as relay:
        relay.wait_for_log("Published 2 event(s), 1 failed attempt(s), 0 given up")
        assert "Event order/placed[placed-0] of row" in relay.log
        assert "could not be published (ValueError), attempt 1" in relay.log
        relay.terminate()
        relay.wait_for_end()
        assert "relay ended: 2 published, 1 failed, 0 given up." in relay.log
        assert "DE89" not in relay.log


# -- ending ---------------------------------------------------------------------------------------


@postgresql
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_it_finish_its_batch(
    project: Project, points: Path, number: signal.Signals
) -> None:
    write(project, 3)
    write_later(project, 2)  # which are published alone
    with Relay(project, CELERY_FANOUT_FAILPOINTS="relay.before_publish=hang@1") as relay:
        wait_until(points.with_name("relay.before_publish").exists)
        os.kill(relay.pid, number)
        points.touch()
        relay.wait_for_end()
        assert relay._process.wait() == 0
        assert "relay ended: 3 published" in relay.log
    assert project.database.names() == ["order/later"] * 2
    assert leased(project) == 0
    assert once(project)[0] == 0


@postgresql
def test_a_signal_ends_it_while_it_waits(project: Project) -> None:
    with Relay(project, "--poll", "3600") as relay:
        relay.terminate()
        relay.wait_for_end()
        assert relay._process.wait() == 0


# -- killed ---------------------------------------------------------------------------------------

POINTS = ["relay.after_claim", "relay.before_publish", "relay.after_publish", "relay.before_delete"]


def kill(project: Project, point: str) -> None:
    """Have a relay that dies at a point."""
    relay = Relay(project, "--lease", "1")
    done = project.command(*relay.command()[1:], CELERY_FANOUT_FAILPOINTS=f"{point}=kill@1")
    relay.close()
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("point", POINTS)
def test_a_relay_is_killed(project: Project, points: Path, point: str) -> None:
    """Another one publishes its rows when the lease is over; the ledger knows them already."""
    write(project, EVENTS, "placed")
    kill(project, point)
    assert leased(project) == len(project.database.names()) == EVENTS
    with Relay(project, "--poll", "0.05"), project.worker():
        wait_for_empty(project)
        wait_until(lambda: len(deliveries(project)) == 2 * EVENTS)
        wait_until(lambda: not messages(project))
    assert set(deliveries(project).values()) == {1}
    assert len(project.ran()) == 2 * EVENTS


@postgresql
@pytest.mark.parametrize("point", POINTS)
def test_a_relay_is_killed_where_there_is_no_ledger(
    level1: Project, points: Path, point: str
) -> None:
    """Then it depends on the moment whether events are published twice."""
    write(level1, EVENTS)
    kill(level1, point)
    with Relay(level1, "--poll", "0.05"):
        wait_for_empty(level1)
    ids = messages(level1)
    assert len(set(ids)) == EVENTS
    published = point in ("relay.after_publish", "relay.before_delete")
    assert len(ids) == EVENTS * (2 if published else 1)


@shared
def test_a_lease_ends_before_the_batch_is_done(project: Project, points: Path) -> None:
    """The slow relay deletes nothing of what another has."""
    write(project, EVENTS, "placed")
    other = points.with_name("other")
    with (
        Relay(
            project, "--lease", "1", CELERY_FANOUT_FAILPOINTS="relay.before_delete=hang@1"
        ) as slow,
        project.worker(),
    ):
        wait_until(lambda: leased(project) == EVENTS)
        tokens = project.database.fetch(TOKENS)
        with Relay(
            project,
            "--poll",
            "0.05",
            CELERY_FANOUT_FAILPOINTS="relay.after_claim=hang@1",
            CELERY_FANOUT_FAILPOINT_FILE=str(other),
        ):
            wait_until(lambda: project.database.fetch(TOKENS) != tokens)
            points.touch()
            slow.wait_for_log(f"A lease ended before {EVENTS} of {EVENTS} event(s)")
            assert leased(project) == EVENTS
            slow.kill()
            other.touch()
            wait_for_empty(project)
        wait_until(lambda: len(deliveries(project)) == 2 * EVENTS)
        wait_until(lambda: not messages(project))
    assert set(deliveries(project).values()) == {1}


@shared
def test_the_emitter_is_killed_after_its_commit(project: Project) -> None:
    script = """
        import os, signal
        with transaction.atomic():
            Order.objects.create(number="1")
            emit("order/kept", id="e", delivery="outbox")
        try:
            with transaction.atomic():
                Order.objects.create(number="2")
                emit("order/lost", id="e", delivery="outbox")
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            print("never")
    """
    assert project.attempt(script).returncode == -9
    with Relay(project, "--poll", "0.05"), project.worker():
        wait_for_empty(project)
        wait_until(project.ran)
    assert [(entry["name"], entry["id"]) for entry in project.ran()] == [("order/kept", "e")]


# -- what is away ---------------------------------------------------------------------------------


@postgresql
@pytest.mark.parametrize("level", [1, 2])
def test_redis_is_away(project: Project, own_redis: RedisServer, level: int) -> None:
    if level == 1:
        project.settings(CELERY_FANOUT_STORE_URL="backend")
    write(project, EVENTS)
    with Relay(project, "--poll", "0.05") as relay:
        wait_for_empty(project)
        own_redis.stop()
        write(project, EVENTS)
        relay.wait_for_log("The broker or the ledger is away")
        assert attempts(project) == {0: EVENTS}
        own_redis.start()
        wait_for_empty(project)
        assert "could not be published" not in relay.log
    # the first ones were those of the same ids
    assert len(set(messages(project))) == EVENTS


@postgresql
def test_redis_accepts_and_never_answers(project: Project, own_redis: RedisServer) -> None:
    project.settings(CELERY_FANOUT_PUBLISH_TIMEOUT=0.5)
    with Relay(project, "--poll", "0.05") as relay:
        own_redis.pause()
        try:
            write(project, 3)
            relay.wait_for_log("The broker or the ledger is away")
            assert attempts(project) == {0: 3}
        finally:
            own_redis.resume()
        wait_for_empty(project)
    assert len(set(messages(project))) == 3


@postgresql
def test_rabbitmq_is_away(project: Project) -> None:
    """On level 1. On level 2 the ledger has the events then, and a keeper publishes them."""
    project.settings(
        CELERY_FANOUT_STORE_URL="backend",
        CELERY_BROKER_TRANSPORT_OPTIONS={"confirm_publish": True},
    )
    with RabbitServer() as rabbit:
        project.environment["TEST_BROKER"] = rabbit.url()
        rabbit.stop()
        write(project, EVENTS)
        with Relay(project, "--poll", "0.05") as relay:
            relay.wait_for_log("The broker or the ledger is away")
            assert attempts(project) == {0: EVENTS}
            rabbit.start()
            wait_for_empty(project)
        with project.worker():
            wait_until(lambda: len(deliveries(project)) == EVENTS)


@postgresql
def test_a_queue_that_rabbitmq_refuses(project: Project, rabbit_url: str) -> None:
    """It is there with other arguments: that is no outage, and stops no other event."""
    project.settings(
        CELERY_FANOUT_STORE_URL="backend",
        CELERY_TASK_ROUTES={"tests.contrib.django.shop.tasks.invoice": {"queue": "strange"}},
        CELERY_FANOUT_OUTBOX_MAX_ATTEMPTS=2,
    )
    project.environment["TEST_BROKER"] = rabbit_url
    project.run(
        """
        with app.connection_for_write() as found:
            found.default_channel.queue_declare("strange", durable=True, auto_delete=True)
        """
    )
    write(project, 3, "placed", "changed")
    with Relay(project, "--poll", "0.05", "--backoff", "0.1") as relay:
        relay.wait_for_log("given up")
        wait_until(lambda: attempts(project) == {2: 3})
        with project.worker():
            wait_until(
                lambda: {e for t, e in deliveries(project)} >= {f"changed-{n}" for n in range(3)}
            )


@postgresql
def test_once_ends_when_the_broker_is_away(project: Project, own_redis: RedisServer) -> None:
    write(project, EVENTS)
    own_redis.stop()
    code, told = once(project)
    assert code == 1
    assert f"0 published, 0 failed, 0 given up, {EVENTS} left." in told
    assert "CommandError: The ledger" in told or "Connection refused" in told
    assert attempts(project) == {0: EVENTS}


@pytest.fixture
def own_postgres(project: Project) -> Iterator[PostgresServer]:
    """A PostgreSQL that the test may stop."""
    with PostgresServer() as server:
        settings = {**project.database.settings, "NAME": "postgres", "PORT": str(server.port)}
        project.database = Database("postgresql", settings)
        project.environment["TEST_DATABASES"] = json.dumps({"default": settings})
        project.manage("migrate", "--verbosity=0")
        yield server


@postgresql
def test_the_database_is_away(project: Project, own_postgres: PostgresServer) -> None:
    """Also when the relay starts."""
    write(project, 3)
    own_postgres.stop()
    relay = Relay(project, "--poll", "0.05")
    relay.is_ready = lambda: "does not answer" in relay.log  # type: ignore[method-assign]
    with relay:
        own_postgres.start()
        relay.wait_for_log("relay ready")
        wait_for_empty(project)
        own_postgres.restart()
        write(project, 3, "more")
        wait_for_empty(project)
        assert relay.alive


@postgresql
def test_once_ends_when_the_database_is_away(
    project: Project, own_postgres: PostgresServer
) -> None:
    own_postgres.stop()
    code, told = once(project)
    assert code == 1
    assert "CommandError: The database 'default' does not answer" in told


@postgresql
def test_its_connection_is_lost_between_publishing_and_deleting(
    level1: Project, points: Path
) -> None:
    """It deletes the rows on a new one: nothing is published twice, not even on level 1."""
    write(level1, EVENTS)
    with Relay(level1, CELERY_FANOUT_FAILPOINTS="relay.before_delete=hang@1") as relay:
        wait_until(lambda: len(messages(level1)) == EVENTS)
        level1.database.fetch(f"SELECT pg_terminate_backend(pid) {OTHERS}")
        points.touch()
        relay.wait_for_log("The database 'default' does not answer")
        wait_for_empty(level1)
    assert len(messages(level1)) == EVENTS


# -- poison ---------------------------------------------------------------------------------------


def spoil(project: Project, event_id: str, column: str, value: str) -> None:
    """Change a column of one row."""
    change = f"SET {column} = {value} WHERE event_id = '{event_id}'"
    project.database.fetch(f"UPDATE celery_fanout_outbox {change}")


def test_poison_ends_and_disturbs_nobody(level1: Project) -> None:
    project = level1
    project.settings(
        CELERY_TASK_ROUTES=["tests.contrib.django.refusing.route"],
        CELERY_FANOUT_OUTBOX_MAX_ATTEMPTS=3,
    )
    write(project, 10)
    write(project, 1, "placed")  # whose subscriber is refused
    spoil(project, "changed-2", "event", "'{\"id\": '")
    spoil(project, "changed-4", "version", "99")
    spoil(project, "changed-6", "app", "'elsewhere'")
    spoil(project, "changed-7", "options", "'[1]'")
    spoil(project, "changed-8", "event", "'[]'")
    with Relay(project, "--poll", "0.05", "--backoff", "0.05") as relay, project.worker():
        wait_until(lambda: attempts(project) == {3: 6})
        expected = Counter(("record", f"changed-{n}") for n in (0, 1, 3, 5, 9))
        if kombu.VERSION < (5, 7):  # no batch: the other subscriber gets it with each attempt
            expected["record", "placed-0"] = 3
        wait_until(lambda: deliveries(project) == expected)
        relay.wait_for_log("Event order/placed[placed-0] of row")
    assert deliveries(project) == expected
    rows = project.database.fetch(
        "SELECT event_id, dead_at IS NOT NULL, lease_token, last_error FROM celery_fanout_outbox"
    )
    assert all(dead and token is None for _, dead, token, _ in rows)
    errors = {event_id: error for event_id, _, _, error in rows}
    assert "is no event" in errors["changed-2"]
    assert "has version 99, and this celery-fanout knows version 1" in errors["changed-4"]
    assert "is for the Celery app 'elsewhere'" in errors["changed-6"]
    assert "ValueError: no such place" in errors["placed-0"]
    # what was given up before is no failure of this one
    code, told = once(project)
    assert code == 0
    assert told.startswith("0 published, 0 failed, 0 given up, 0 left.\n")


@postgresql
def test_once_says_what_is_left_and_what_was_given_up(project: Project) -> None:
    project.settings(CELERY_FANOUT_OUTBOX_MAX_ATTEMPTS=2)
    write(project, 2)
    spoil(project, "changed-1", "version", "99")
    code, told = once(project, "--backoff", "0.01")
    assert code == 1
    assert "1 published, 1 failed, 0 given up, 1 left." in told
    wait_until(
        lambda: (
            once(project)[0] == 1
            and not project.database.fetch(
                "SELECT 1 FROM celery_fanout_outbox WHERE dead_at IS NULL"
            )
        )
    )
    assert once(project)[0] == 0


def test_dead_rows_are_deleted_when_they_are_old(project: Project) -> None:
    project.settings(CELERY_FANOUT_OUTBOX_MAX_ATTEMPTS=1)
    write(project, 3)
    for number in range(3):
        spoil(project, f"changed-{number}", "version", "99")
    code, _ = once(project)
    assert code == 1
    spoil(project, "changed-1", "dead_at", "'2020-01-01 00:00:00'")
    code, told = once(project)
    assert code == 0
    assert "1 dead row(s) were older than fanout_outbox_retention" in told
    left = project.database.fetch("SELECT event_id FROM celery_fanout_outbox ORDER BY id")
    assert left == [("changed-0",), ("changed-2",)]


# -- what it refuses ------------------------------------------------------------------------------


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_several_relays_are_refused_where_they_cannot_share(project: Project) -> None:
    done = project.command("-m", "django", "fanout_relay", "--once")
    assert done.returncode == 1
    assert done.stderr == (
        "CommandError: The database 'default' does not know SKIP LOCKED, by which several relays "
        "share an outbox. Use PostgreSQL, MySQL 8.0.1 or MariaDB 10.6; or run one relay only, and "
        "say so with --single.\n"
    )


@postgresql
@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["--database", "other"], 1, "There is no database 'other' in DATABASES. It has: default."),
        (["--batch", "0"], 2, "argument --batch: '0' is not a whole number greater than 0"),
        (["--lease", "nan"], 2, "argument --lease: 'nan' is not a number of seconds greater than"),
        (["--poll", "x"], 2, "argument --poll: 'x' is not a number of seconds greater than 0"),
        (["--batch", "10001"], 2, "'10001' is not a whole number greater than 0 and up to 10,000"),
        (["--lease", "1e300"], 2, "and up to 1,000,000,000"),
        (["--liveness-file", "/no/where"], 1, "CommandError: --liveness-file cannot be written"),
    ],
)
def test_wrong_usage(project: Project, arguments: list[str], code: int, error: str) -> None:
    found, told = once(project, *arguments)
    assert found == code
    assert error in told


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_database_without_the_table(project: Project, tmp_path: Path) -> None:
    settings = {**project.database.settings, "NAME": str(tmp_path / "empty.sqlite3")}
    project.environment["TEST_DATABASES"] = json.dumps({"default": settings})
    code, told = once(project)
    assert code == 1
    assert told == (
        "CommandError: The database 'default' has no outbox. "
        "Run: manage.py migrate celery_fanout --database default\n"
    )


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_project_without_its_celery_app(project: Project, tmp_path: Path) -> None:
    (tmp_path / "appless.py").write_text(
        "SECRET_KEY = 'x'\nUSE_TZ = True\nINSTALLED_APPS = ['celery_fanout.contrib.django']\n"
    )
    env = {"DJANGO_SETTINGS_MODULE": "appless", "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    code, told = once(project, "--skip-checks", **env)
    assert code == 1
    assert told.startswith("CommandError: There is no Celery app in this process.")
    assert "from .celery import app as celery_app" in told


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_project_whose_tasks_cannot_be_imported(project: Project) -> None:
    project.settings(CELERY_IMPORTS=["no_such_module"])
    code, told = once(project, "--skip-checks")
    assert code == 1
    assert "CommandError: The project's Celery app cannot be used. No module named" in told


def test_pauses_grow_up_to_a_limit_however_long_an_outage(project: Project) -> None:
    told = project.told(
        """
        from celery_fanout.contrib.django.outbox.relay import doubled
        tell([doubled(1.0, times, 30.0) for times in (0, 3, 5, 100_000)])
        """
    )
    assert told == [[1.0, 8.0, 30.0, 30.0]]
