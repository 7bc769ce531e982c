"""Ratios of CPU time, from runs that take turns.

A machine is never quiet, so no figure here is worth anything alone. The contestants run one after
the other, over and over, and what is compared is the median of the ratios within a round.
"""

from __future__ import annotations

import contextlib
import gc
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Samples:
    """What one contestant used, in seconds, round by round."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def ratio(self, base: Samples) -> float:
        """Return the median of the ratios of CPU time, round by round."""
        return ratio(self.cpu, base.cpu)


def ratio(mine: Sequence[float], its: Sequence[float]) -> float:
    """Return the median of the ratios, round by round."""
    return statistics.median(one / other for one, other in zip(mine, its, strict=True))


def interleave(
    contestants: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    calls: int = 1,
    between: Callable[[], object] = lambda: None,
) -> dict[str, Samples]:
    """Let the contestants take turns, and return what each used of this process.

    Args:
        contestants: what to call, by name. Each has one turn before anything is measured.
        rounds: how often each has its turn.
        calls: how often it is called in a turn; what is returned is the time of one call.
        between: called before each turn, and not measured: to empty a queue, for example.
    """

    def turn(call: Callable[[], object]) -> Mapping[str, float]:
        between()
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(calls):
            call()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        return {"cpu": cpu / calls, "wall": wall / calls}

    turns = {name: (lambda call=call: turn(call)) for name, call in contestants.items()}
    found = take_turns(turns, rounds=rounds)
    return {name: Samples(figures["cpu"], figures["wall"]) for name, figures in found.items()}


def take_turns(
    contestants: Mapping[str, Callable[[], Mapping[str, float]]], *, rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Let the contestants take turns, and return the figures that their turns return.

    Args:
        contestants: what to call, by name. Each has one turn that does not count.
        rounds: how often each has its turn.
    """
    found: dict[str, dict[str, list[float]]] = {name: {} for name in contestants}
    order = list(contestants.items())
    for number in range(rounds + 1):
        order.append(order.pop(0))  # nobody always follows the same neighbour
        gc.collect()
        for name, turn in order:
            figures = turn()
            if number:  # the first turn fills caches and opens connections
                for figure, value in figures.items():
                    found[name].setdefault(figure, []).append(value)
    return found


def cpu_of(pids: Iterable[int], *, children: bool = False) -> float:
    """Return the CPU time that processes have used, in seconds, user and system.

    Args:
        pids: the processes.
        children: whether to add that of their children that have ended.
    """
    ticks = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, words[11 : 15 if children else 13]))
    return ticks / _TICK


def cpu_of_redis(client: Any) -> float:
    """Return the CPU time that a Redis has used, in seconds: finer than :func:`cpu_of`."""
    found = client.info("cpu")
    return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])


def commands_of(client: Any, work: Callable[[], object], *, but: str = "ECHO") -> int:
    """Return how many commands a Redis was sent meanwhile; what scripts do is not sent.

    Args:
        client: a client of it.
        work: does something.
        but: a command that does not count.
    """
    with client.monitor() as monitor:
        work()
        client.echo("over")
        sent = 0
        for command in monitor.listen():
            if command["command"] == "ECHO over":
                return sent
            word = command["command"].partition(" ")[0]
            sent += command["client_type"] != "lua" and word != but
    raise AssertionError("a monitor does not end")


def memory_of(pids: Iterable[int]) -> float:
    """Return the memory of processes in MiB; what they share counts once."""
    total = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024


def microseconds(seconds: Sequence[float], count: int) -> str:
    """Return the median per item."""
    return f"{statistics.median(seconds) / count * 1e6:,.0f}"


def milliseconds(seconds: Sequence[float], count: int = 1) -> str:
    """Return the median per item."""
    return f"{statistics.median(seconds) / count * 1e3:.2f}"


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown, its columns aligned."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    print(f"\n### {title}\n")
    for number, line in enumerate(lines):
        print("| " + " | ".join(map(str.ljust, line, widths)) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|", flush=True)
    print(end="", flush=True)
