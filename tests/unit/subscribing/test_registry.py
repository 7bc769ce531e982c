"""The registry of one app: which subscriptions it has, which match, and what is wrong with them."""

import importlib
import logging
import sys
import traceback

import pytest
from celery import Celery, Task, shared_task

from celery_fanout import Event, Registry, get_fanout, on_event
from celery_fanout.exceptions import DuplicateSubscription, InvalidSubscription
from celery_fanout.subscribing.on_event import declared


@pytest.fixture
def app():
    return Celery("shop", set_as_current=False)


@pytest.fixture
def other():
    return Celery("other", set_as_current=False)


def ids(found):
    return [subscription.id for subscription in found]


def finalised(app):
    app.finalize()
    return get_fanout(app).registry


def tell(data): ...


def takes_nothing(): ...


# -- which tasks -------------------------------------------------------------------------------


def test_a_task_declared_before_the_app_is_finalised(app):
    on_event("order/paid")(app.task(name="tell")(tell))
    registry = Registry(app)
    assert ids(registry) == []
    app.finalize()
    assert ids(registry) == ["tell@order/paid"]
    [subscription] = registry
    assert subscription.task is app.tasks["tell"]
    assert repr(subscription) == "<Subscription tell@order/paid>"


def test_a_task_declared_after_the_app_is_finalised(app):
    registry = finalised(app)
    on_event("order/paid")(app.task(name="tell")(tell))
    assert ids(registry) == ["tell@order/paid"]


def test_the_names_that_celery_gives(app):
    @on_event("order/paid")
    @app.task
    def nameless(data): ...

    assert ids(finalised(app)) == [f"{__name__}.nameless@order/paid"]


def test_a_shared_task_belongs_to_every_app(app, other):
    on_event("order/paid")(shared_task(name="shared")(tell))
    for each in (app, other):
        [subscription] = finalised(each)
        assert subscription.id == "shared@order/paid"
        assert subscription.task is each.tasks["shared"]


def test_a_shared_task_made_before_any_app_and_one_made_after(app):
    on_event("order/1")(shared_task(name="before")(tell))
    registry = finalised(app)
    on_event("order/2")(shared_task(name="after")(tell))
    assert ids(registry) == ["before@order/1", "after@order/2"]


def test_an_apps_own_task_belongs_to_no_other(app, other):
    on_event("order/paid")(app.task(name="tell")(tell))
    assert ids(finalised(other)) == []
    assert ids(finalised(app)) == ["tell@order/paid"]


class ClassTask(Task):
    name = "class"

    def run(self, data): ...


def test_a_class_subscribes_once_it_is_registered(app):
    on_event("order/paid")(ClassTask)
    registry = finalised(app)
    assert ids(registry) == []
    task = app.register_task(ClassTask())
    assert ids(registry) == ["class@order/paid"]
    assert next(iter(registry)).task is task


def test_an_instance_subscribes(app):
    on_event("order/paid")(app.register_task(ClassTask()))
    assert ids(finalised(app)) == ["class@order/paid"]


def test_several_subscriptions_of_one_task(app):
    @on_event("order/paid")
    @on_event("order/*")
    @app.task(name="both")
    def both(data): ...

    registry = finalised(app)
    assert ids(registry) == ["both@order/*", "both@order/paid"]
    assert ids(registry.match(Event("order/paid"))) == ["both@order/*", "both@order/paid"]


def test_what_a_subscription_knows(app):
    on_failure = app.task(name="on_failure")(tell)
    accepts = lambda event: True  # noqa: E731
    options = {"queue": "q"}
    on_event(
        "order/paid",
        filter=accepts,
        then=[app.task(name="then")(tell), app.signature("elsewhere")],
        on_failure=on_failure,
        options=options,
    )(app.task(name="tell")(tell))
    [found] = finalised(app)
    assert (found.pattern, found.filter, found.options) == ("order/paid", accepts, options)
    assert [link["task"] for link in found.tail] == ["then", "elsewhere"]
    assert found.on_failure == "on_failure"
    assert found.where == declared.all[-1].where


# -- which match -------------------------------------------------------------------------------


def subscribe(app, *patterns, **options):
    for pattern in patterns:
        on_event(pattern, **options)(app.task(name=f"t{len(declared.all)}-{pattern}")(tell))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("document/uploaded", ["*", "document/*", "document/uploaded"]),
        ("document/uploaded.v2", ["*", "document/*", "document/uploaded.*"]),
        ("document/other", ["*", "document/*"]),
        ("document", ["*"]),
        ("order/paid", ["*", "order/paid"]),
    ],
)
def test_patterns(app, name, expected):
    subscribe(app, "*", "order/paid", "document/*", "document/uploaded", "document/uploaded.*")
    assert [found.pattern for found in finalised(app).match(Event(name))] == expected


def test_candidates_follow_new_declarations(app):
    registry = finalised(app)
    assert list(registry.candidates("order/paid")) == []
    subscribe(app, "order/paid")
    assert len(registry.candidates("order/paid")) == 1
    subscribe(app, "order/*")
    assert len(registry.candidates("order/paid")) == 2


def test_a_filter_sees_the_event(app):
    subscribe(app, "order/paid", filter=lambda event: event.data["total"] > 5 and event.subject)
    registry = finalised(app)
    assert len(registry.match(Event("order/paid", {"total": 6}, subject="s"))) == 1
    assert registry.match(Event("order/paid", {"total": 6})) == []
    assert registry.match(Event("order/paid", {"total": 5}, subject="s")) == []


def needs_total(event):
    return event.data["total"] > 5


def test_a_filter_that_raises_disturbs_no_other(app, caplog):
    on_event("order/paid", filter=needs_total)(app.task(name="first")(tell))
    on_event("order/paid")(app.task(name="second")(tell))
    found = finalised(app).match(Event("order/paid", {"secret": "s3cret"}, id="e-1"))
    assert ids(found) == ["second@order/paid"]
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (
            logging.ERROR,
            (
                "The filter needs_total of first@order/paid raised KeyError at "
                f"{__file__}:{needs_total.__code__.co_firstlineno + 1} on the event e-1: no match"
            ),
        )
    ]
    assert caplog.records[0].exc_info is None  # a traceback may quote the data


class Callable:
    def __call__(self, event):
        return None

    def __repr__(self):
        return "<a filter>"


def test_explain_says_what_was_meant(app):
    on_event("order/paid")(app.task(name="a")(tell))
    registry = finalised(app)
    for name, more in (("order/piad", ". Did you mean it?"), ("user/left", "")):
        (found,) = registry.explain(Event(name, {}))
        assert found.reason == f"'order/paid' does not match {name!r}{more}"


def test_explain(app):
    on_event("order/*")(app.task(name="a")(tell))
    on_event("other/*")(app.task(name="b")(tell))
    on_event("order/paid", filter=needs_total)(app.task(name="c")(tell))
    on_event("order/paid", filter=Callable())(app.task(name="d")(tell))
    registry = finalised(app)

    def explained(data):
        found = registry.explain(Event("order/paid", data))
        return [(each.subscription.id, each.matches, each.reason) for each in found]

    assert explained({"total": 6}) == [
        ("a@order/*", True, "'order/*' matches"),
        ("b@other/*", False, "'other/*' does not match 'order/paid'"),
        ("c@order/paid", True, "its filter needs_total returned a true value"),
        ("d@order/paid", False, "its filter <a filter> returned a false value"),
    ]
    assert explained({})[2] == (
        "c@order/paid",
        False,
        "its filter needs_total raised KeyError: 'total'",
    )


# -- what is wrong -----------------------------------------------------------------------------


def error_of(registry):
    with pytest.raises(InvalidSubscription) as caught:
        registry.candidates("order/paid")
    return str(caught.value)


def test_two_tasks_of_one_name(app):
    on_event("order/paid")(app.task(name="tell")(tell))
    first = declared.all[-1].where
    on_event("order/paid")(app.task(name="tell")(tell))
    second = declared.all[-1].where
    registry = finalised(app)
    assert ids(registry) == ["tell@order/paid"]
    with pytest.raises(DuplicateSubscription) as caught:
        registry.match(Event("order/paid"))
    assert str(caught.value) == (
        f"tell@order/paid is subscribed twice: at {first} and at {second}. Remove one, or join "
        "their filters."
    )


@pytest.mark.filterwarnings("ignore:Task name 'made' is already registered")  # by Celery >= 5.7
def test_a_module_that_is_reloaded_subscribes_once(app, tmp_path, monkeypatch):
    (tmp_path / "reloaded_tasks.py").write_text(
        "from celery import shared_task\n"
        "from celery_fanout import on_event\n"
        "@on_event('thing/made', options={'priority': 3})\n"
        "@shared_task(name='made')\n"
        "def made(data): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("reloaded_tasks")
    registry = finalised(app)
    assert ids(registry) == ["made@thing/made"]
    importlib.reload(module)
    assert ids(registry.match(Event("thing/made"))) == ["made@thing/made"]
    assert registry.errors == []
    del sys.modules["reloaded_tasks"]


def test_one_that_is_wrong_hides_no_other_and_stops_what_it_would_receive(app, other, caplog):
    theirs = other.task(name="theirs")(tell)
    on_event("order/paid", then=theirs)(app.task(name="wrong")(tell))
    on_event("other/*")(app.task(name="right")(tell))
    registry = finalised(app)
    assert ids(registry) == ["right@other/*"]
    with pytest.raises(InvalidSubscription):
        registry.candidates("order/paid")
    assert ids(registry.candidates("other/thing")) == ["right@other/*"]
    assert registry.candidates("unrelated") == []
    assert [str(error) for error in registry.errors] == [
        record.getMessage() for record in caplog.records
    ]


def test_a_wrong_one_is_logged_once(app, caplog):
    on_event("order/paid")(app.task(name="wrong")(takes_nothing))
    registry = finalised(app)
    for number in range(3):
        subscribe(app, f"order/{number}")
        registry.refresh()
    assert len(registry.errors) == len(caplog.records) == 1


def test_its_error_does_not_grow_with_every_emit(app):
    on_event("order/paid")(app.task(name="wrong")(takes_nothing))
    registry = finalised(app)
    lengths = set()
    for _ in range(3):
        with pytest.raises(InvalidSubscription) as caught:
            registry.candidates("order/paid")
        lengths.add(len(traceback.extract_tb(caught.value.__traceback__)))
    assert len(lengths) == 1


def test_what_is_mended_is_wrong_no_more(app):
    late = ClassTask()
    on_event("order/paid", on_failure=ClassTask)(app.task(name="tell")(tell))
    registry = finalised(app)
    assert len(registry.errors) == 1
    app.register_task(late)
    assert ids(registry.candidates("order/paid")) == ["tell@order/paid"]
    assert registry.errors == []


def test_on_failure_must_be_of_the_same_app(app, other):
    on_event("order/paid", on_failure=other.task(tell))(app.task(name="tell")(tell))
    where = declared.all[-1].where
    assert error_of(finalised(app)) == (
        f"The subscription of tell at {where} names an on_failure task that the app 'shop' does "
        "not have. Use a task of the same app, or a shared task."
    )


def takes_two(a, b): ...


def takes_a_keyword(data, *, needed): ...


def bound_with_none(self): ...


def bound_with_two(self, a, b): ...


async def makes_a_coroutine(data): ...


def makes_a_generator(data):
    yield data


@pytest.mark.parametrize("options", [{}, {"autoretry_for": (OSError,)}])
@pytest.mark.parametrize(
    ("function", "kind"), [(makes_a_coroutine, "a coroutine"), (makes_a_generator, "a generator")]
)
def test_a_subscriber_must_do_the_work_when_it_is_called(app, function, kind, options):
    on_event("order/paid")(app.task(name="wrong", **options)(function))
    where = declared.all[-1].where
    assert error_of(finalised(app)) == (
        f"The subscriber wrong at {where} is {kind} function, and a worker that calls it only "
        f"makes {kind}. Write a function that does the work, with asyncio.run(...) inside if need "
        "be."
    )


@pytest.mark.parametrize(
    ("function", "options", "problem"),
    [
        (takes_nothing, {}, "takes 0 positional arguments but 1 was given"),
        (takes_two, {}, "missing 1 required positional argument: 'b'"),
        (takes_a_keyword, {}, "missing 1 required keyword-only argument: 'needed'"),
        (bound_with_none, {"bind": True}, "takes 1 positional argument but 2 were given"),
        (bound_with_two, {"bind": True}, "missing 1 required positional argument: 'b'"),
    ],
)
def test_a_subscriber_must_take_the_data_alone(app, function, options, problem):
    on_event("order/paid")(app.task(name="wrong", **options)(function))
    where = declared.all[-1].where
    assert error_of(finalised(app)) == (
        f"The subscriber wrong at {where} cannot be called with the event's data alone "
        f"({function.__name__}() {problem}). Give it exactly one required argument, besides self, "
        "or subscribe a small task that calls it."
    )


def with_a_default(data, more=1): ...


def with_defaults_alone(data=1): ...


def with_anything(*args, **kwargs): ...


def bound(self, data): ...


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (tell, {}),
        (with_a_default, {}),
        (with_defaults_alone, {}),
        (with_anything, {}),
        (bound, {"bind": True}),
        (takes_two, {"typing": False}),  # Celery does not check it either
    ],
)
def test_a_subscriber_that_takes_the_data_alone(app, function, options):
    on_event("order/paid")(app.task(name="right", **options)(function))
    assert ids(finalised(app).candidates("order/paid")) == ["right@order/paid"]


# -- which tasks are wrapped -------------------------------------------------------------------


def test_every_task_that_a_run_may_execute_is_wrapped(app):
    wrapped = []
    then, on_failure = app.task(name="then")(tell), app.task(name="on_failure")(tell)
    elsewhere = app.signature("elsewhere")
    on_event("order/paid", then=[then, elsewhere], on_failure=on_failure)(
        app.task(name="tell")(tell)
    )
    app.task(name="ordinary")(tell)
    app.finalize()
    registry = Registry(app, wrapped.append)
    registry.refresh()
    assert {task.name for task in wrapped} == {"tell", "then", "on_failure"}


def test_a_link_that_is_registered_late_is_wrapped_too(app):
    wrapped = []
    on_event("order/paid", then=app.signature("late"))(app.task(name="tell")(tell))
    app.finalize()
    registry = Registry(app, wrapped.append)
    registry.refresh()
    late = app.task(name="late", lazy=False)(tell)
    registry.refresh()
    assert late in wrapped
