"""emit() and the other public methods: loading, eager apps, several apps, threads."""

import asyncio
import datetime as dt
import subprocess
import sys
import textwrap
import threading
from contextvars import ContextVar

import pytest
from celery import Celery, shared_task
from pydantic import BaseModel

from celery_fanout import (
    Event,
    NonRetriable,
    RetryAfter,
    aemit,
    current_event,
    current_run,
    emit,
    emit_many,
    event_type,
    explain,
    get_fanout,
    on_event,
    step,
)
from celery_fanout.exceptions import InvalidEvent, NoApp
from celery_fanout.signals import event_emitted


@pytest.fixture
def app():
    app = Celery("eager", broker="memory://", set_as_current=False)
    app.conf.task_always_eager = True
    return app


def values(emission):
    return [outcome.value for outcome in emission.get()]


def test_every_subscriber_receives_the_data(app):
    @on_event("thing/made")
    @app.task(shared=False, name="first")
    def first(data):
        return ["first", data]

    @on_event("thing/*")
    @app.task(shared=False, name="second")
    def second(data):
        return ["second", data]

    emission = emit("thing/made", {"n": 1}, app=app)

    assert [run.subscription.id for run in emission.runs] == ["first@thing/made", "second@thing/*"]
    assert values(emission) == [["first", {"n": 1}], ["second", {"n": 1}]]


def test_a_fan_in_is_called_in_place_too(app):
    calls = []

    @on_event("thing/made")
    @app.task(shared=False, name="fine")
    def fine(data):
        return data

    @on_event("thing/made")
    @app.task(shared=False, name="bad")
    def bad(data):
        raise ValueError("no")

    @app.task(shared=False, name="collect")
    def collect(*args, **kwargs):
        calls.append((args, kwargs))

    def told(then):
        emission = emit("thing/made", 7, then=then, app=app)
        runs = [run.id for run in emission.runs]
        return runs, calls.pop()

    for then, kwargs in (
        (collect, {}),
        (collect.s(), {}),
        (collect.s(mode="all"), {"mode": "all"}),
    ):
        (first, second), found = told(then)
        outcomes = [
            {
                "run": first,
                "subscription": "fine@thing/made",
                "state": "succeeded",
                "value": 7,
                "error": None,
            },
            {
                "run": second,
                "subscription": "bad@thing/made",
                "state": "failed",
                "value": None,
                "error": "no",
            },
        ]
        assert found == ((outcomes,), kwargs)
    assert told(collect.si("whatever"))[1] == (("whatever",), {})
    assert calls == []


def test_the_same_id_gives_the_same_runs(app):
    @on_event("thing/made")
    @app.task(shared=False, name="first")
    def first(data): ...

    one = emit("thing/made", {"n": 1}, id="e-1", app=app)
    two = emit("thing/made", {"n": 1}, id="e-1", app=app)
    other = emit("thing/made", {"n": 1}, id="e-2", app=app)

    assert [run.id for run in one.runs] == [run.id for run in two.runs]
    assert [run.id for run in one.runs] != [run.id for run in other.runs]


def test_a_failing_subscriber_stops_no_other(app):
    @on_event("thing/made")
    @app.task(shared=False, name="first")
    def first(data):
        raise ValueError("no")

    @on_event("thing/made")
    @app.task(shared=False, name="second")
    def second(data):
        return "fine"

    bad, good = emit("thing/made", {}, app=app).get()

    assert (type(bad.error), str(bad.error), bad.ok) == (ValueError, "no", False)
    assert (good.value, good.error, good.ok) == ("fine", None, True)


def test_with_propagation_the_error_is_raised_after_all_ran(app):
    app.conf.task_eager_propagates = True
    ran = []

    @on_event("thing/made")
    @app.task(shared=False, name="first")
    def first(data):
        raise ValueError("no")

    @on_event("thing/made")
    @app.task(shared=False, name="second")
    def second(data):
        ran.append(data)

    with pytest.raises(ValueError, match=r"\Ano\Z"):
        emit("thing/made", 7, app=app)
    assert ran == [7]


def test_eager_steps_and_retries_and_sleeps(app):
    calls = []

    @on_event("thing/made")
    @app.task(shared=False, name="first", autoretry_for=(ConnectionError,), max_retries=3)
    def first(data):
        step.run("fetch", calls.append, "fetch")
        step.sleep("rest", 86_400)
        calls.append("body")
        if current_run().attempt < 3:
            raise ConnectionError
        return current_run().attempt

    assert values(emit("thing/made", {}, app=app)) == [3]
    assert calls == ["fetch", "body", "body", "body"]


def test_a_tail_runs_eagerly_and_knows_the_event(app):
    @app.task(shared=False, name="last")
    def last(result):
        return [result, current_event().data, step.run("s", lambda: "from a step")]

    @on_event("thing/made", then=last)
    @app.task(shared=False, name="first")
    def first(data):
        return "result"

    assert values(emit("thing/made", {"n": 1}, app=app)) == [["result", {"n": 1}, "from a step"]]


def test_on_failure_runs_eagerly(app):
    seen = []

    @app.task(shared=False, name="tell")
    def tell(failure):
        seen.append((failure, current_event().data))

    @on_event("thing/made", on_failure=tell)
    @app.task(shared=False, name="first")
    def first(data):
        raise ValueError("no")

    emission = emit("thing/made", {"n": 1}, id="e-1", app=app)

    [(failure, data)] = seen
    assert data == {"n": 1}
    assert failure["run"] == emission.runs[0].id
    assert failure["subscription"] == "first@thing/made"
    assert failure["task"] == "first"
    assert failure["attempts"] == 1
    assert failure["event"]["id"] == "e-1"
    assert (failure["error"]["type"], failure["error"]["message"]) == ("ValueError", "no")


def test_outside_of_runs_there_is_no_event_and_no_run():
    assert current_event() is None
    assert current_run() is None


def test_an_ordinary_call_of_a_subscriber_is_no_run(app):
    @on_event("thing/made")
    @app.task(shared=False, name="first")
    def first(data):
        return step.run("s", lambda: [current_run(), data])

    assert first(1) == [None, 1]
    assert first.apply((1,)).get() == [None, 1]


def test_emitting_inside_a_run_links_the_events(app):
    @on_event("thing/made")
    @app.task(shared=False, name="first")
    def first(data):
        nested = emit("thing/seen", {}, app=app).event
        stepped = step.emit("tell", "thing/seen", {})
        return [nested.causationid, nested.correlationid, current_run().id, stepped]

    @on_event("thing/seen")
    @app.task(shared=False, name="second")
    def second(data):
        return [current_event().correlationid, current_event().causationid]

    emission = emit("thing/made", {}, id="root", app=app)

    [[causation, correlation, run_id, stepped]] = values(emission)
    assert causation == run_id == emission.runs[0].id
    assert correlation == "root"
    assert stepped != "root"


def test_an_event_without_subscriber_is_announced(app):
    seen = []
    receiver = lambda sender, event, runs, **_: seen.append((sender, event.name, runs))  # noqa: E731
    event_emitted.connect(receiver, sender=app)

    emission = emit("nobody/listens", {}, app=app)

    assert emission.runs == []
    assert seen == [(app, "nobody/listens", [])]


def test_emit_many_validates_all_before_the_first(app):
    ran = []

    @on_event("thing/made")
    @app.task(shared=False, name="first")
    def first(data):
        ran.append(data)

    with pytest.raises(InvalidEvent):
        emit_many([("thing/made", 1), ("bad name", 2)], app=app)
    assert ran == []

    emissions = emit_many([("thing/made", 1), Event("thing/made", 2, id="e-2")], app=app)
    assert ran == [1, 2]
    assert emissions[1].event.id == "e-2"


def test_typed_events(app):
    @event_type("typed/app-made")
    class Made(BaseModel):
        n: int

    @on_event(Made)
    @app.task(shared=False, name="first")
    def first(data):
        return data

    @on_event(Made)
    @app.task(shared=False, name="typed", pydantic=True)
    def typed(made: Made):
        return made.n + 1

    assert values(emit(Made(n=3), app=app)) == [{"n": 3}, 4]
    assert values(emit("typed/app-made", {"n": "4"}, app=app)) == [{"n": 4}, 5]


def test_aemit_keeps_the_callers_context(app):
    who = ContextVar("who")

    @on_event("thing/made")
    @app.task(shared=False, name="first")
    def first(data):
        return who.get()

    async def main():
        who.set("me")
        return await aemit("thing/made", {}, app=app)

    assert values(asyncio.run(main())) == ["me"]


def test_a_shared_task_belongs_to_every_app(app):
    other = Celery("other", broker="memory://", set_as_current=False)
    other.conf.task_always_eager = True

    @on_event("shared/app-made")
    @shared_task(name="shared")
    def shared(data):
        return shared.app.main if data else None

    for each in (app, other):
        get_fanout(each).load()
        [subscription] = [s for s in get_fanout(each).registry if s.task.name == "shared"]
        assert subscription.task.app is each


def test_an_apps_own_task_is_unknown_to_another_app(app):
    other = Celery("other", broker="memory://", set_as_current=False)
    other.conf.task_always_eager = True

    @on_event("thing/made")
    @app.task(shared=False, name="first")
    def first(data): ...

    assert emit("thing/made", {}, app=other).runs == []
    assert len(emit("thing/made", {}, app=app).runs) == 1


def test_explain_says_why(app):
    @on_event("thing/*", filter=lambda event: event.data["n"] > 1)
    @app.task(shared=False, name="first")
    def first(data): ...

    def why(name, data):
        [found] = [e for e in explain(name, data, app=app) if e.subscription.task.name == "first"]
        return found.matches, found.reason

    name = "test_explain_says_why.<locals>.<lambda>"
    assert why("thing/made", {"n": 2}) == (True, f"its filter {name} returned a true value")
    assert why("thing/made", {"n": 1}) == (False, f"its filter {name} returned a false value")
    assert why("thing/made", {}) == (False, f"its filter {name} raised KeyError: 'n'")
    assert why("else", {}) == (False, "'thing/*' does not match 'else'")


def run_python(code: str, tmp_path, **modules: str) -> str:
    for name, source in modules.items():
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


PROJECT = """
    from celery import Celery
    app = Celery("proj", broker="memory://", include=["subscribers"])
    app.conf.task_always_eager = True
"""
SUBSCRIBERS = """
    from celery import shared_task
    from celery_fanout import on_event

    @on_event("thing/made")
    @shared_task
    def first(data):
        return data
"""


def test_the_first_emit_imports_the_apps_modules(tmp_path):
    out = run_python(
        """
        import sys
        import proj
        from celery_fanout import emit
        assert "subscribers" not in sys.modules
        print([run.subscription.id for run in emit("thing/made", {}).runs])
        """,
        tmp_path,
        proj=PROJECT,
        subscribers=SUBSCRIBERS,
    )
    assert out == "['subscribers.first@thing/made']"


def test_in_a_thread_the_only_app_is_used(tmp_path):
    out = run_python(
        """
        import threading
        import proj
        from celery_fanout import emit
        thread = threading.Thread(target=lambda: print(emit("thing/made", 5).get()[0].value))
        thread.start()
        thread.join()
        """,
        tmp_path,
        proj=PROJECT,
        subscribers=SUBSCRIBERS,
    )
    assert out == "5"


def test_without_an_app_emit_refuses(tmp_path):
    out = run_python(
        """
        from celery_fanout import emit
        from celery_fanout.exceptions import NoApp
        try:
            emit("thing/made", {})
        except NoApp as error:
            print(error)
        """,
        tmp_path,
    )
    assert out == (
        "There is no Celery app in this process. Import the module that creates it, or pass app=."
    )


def test_several_apps_and_none_current():
    assert str(NoApp(["a", "b"])) == (
        "There are several Celery apps in this process (a, b) and none is current in this thread. "
        "Pass app=."
    )


def test_a_module_that_emits_while_it_is_imported(tmp_path):
    out = run_python(
        """
        import proj
        from celery_fanout import emit
        from celery_fanout.exceptions import EmitWhileImporting
        try:
            emit("thing/made", {})
        except EmitWhileImporting as error:
            print(error)
        """,
        tmp_path,
        proj=PROJECT,
        subscribers=SUBSCRIBERS
        + """
    from celery_fanout import emit
    emit("module/imported", {})
    """,
    )
    assert out == (
        "An event was emitted while the task modules of the app 'proj' are being imported, so not "
        "all its subscribers are known yet. Emit it in a function that is called later."
    )


def test_a_module_that_cannot_be_imported_is_tried_again(tmp_path):
    out = run_python(
        """
        import proj
        from celery_fanout import emit
        for _ in range(2):
            try:
                emit("thing/made", {})
            except RuntimeError as error:
                print(error)
        """,
        tmp_path,
        proj=PROJECT,
        subscribers="raise RuntimeError('broken module')",
    )
    assert out == "broken module\nbroken module"


def test_an_overridden_call_method_is_still_a_run(app):
    class Loud(app.Task):
        def __call__(self, *args, **kwargs):
            return ["called", super().__call__(*args, **kwargs)]

    @on_event("thing/made")
    @app.task(base=Loud, shared=False, name="first")
    def first(data):
        return current_run().id

    emission = emit("thing/made", {}, app=app)
    assert values(emission) == [["called", emission.runs[0].id]]


def test_steering_works_in_an_ordinary_call_too(app):
    @on_event("thing/made")
    @app.task(shared=False, name="first", max_retries=1)
    def first(data):
        if data == "later":
            raise RetryAfter(0, ConnectionError("busy"))
        raise NonRetriable(ValueError("never"))

    get_fanout(app).load()
    for data, error in (("later", "ConnectionError('busy')"), ("never", "ValueError('never')")):
        result = first.delay(data)
        assert (result.state, repr(result.result)) == ("FAILURE", error)


def test_wrong_items_for_emit_many(app):
    with pytest.raises(InvalidEvent) as error:
        emit_many([("thing/made",)], app=app)
    assert str(error.value) == (
        "The event 'thing/made' is one of 1 values. Pass pairs of name and data, typed events, or "
        "Event objects."
    )


def test_a_worker_can_finish_runs_of_a_subscription_that_was_removed(app):
    @app.task(shared=False, name="once_subscribed")
    def once_subscribed(data): ...

    get_fanout(app).prepare_worker()
    assert app.tasks["once_subscribed"].run.fanout_wrapped


def test_a_body_may_change_what_it_is_given(app):
    @on_event("thing/made")
    @app.task(shared=False, name="first")
    def first(data):
        taken = data.pop("n")
        step.sleep("rest", 5)
        return [taken, current_event().data]

    assert values(emit("thing/made", {"n": 1}, app=app)) == [[1, {"n": 1}]]


def test_eager_runs_forget_their_steps(app):
    @on_event("thing/made")
    @app.task(shared=False, name="first")
    def first(data):
        return step.run("double", lambda: data * 2)

    assert values(emit("thing/made", 1, id="e-1", app=app)) == [2]
    assert values(emit("thing/made", 5, id="e-1", app=app)) == [10]


def test_an_eager_tail_of_a_nested_emit_runs(app):
    seen = []

    @app.task(shared=False, name="last")
    def last(result):
        seen.append(result)

    @on_event("inner/made", then=last)
    @app.task(shared=False, name="inner")
    def inner(data):
        return "from inner"

    @on_event("thing/made")
    @app.task(shared=False, name="first")
    def first(data):
        emit("inner/made", {})  # the app of the run, though it is not the current one

    emit("thing/made", {}, app=app).get()
    assert seen == ["from inner"]


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf")])
def test_a_delay_is_a_finite_time(app, delay):
    with pytest.raises(InvalidEvent) as error:
        emit("thing/made", {}, delay=delay, app=app)
    assert str(error.value) == (
        f"The event 'thing/made' has the delay {float(delay)}. Use seconds, 0 or more."
    )


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"delay": "soon"}, "has the delay 'soon'. Use seconds or a timedelta."),
        ({"expires": [1]}, "has the expiry [1]. Use seconds or a timedelta."),
        (
            {"delay": 60, "expires": dt.timedelta(minutes=1)},
            (
                "expires after 60 s, and is delayed for 60 s. "
                "Both count from now: let it expire later."
            ),
        ),
    ],
)
def test_times_that_cannot_be(app, given, problem):
    with pytest.raises(InvalidEvent) as error:
        emit("thing/made", {}, app=app, **given)
    assert str(error.value) == f"The event 'thing/made' {problem}"


def test_threads_that_ask_first_at_once_get_the_same_parts():
    # functools.cached_property has no lock since Python 3.12: each thread had parts of its own,
    # and then the app took itself for one that a test captures, which records nothing
    for _ in range(20):
        app = Celery("hasty", broker="memory://", set_as_current=False)
        fanout = get_fanout(app)
        barrier = threading.Barrier(8)
        found = []

        def ask(fanout=fanout, barrier=barrier, found=found):
            barrier.wait()
            found.append((fanout.emitter, fanout.settings, fanout.memory_store))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8
        assert len({tuple(map(id, parts)) for parts in found}) == 1
        assert not fanout.emitter.in_test


@pytest.mark.parametrize("events", [{"thing/made": {"id": 1}}, "abc", [b"thing/made"]])
def test_emit_many_takes_no_names_without_data(app, events):
    with pytest.raises(InvalidEvent) as caught:
        emit_many(events, app=app)
    assert str(caught.value).endswith(
        " is a name without its data. Pass pairs of name and data; of a mapping, its items()."
    )


@pytest.mark.parametrize("headers", [None, 456, ["ce_id"], "ce_id"])
def test_a_subscriber_takes_the_headers_that_celery_takes(app, headers):
    @on_event("thing/made")
    @app.task
    def look(thing):
        return thing

    app.finalize()
    assert look.apply(args=(1,), headers=headers).get() == 1
