"""Measure, and print tables in Markdown."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks import (
    django,
    emit,
    imports,
    limits,
    relays,
    runs,
    sleeping,
    steps,
    timers,
)
from tests.benchmarks.engines import comparing
from tests.benchmarks.reporting import Tee, circumstances, replace
from tests.processes import dismiss_guardian

MODULES = {
    "emit": emit,
    "django": django,
    "runs": runs,
    "steps": steps,
    "imports": imports,
    "sleeping": sleeping,
    "timers": timers,
    "limits": limits,
    "relays": relays,
    "engines": comparing,
}

#: What takes long is measured only when it is asked for.
LONG = ("sleeping", "timers", "limits", "relays", "engines")

parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
parser.add_argument(
    "what",
    nargs="*",
    help=f"of {', '.join(MODULES)}; by default all but {', '.join(LONG)}",
)
parser.add_argument("--rounds", type=int, help="how often each contestant has its turn")
parser.add_argument("--size", type=int, help="how many runs, timers or events")
parser.add_argument(
    "--only",
    action="append",
    metavar="PART",
    help="engines with this in their name; of limits: emit, runs, backlog, queues; repeat it",
)
parser.add_argument(
    "--into",
    type=Path,
    metavar="PAGE",
    help="also put the tables into this page, between <!-- begin: NAME --> and <!-- end: NAME -->",
)


def measure(name: str, options: Mapping[str, Any]) -> str:
    """Call one benchmark with the options that it knows, and return what it printed."""
    main = MODULES[name].main
    known = inspect.signature(main).parameters
    with contextlib.redirect_stdout(Tee(sys.stdout)) as printed:
        print(f"\n{circumstances()}")
        main(**{key: value for key, value in options.items() if key in known})
    return printed.getvalue()


if __name__ == "__main__":
    chosen = parser.parse_args()
    if unknown := set(chosen.what) - MODULES.keys():
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    wanted = chosen.what or [name for name in MODULES if name not in LONG]
    given = {key: getattr(chosen, key) for key in ("rounds", "size", "only")}
    try:
        for chapter in [name for name in MODULES if name in wanted]:
            text = measure(chapter, {key: value for key, value in given.items() if value})
            if chosen.into:
                replace(chosen.into, chapter, text)
    finally:
        dismiss_guardian()
