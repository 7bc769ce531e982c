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
    between: Callable[[], object] = lambda: None,
) -> dict[str, Samples]:
    """Let the contestants take turns, and return what each used.

    Args:
        contestants: what to call, by name. Each is called once before anything is measured.
        rounds: how often each is measured.
        between: called before each measurement, and not measured: to empty a queue, for example.
    """
    samples = {name: Samples() for name in contestants}
    for call in contestants.values():
        between()
        call()
    order = list(contestants.items())
    for _ in range(rounds):
        order.append(order.pop(0))  # nobody always follows the same neighbour
        for name, call in order:
            between()
            gc.collect()
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            samples[name].cpu.append(time.process_time() - cpu)
            samples[name].wall.append(time.perf_counter() - wall)
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
