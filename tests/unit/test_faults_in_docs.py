"""The table of docs/explanation/what-is-tested.md names tests that exist, and all that do."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/explanation/what-is-tested.md"

#: Tests of what is described elsewhere, or that is no fault.
OTHERS = {
    "test_kills.py": {
        "test_what_a_dead_worker_had_received_goes_out_again",
        "test_a_worker_that_stops_finishes_what_it_has",
        "test_a_revoked_run_is_cancelled",
        "test_a_tail_that_cannot_be_dispatched_is_published_by_the_keeper",
        "test_redis_restarts_while_a_run_is_under_way",
    },
    "test_messages.py": {
        "test_the_broker_is_down_while_events_are_emitted",
        "test_sleeping_runs_hold_no_worker",
    },
    "test_pools.py": {"test_a_lease_is_renewed_while_a_body_waits"},
}


def test_the_table_of_faults() -> None:
    listed = set(re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE.read_text()))
    there = {
        (file.name, name)
        for file in (ROOT / "tests/faults").glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", file.read_text(), re.MULTILINE)
        if name not in OTHERS.get(file.name, set())
    }
    assert listed == there
