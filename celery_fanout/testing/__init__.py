"""Tests of code that emits events or subscribes to them, without a broker or a worker.

``capture()`` records what is emitted; ``run()`` executes a subscriber with the real engine in
memory, on a clock that the test moves; ``simulate()`` executes all that follows from an event. With
pytest, the fixture ``fanout`` offers all three.

May import ``app`` and what is below it; nothing imports it but users' tests.
Public: the names in ``__all__``. The modules inside may change without notice.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery_fanout.testing.capturing import CapturedEvents, capture
    from celery_fanout.testing.inbox import Clock
    from celery_fanout.testing.runs import NonDeterministicBody, SimulatedCrash, TestRun
    from celery_fanout.testing.simulation import Simulation
    from celery_fanout.testing.tester import FanoutTester, run, simulate

__all__ = [
    "CapturedEvents",
    "Clock",
    "FanoutTester",
    "NonDeterministicBody",
    "SimulatedCrash",
    "Simulation",
    "TestRun",
    "capture",
    "run",
    "simulate",
]


# Lazy, since every pytest run imports this package: the entry point of the fixture is in it.
def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    places = ("tester", "capturing", "inbox", "runs", "simulation")
    modules = (import_module(f"{__name__}.{place}") for place in places)
    return next(getattr(module, name) for module in modules if hasattr(module, name))
