"""One server for all processes of a test run that xdist distributes.

The first process that needs it starts it, and ends when the others need it no more. Only for a
server on which each test has a place of its own, and which no test stops or reconfigures.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TypeVar

from tests.processes import Process

P = TypeVar("P", bound=Process)

_in_use = ExitStack()  # until all tests of this process are done


def shared(kind: type[P]) -> P:
    """Return the server of a kind that all processes of this run share."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is None:
        return _in_use.enter_context(kind())
    temporary = Path(tempfile.gettempdir())
    path = temporary / f"celery-fanout-{run}-{kind.name}"
    with (temporary / f"celery-fanout-starting-{os.getuid()}").open("w") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)
        while True:
            users = path.open("a+b")
            fcntl.flock(users, fcntl.LOCK_SH)  # held for as long as this process is one of them
            if os.fstat(users.fileno()).st_nlink:
                break
            users.close()  # whoever started it was just about to stop it
        _in_use.enter_context(users)
        users.seek(0)
        found = users.read()
        if found:
            server: P = pickle.loads(found)  # noqa: S301 - from another process of this run
        else:
            server = _start(kind, path, users)
        return server


def _start(kind: type[P], path: Path, users: IO[bytes]) -> P:
    server = kind().start()

    def stop() -> None:
        fcntl.flock(users, fcntl.LOCK_EX)  # when there is no other user
        path.unlink()
        server.close()

    _in_use.callback(stop)
    users.write(pickle.dumps(server))
    users.flush()
    return server


def release() -> None:
    """Let go of all of them; those that this process has started stop when others let go too."""
    _in_use.close()
