"""`make example`: the example site, with all that it needs, until Ctrl-C.

    python -m example_project.serve [--port 8000] [--embedded]

Redis and PostgreSQL are those of REDIS_URL and DATABASE_URL; or private ones, which are started
here if their programs are there; or, with `--embedded`, none. Without Redis the worker, the broker
and the ledger are in this process. Without PostgreSQL the database is a file of SQLite.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import os
import secrets
import shlex
import signal
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from example_project.servers import Program, start_postgres, start_redis

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: What another terminal needs to work with the same servers.
SHARED = (
    "DATABASE_URL",
    "DJANGO_SETTINGS_MODULE",
    "EXAMPLE_DIR",
    "EXAMPLE_SECRET_KEY",
    "EXAMPLE_URL",
    "EXAMPLE_WEBHOOK_SECRET",
    "REDIS_URL",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make example", description="The example site.")
    parser.add_argument(
        "--port",
        type=int,
        default=int(os.environ.get("EXAMPLE_PORT") or 8000),
        help="where the site listens on this machine; 0: anywhere (EXAMPLE_PORT, or 8000)",
    )
    parser.add_argument(
        "--embedded",
        action="store_true",
        help="no servers: SQLite, and worker, broker and ledger in the site's process",
    )
    options = parser.parse_args()
    if importlib.util.find_spec("django") is None:
        parser.error(
            "Django is missing. Run `make example`, or: pip install 'celery-fanout[django]'"
        )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    with ExitStack() as stack:
        try:
            return run(stack, options.port, embedded=options.embedded)
        except KeyboardInterrupt:
            return 0
        except RuntimeError as exc:
            print(f"make example: {exc}", file=sys.stderr)
            return 1
        finally:
            print("\nStopping …", flush=True)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            stack.close()
            print("All of it has ended.", flush=True)


def run(stack: ExitStack, port: int, *, embedded: bool) -> int:
    """Start everything, and wait."""
    directory = Path(
        stack.enter_context(tempfile.TemporaryDirectory(prefix="celery-fanout-example-"))
    )
    where = start_servers(stack, directory, embedded=embedded)
    os.environ["DJANGO_SETTINGS_MODULE"] = "example_project.website.settings"
    os.environ["EXAMPLE_DIR"] = str(directory)
    os.environ.setdefault("EXAMPLE_SECRET_KEY", secrets.token_urlsafe(40))
    secret = base64.b64encode(secrets.token_bytes(24)).decode()
    os.environ.setdefault("EXAMPLE_WEBHOOK_SECRET", f"whsec_{secret}")

    import django

    django.setup()
    login = prepare_database()
    server = open_port(stack, port)
    url = f"http://127.0.0.1:{server.server_port}/"
    os.environ["EXAMPLE_URL"] = url
    file = directory / "environment"
    lines = [
        f"export {name}={shlex.quote(os.environ[name])}" for name in SHARED if os.environ.get(name)
    ]
    file.write_text("\n".join(lines) + "\n")
    file.chmod(0o600)
    programs: list[Program] = []
    if os.environ.get("REDIS_URL"):
        where["worker"] = "a process of its own"
        celery = [sys.executable, "-m", "celery", "-A", "example_project.website"]
        worker = [*celery, "worker", "--concurrency", "4", "--loglevel", "INFO"]
        worker += ["--without-gossip", "--without-mingle"]  # it is alone
        programs.append(start(stack, "worker", worker, directory))
        where["relay"] = start_relay(stack, programs, directory)
    else:
        where["worker"] = "a thread pool in the site's process"
    threading.Thread(target=server.serve_forever, name="site", daemon=True).start()
    if not programs:
        return work_here(directory, lambda: say(url, login, where, directory))
    say(url, login, where, directory)
    while True:
        for each in programs:
            each.check()
        time.sleep(0.5)


# -- servers -----------------------------------------------------------------------------------


def start_servers(stack: ExitStack, directory: Path, *, embedded: bool) -> dict[str, str]:
    """Start what is neither given nor missing, and say what is where."""
    starters: Mapping[str, Any] = {
        "REDIS_URL": ("broker, ledger", start_redis, "in the site's process"),
        "DATABASE_URL": ("database", start_postgres, "SQLite"),
    }
    found: dict[str, str] = {}
    for variable, (what, begin, without) in starters.items():
        if embedded:
            os.environ.pop(variable, None)
        if os.environ.get(variable):
            found[what] = f"{shown(os.environ[variable])}, from {variable}"
            continue
        started = None if embedded else begin(directory)
        if started is None:
            found[what] = without
            continue
        program, os.environ[variable] = started
        # "fast": PostgreSQL would wait for everybody to leave
        stack.callback(program.stop, signal.SIGINT)
        found[what] = f"{program.name}, started for this: {shown(os.environ[variable])}"
    return found


def shown(url: str) -> str:
    """Return a URL without its password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or ''}{parts.path}"


def start(stack: ExitStack, name: str, command: list[str], directory: Path) -> Program:
    program = Program(name, command, directory / f"{name}.log")
    stack.callback(program.stop)
    return program


def start_relay(stack: ExitStack, programs: list[Program], directory: Path) -> str:
    command = [sys.executable, "-m", "example_project.manage", "fanout_relay"]
    if not os.environ.get("DATABASE_URL"):
        command.append("--single")  # SQLite does not let relays share an outbox
    programs.append(start(stack, "relay", command, directory))
    return "a process of its own"


# -- the database --------------------------------------------------------------------------------


def prepare_database() -> str:
    """Make the tables and somebody who may see everything; say who that is."""
    from django.contrib.auth import get_user_model
    from django.core.management import call_command
    from django.db import connection

    tables = connection.introspection.table_names()
    if tables and "inbox_document" not in tables:
        # this makes a superuser, which no other project should get
        raise RuntimeError(
            "DATABASE_URL names a database with the tables of another project. Name an empty one."
        )
    call_command("migrate", verbosity=0, interactive=False)
    users: Any = get_user_model().objects
    if users.filter(username="admin").exists():
        return "user admin, with the password it had"
    password = secrets.token_urlsafe(9)
    users.create_superuser("admin", password=password)
    return f"user admin, password {password}"


# -- the site -----------------------------------------------------------------------------------


def open_port(stack: ExitStack, port: int) -> Any:
    """Return Django's development server, with static files, listening."""
    from django.contrib.staticfiles.handlers import StaticFilesHandler
    from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler

    from example_project.website.wsgi import application

    try:
        server = ThreadedWSGIServer(("127.0.0.1", port), WSGIRequestHandler)
    except OSError as exc:
        raise RuntimeError(
            f"Port {port}: {exc.strerror}. Choose another: EXAMPLE_PORT=8001"
        ) from exc
    stack.callback(server.server_close)
    server.set_app(StaticFilesHandler(application))
    return server


def work_here(directory: Path, say: Callable[[], None]) -> int:
    """Be the worker, in the main thread, where Celery looks after Ctrl-C.

    Args:
        directory: for its log.
        say: what to do once it does.
    """
    from celery.signals import worker_ready

    from example_project.website import celery_app

    def ready(**_: object) -> None:
        say()

    worker_ready.connect(ready, weak=False)
    log = str(directory / "worker.log")
    options = {"loglevel": "INFO", "logfile": log, "redirect_stdouts": False, "quiet": True}
    celery_app.Worker(pool="threads", concurrency=6, **options).start()
    return 0


def say(url: str, login: str, where: Mapping[str, str], directory: Path) -> None:
    print(f"\nThe example is at  {url}\n")
    print(f"  {'admin':<16}{url}admin/  {login}")
    for what, how in {"site": "Django's development server", **where}.items():
        print(f"  {what:<16}{how}")
    print(f"  {'files':<16}{directory}, removed at the end")
    print("\nIn another terminal, for example:\n")
    print(f"  . {directory}/environment")
    print("  .venv/bin/python -m example_project.manage send_document README.md")
    if os.environ.get("REDIS_URL"):
        print("  .venv/bin/celery -A example_project.website fanout runs")
    print("\nStop all of it with Ctrl-C.\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
