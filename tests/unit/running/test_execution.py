"""What the code of a subscriber can ask about the run it is in."""

import contextvars
import threading

import pytest
from celery import Celery, Task

from celery_fanout import Event, Run, current_event, current_run
from celery_fanout.model.run import event_of, run_of
from celery_fanout.running.execution import (
    Engine,
    Execution,
    active_runs,
    make_current,
)

EVENT = Event("order/paid", {"id": 7}, id="e-1")
RUN = Run("r-1", "tell@order/*", "tell", 1, EVENT)


class Request:
    def __init__(self, id="r-1", args=(EVENT.data,), headers=None, retries=0):
        self.id, self.args, self.headers, self.retries = id, args, headers, retries


class Tell:
    name = "tell"


def headers(**more):
    stamp = {"fanout_run": "r-1", "fanout_subscription": "tell@order/*"}
    return {**EVENT.headers(), **stamp, **more}


@pytest.fixture
def clock():
    class Clock:
        now = 1000.0

        def __call__(self):
            return self.now

    return Clock()


@pytest.fixture
def execution(clock):
    return Execution(
        RUN, Tell, Request(), Engine(store=None, settings=None, emit=None, clock=clock)
    )


# -- from a message to its run -----------------------------------------------------------------


def test_the_subscriber_has_the_data_as_its_argument():
    assert event_of(Request(headers=headers())) == EVENT
    assert run_of(Tell, Request(headers=headers())) == RUN


def test_a_later_link_has_the_data_in_a_header():
    request = Request(args=("the result before",), headers=headers(fanout_data='{"id":7}'))
    assert event_of(request) == EVENT
    assert run_of(Tell, request) == RUN


def test_retries_are_attempts():
    assert run_of(Tell, Request(headers=headers(), retries=2)).attempt == 3
    assert run_of(Tell, Request(headers=headers(), retries=None)).attempt == 1


@pytest.mark.parametrize(
    "request_",
    [
        Request(),
        Request(headers={}),
        Request(headers={"fanout_run": "r-1"}),  # no event
        Request(headers=EVENT.headers()),  # an event, and no run
        # a task that the run published, and Celery or the user gave the run's headers to
        Request(id="other", headers=headers()),
    ],
)
def test_an_ordinary_call_is_no_run(request_):
    assert run_of(Tell, request_) is None


def test_a_message_without_arguments():
    assert event_of(Request(args=None, headers=headers())).data is None


# -- the current run ---------------------------------------------------------------------------


def test_outside_of_runs():
    assert (current_run(), current_event(), active_runs()) == (None, None, 0)


def test_inside_of_a_run(execution):
    with make_current(execution) as found:
        assert found is execution
        assert (current_run(), current_event(), active_runs()) == (RUN, EVENT, 1)
    assert (current_run(), active_runs()) == (None, 0)


def test_after_an_error(execution):
    with pytest.raises(KeyError), make_current(execution):
        raise KeyError
    assert (current_run(), active_runs()) == (None, 0)


def test_a_run_inside_of_a_run(execution):
    inner = Run("r-2", "other@order/*", "other", 1, EVENT)
    with make_current(execution):
        with make_current(Execution(inner, None, None, execution.engine)):
            assert (current_run(), active_runs()) == (inner, 2)
        assert (current_run(), active_runs()) == (RUN, 1)


def in_a_thread(function, *arguments):
    found = []
    thread = threading.Thread(target=lambda: found.append(function(*arguments)))
    thread.start()
    thread.join()
    return found[0]


def test_another_thread_is_outside_unless_it_is_given_the_context(execution):
    with make_current(execution):
        assert in_a_thread(current_run) is None
        assert in_a_thread(contextvars.copy_context().run, current_run) == RUN
        assert in_a_thread(active_runs) == 1


def test_hooks_of_the_task_are_inside_too():
    seen = []

    class Hooked(Task):
        name = "tell"

        def before_start(self, task_id, args, kwargs):
            seen.append((current_run(), current_event()))

        def run(self, data): ...

    task = Celery(set_as_current=False).register_task(Hooked())
    task.apply((EVENT.data,), task_id="r-1", headers=headers())
    task.apply((EVENT.data,))
    assert seen == [(RUN, EVENT), (None, None)]


# -- one attempt -------------------------------------------------------------------------------


def test_calls_with_one_id_are_numbered(execution):
    keys = [execution.next_key(step) for step in ("a", "b", "a", "a")]
    assert keys == [("a", 1), ("b", 1), ("a", 2), ("a", 3)]
    assert execution.used == keys


def test_numbers_are_given_once_among_threads(execution):
    def work():
        for _ in range(200):
            execution.next_key("a")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(execution.used) == [("a", number) for number in range(1, 801)]


def test_a_restart_numbers_from_the_beginning(execution):
    execution.next_key("a")
    execution.leaving = KeyError()
    execution.restart()
    assert execution.next_key("a") == ("a", 1)
    assert execution.used == [("a", 1)]
    assert execution.leaving is None


def test_time_that_was_skipped_has_passed(execution, clock):
    assert execution.now() == 1000.0
    execution.skipped += 50
    assert execution.now() == 1050.0
    clock.now += 7
    assert execution.now() == 1057.0


@pytest.mark.parametrize(
    ("until", "due"),
    [
        (None, True),
        (999.0, True),
        (1000.0, True),
        (1000.0005, True),  # messages carry whole microseconds
        (1000.01, False),
    ],
)
def test_is_due(execution, until, due):
    assert execution.is_due(until) is due
