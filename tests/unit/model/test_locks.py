"""A lock that another thread holds when the process forks."""

from __future__ import annotations

import os
import threading
import warnings

import pytest

from celery_fanout.app.once import once
from celery_fanout.model.locks import fork_safe_lock

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def exit_code_of_a_fork(body):
    """Return what a forked process exits with: 0 if the body returned true."""
    with warnings.catch_warnings():  # Python 3.12 warns of threads, which are the point here
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os._exit(0 if body() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def elsewhere():
    """Return a function that runs another in a thread, until the test ends, once that entered."""
    done = threading.Event()
    threads = []

    def start(body):
        entered = threading.Event()
        threads.append(threading.Thread(target=body, args=(entered, done)))
        threads[-1].start()
        entered.wait()

    yield start
    done.set()
    for thread in threads:
        thread.join()


def test_it_is_free_in_the_forked_process_and_held_in_this_one(elsewhere):
    lock = fork_safe_lock()

    def hold(entered, done):
        with lock:
            entered.set()
            done.wait()

    elsewhere(hold)
    assert exit_code_of_a_fork(lambda: lock.acquire(blocking=False)) == 0
    assert not lock.acquire(blocking=False)


def test_what_a_thread_was_making_is_made_again_in_the_forked_process(elsewhere):
    parent = os.getpid()
    events = []

    class Parts:
        @once
        def part(self):
            if os.getpid() == parent:
                entered, done = events
                entered.set()
                done.wait()
            return os.getpid()

    parts = Parts()

    def make(entered, done):
        events.extend([entered, done])
        assert parts.part == parent

    elsewhere(make)
    assert exit_code_of_a_fork(lambda: parts.part == os.getpid()) == 0
