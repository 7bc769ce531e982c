"""Measure, and print tables in Markdown."""

from __future__ import annotations

import argparse

from tests.benchmarks import emit, imports, runs, steps
from tests.processes import dismiss_guardian

MODULES = {"emit": emit, "runs": runs, "steps": steps, "imports": imports}

parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
parser.add_argument("what", nargs="*", help=f"of {', '.join(MODULES)}; by default all")
parser.add_argument("--rounds", type=int, help="how often each contestant has its turn")

if __name__ == "__main__":
    chosen = parser.parse_args()
    if unknown := set(chosen.what) - MODULES.keys():
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    options = {"rounds": chosen.rounds} if chosen.rounds else {}
    try:
        for name, module in MODULES.items():
            if name in chosen.what or not chosen.what:
                module.main(**options)
    finally:
        dismiss_guardian()
