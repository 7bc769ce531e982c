"""Interrupting a step's function, where Python can."""

import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from celery_fanout.exceptions import StepTimeout, StepTimeoutUnsupported
from celery_fanout.running.steps.policy import time_limit


def wait_for_ever():
    threading.Event().wait()


def test_what_takes_too_long_is_interrupted():
    with pytest.raises(StepTimeout) as caught, time_limit("fetch", 0.01):
        wait_for_ever()
    assert str(caught.value) == (
        "The step 'fetch' ran longer than its timeout of 0.01 s. Raise the timeout, or make the "
        "step smaller."
    )
    assert isinstance(caught.value, TimeoutError)


def test_what_is_done_in_time_is_not():
    with time_limit("fetch", 1000):
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0


def test_without_a_timeout_nothing_is_touched():
    before = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[1]
    with time_limit("fetch", None):
        pass
    assert (signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[1]) == before


@pytest.fixture
def outer():
    """An alarm that somebody else has set."""

    def handler(*_): ...

    previous = signal.signal(signal.SIGALRM, handler)
    left, interval = signal.setitimer(signal.ITIMER_REAL, 500, 7)
    yield handler
    signal.setitimer(signal.ITIMER_REAL, left, interval)
    signal.signal(signal.SIGALRM, previous)


@pytest.mark.parametrize("seconds", [0.01, 1000])
def test_anothers_alarm_goes_on_afterwards(outer, seconds):
    try:
        with time_limit("fetch", seconds):
            if seconds < 1:
                wait_for_ever()
    except StepTimeout:
        pass
    assert signal.getsignal(signal.SIGALRM) is outer
    left, interval = signal.getitimer(signal.ITIMER_REAL)
    assert 0 < left <= 500
    assert interval == 7


def test_an_error_of_the_function_is_its_own(outer):
    with pytest.raises(KeyError), time_limit("fetch", 1000):
        raise KeyError
    assert signal.getsignal(signal.SIGALRM) is outer


def test_in_a_thread_it_is_refused():
    found = []

    def work():
        try:
            with time_limit("fetch", 1):
                found.append("ran")
        except StepTimeoutUnsupported as exc:
            found.append(str(exc))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [
        (
            "The step 'fetch' has a timeout, and a function in a thread cannot be interrupted. "
            "Run the task in a prefork, solo or gevent worker, or give the client that the step "
            "calls a timeout of its own."
        )
    ]


def test_in_a_thread_no_timeout_is_no_problem():
    found = []

    def work():
        with time_limit("fetch", None):
            found.append("ran")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == ["ran"]


def run_python(code):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_greenlet_is_interrupted():
    pytest.importorskip("gevent")
    out = run_python(
        """
        from gevent import monkey; monkey.patch_all()
        import gevent
        from celery_fanout.exceptions import StepTimeout
        from celery_fanout.running.steps.policy import time_limit

        def work():
            with time_limit("fetch", 0.01):
                gevent.event.Event().wait()

        greenlet = gevent.spawn(work)
        greenlet.join()
        print(repr(greenlet.exception))
        """
    )
    assert out.endswith("StepTimeout('fetch', 0.01)")


@pytest.mark.parametrize("module", ["gevent", "gevent.monkey"])
def test_gevent_that_patches_nothing_changes_nothing(module):
    pytest.importorskip("gevent")
    out = run_python(
        f"""
        import threading
        import {module}
        from celery_fanout.exceptions import StepTimeout
        from celery_fanout.running.steps.policy import time_limit

        try:
            with time_limit("fetch", 0.01):
                threading.Event().wait()
        except StepTimeout as exc:
            print(repr(exc))
        """
    )
    assert out == "StepTimeout('fetch', 0.01)"
