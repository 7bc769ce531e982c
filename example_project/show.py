"""What the demo prints: events as they happen, a timeline, the results."""

from __future__ import annotations

import shutil
import textwrap
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from celery import signals as celery_signals

from celery_fanout import Run, run_of, signals

if TYPE_CHECKING:
    from pathlib import Path

SHORT = 16
MARK = {"done": "●", "failed": "✗", "cached": "○"}


@dataclass
class Attempt:
    """One execution of a body, for the timeline."""

    task: str
    number: int
    started: float
    ended: float = 0.0
    outcome: str = "done"


@dataclass
class Document:
    """What happened to one document."""

    name: str
    attempts: list[Attempt] = field(default_factory=list)


class Show:
    """Follows the signals of celery-fanout and prints them."""

    def __init__(self, files: list[Path]) -> None:
        self._names = max(len(self._short(file.name)) for file in files)
        self._files = files
        self._lock = threading.Lock()
        self._begun = time.monotonic()
        self._documents: dict[str, Document] = {}
        self._counts: Counter[str] = Counter()
        self._ended = threading.Semaphore(0)
        signals.run_started.connect(self._started, weak=False)
        signals.step_completed.connect(self._completed, weak=False)
        signals.run_succeeded.connect(self._succeeded, weak=False)
        signals.run_failed.connect(self._failed, weak=False)
        celery_signals.task_retry.connect(self._retried, weak=False)

    @staticmethod
    def _short(name: str) -> str:
        return name if len(name) <= SHORT else name[: SHORT - 1] + "…"

    def begin(self, broker: str) -> None:
        """Print what is about to happen."""
        print(f"Broker: {broker}. One worker, 6 threads. {len(self._files)} documents.")
        print("The model's first two classify calls for each document fail.\n")
        self._begun = time.monotonic()

    # -- live --------------------------------------------------------------------------------------

    def _now(self) -> float:
        return time.monotonic() - self._begun

    def _line(self, run: Run, text: str) -> None:
        name = self._short(run.event.data["name"]).ljust(self._names)
        task = run.task.rpartition(".")[2].ljust(16)
        print(f"{self._now():6.2f} s  {name}  {task}  {text}", flush=True)

    def _attempt(self, run: Run) -> Attempt:
        document = self._documents.setdefault(
            run.event.data["id"], Document(run.event.data["name"])
        )
        task = run.task.rpartition(".")[2]
        for attempt in document.attempts:
            if (attempt.task, attempt.number) == (task, run.attempt):
                return attempt
        document.attempts.append(Attempt(task, run.attempt, self._now()))
        return document.attempts[-1]

    def _started(self, run: Run, **_: Any) -> None:
        with self._lock:
            self._attempt(run)
            if run.attempt > 1:
                self._counts["retries"] += 1
                self._line(run, f"attempt {run.attempt}")

    def _completed(self, run: Run, step: str, *, cached: bool, **_: Any) -> None:
        with self._lock:
            self._counts["cached" if cached else "executed"] += 1
            mark = MARK["cached" if cached else "done"]
            how = "from its checkpoint" if cached else "done"
            self._line(run, f"{mark} {step:14} {how}")

    def _retried(self, request: Any, reason: Any, **_: Any) -> None:
        run = run_of(_Named(request.task), request)
        if run is None:
            return
        with self._lock:
            attempt = self._attempt(run)
            attempt.ended, attempt.outcome = self._now(), "failed"
            wait = f"{reason.when:g} s" if isinstance(reason.when, (int, float)) else reason.when
            self._line(run, f"{MARK['failed']} {type(reason.exc).__name__}: tries again in {wait}")

    def _succeeded(self, run: Run, **_: Any) -> None:
        with self._lock:
            self._attempt(run).ended = self._now()
            self._line(run, "succeeded")
        self._ended.release()

    def _failed(self, run: Run, exception: BaseException, **_: Any) -> None:
        with self._lock:
            attempt = self._attempt(run)
            attempt.ended, attempt.outcome = self._now(), "failed"
            self._line(run, f"{MARK['failed']} failed for good: {exception}")
        self._ended.release()

    def wait_for_the_end(self) -> None:
        """Wait until three runs and one tail per document were seen to end."""
        for _ in range(4 * len(self._files)):
            self._ended.acquire(timeout=10)

    # -- afterwards ----------------------------------------------------------------------------

    def timeline(self) -> None:
        """Print one row per subscriber and document; a bar is an attempt, dots are waiting."""
        width = max(30, min(70, shutil.get_terminal_size().columns - self._names - 24))
        end = max(a.ended for d in self._documents.values() for a in d.attempts)
        print(
            f"\nTimeline, {end:.1f} s  ({MARK['done']} attempt, {MARK['failed']} failed attempt)\n"
        )
        for document in self._documents.values():
            rows: dict[str, list[Attempt]] = {}
            for attempt in document.attempts:
                rows.setdefault(attempt.task, []).append(attempt)
            name = self._short(document.name)
            for task, attempts in rows.items():
                bar = [" "] * (width + 1)
                cells = [int(attempt.started / end * width) for attempt in attempts]
                for cell in range(cells[0], cells[-1]):
                    bar[cell] = "·"
                for cell, attempt in zip(cells, attempts, strict=True):
                    bar[cell] = MARK[attempt.outcome]
                print(f"{name:{self._names}}  {task:16}  {''.join(bar).rstrip()}")
                name = ""

    def results(self, emissions: list[Any], outcomes: list[list[Any]]) -> None:
        """Print what the subscribers found out."""
        print("\nResults")
        width = min(100, shutil.get_terminal_size().columns)
        for emission, found in zip(emissions, outcomes, strict=True):
            print(f"\n{emission.event.data['name']}")
            for outcome in found:
                task = outcome.run.subscription.task.name.rpartition(".")[2]
                text = f"  {task:16}  {_text(task, outcome)}"
                print(textwrap.fill(text, width, subsequent_indent=" " * 20))

    def summary(self, fetched: int, failed: int) -> None:
        """Print the figures that show what was not done twice."""
        count, documents = self._counts, len(self._files)
        print(
            f"\n{documents} event{'s' * (documents > 1)}, {3 * documents} runs, "
            f"{count['retries']} retries. "
            f"{count['executed']} steps executed, {count['cached']} read from their checkpoint. "
            f"{fetched} fetches: one per run, whatever failed later."
        )
        if failed:
            print(f"{failed} runs failed.")


class _Named:
    """As much of a task as :func:`run_of` asks for."""

    def __init__(self, name: str) -> None:
        self.name = name


def _text(task: str, outcome: Any) -> str:
    if not outcome.ok:
        return f"{MARK['failed']} {outcome.error}"
    value = outcome.value
    if task == "classify":
        return f"{value['category']} ({value['confidence']:.0%})"
    if task == "extract_entities":
        found = [f"{key}: {', '.join(items[:4])}" for key, items in value.items() if items]
        return "; ".join(found) or "nothing"
    return str(value)
