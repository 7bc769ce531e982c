"""``make soak``: a constant load for long, with kills and restarts at random. Does anything grow?

``SOAK_MINUTES`` (20) and ``SOAK_RATE`` (20 events a second) say how long and how much,
``FAULT_SEED`` repeats what broke when. A table of what there was, minute by minute, is printed and
written to ``SOAK_FILE`` (``soak.txt``). Keys without an expiry, the memory and the file descriptors
of a worker that is never killed and of the process that emits may not grow from the second quarter
to the last; and at the end, when all has come to rest, the invariants hold.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

from celery_fanout.exceptions import EmitError
from celery_fanout.stores.states import FINAL, RunState
from tests.faults.conftest import SEED, FastWorker, Jobs
from tests.faults.ending import ended_or_killed
from tests.faults.invariants import check_invariants
from tests.processes import dismiss_guardian, family_of, wait_until
from tests.servers import ROOT, Oracle, RedisServer, Worker

#: Events, and how many of ten they are.
MIX = (
    *(("job/steps", {}),) * 5,
    *(("job/tail", {}),) * 2,
    *(("job/nap", {"seconds": 3}),) * 2,
    ("job/chatty", {}),
)

#: How often something breaks, in seconds.
EVERY = 10.0


@dataclass
class Sample:
    """One line of the table."""

    minute: float
    emitted: int
    ended: int
    open: int
    broken: int
    keys: int
    lasting: int
    redis_mib: float
    worker_mib: float
    worker_fds: int
    emitter_mib: float
    emitter_fds: int


#: What may not grow: by how much of itself, and by how much in all cases.
BOUNDS = {
    "lasting": (0.2, 60),
    "worker_mib": (0.1, 10),
    "worker_fds": (0.0, 6),
    "emitter_mib": (0.1, 10),
    "emitter_fds": (0.0, 6),
}


class Soak:
    """The load, what breaks it, and what is measured meanwhile."""

    def __init__(self, jobs: Jobs, minutes: float, rate: float, file: Path) -> None:
        self.jobs = jobs
        self.seconds = minutes * 60
        self.rate = rate
        self.file = file
        self.chance = random.Random(SEED)
        self.samples: list[Sample] = []
        self.emitted = self.broken = 0
        self.begun = time.monotonic()
        self.steady = jobs.worker(concurrency=2, JOBS_COLLECT="1")  # never killed, and measured
        self.victims = [jobs.worker(concurrency=2) for _ in range(2)]
        self.again: list[tuple[str, Any, str]] = []  # emit() raised: once more, with the same id

    def run(self) -> bool:
        """Do it; return whether nothing grew."""
        self.say(" ".join(f"{field.name:>11}" for field in fields(Sample)))
        every = max(self.seconds / 20, 3.0)
        next_break, next_sample = EVERY, every
        while (now := time.monotonic() - self.begun) < self.seconds:
            if self.emitted < now * self.rate:
                self.emit()
            elif now > next_break:
                self.breaks()
                next_break += EVERY
            elif now > next_sample:
                self.sample()
                next_sample += every
            else:
                due = min((self.emitted + 1) / self.rate, next_break, next_sample)
                wait_until(lambda due=due: time.monotonic() - self.begun >= due)
            self.jobs.revive()
        while self.again:
            self.repeat()
        return self.verdict()

    def emit(self) -> None:
        """Emit one event."""
        name, data = self.chance.choice(MIX)
        event_id = f"soak-{self.emitted}"
        self.emitted += 1
        try:
            self.jobs.emit(name, data, id=event_id)
        except EmitError:
            self.again.append((name, data, event_id))
        if self.again:
            self.repeat()

    def repeat(self) -> None:
        """Emit one of those again that raised."""
        name, data, event_id = self.again.pop()
        try:
            self.jobs.emit(name, data, id=event_id)
        except EmitError:
            self.again.append((name, data, event_id))

    def breaks(self) -> None:
        """Break something."""
        self.broken += 1
        victim = self.chance.choice(self.victims)
        what: list[Callable[[Worker], None]] = [
            self.kill_worker,
            self.kill_child,
            self.kill_child,
            self.stop_warm,
            self.stop_cold,
        ]
        if self.broken % 6 == 0:
            self.jobs.store.kill_and_restart()
        else:
            self.chance.choice(what)(victim)

    def kill_worker(self, victim: Worker) -> None:
        victim.kill()
        victim.start()

    def kill_child(self, victim: Worker) -> None:
        children = victim.children()
        if children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.chance.choice(children), signal.SIGKILL)

    def stop_warm(self, victim: Worker) -> None:
        victim.restart()

    def stop_cold(self, victim: Worker) -> None:
        os.kill(victim.pid, signal.SIGQUIT)
        ended_or_killed(victim)
        victim.start()

    # -- what there is --------------------------------------------------------------------------

    def sample(self) -> None:
        """Measure, and add a line to the table."""
        counts = self.jobs.ledger.counts()
        with self.jobs.store.client() as client:
            space: dict[str, Any] = client.info("keyspace")["db0"]
            used = client.info("memory")["used_memory"] / 2**20
        family = family_of(self.steady.pid)
        found = Sample(
            minute=round((time.monotonic() - self.begun) / 60, 1),
            emitted=self.emitted,
            ended=sum(counts[state] for state in FINAL),
            open=sum(count for state, count in counts.items() if state not in FINAL),
            broken=self.broken,
            keys=space["keys"],
            lasting=space["keys"] - space["expires"] - _of_open_runs(self.jobs),
            redis_mib=round(used, 1),
            worker_mib=round(sum(map(memory, family)), 1),
            worker_fds=sum(map(descriptors, family)),
            emitter_mib=round(memory(os.getpid()), 1),
            emitter_fds=descriptors(os.getpid()),
        )
        self.samples.append(found)
        self.say(" ".join(f"{value:>11}" for value in astuple(found)))

    def say(self, line: str) -> None:
        """Print a line, and write it to the file."""
        print(line, flush=True)  # noqa: T201 - a table for people
        with self.file.open("a") as table:
            table.write(f"{line}\n")

    def verdict(self) -> bool:
        """Say whether anything grew from the second quarter to the last."""
        quarter = max(len(self.samples) // 4, 1)
        early, late = self.samples[quarter : 2 * quarter], self.samples[-quarter:]
        fine = True
        for name, (share, amount) in BOUNDS.items():
            was = median(getattr(sample, name) for sample in early)
            now = median(getattr(sample, name) for sample in late)
            grew = now > was * (1 + share) + amount
            fine = fine and not grew
            self.say(f"{name}: {was:g} -> {now:g}{'  IT GREW' if grew else ''}")
        return fine


def _of_open_runs(jobs: Jobs) -> int:
    """Return how many keys need no expiry because their runs are open: record, detail, event."""
    return 3 * sum(count for state, count in jobs.ledger.counts().items() if state not in FINAL)


def memory(pid: int) -> float:
    """Return the memory of a process, in MiB."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    return 0.0


def descriptors(pid: int) -> int:
    """Return how many file descriptors a process has open."""
    with contextlib.suppress(OSError):
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return 0


@contextlib.contextmanager
def started() -> Iterator[tuple[Jobs, ExitStack]]:
    """Give the jobs, whose workers end with it."""
    with ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fanout-soak-")))
        store = stack.enter_context(RedisServer(appendonly=True))

        def start(app: str, *, fast: bool, **options: Any) -> Worker:
            worker = (FastWorker if fast else Worker)(app, **options)
            stack.callback(worker.close)
            stack.callback(worker.kill)
            return worker.start()

        jobs = Jobs(store, store.url(1), Oracle(path / "oracle.jsonl"), path, start)
        jobs.conf.update(fanout_max_crashes=1_000)
        yield jobs, stack
        jobs.app.close()


def told(jobs: Jobs) -> int:
    """Return how many runs the command line says have succeeded."""
    command = [sys.executable, "-m", "celery", "--app", "tests.faults.jobs", "fanout", "runs"]
    env = {**os.environ, **jobs.environment(), "PYTHONPATH": str(ROOT)}
    answer = subprocess.run([*command], env=env, check=True, capture_output=True, text=True)
    found = re.search(r"([\d,]+) succeeded", answer.stdout + answer.stderr)
    assert found is not None, answer
    return int(found[1].replace(",", ""))


def main() -> int:
    minutes = float(os.environ.get("SOAK_MINUTES") or 20)
    rate = float(os.environ.get("SOAK_RATE") or 20)
    file = Path(os.environ.get("SOAK_FILE") or "soak.txt")
    file.write_text("")
    with started() as (jobs, _):
        soak = Soak(jobs, minutes, rate, file)
        soak.say(f"FAULT_SEED={SEED}: {minutes:g} minutes, {rate:g} events a second")
        fine = soak.run()
        counts = check_invariants(jobs, timeout=300, attempts=200, revive=True)
        soak.say(f"at rest: { {state.value: count for state, count in counts.items()} }")
        soak.say(f"workers that had ended by themselves: {jobs.revived}")
        for run in jobs.ledger.runs(state=RunState.FAILED):
            soak.say(f"failed: {run.subscription} {run.reason} {run.detail['error']}")
        assert counts.keys() == {RunState.SUCCEEDED}
        assert told(jobs) == counts[RunState.SUCCEEDED]
        assert soak.steady.alive
    dismiss_guardian()
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
