"""The app of ``jobs.py``, its workers and producers, and what to ask after a fault."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from celery_fanout import Emission, get_fanout
from celery_fanout.stores.ledger import Ledger, RunRecord
from celery_fanout.stores.states import RunState
from tests.faults.invariants import History, check_history, wait_for_rest
from tests.faults.jobs import make_app
from tests.faults.producer import emit_and_note
from tests.leaks import check_ledger
from tests.processes import wait_until
from tests.servers import ROOT, Oracle, Worker

__all__ = ["LEASE", "Faults"]

#: Short, so that what a lease has to see to happens soon.
LEASE = 2.0


@dataclass
class Faults:
    """Everything of one fault test.

    Attributes:
        broker: URL of the broker, as the test reaches it.
        store: URL of the ledger, likewise.
        oracle: what the tasks write down.
        directory: for gates and failpoints.
        start_worker: the fixture.
        rng: where chance comes from.
        conf: settings of the app. The visibility timeout of the broker is left as it is, an hour:
            what comes back sooner, the ledger has brought back.
    """

    broker: str
    store: str
    oracle: Oracle
    directory: Path
    start_worker: Callable[..., Worker]
    rng: random.Random
    conf: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.conf = {"fanout_lease": LEASE, "worker_prefetch_multiplier": 1, **self.conf}
        self._apps: list[Any] = []
        self._stack = ExitStack()

    # -- processes ------------------------------------------------------------------------------

    def environment(
        self,
        *,
        broker: str | None = None,
        store: str | None = None,
        failpoints: str = "",
        conf: Mapping[str, Any] | None = None,
    ) -> dict[str, str]:
        """Return what a process of the app finds in its environment."""
        return {
            **self.oracle.environment,
            "FAULTS_BROKER": broker or self.broker,
            "FAULTS_STORE": store or self.store,
            "FAULTS_CONF": json.dumps({**self.conf, **(conf or {})}),
            "FAULTS_GATES": str(self.directory),
            "CELERY_FANOUT_FAILPOINTS": failpoints,
            "CELERY_FANOUT_FAILPOINT_DIR": str(self._failpoints()),
            "CELERY_FANOUT_FAILPOINT_FILE": str(self.directory / "hang"),
        }

    def _failpoints(self) -> Path:
        path = self.directory / "failpoints"
        path.mkdir(exist_ok=True)
        return path

    def worker(
        self,
        pool: str = "prefork",
        *,
        concurrency: int = 2,
        args: Sequence[str] = (),
        **environment: Any,
    ) -> Worker:
        """Start a worker.

        Args:
            pool: its pool.
            concurrency: how many runs it executes at once.
            args: further arguments.
            environment: broker, store, failpoints and conf where they are others.
        """
        return self.start_worker(
            "tests.faults.jobs",
            pool=pool,
            concurrency=concurrency,
            args=["--without-mingle", "--without-gossip", *args],  # which take a second
            env=self.environment(**environment),
        )

    def producer(
        self, name: str, count: int = 1, data: Any = None, **environment: Any
    ) -> subprocess.Popen[bytes]:
        """Start a process that emits events and ends."""
        command = [sys.executable, "-m", "tests.faults.producer"]
        process = subprocess.Popen(
            [*command, f"fault/{name}", str(count), json.dumps(data or {})],
            env={**os.environ, "PYTHONPATH": str(ROOT), **self.environment(**environment)},
            start_new_session=True,
        )
        self._stack.callback(_end, process)
        return process

    def passed(self, failpoint: str) -> int:
        """Return how often a failpoint that was set has been passed."""
        path = self._failpoints() / failpoint
        return path.stat().st_size if path.exists() else 0

    # -- emitting -------------------------------------------------------------------------------

    @property
    def app(self) -> Any:
        """The app in the test's own process."""
        if not self._apps:
            self._apps.append(make_app(self.broker, self.store, self.conf))
        return self._apps[0]

    def emit(self, name: str, data: Any = None, **options: Any) -> Emission:
        """Emit an event, which must be accepted."""
        found = self.try_emit(name, data, **options)
        assert isinstance(found, Emission), found
        return found

    def try_emit(self, name: str, data: Any = None, **options: Any) -> Emission | Exception:
        """Emit an event; return what ``emit`` returned or raised."""
        found = emit_and_note(self.app, self.oracle, f"fault/{name}", data or {}, **options)
        assert isinstance(found, (Emission, Exception))
        return found

    # -- what became of it ----------------------------------------------------------------------

    @property
    def ledger(self) -> Ledger:
        """The ledger."""
        return get_fanout(self.app).ledger

    def open(self, gate: str) -> None:
        """Let go on who waits for it; ``hang`` is that of the failpoint."""
        (self.directory / gate).touch()

    def records(self, what: str, **more: Any) -> list[dict[str, Any]]:
        """Return what was written down about something."""
        wanted = {"what": what, **more}
        return [record for record in self.oracle.read() if wanted.items() <= record.items()]

    def wait_for(self, what: str, count: int = 1, timeout: float = 60, **more: Any) -> None:
        """Wait until something was written down so many times."""
        wait_until(
            lambda: len(self.records(what, **more)) >= count,
            timeout,
            lambda: f"{what} {more}: {len(self.records(what, **more))} of {count}",
        )

    def counts(self) -> dict[str, int]:
        """Return how often each step was executed: ``{"s0": 1}``."""
        return dict(Counter(record["step"] for record in self.records("step")))

    def run(self, run_id: str) -> RunRecord:
        """Return a run, with its detail."""
        run = self.ledger.run(run_id)
        assert run is not None, f"run {run_id} is gone"
        return run

    def states(self) -> dict[str, int]:
        """Return how many runs there are in each state that has any."""
        return {str(state): n for state, n in self.ledger.counts().items() if n}

    def check(self, timeout: float = 60, *, zombies: bool = False) -> History:
        """Wait until everything is at rest, and check all invariants."""
        wait_for_rest(self.ledger, timeout)
        history = check_history(self.oracle.read(), self.ledger, zombies=zombies)
        ledger: Any = self.ledger
        check_ledger(ledger.client)
        return history

    def check_succeeded(self, timeout: float = 60, *, zombies: bool = False) -> History:
        """Do the same, and see that every run has succeeded."""
        history = self.check(timeout, zombies=zombies)
        assert set(self.states()) == {RunState.SUCCEEDED.value}
        return history

    # -- its end --------------------------------------------------------------------------------

    def close(self) -> None:
        """End what was started here."""
        self._stack.close()
        for app in self._apps:
            ledger: Any = get_fanout(app).ledger
            ledger.client.close()
            app.close()
        self._apps.clear()
        gc.collect()


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
