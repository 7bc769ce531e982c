"""Logging is a consumer of the signals: ids and names, never data."""

import logging

import pytest
from celery import Celery

from celery_fanout import emit, on_event, step
from celery_fanout.testing import run

SECRET = "p4ssw0rd"


@pytest.fixture
def app():
    app = Celery("logged", broker="memory://", set_as_current=False)
    app.conf.task_always_eager = True
    return app


def said(caplog, action):
    return [r.getMessage() for r in caplog.records if getattr(r, "action", None) == action]


def test_an_event_without_subscriber_is_logged_at_info(app, caplog):
    caplog.set_level(logging.INFO)
    emit("nobody/listens", {"password": SECRET}, id="e-1", app=app)
    assert said(caplog, "event_without_subscriber") == [
        "Event nobody/listens[e-1] has no subscriber"
    ]


def test_a_run_is_logged_without_its_data(app, caplog):
    caplog.set_level(logging.DEBUG, "celery_fanout")

    def fetch(data):
        raise ConnectionError(SECRET)

    @on_event("thing/logged", filter=lambda event: event.data["password"] == SECRET)
    @app.task(shared=False, name="logged", max_retries=0)
    def logged(data):
        step.run("first", lambda: SECRET)
        step.run("first", lambda: SECRET)
        step.sleep("nap", 10)
        step.options(max_retries=1, retry_backoff=5, retry_jitter=False).run("get", fetch, data)

    found = run(logged, {"password": SECRET}).finish()
    emit("thing/logged", {"password": SECRET}, id="e-1", app=app)

    assert said(caplog, "event_emitted") == ["Event thing/logged[e-1] published to 1 subscriber(s)"]
    assert said(caplog, "step_completed")[:2] == [
        f"Run {found.id} step 'first' (1) completed",
        f"Run {found.id} step 'first' (2) completed",
    ]
    assert f"Run {found.id} step 'first' (1) read from its checkpoint" in said(
        caplog, "step_completed"
    )
    assert [text.split(" until ")[0] for text in said(caplog, "run_suspended")][:2] == [
        f"Run {found.id} suspended (sleep in step 'nap')",
        f"Run {found.id} suspended (step-retry in step 'get')",
    ]
    assert said(caplog, "step_failed")[:2] == [
        f"Run {found.id} step 'get' (1) raised ConnectionError in attempt 1",
        (
            f"Run {found.id} step 'get' (1) raised ConnectionError in attempt 2 and has failed for "
            "good"
        ),
    ]
    assert said(caplog, "run_failed")[0] == (
        f"Run {found.id} of logged@thing/logged failed with RunFailed in attempt 1"
    )
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("celery_fanout")]
    assert ours
    assert not [text for text in ours if SECRET in text]


def test_a_filter_that_raises_is_logged_without_the_data(app, caplog):
    def broken(event):
        raise ValueError(event.data)

    @on_event("thing/filtered", filter=broken)
    @app.task(shared=False, name="filtered")
    def filtered(data): ...

    emission = emit("thing/filtered", SECRET, id="e-1", app=app)

    assert emission.runs == []
    name = "test_a_filter_that_raises_is_logged_without_the_data.<locals>.broken"
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR] == [
        (
            f"The filter {name} of filtered@thing/filtered raised ValueError at "
            f"{__file__}:{broken.__code__.co_firstlineno + 1} on the event e-1: no match"
        )
    ]
