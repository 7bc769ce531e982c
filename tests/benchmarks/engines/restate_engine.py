"""Restate, a server that keeps a journal of each invocation."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.engines.engine import Engine, Program, Unavailable, document, need
from tests.processes import Process, free_port, is_listening, wait_until

#: The package on npm that has nothing in it but the server.
PACKAGE, VERSION = "@restatedev/restate-server-linux-x64", "1.7.12"


def program() -> Path:
    """Return the server's program; install it beside the Python packages at first.

    Raises:
        Unavailable: if it cannot be.
    """
    folder = Path(sys.prefix, "restate")
    found = folder / "node_modules" / PACKAGE / "bin" / "restate-server"
    if found.exists():
        return found
    if shutil.which("npm") is None:
        raise Unavailable("its server comes from npm, which is not installed: apt-get install npm")
    folder.mkdir(exist_ok=True)
    command = ["npm", "install", "--no-audit", "--no-fund", f"{PACKAGE}@{VERSION}"]
    try:
        ended = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=300
        )
    except subprocess.TimeoutExpired:
        raise Unavailable("npm did not install its server within five minutes") from None
    if ended.returncode or not found.exists():
        raise Unavailable(f"npm did not install its server: {ended.stderr.strip()[-300:]}")
    return found


class RestateServer(Process):
    """One node, with its defaults."""

    name = "restate"

    def __init__(self) -> None:
        super().__init__()
        self.ingress, self.admin, self._node = free_port(), free_port(), free_port()

    def command(self) -> Sequence[str | Path]:
        return [program(), "--base-dir", self.directory / "data", "--no-logo"]

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{self.admin}",
            "RESTATE_BIND_ADDRESS": f"127.0.0.1:{self._node}",
            "RESTATE_ADVERTISED_ADDRESS": f"http://127.0.0.1:{self._node}/",
            "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{self.ingress}",
            "RESTATE_LISTEN_MODE": "tcp",
            "RESTATE_DISABLE_TELEMETRY": "true",
            "RESTATE_LOG_DISABLE_ANSI_CODES": "true",
        }

    def is_ready(self) -> bool:
        return is_listening(self.ingress) and is_listening(self.admin)


class Restate(Engine):
    """One worker process, which keeps a stream open for each invocation."""

    name = "Restate"

    def __init__(self, records: Path) -> None:
        super().__init__(records)
        self._server = RestateServer()
        self._port = free_port()
        self._http: Any = None
        self.servers = [self._server]
        self.workers = [
            Program(
                [
                    *("-m", "hypercorn", "tests.benchmarks.engines.restate_app:app"),
                    *("--bind", f"127.0.0.1:{self._port}"),
                ],
                "Running on",
                self.environment,
            )
        ]

    @classmethod
    def versions(cls) -> str:
        found = need("restate-sdk", "hypercorn")
        program()
        return f"server {VERSION}, {found}"

    def connect(self) -> Callable[[], object]:
        registered = {"uri": f"http://127.0.0.1:{self._port}"}
        admin = http.client.HTTPConnection("127.0.0.1", self._server.admin)

        def is_registered() -> bool:
            status, _ = _post(admin, "/deployments", registered)
            return 200 <= status < 300

        wait_until(is_registered, 30, lambda: self._server.log[-3000:])
        admin.close()
        self._http = http.client.HTTPConnection("127.0.0.1", self._server.ingress)
        return self._http.close

    def emit(self, steps: int, number: int) -> None:
        event = {"steps": steps, "data": document(number)}
        status, text = _post(self._http, "/Events/emit/send", event)  # accepted, as an emit is
        assert 200 <= status < 300, text


def _post(connection: http.client.HTTPConnection, path: str, body: Any) -> tuple[int, str]:
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()
