"""The invariants of DESIGN section 10, checked after a fault against what the tasks wrote down.

The oracle's file is in the order in which things happened, whatever process they happened in.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from celery_fanout.ids import event_key
from celery_fanout.stores import Checkpoint, field_of
from celery_fanout.stores.ledger import Ledger, RunRecord
from celery_fanout.stores.states import FINAL, RunState
from tests.processes import wait_until

__all__ = ["History", "all_runs", "check_history", "wait_for_rest"]

#: Events that the engine emits itself.
OWN = "fanout/"


def all_runs(ledger: Ledger) -> dict[str, RunRecord]:
    """Return every run that the ledger has, by its id."""
    return {run.id: run for state in RunState for run in ledger.runs(state=state, limit=10**6)}


def wait_for_rest(ledger: Ledger, timeout: float = 60) -> dict[str, RunRecord]:
    """Wait until every run is final, and return them: invariant 6, nothing is stuck."""

    def open_runs() -> dict[RunState, int]:
        return {state: n for state, n in ledger.counts().items() if n and state not in FINAL}

    def describe() -> str:
        stuck = [run for run in all_runs(ledger).values() if run.state not in FINAL]
        lines = (f"{run.subscription} {run.id} {run!r}" for run in stuck[:10])
        return "\n".join([f"6: still open are {open_runs()}", *lines])

    wait_until(lambda: not open_runs(), timeout, describe)
    return all_runs(ledger)


class History:
    """What the oracle saw, and what the ledger says.

    Args:
        records: the oracle's.
        ledger: the ledger; everything in it is at rest.
        zombies: whether a process may go on with a run that another one has taken over, as one does
            that was cut off from its ledger. It may then start functions of steps that are stored.
    """

    def __init__(
        self, records: list[dict[str, Any]], ledger: Ledger, *, zombies: bool = False
    ) -> None:
        self.records = records
        self.ledger = ledger
        self.zombies = zombies
        self.runs = all_runs(ledger)

    def _those(self, *what: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record["what"] in what]

    def violations(self) -> Iterator[str]:
        """Yield what contradicts an invariant."""
        yield from self.delivery()
        yield from self.no_phantoms()
        yield from self.steps()
        yield from self.ends()
        yield from self.accounting()
        yield from self.attempts()

    def delivery(self) -> Iterator[str]:
        """1: an accepted event has one run per subscriber, and each ran or is accounted for."""
        began = {record["run"] for record in self._those("begin")}
        for record in self._those("emitted"):
            event = self.ledger.event(event_key(record["name"], record["event"]))
            if event is None:
                yield f"1: the event {record['event']} was accepted, and is gone"
            elif sorted(event.runs) != sorted(record["runs"]):
                yield f"1: the event {record['event']} has other runs than emit() said"
            for run_id in record["runs"]:
                run = self.runs.get(run_id)
                if run is None:
                    yield f"1: run {run_id} of an accepted event is gone"
                elif run_id not in began and run.state is RunState.SUCCEEDED:
                    yield f"1: run {run_id} has succeeded, and never began"

    def no_phantoms(self) -> Iterator[str]:
        """2: nothing ran whose event was not accepted, unless its emitter could not tell."""
        told = self._those("emitted", "maybe", "emitting")
        refused = {(record["name"], record["event"]) for record in self._those("raised")}
        known = {(record["name"], record["event"]) for record in told} - refused
        keys = {event_key(name, event) for name, event in known}
        for event in self.ledger.events(limit=10**6):
            if event.key not in keys and not event.name.startswith(OWN):
                yield f"2: nobody emitted {event.name} {event.key}"
        for run_id in {record["run"] for record in self.records if "run" in record}:
            if run_id not in self.runs:
                yield f"2: run {run_id} began, and the ledger does not know it"

    def steps(self) -> Iterator[str]:
        """3: who reads a step reads one value, and then its function starts no more."""
        values: dict[tuple[str, str], str] = {}
        for record in self._those("step", "read"):
            key = (record["run"], record["step"])
            if record["what"] == "step":
                if key in values and not self.zombies:
                    yield f"3: step {record['step']} of run {record['run']} began again"
            elif values.setdefault(key, record["value"]) != record["value"]:
                yield f"3: step {record['step']} of run {record['run']} has two values"
        stored: dict[str, Any] = {}
        for (run_id, step), value in values.items():
            if run_id not in self.runs:
                continue  # said above
            if run_id not in stored:
                run = self.ledger.run(run_id)
                stored[run_id] = {} if run is None else run.detail["checkpoints"]
            text = stored[run_id].get(field_of((step, 1)))
            found = None if text is None else Checkpoint.loads(text)
            if found is None:
                yield f"3: step {step} of run {run_id} was read, and is not stored"
            elif found.status != "done" or not _same(found.value, value):
                yield f"3: step {step} of run {run_id} was read as {value!r}, and is {found!r}"

    def ends(self) -> Iterator[str]:
        """4: a run that has ended has one end, and nothing goes on in it."""
        ended = {record["run"] for record in self._those("end")}
        for run in self.runs.values():
            if run.state in FINAL and (run.finished is None or run.due is not None):
                yield f"4: run {run.id} is {run.state}, and has no end or a timer"
            if run.id in ended and run.state is not RunState.SUCCEEDED and not self.zombies:
                # cancelled, or dead, after its body had returned: tests of that look themselves
                yield f"4: run {run.id} came to its end, and is {run.state} ({run.reason})"

    def accounting(self) -> Iterator[str]:
        """5: the counts add up; at rest everything is final, and failures say why."""
        states = Counter(run.state for run in self.runs.values())
        counts = {state: n for state, n in self.ledger.counts().items() if n}
        if counts != dict(states):
            yield f"5: the ledger counts {counts}, and has {dict(states)}"
        for run in self.runs.values():
            if run.state not in FINAL:
                yield f"5: run {run.id} is {run.state}"
            if run.state is RunState.FAILED:
                detail = self.ledger.run(run.id)
                if detail is None or not detail.detail["error"]:
                    yield f"5: run {run.id} failed, and does not say why"

    def attempts(self) -> Iterator[str]:
        """7: attempts are bounded: each was claimed, and no more crashed than may."""
        began = Counter(record["run"] for record in self._those("begin"))
        for run in self.runs.values():
            if began[run.id] > run.token:
                yield f"7: run {run.id} began {began[run.id]} times, with {run.token} claims"
            if run.crashes > self.ledger.rules.max_crashes:
                yield f"7: run {run.id} crashed {run.crashes} times"


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, dict) and "d" in left:  # an event that was waited for
        return bool(left["d"] == right)
    return bool(left == right)


def check_history(
    records: Iterable[dict[str, Any]], ledger: Ledger, *, zombies: bool = False
) -> History:
    """Fail if an invariant does not hold; return the history for what a test asks besides."""
    history = History(list(records), ledger, zombies=zombies)
    found = list(history.violations())
    assert not found, "\n".join([f"{len(found)} violations:", *found[:30]])
    return history


def latencies(records: Iterable[dict[str, Any]], subscription: str) -> list[float]:
    """Return how long the runs of a subscription took, from their event to their end."""
    emitted: dict[str, float] = {}
    found: defaultdict[str, list[float]] = defaultdict(list)
    for record in records:
        if record["what"] == "emitted":
            emitted.update(dict.fromkeys(record["runs"], record["at"]))
        elif record["what"] == "end" and record["sub"] == subscription:
            found[record["run"]].append(record["at"])
    return [min(ends) - emitted[run] for run, ends in found.items()]
