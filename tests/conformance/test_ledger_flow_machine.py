"""Many mixes of options, and much that happens to them; see ``admissions.py``.

The same ones each time. ``make test-faults`` looks for others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from celery_fanout.stores.ledger import Ledger
from celery_fanout.stores.records import LedgerRules
from tests.conformance.admissions import RULES, explore
from tests.conformance.ledgers import Clock
from tests.conformance.mirror import Mirror
from tests.conformance.twin import Twin
from tests.servers import RedisServer

STORIES = 30


@pytest.mark.timeout(600)
def test_the_scripts_keep_to_the_limits(redis_server: RedisServer) -> None:
    """On the embedded Lua, and in Redis the same."""

    def make(clock: Clock) -> Ledger:
        return Mirror(redis_server.url(), RULES, clock)

    assert explore(make, "always", STORIES) == STORIES


def test_the_twin_keeps_to_them_too() -> None:
    assert explore(lambda clock: Twin(RULES, clock), "always", STORIES) == STORIES


class Leaky(Twin):
    """A ledger that forgets to give back what a cancelled run had."""

    def cancel(self, run_ids: Sequence[str], reason: str) -> tuple[list[str], list[str]]:
        before = {gate: dict(counter.holders) for gate, counter in self.book.counters.items()}
        answer = super().cancel(run_ids, reason)
        for gate, holders in before.items():
            self.book.counters[gate].holders.update(holders)
        return answer


class Hasty(Twin):
    """A ledger that lets one more in than it may."""

    def __init__(self, rules: LedgerRules, clock: Clock) -> None:
        super().__init__(rules, clock)
        is_full = self.book.is_full
        self.book.is_full = lambda place: is_full(
            dataclasses.replace(place, at_most=place.at_most + 1)
        )


class Idle(Twin):
    """A ledger that lets nobody in when a place is free."""

    def __init__(self, rules: LedgerRules, clock: Clock) -> None:
        super().__init__(rules, clock)
        self.book.pump = lambda counter: None


@pytest.mark.parametrize("ledger", [Leaky, Hasty, Idle])
def test_a_ledger_that_does_not_is_found_out(ledger: type[Twin]) -> None:
    with pytest.raises(AssertionError, match="story"):
        explore(lambda clock: ledger(RULES, clock), "always", 20)
