"""What every checkpoint store does, whatever it keeps its records in.

The store on ``django-db`` is tested by a process of its own, see :func:`test_django_db`, because
Django has one configuration per process.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, uuid
from celery.states import SUCCESS

from celery_fanout import get_fanout
from celery_fanout.exceptions import StoreUnavailable, StoreUnsupported
from celery_fanout.model.ids import child_id
from celery_fanout.stores.checkpoints import CheckpointStore, StepKey
from tests.processes import wait_until
from tests.servers import ROOT, MemcachedServer, PostgresServer, RedisServer

DAY = 86_400
MIB = 1024 * 1024
KEY: StepKey = ("fetch", 1)

#: Set in the process that tests the store on ``django-db``, and nothing else.
DJANGO = "FANOUT_TEST_DJANGO"

if os.environ.get(DJANGO):
    ALL = OUTSIDE = FAILING = ["django-db"]
    EXPIRING: list[str] = []
else:
    #: Those outside of this process, which two instances share.
    OUTSIDE = ["redis", "sqlite", "postgres", "filesystem", "memcached"]
    ALL = ["memory", *OUTSIDE]
    #: Those that drop a checkpoint themselves.
    EXPIRING = ["memory", "redis", "memcached"]
    FAILING = OUTSIDE

#: Values above this are refused by memcached.
MEMCACHED_ITEM = 1_000_000


@dataclass
class Place:
    """Where a store keeps its records."""

    name: str
    backend: str

    def app(self, **conf: Any) -> Celery:
        app = Celery("conformance", broker="memory://", set_as_current=False)
        app.conf.update(result_backend=self.backend, **conf)
        if self.name == "memory":
            app.conf.fanout_store_url = "memory://"
        return app

    def open(self, **conf: Any) -> CheckpointStore:
        return get_fanout(self.app(**conf)).store


@pytest.fixture(params=ALL)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    get = request.getfixturevalue
    match request.param:
        case "memory":
            url = "disabled://"
        case "redis":
            url = get("redis_url")
        case "sqlite":
            url = f"db+sqlite:///{tmp_path}/results.sqlite"
        case "postgres":
            url = get("postgres_url").replace("postgresql:", "db+postgresql+psycopg:")
        case "filesystem":
            url = f"file://{tmp_path}"
        case "memcached":
            url = get("memcached_url")
        case "django-db":
            get("django_database")
            url = "django-db"
    return Place(request.param, url)


@pytest.fixture
def store(place: Place) -> CheckpointStore:
    return place.open()


@pytest.fixture
def run_id() -> str:
    return uuid()


def on(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("place", [n for n in ALL if n in names], indirect=True)


# --- records -------------------------------------------------------------------------------------


def test_an_unknown_key_is_none(store: CheckpointStore, run_id: str) -> None:
    assert store.get(run_id, KEY) is None


def test_it_returns_what_was_put(store: CheckpointStore, run_id: str) -> None:
    store.put(run_id, KEY, '{"r":"é\\u0000\U0001f600"}', final=True)
    assert store.get(run_id, KEY) == '{"r":"é\\u0000\U0001f600"}'


@on(*OUTSIDE)
def test_another_instance_returns_it_too(place: Place, run_id: str) -> None:
    place.open().put(run_id, KEY, "text", final=True)
    assert place.open().get(run_id, KEY) == "text"


def test_a_record_is_replaced_until_it_is_final(store: CheckpointStore, run_id: str) -> None:
    store.put(run_id, KEY, "first try", final=False)
    assert store.get(run_id, KEY) == "first try"
    store.put(run_id, KEY, "second try", final=False)
    assert store.get(run_id, KEY) == "second try"
    store.put(run_id, KEY, "done", final=True)
    assert store.get(run_id, KEY) == "done"


KEYS: list[StepKey] = [
    ("a", 1),
    ("a", 2),
    ("a", 11),
    ("a1", 1),
    ("a:1", 1),
    ("a,1", 1),
    ('["a",1]', 1),
    ("A", 1),
    (" a", 1),
    ("a\n", 1),
    ("a\0", 1),
    ("a/b", 1),
    ("../../a", 1),
    ("%s", 1),
    ("é", 1),
    ("e\u0301", 1),
    ("\U0001f600" * 200, 1),
    ("\U0001f600" * 200, 2),
    ("x" * 200, 1),
    ("x" * 199 + "y", 1),
]


def test_no_two_keys_collide(store: CheckpointStore) -> None:
    records = {(run, key): f"{run} {key}" for run in (uuid(), uuid()) for key in KEYS}
    for (run, key), text in records.items():
        store.put(run, key, text, final=True)
    assert {(run, key): store.get(run, key) for run, key in records} == records


def test_a_value_of_the_greatest_size(place: Place, run_id: str) -> None:
    size = MEMCACHED_ITEM if place.name == "memcached" else MIB
    text = "0123456789abcdef" * (size // 16)
    store = place.open()
    store.put(run_id, KEY, text, final=True)
    assert store.get(run_id, KEY) == text


@on("memcached")
def test_memcached_refuses_what_it_cannot_hold(store: CheckpointStore, run_id: str) -> None:
    store.put(run_id, KEY, "first try", final=False)
    with pytest.raises(StoreUnsupported) as caught:
        store.put(run_id, KEY, "x" * MIB, final=True)
    assert str(caught.value) == (
        "The result backend CacheBackend does not support a step result of 1,048,576 characters. "
        "Store it elsewhere and return a reference to it."
    )


@on(*OUTSIDE)
def test_results_of_tasks_are_left_alone(place: Place, run_id: str) -> None:
    app = place.app()
    store = get_fanout(app).store
    app.backend.store_result(run_id, "the task's", SUCCESS)
    store.put(run_id, KEY, "the step's", final=True)
    store.extend(run_id, [KEY], DAY)
    assert app.AsyncResult(run_id).get(timeout=5) == "the task's"
    assert store.get(run_id, KEY) == "the step's"
    app.backend.forget(run_id)
    assert store.get(run_id, KEY) == "the step's"


# --- expiry --------------------------------------------------------------------------------------


def seconds_left(place: Place, run_id: str, request: pytest.FixtureRequest) -> float:
    """Return the expiry of the only record, as its server sees it."""
    if place.name == "redis":
        with request.getfixturevalue("redis_server").client() as client:
            (key,) = client.keys()
            return float(client.ttl(key))
    key = f"celery-task-meta-{child_id(run_id, *KEY)}"
    port = request.getfixturevalue("memcached_server").port
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(f"mg {key} t\r\n".encode())
        return float(connection.recv(1024).decode().strip().removeprefix("HD t"))


@on("redis", "memcached")
@pytest.mark.parametrize("final", [True, False])
def test_the_server_drops_it_after_an_expiry_of_its_own(
    place: Place, run_id: str, final: bool, request: pytest.FixtureRequest
) -> None:
    store = place.open(fanout_checkpoint_expires=2 * DAY, result_expires=60)
    store.put(run_id, KEY, "text", final=final)
    assert 2 * DAY - 60 < seconds_left(place, run_id, request) <= 2 * DAY


@on("redis", "memcached")
def test_the_server_keeps_it_longer_when_told_to(
    place: Place, run_id: str, request: pytest.FixtureRequest
) -> None:
    store = place.open(fanout_checkpoint_expires=60)
    store.put(run_id, KEY, "text", final=True)
    store.extend(run_id, [KEY, ("unknown", 1)], 3 * DAY + 0.5)
    assert 3 * DAY - 60 < seconds_left(place, run_id, request) <= 3 * DAY + 1
    assert store.get(run_id, KEY) == "text"
    assert store.get(run_id, ("unknown", 1)) is None


@on("memcached")
def test_memcached_keeps_nothing_beyond_30_days(
    place: Place, run_id: str, request: pytest.FixtureRequest
) -> None:
    store = place.open(fanout_checkpoint_expires=90 * DAY)
    assert store.keeps == 30 * DAY
    store.put(run_id, KEY, "text", final=True)
    assert 30 * DAY - 60 < seconds_left(place, run_id, request) <= 30 * DAY
    store.extend(run_id, [KEY], 90 * DAY)
    assert 30 * DAY - 60 < seconds_left(place, run_id, request) <= 30 * DAY


@on("redis", "memcached")
def test_it_expires(place: Place, run_id: str) -> None:
    store = place.open(fanout_checkpoint_expires=0.5)
    store.put(run_id, KEY, "text", final=True)
    wait_until(lambda: store.get(run_id, KEY) is None)


@on("memory")
def test_memory_drops_it_when_its_time_has_come(place: Place, run_id: str) -> None:
    app = place.app(fanout_checkpoint_expires=60)
    now = 1_000_000.0
    get_fanout(app).clock = lambda: now
    store = get_fanout(app).store
    store.put(run_id, KEY, "text", final=True)
    store.put(run_id, ("other", 1), "text", final=True)
    store.extend(run_id, [KEY, ("unknown", 1)], 100)
    store.extend(run_id, [KEY], 10)  # it is kept for that long already
    now += 60
    assert store.get(run_id, ("other", 1)) is None
    assert store.get(run_id, KEY) == "text"
    now += 40
    assert store.get(run_id, KEY) is None


@on("memory")
def test_memory_forgets_what_nobody_asks_for(place: Place) -> None:
    app = place.app(fanout_checkpoint_expires=60)
    now = 1_000_000.0
    get_fanout(app).clock = lambda: now
    store: Any = get_fanout(app).store
    for _ in range(5_000):
        store.put(uuid(), KEY, "text", final=True)
        now += 1
    assert len(store._entries) < 1_100


# --- capabilities --------------------------------------------------------------------------------


def test_it_says_what_it_can_do(place: Place) -> None:
    store = place.open(fanout_checkpoint_expires=2 * DAY, result_expires=3 * DAY)
    if place.name in EXPIRING:
        expected: tuple[Any, ...] = (2 * DAY, True, "fanout_checkpoint_expires")
    else:
        expected = (3 * DAY, False, "result_expires")
    assert (store.keeps, store.supports_extend, store.keeps_setting) == expected


@on("sqlite", "postgres", "filesystem", "django-db")
def test_where_results_are_kept_for_ever_checkpoints_are_too(place: Place) -> None:
    assert place.open(result_expires=None).keeps is None


@on("sqlite", "postgres", "filesystem", "django-db")
def test_where_nothing_expires_extending_does_nothing(place: Place, run_id: str) -> None:
    store = place.open()
    store.put(run_id, KEY, "text", final=True)
    store.extend(run_id, [KEY], DAY)
    assert store.get(run_id, KEY) == "text"


def test_its_name(store: CheckpointStore, place: Place) -> None:
    assert (
        store.name
        == {
            "memory": "The memory store",
            "redis": "The result backend RedisBackend",
            "sqlite": "The result backend DatabaseBackend",
            "postgres": "The result backend DatabaseBackend",
            "filesystem": "The result backend FilesystemBackend",
            "memcached": "The result backend CacheBackend",
            "django-db": "The result backend DatabaseBackend",
        }[place.name]
    )


REMEDY = (
    "Set result_backend, or fanout_store_url, to one that can be read back, such as "
    '"redis://", "db+postgresql://" or "django-db".'
)


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("rpc://", f"The result backend rpc:// does not support steps. {REMEDY}"),
        (None, f"An app without a result backend does not support steps. {REMEDY}"),
        ("disabled://", f"An app without a result backend does not support steps. {REMEDY}"),
    ],
)
def test_a_backend_that_cannot_be_read_back_is_refused(backend: str | None, message: str) -> None:
    app = Celery(broker="memory://", backend=backend, set_as_current=False)
    with pytest.raises(StoreUnsupported) as caught:
        get_fanout(app).store  # noqa: B018 - opens it
    assert str(caught.value) == message


def test_the_setting_goes_before_the_result_backend(redis_url: str, run_id: str) -> None:
    app = Celery(broker="memory://", backend="rpc://", set_as_current=False)
    app.conf.fanout_store_url = redis_url
    get_fanout(app).store.put(run_id, KEY, "text", final=True)
    assert Place("redis", redis_url).open().get(run_id, KEY) == "text"


# --- threads and processes -----------------------------------------------------------------------


def drop_connections(place: Place) -> None:
    """Drop what Django keeps open for a thread, as Celery's worker does between tasks."""
    if place.name == "django-db":
        from django.db import connections

        connections.close_all()


def test_threads_may_share_it(store: CheckpointStore, place: Place) -> None:
    def use(number: int) -> bool:
        run, text = uuid(), "x" * 1000 + str(number)
        for step in range(5):
            store.put(run, ("step", step), f"{text} {step}", final=True)
        found = [store.get(run, ("step", step)) for step in range(5)]
        drop_connections(place)
        return found == [f"{text} {step}" for step in range(5)]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(16)))


@pytest.mark.filterwarnings("ignore:.*use of fork.* may lead to deadlocks:DeprecationWarning")
def test_a_forked_process_may_go_on_using_it(
    store: CheckpointStore, run_id: str, place: Place
) -> None:
    store.put(run_id, ("before", 1), "before", final=True)
    drop_connections(place)

    def use(name: str) -> None:
        # both at the same time: on one connection they would read each other's answers
        for number in range(20):
            store.put(run_id, (name, number), f"{name} {number}", final=True)
            assert store.get(run_id, (name, number)) == f"{name} {number}"
            assert store.get(run_id, ("before", 1)) == "before"

    child = multiprocessing.get_context("fork").Process(target=use, args=("child",))
    child.start()
    use("parent")
    child.join()
    assert child.exitcode == 0
    if place.name != "memory":
        assert [store.get(run_id, ("child", n)) for n in range(20)] == [
            f"child {n}" for n in range(20)
        ]


# --- outages -------------------------------------------------------------------------------------


@dataclass
class Fragile:
    """A place of the test's own, to break and to mend."""

    place: Place
    take_away: Callable[[], object]
    bring_back: Callable[[], object]
    error: str


@pytest.fixture(params=FAILING)
def fragile(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fragile]:
    name = request.param
    with ExitStack() as stack:
        if name in ("sqlite", "filesystem"):
            home, away = tmp_path / "home", tmp_path / "away"
            home.mkdir()
            url = f"file://{home}" if name == "filesystem" else f"db+sqlite:///{home}/results"
            error = {
                "sqlite": r"OperationalError: \(sqlite3.OperationalError\) unable to open .*",
                "filesystem": r"FileNotFoundError: \[Errno 2\] No such file or directory: .*",
            }[name]
            yield Fragile(
                Place(name, url), lambda: home.rename(away), lambda: away.rename(home), error
            )
            return
        if name == "redis":
            redis = stack.enter_context(RedisServer(appendonly=True))
            error = rf"ConnectionError: Error 111 connecting to 127.0.0.1:{redis.port}\. .*"
            yield Fragile(Place(name, redis.url()), redis.stop, redis.start, error)
        elif name == "memcached":
            memcached = stack.enter_context(MemcachedServer())
            error = r"MemcacheUnexpectedCloseError|\w+Error: .*"
            yield Fragile(Place(name, memcached.url()), memcached.stop, memcached.start, error)
        elif name == "postgres":
            postgres = stack.enter_context(PostgresServer())
            url = postgres.url(scheme="db+postgresql+psycopg")
            error = r"OperationalError: \(psycopg.OperationalError\) connection failed: .*"
            yield Fragile(Place(name, url), postgres.stop, postgres.start, error)
        else:
            request.getfixturevalue("django_database")
            postgres = request.getfixturevalue("postgres_server")  # nobody else uses it

            place = Place(name, "django-db")

            def start() -> None:
                postgres.start()
                drop_connections(place)

            yield Fragile(place, postgres.stop, start, r"OperationalError: .*")


#: By default Celery tries to write to Redis for 20 s.
ONE_TRY = {"retry_policy": {"max_retries": 1, "interval_start": 0, "interval_max": 0.01}}


def test_an_outage_is_reported_and_passes(fragile: Fragile, run_id: str) -> None:
    store = fragile.place.open(result_backend_transport_options=ONE_TRY)
    store.put(run_id, KEY, "before", final=True)

    def check(call: Callable[[], object]) -> None:
        with pytest.raises(StoreUnavailable) as caught:
            call()
        error = caught.value
        assert re.fullmatch(fragile.error, error.reason)
        assert error.store == store.name
        assert str(error) == (
            f"{store.name} cannot be reached ({error.reason}). The run continues when it can be."
        )

    fragile.take_away()
    if fragile.place.name != "filesystem":  # to which a missing file is an unknown key
        check(lambda: store.get(run_id, KEY))
    check(lambda: store.put(run_id, ("other", 1), "the step's value", final=True))
    if store.supports_extend:
        check(lambda: store.extend(run_id, [KEY], DAY))

    fragile.bring_back()
    if fragile.place.name != "memcached":  # it keeps nothing over a restart
        assert store.get(run_id, KEY) == "before"
    store.put(run_id, KEY, "after", final=True)
    store.put(run_id, ("other", 1), "after", final=True)
    assert store.get(run_id, ("other", 1)) == "after"


@on("sqlite", "postgres", "django-db")
def test_no_message_quotes_the_value(place: Place, run_id: str) -> None:
    """SQL libraries put the parameters of a failing statement into their messages."""
    store = place.open()
    store.put(run_id, KEY, "before", final=False)
    drop_table(place)
    with pytest.raises(StoreUnavailable) as caught:
        store.put(run_id, ("other", 1), "the-secret", final=True)
    assert "the-secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def drop_table(place: Place) -> None:
    if place.name == "django-db":
        from django.db import connection

        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE django_celery_results_taskresult RENAME TO away")
        return
    from sqlalchemy import create_engine, text

    engine = create_engine(place.backend.removeprefix("db+"))
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE celery_taskmeta"))
    engine.dispose()


# --- Django --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def django_site(postgres_server: PostgresServer) -> None:
    """Configure Django for the rest of this process."""
    import django
    from django.conf import settings
    from django.core.management import call_command

    database = {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": "127.0.0.1",
        "NAME": "postgres",
        "PORT": postgres_server.port,
        "USER": "postgres",
    }
    settings.configure(
        DATABASES={"default": database},
        INSTALLED_APPS=["django_celery_results"],
        USE_TZ=True,
    )
    django.setup()
    call_command("migrate", verbosity=0)


@pytest.fixture
def django_database(django_site: None) -> Iterator[None]:
    """An empty table of results."""
    from django.db import connection

    yield
    with connection.cursor() as cursor:
        cursor.execute(
            "ALTER TABLE IF EXISTS away RENAME TO django_celery_results_taskresult;"
            "TRUNCATE django_celery_results_taskresult"
        )


@pytest.mark.skipif(bool(os.environ.get(DJANGO)), reason="this is the process it starts")
def test_django_db() -> None:
    """Run this file again, for the store on ``django-db``."""
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__],
        cwd=ROOT,
        env={**os.environ, DJANGO: "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
