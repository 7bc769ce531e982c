"""``task.retry`` of a claimed run raises its ``Retry`` and publishes nothing."""

import queue

import pytest
from celery import Celery
from celery.exceptions import MaxRetriesExceededError, Retry

from celery_fanout.running.execution import Execution
from celery_fanout.running.retrying import hold_retries


@pytest.fixture
def app():
    with Celery("shop", broker="memory://", set_as_current=False) as app:
        app.conf.task_default_queue = "retrying"
        yield app


@pytest.fixture
def task(app):
    @app.task(bind=True, shared=False, name="tell", max_retries=3)
    def tell(self, order): ...

    found = app.tasks["tell"]
    hold_retries(found)
    return found


@pytest.fixture
def request_of(task):
    """Push the request of a message, as a worker does."""
    pushed = []

    def push(**more):
        task.push_request(
            id="r-1", args=[7], kwargs={}, called_directly=False, delivery_info={}, **more
        )
        pushed.append(task.request)
        return task.request

    yield push
    for _ in pushed:
        task.pop_request()


@pytest.fixture
def claimed(task, request_of):
    """Push the request of a claimed run, and return its execution."""

    def push(**more):
        request = request_of(**more)
        request.fanout_execution = Execution(None, task, request, None, claimed=object())
        return request.fanout_execution

    return push


def messages(app):
    found = []
    with app.connection_for_read() as connection:
        simple = connection.SimpleQueue("retrying")
        while True:
            try:
                message = simple.get(block=False)
            except queue.Empty:
                simple.close()
                return found
            message.ack()
            found.append((message.headers["id"], message.headers["retries"]))


def test_the_retry_of_a_claimed_run_is_not_published(app, task, claimed):
    claimed(retries=1)
    with pytest.raises(Retry) as caught:
        task.retry(countdown=30, exc=ValueError("no"))
    assert (caught.value.when, repr(caught.value.exc)) == (30, "ValueError('no')")
    assert caught.value.sig.options["retries"] == 2
    assert caught.value.sig.options["task_id"] == "r-1"
    assert messages(app) == []


def test_any_other_is_published(app, task, request_of):
    request_of(retries=1)
    with pytest.raises(Retry):
        task.retry(countdown=0)
    assert messages(app) == [("r-1", 2)]


def test_what_is_published_otherwise_is_no_retry(app, task, claimed):
    claimed(retries=1)
    task.signature_from_request(task.request).apply_async()
    with pytest.raises(Retry):
        task.retry()
    task.signature_from_request(task.request).apply_async()
    assert [run_id for run_id, _ in messages(app)] == ["r-1", "r-1"]


def test_one_that_is_not_raised_is_noted(task, claimed):
    execution = claimed(retries=0)
    asked = task.retry(countdown=5, throw=False)
    assert isinstance(asked, Retry)
    assert execution.retry is asked


def test_one_that_is_caught_is_noted(task, claimed):
    execution = claimed(retries=0)
    with pytest.raises(Retry) as caught:
        task.retry(countdown=5)
    assert execution.retry is caught.value


@pytest.mark.parametrize(
    ("cause", "error"),
    [(None, MaxRetriesExceededError), (ValueError("no"), ValueError)],
)
def test_no_retry_is_left(app, task, claimed, cause, error):
    execution = claimed(retries=3)
    with pytest.raises(error):
        task.retry(exc=cause)
    assert execution.retry is None
    assert messages(app) == []
