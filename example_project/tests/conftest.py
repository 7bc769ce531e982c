"""What the example's tests share: the servers of the project's tests, the site, and a browser."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.conftest import postgres_url, redis_server, redis_url, shared_postgres_server
from tests.processes import Process, free_port
from tests.servers import program

__all__ = ["postgres_url", "redis_server", "redis_url", "shared_postgres_server"]

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = [
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def manage(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run one of Django's commands."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "example_project.manage", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **env},
        check=False,
        timeout=110,
    )


class Site(Process):
    """`make example`, without make."""

    name = "example"
    stop_signal = Process.stop_signal  # SIGTERM; a test of its own presses Ctrl-C

    def __init__(self, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._arguments = arguments
        self._env = dict(env or {})

    def command(self) -> list[str]:
        return [sys.executable, "-m", "example_project.serve", *self._arguments]

    def environment(self) -> dict[str, str]:
        inherited = {
            key: value
            for key, value in os.environ.items()
            if key not in ("REDIS_URL", "DATABASE_URL")
        }
        return {
            **inherited,
            "EXAMPLE_MODEL_SECONDS": "0.2",
            "EXAMPLE_PORT": str(self.port),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(self.directory),
            **self._env,
        }

    def is_ready(self) -> bool:
        return "Stop all of it with Ctrl-C." in self.log

    @property
    def files(self) -> Path:
        """The directory of its files."""
        (found,) = re.findall(r"^  files +(\S+),", self.log, re.MULTILINE)
        return Path(found)

    @property
    def shared(self) -> dict[str, str]:
        """The environment for another terminal."""
        lines = (self.files / "environment").read_text().splitlines()
        pairs = (line.removeprefix("export ").split("=", 1) for line in lines)
        return {name: value.strip("'") for name, value in pairs}

    @property
    def password(self) -> str:
        """The superuser's."""
        (found,) = re.findall(r"user admin, password (\S+)", self.log)
        return str(found)


def _start(stack: ExitStack, *arguments: str, **options: Any) -> Site:
    site = Site(*arguments, **options)
    site.directory.chmod(0o711)  # PostgreSQL, as its own user, passes through
    return stack.enter_context(site)


@pytest.fixture
def start_site() -> Iterator[Callable[..., Site]]:
    """A function like `Site`, whose sites end with the test."""
    with ExitStack() as stack:
        yield functools.partial(_start, stack)


@pytest.fixture(scope="module")
def start_sites() -> Iterator[Callable[..., Site]]:
    """The same, for all tests of a module."""
    with ExitStack() as stack:
        yield functools.partial(_start, stack)


@pytest.fixture(scope="module")  # Playwright's event loop runs in this thread until its end
def chromium() -> Iterator[Browser]:
    """The system's Chromium, headless."""
    path = program("chromium", "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def new_page(chromium: Browser) -> Iterator[Callable[..., Page]]:
    """A function that opens a page for itself; a complaint of the browser fails the test."""
    complaints: list[str] = []
    with ExitStack() as stack:

        def open_page(**options: Any) -> Page:
            context = chromium.new_context(**options)
            stack.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(30_000)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on(
                "console",
                lambda said: (
                    complaints.append(said.text) if said.type in ("warning", "error") else None
                ),
            )
            return page

        yield open_page
    assert complaints == []
