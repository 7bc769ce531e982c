"""What tasks wrote down, as intervals of time: who ran when, and how many at once.

Tasks write ``begin`` and ``end`` of each execution with the machine's monotonic clock, which all of
its processes share. A place is taken before a body begins and given back after it has ended, so
what the tasks measure lies within what the ledger holds: if the tasks exceed a limit anywhere, so
did the ledger, and nothing has to be allowed for the time in between.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

__all__ = [
    "Execution",
    "ahead",
    "by_key",
    "executions",
    "most_at_once",
    "most_within",
    "spans",
    "used",
    "work",
]


@dataclass(frozen=True)
class Execution:
    """One execution of a body, or of several as one, on the monotonic clock.

    Attributes:
        run: id of the run.
        kind: which of the limited subscribers.
        key: the value by which it is limited.
        n: number of its event.
        begun: when it began.
        ended: when it ended, was killed, or was begun anew elsewhere.
        killed: whether it was killed.
    """

    run: str
    kind: str
    key: str
    n: int
    begun: float
    ended: float
    killed: bool = False


def executions(records: Iterable[dict[str, Any]], *kinds: str) -> list[Execution]:
    """Return the executions, those that began first first.

    An execution that was killed has written no end. It counts until the kill, which whoever kills
    writes down once the process is gone. One that lost its lease while it was only slow is no
    longer the run's: it counts until the run is begun anew.

    Args:
        records: what was written.
        kinds: only of these subscribers.

    Raises:
        AssertionError: if one has neither ended nor been killed.
    """
    found: dict[str, Execution] = {}
    pids: dict[str, int] = {}
    for record in records:
        if record["what"] == "begin" and (not kinds or record["kind"] in kinds):
            found[record["x"]] = Execution(
                run=record["run"],
                kind=record["kind"],
                key=record["key"],
                n=record["n"],
                begun=record["m"],
                ended=float("inf"),
            )
            pids[record["x"]] = record["pid"]
        elif record["what"] == "end" and record["x"] in found:
            found[record["x"]] = replace(found[record["x"]], ended=record["m"])
        elif record["what"] == "killed":
            for x, execution in found.items():
                open_still = execution.ended == float("inf")
                if open_still and pids[x] in record["pids"] and execution.begun <= record["m"]:
                    found[x] = replace(execution, ended=record["m"], killed=True)
    by_run: dict[str, list[Execution]] = defaultdict(list)
    for execution in sorted(found.values(), key=lambda each: each.begun):
        by_run[execution.run].append(execution)
    settled: list[Execution] = []
    for each in by_run.values():
        for execution, later in zip(each, [*each[1:], None], strict=True):
            ended = min(execution.ended, later.begun) if later else execution.ended
            assert ended != float("inf"), f"neither ended nor killed: {execution}"
            settled.append(replace(execution, ended=ended))
    return sorted(settled, key=lambda each: each.begun)


def spans(found: Iterable[Execution]) -> list[Execution]:
    """Return each run as one, from its first beginning to its last end, pauses included."""
    runs: dict[str, Execution] = {}
    for execution in found:
        so_far = runs.setdefault(execution.run, execution)
        runs[execution.run] = replace(
            so_far,
            begun=min(so_far.begun, execution.begun),
            ended=max(so_far.ended, execution.ended),
        )
    return sorted(runs.values(), key=lambda each: each.begun)


def by_key(found: Iterable[Execution]) -> dict[str, list[Execution]]:
    """Return them by the value that limits them."""
    keys: dict[str, list[Execution]] = defaultdict(list)
    for execution in found:
        keys[execution.key].append(execution)
    return dict(keys)


def most_at_once(found: Iterable[Execution]) -> int:
    """Return how many ran at the same time at most; who ends at a moment has left by then."""
    changes = sorted(
        change for each in found for change in ((each.begun, 1), (each.ended, -1))
    )  # at the same time the -1 comes first
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def work(found: Iterable[Execution], since: float, until: float) -> float:
    """Return how many ran in an interval, times how long: its area."""
    return sum(max(0.0, min(each.ended, until) - max(each.begun, since)) for each in found)


def used(found: Sequence[Execution], limit: int) -> float:
    """Return which share of a limit was used while there was a backlog.

    That is from when the first began to when the last did: until then one was waiting.
    """
    since, until = min(each.begun for each in found), max(each.begun for each in found)
    return work(found, since, until) / (limit * (until - since))


def most_within(times: Iterable[float], period: float) -> int:
    """Return how many of these lie within a period at most, one of its two ends not included."""
    ordered = sorted(times)
    most = first = 0
    for last, time in enumerate(ordered):
        while time - ordered[first] >= period:
            first += 1
        most = max(most, last - first + 1)
    return most


def ahead(times: Iterable[float], since: float, limit: int, per: float, burst: int = 0) -> float:
    """Return by how many starts these are ahead of a throttle's schedule at most.

    By the time ``t`` after ``since``, when it cannot have begun yet, it lets ``1 + burst`` start,
    and one more for each interval. A start may be late, and so come close after or before another
    one; it cannot be early. So this is exact, and must not be above 0.
    """
    interval = per / limit
    return max(
        count - (1 + burst + (time - since) / interval)
        for count, time in enumerate(sorted(times), start=1)
    )
