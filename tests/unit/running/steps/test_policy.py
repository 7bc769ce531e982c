"""How often and when a step is tried again."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_fanout.exceptions import InvalidStep
from celery_fanout.running.steps.policy import NO_RETRIES, StepPolicy


def waits(policy, attempts):
    return [policy.next_try(attempt) for attempt in range(1, attempts + 1)]


def test_without_retries_there_is_no_next_try():
    assert waits(NO_RETRIES, 2) == [None, None]
    assert NO_RETRIES.validated() is NO_RETRIES


def test_without_backoff_the_next_try_is_at_once():
    assert waits(StepPolicy(max_retries=2), 4) == [0.0, 0.0, None, None]


@pytest.mark.parametrize(
    ("backoff", "expected"),
    [
        (True, [1.0, 2.0, 4.0, 8.0, 10.0, None]),
        (1, [1.0, 2.0, 4.0, 8.0, 10.0, None]),
        (0.5, [0.5, 1.0, 2.0, 4.0, 8.0, None]),
        (30, [10.0, 10.0, 10.0, 10.0, 10.0, None]),
        (False, [0.0, 0.0, 0.0, 0.0, 0.0, None]),
        (0, [0.0, 0.0, 0.0, 0.0, 0.0, None]),
    ],
)
def test_backoff_doubles_up_to_its_maximum(backoff, expected):
    policy = StepPolicy(
        max_retries=5, retry_backoff=backoff, retry_backoff_max=10, retry_jitter=False
    )
    assert waits(policy, 6) == expected


def test_the_default_maximum():
    policy = StepPolicy(max_retries=99, retry_backoff=True, retry_jitter=False)
    assert policy.next_try(11) == 600


def test_very_many_retries():
    policy = StepPolicy(max_retries=10**6, retry_backoff=True, retry_jitter=False)
    assert policy.next_try(10**6) == 600


@given(st.integers(1, 10**6), st.floats(0.001, 10**6))
def test_jitter_waits_at_most_as_long(attempt, backoff):
    policy = StepPolicy(max_retries=10**6, retry_backoff=backoff)
    longest = StepPolicy(max_retries=10**6, retry_backoff=backoff, retry_jitter=False)
    assert 0 <= policy.next_try(attempt) <= longest.next_try(attempt) <= 600


def test_a_step_that_knows_when_is_asked():
    policy = StepPolicy(max_retries=2, retry_backoff=True)
    assert policy.next_try(1, wanted=3600.0) == 3600.0
    assert policy.next_try(2, wanted=0.0) == 0.0
    assert policy.next_try(3, wanted=3600.0) is None


ABOVE_0 = "It must be a number of seconds above 0."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_retries": -1}, "max_retries=-1. It must be a whole number, 0 or more."),
        ({"max_retries": 1.5}, "max_retries=1.5. It must be a whole number, 0 or more."),
        ({"max_retries": None}, "max_retries=None. It must be a whole number, 0 or more."),
        ({"retry_backoff": -1}, "retry_backoff=-1. It must be True, False or a number of seconds."),
        (
            {"retry_backoff": "1s"},
            "retry_backoff='1s'. It must be True, False or a number of seconds.",
        ),
        (
            {"retry_backoff": math.nan},
            "retry_backoff=nan. It must be True, False or a number of seconds.",
        ),
        ({"retry_backoff_max": 0}, f"retry_backoff_max=0. {ABOVE_0}"),
        ({"retry_backoff_max": None}, f"retry_backoff_max=None. {ABOVE_0}"),
        ({"timeout": 0}, f"timeout=0. {ABOVE_0}"),
        ({"timeout": "5"}, f"timeout='5'. {ABOVE_0}"),
        ({"timeout": math.inf}, f"timeout=inf. {ABOVE_0}"),
        (
            {"retry_on": BaseException},
            "retry_on=<class 'BaseException'>. It must be an exception class or a tuple of them.",
        ),
        (
            {"retry_on": [ValueError]},
            "retry_on=[<class 'ValueError'>]. It must be an exception class or a tuple of them.",
        ),
        (
            {"retry_on": (ValueError, "KeyError")},
            (
                "retry_on=(<class 'ValueError'>, 'KeyError'). It must be an exception class or a "
                "tuple of them."
            ),
        ),
    ],
)
def test_a_value_that_cannot_be_used(options, message):
    with pytest.raises(InvalidStep) as caught:
        StepPolicy(**options).validated()
    assert str(caught.value) == f"The step 'step.options' has {message}"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_retries": 3, "retry_backoff": True, "retry_jitter": False},
        {"retry_backoff": 0.5, "retry_backoff_max": 1, "timeout": 0.1},
        {"retry_on": ValueError},
        {"retry_on": (ValueError, KeyError)},
        {"retry_on": ()},
    ],
)
def test_a_value_that_can(options):
    policy = StepPolicy(**options)
    assert policy.validated() is policy
