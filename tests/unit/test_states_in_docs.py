"""The states of a run, and the diagram in the docs."""

from __future__ import annotations

import re
from pathlib import Path

from celery_fanout.stores.states import FINAL, TRANSITIONS, RunState

PAGE = Path(__file__).parent.parent.parent / "docs/explanation/the-ledger.md"


def test_the_diagram_in_the_docs_is_that_of_the_code() -> None:
    drawn = {
        RunState(found[1]): {RunState(word) for word in re.findall(r"\w+", found[2])}
        for found in re.finditer(r"^    (\w+) +->(.*)$", PAGE.read_text(), re.MULTILINE)
    }
    assert drawn == {state: set(after) for state, after in TRANSITIONS.items()}


def test_an_end_is_left_on_purpose_only() -> None:
    for state in FINAL:
        assert TRANSITIONS[state] <= {RunState.PENDING}
    assert TRANSITIONS[RunState.SUCCEEDED] == set()
