"""Emitting from forked processes, from threads and from greenlets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_fanout import emit
from celery_fanout.app.fanout import get_fanout
from tests.integration.publishing import amqp_wire, make_app, order_paid, redis_wire, subscribe
from tests.servers import ROOT, RedisServer

pytestmark = [
    pytest.mark.matrix,
    # Python 3.12 warns of what these tests do on purpose
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]

Take = Callable[[int], list[dict[str, Any]]]


@pytest.fixture(params=["redis", "rabbitmq", "rabbitmq with confirms"])
def site(request: pytest.FixtureRequest, redis_server: RedisServer) -> tuple[Celery, Take]:
    """An app with two subscribers, and a function that takes messages from its broker."""
    confirms = request.param.endswith("confirms")
    url = request.getfixturevalue("redis_url" if request.param == "redis" else "rabbit_url")
    options = {"confirm_publish": True} if confirms else {}
    app = make_app(url, broker_transport_options=options, fanout_publish_timeout=20)
    subscribe(app, "shop.mail")
    subscribe(app, "shop.ship")

    def take(count: int) -> list[dict[str, Any]]:
        if request.param != "redis":
            return amqp_wire(app, count)
        with redis_server.client() as client:
            return redis_wire(client)

    return app, take


def in_a_fork(call: Callable[[], Any]) -> None:
    """Call a function in a forked process, which must end well."""
    pid = os.fork()
    if not pid:
        try:
            call()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - nothing of the test run may go on in here
            traceback.print_exc()
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


def ids(messages: list[dict[str, Any]]) -> list[str]:
    return sorted(message["headers"]["ce_id"] for message in messages)


def test_a_fork_has_connections_of_its_own(site: tuple[Celery, Take]) -> None:
    app, take = site

    def child() -> None:
        emit(order_paid(id="child"), app=app)
        in_a_fork(lambda: emit(order_paid(id="grandchild"), app=app))
        emit(order_paid(id="child again"), app=app)

    emit(order_paid(id="parent"), app=app)
    in_a_fork(child)
    emit(order_paid(id="parent again"), app=app)

    assert ids(take(10)) == sorted(
        ["parent", "child", "grandchild", "child again", "parent again"] * 2
    )


def test_a_fork_while_another_thread_emits(site: tuple[Celery, Take]) -> None:
    app, take = site
    emit(order_paid(id="first"), app=app)
    [connections] = get_fanout(app).publisher._producers._processes.values()

    taken = [connections.free.acquire(timeout=10) for _ in range(10)]  # all are in use
    assert all(taken)
    in_a_fork(lambda: emit(order_paid(id="child"), app=app))

    assert ids(take(4)) == ["child", "child", "first", "first"]


def test_eight_threads(site: tuple[Celery, Take]) -> None:
    app, take = site
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for event in range(200):
                emit(order_paid(id=f"{number}-{event}"), app=app)
        except BaseException as exc:  # noqa: BLE001 - the test looks at it
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    expected = [f"{number}-{event}" for number in range(8) for event in range(200)]
    assert ids(take(3200)) == sorted(expected * 2)
    [connections] = get_fanout(app).publisher._producers._processes.values()
    assert len(connections.idle) <= 8


GREENLETS = """
from gevent import monkey
monkey.patch_all()
import sys
import gevent
from celery_fanout import EmitError, emit
from tests.integration.publishing import make_app, order_paid, subscribe

def site(url):
    app = make_app(url, fanout_publish_timeout=float(sys.argv[2]))
    subscribe(app, "shop.mail")
    subscribe(app, "shop.ship")
    return app

def work(app, number):
    for event in range(10):
        try:
            emit(order_paid(id=f"{number}-{event}"), app=app)
        except EmitError as exc:
            return exc.reason

app = site(sys.argv[1])
greenlets = [gevent.spawn(work, app, number) for number in range(int(sys.argv[3]))]
gevent.joinall(greenlets, raise_error=True)
print({greenlet.value for greenlet in greenlets})
"""


def greenlets(tmp_path: Path, url: str, timeout: float, count: int) -> str:
    """Let greenlets of another process emit ten events each, and return what went wrong."""
    pytest.importorskip("gevent")
    script = tmp_path / "greenlets.py"
    script.write_text(textwrap.dedent(GREENLETS))
    ended = subprocess.run(
        [sys.executable, script, url, str(timeout), str(count)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_greenlets(site: tuple[Celery, Take], tmp_path: Path) -> None:
    app, take = site

    assert greenlets(tmp_path, app.conf.broker_url, 20, 30) == "{None}"

    expected = [f"{number}-{event}" for number in range(30) for event in range(10)]
    assert ids(take(600)) == sorted(expected * 2)


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_greenlets_and_a_broker_that_never_answers(scheme: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"{scheme}://127.0.0.1:{server.getsockname()[1]}//"

        reasons = greenlets(tmp_path, url, 0.6, 3)

    assert "Error" in reasons
    assert "None" not in reasons


@pytest.mark.parametrize("level", [1, 2])
def test_the_first_emit_of_a_process_may_be_at_its_exit(redis_url: str, level: int) -> None:
    """Threads cannot be prepared any more then, which libraries do as they are imported."""
    text = f"""
        import atexit
        from celery import Celery
        from celery_fanout import emit, on_event

        options = {{}} if {level} == 2 else {{"fanout_store_url": "backend"}}
        app = Celery("shop", broker={redis_url!r}, backend={redis_url!r}, **options)

        @on_event("order/paid")
        @app.task
        def mail(order):
            pass

        atexit.register(lambda: print("published", len(emit("order/paid", {{}}).runs)))
    """
    command = [sys.executable, "-c", textwrap.dedent(text)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("published 1\n", "")
