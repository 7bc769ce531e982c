"""The site's own tests, on both kinds of databases; and `make example` as people run it."""

import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from example_project.tests.conftest import ROOT, Site, manage
from tests.processes import family_of, free_port, is_alive, wait_until


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_the_sites_own_tests(database: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = "" if database == "sqlite" else request.getfixturevalue("postgres_url")
    done = manage("test", "example_project.inbox", EXAMPLE_DIR=str(tmp_path), DATABASE_URL=url)
    assert done.returncode == 0, done.stderr
    found = re.search(r"^Ran (\d+) tests", done.stderr, re.MULTILINE)
    assert found, done.stderr
    assert int(found[1]) > 20


def test_its_migrations_are_complete(tmp_path: Path) -> None:
    done = manage("makemigrations", "--check", "--dry-run", EXAMPLE_DIR=str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "No changes detected\n"), done.stderr


def test_a_wrong_database_url(tmp_path: Path) -> None:
    done = manage("check", EXAMPLE_DIR=str(tmp_path), DATABASE_URL="mysql://localhost/example")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "DATABASE_URL begins with 'mysql' or names no database. Use "
        "postgres://user:password@host:port/name, or leave it out for SQLite."
    )


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        return str(response.read().decode())


def test_it_starts_its_own_servers_and_ends_them(start_site: Callable[..., Site]) -> None:
    site = start_site()
    assert "Redis, started for this: redis://127.0.0.1:" in site.log
    assert "PostgreSQL, started for this: postgres://127.0.0.1:" in site.log
    assert site.shared["REDIS_URL"] not in site.log  # it has a password
    assert "Nothing yet." in get(site.url)
    assert "color-scheme" in get(f"{site.url}/static/inbox/inbox.css")
    files, family = site.files, family_of(site.pid)
    assert len(family) >= 4
    site.stop()
    assert site.log.splitlines()[-1] == "All of it has ended."
    assert not files.exists()
    wait_until(lambda: not any(is_alive(pid) for pid in family))


def test_embedded_and_ctrl_c(start_site: Callable[..., Site]) -> None:
    import signal

    site = start_site("--embedded")
    assert re.search(r"broker, ledger +in the site's process\n +database +SQLite\n", site.log)
    assert len(family_of(site.pid)) == 1
    site.stop_signal = signal.SIGINT  # type: ignore[misc]
    site.stop()
    assert site.log.splitlines()[-1] == "All of it has ended."


def serve(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-m", "example_project.serve", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **env},
        check=False,
        timeout=60,
    )


def test_a_port_that_is_taken() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", free_port()))
        other.listen()
        port = other.getsockname()[1]
        done = serve("--embedded", "--port", str(port))
    assert done.returncode == 1
    assert f"make example: Port {port}: Address already in use." in done.stderr
    assert "EXAMPLE_PORT=" in done.stderr


def test_the_database_of_another_project(postgres_url: str) -> None:
    import psycopg

    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE auth_user (id int)")
    done = serve("--port", "0", DATABASE_URL=postgres_url, REDIS_URL="redis://127.0.0.1:1/0")
    assert done.returncode == 1
    assert "the tables of another project. Name an empty one." in done.stderr


def test_the_site_has_no_superuser_of_itself(tmp_path: Path) -> None:
    """Only `make example` makes one, in its own database."""
    users = "from django.contrib.auth.models import User; print(User.objects.count())"
    for arguments in (("migrate", "-v0"), ("shell", "-c", users)):
        done = manage(*arguments, EXAMPLE_DIR=str(tmp_path))
        assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "0"
