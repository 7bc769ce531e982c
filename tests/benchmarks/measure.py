"""Ratios of CPU time, from runs that take turns.

A machine is never quiet, so no figure here is worth anything alone. The contestants run one after
the other, over and over, and what is compared is the median of the ratios within a round.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass
class Samples:
    """What one contestant used, in seconds, round by round."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def ratio(self, base: Samples) -> float:
        """Return the median of the ratios of CPU time, round by round."""
        return statistics.median(mine / its for mine, its in zip(self.cpu, base.cpu, strict=True))


def interleave(
    contestants: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    calls: int = 1,
    between: Callable[[], object] = lambda: None,
) -> dict[str, Samples]:
    """Let the contestants take turns, and return what each used.

    Args:
        contestants: what to call, by name. Each has one turn before anything is measured.
        rounds: how often each has its turn.
        calls: how often it is called in a turn; what is returned is the time of one call.
        between: called before each turn, and not measured: to empty a queue, for example.
    """
    samples = {name: Samples() for name in contestants}
    order = list(contestants.items())
    for number in range(rounds + 1):
        order.append(order.pop(0))  # nobody always follows the same neighbour
        gc.collect()
        for name, call in order:
            between()
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(calls):
                call()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            if number:  # the first turn fills caches and opens connections
                samples[name].cpu.append(cpu / calls)
                samples[name].wall.append(wall / calls)
    return samples


def microseconds(seconds: Sequence[float], count: int) -> str:
    """Return the median per item."""
    return f"{statistics.median(seconds) / count * 1e6:,.0f}"


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown, its columns aligned."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    print(f"\n### {title}\n")
    for number, line in enumerate(lines):
        print("| " + " | ".join(map(str.ljust, line, widths)) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
