"""The states of a run, and which may follow which."""

import json

import pytest

from celery_fanout.stores.states import FINAL, TRANSITIONS, RunState

S = RunState


def reachable(start):
    found, more = set(), [start]
    while more:
        state = more.pop()
        if state not in found:
            found.add(state)
            more += TRANSITIONS[state]
    return found


def test_every_state_has_its_successors():
    assert set(TRANSITIONS) == set(RunState)


def test_no_state_follows_itself():
    assert [state for state, after in TRANSITIONS.items() if state in after] == []


def test_each_state_is_reached_from_the_first():
    assert reachable(S.PENDING) == set(RunState)


@pytest.mark.parametrize("state", sorted(set(RunState) - FINAL))
def test_from_each_that_is_not_final_a_run_can_succeed(state):
    assert S.SUCCEEDED in reachable(state)


def test_final_ones_are_left_by_hand_only():
    assert {state: TRANSITIONS[state] for state in FINAL} == {
        S.SUCCEEDED: frozenset(),
        S.FAILED: {S.PENDING},
        S.CANCELLED: {S.PENDING},
    }


def test_what_can_be_cancelled():
    assert {state for state, after in TRANSITIONS.items() if S.CANCELLED in after} == (
        set(RunState) - FINAL - {S.COMPLETING}
    )


def test_a_run_is_executed_only_from_states_that_wait():
    assert {state for state, after in TRANSITIONS.items() if S.RUNNING in after} == {
        S.PENDING,
        S.GATED,
        S.PUBLISHED,
        S.SUSPENDED,
        S.RETRYING,
    }


def test_only_a_run_that_was_executed_suspends_retries_completes_or_succeeds():
    for after in (S.SUSPENDED, S.RETRYING, S.COMPLETING):
        assert {state for state, found in TRANSITIONS.items() if after in found} == {S.RUNNING}
    assert {state for state, found in TRANSITIONS.items() if S.SUCCEEDED in found} == {
        S.RUNNING,
        S.COMPLETING,
    }


def test_they_are_texts():
    assert json.dumps([S.PENDING]) == '["pending"]'
    assert f"{S.FAILED}" == str(S.FAILED) == "failed"
    assert RunState("gated") is S.GATED
