"""``on_event``: what it takes, what it refuses, and that it opens nothing."""

import importlib
import sys
import types

import pytest
from celery import Celery, Task, chain, group, shared_task
from pydantic import BaseModel

from celery_fanout import event_type, on_event
from celery_fanout.exceptions import (
    DuplicateSubscription,
    InvalidEventType,
    InvalidPattern,
    InvalidSubscription,
    NotATask,
)
from celery_fanout.subscribing.on_event import declared


@pytest.fixture
def app():
    return Celery("shop", set_as_current=False)


def tell(data): ...


def here(offset=0):
    frame = sys._getframe(1)
    return f"{__file__}:{frame.f_lineno + offset}"


# -- what it does ------------------------------------------------------------------------------


def test_the_task_stays_what_it_is(app):
    task = app.task(tell)
    assert on_event("order/paid")(task) is task


def test_what_is_declared(app):
    def accepts(event): ...

    task, then, on_failure = app.task(tell), app.task(name="then")(tell), app.task(name="f")(tell)

    where = here(+1)
    on_event("order/*", filter=accepts, then=then, on_failure=on_failure, options={"queue": "q"})(task)  # fmt: skip  # noqa: E501

    found = declared.all[-1]
    assert found.task is task
    assert found.then[0] is then
    assert found.on_failure is on_failure
    assert (found.pattern, found.filter, found.options, found.where) == (
        "order/*",
        accepts,
        {"queue": "q"},
        where,
    )


def test_options_are_copied(app):
    options = {"queue": "q"}
    on_event("order/paid", options=options)(app.task(tell))
    options["queue"] = "other"
    assert declared.all[-1].options == {"queue": "q"}


def test_several_on_one_task(app):
    @on_event("order/paid")
    @on_event("order/*")
    @app.task
    def several(data): ...

    assert [one.pattern for one in declared.all[-2:]] == ["order/*", "order/paid"]


def test_a_typed_event(app):
    @event_type("order/paid")
    class Paid(BaseModel): ...

    class Refunded(Paid): ...

    on_event(Paid)(app.task(tell))
    on_event(Refunded)(app.task(name="other")(tell))
    assert [one.pattern for one in declared.all[-2:]] == ["order/paid", "order/paid"]


def test_one_line_may_subscribe_many_tasks(app):
    for name in ("a", "b"):
        on_event("order/paid")(app.task(name=name)(tell))
    assert len({one.where for one in declared.all[-2:]}) == 1


def test_what_may_follow(app):
    task, signature = app.task(tell), app.signature("elsewhere")
    tail = chain(app.signature("a"), app.signature("b"), app=app)
    for number, (then, expected) in enumerate(
        [
            (None, []),
            ([], []),
            (task, [task]),
            (signature, [signature]),
            (tail, [tail]),
            ([task, signature, tail], [task, signature, tail]),
            ((task,), [task]),
        ]
    ):
        on_event(f"order/{number}", then=then)(task)
        found = declared.all[-1].then
        assert [id(item) for item in found] == [id(item) for item in expected]


# -- opens nothing -----------------------------------------------------------------------------


@pytest.fixture
def closed(monkeypatch):
    """An app that cannot load its configuration."""

    class Exploding(types.ModuleType):
        def __getattr__(self, name):
            raise AssertionError(f"the configuration was loaded, for {name}")

    monkeypatch.setitem(sys.modules, "exploding_config", Exploding("exploding_config"))
    app = Celery("closed", set_as_current=False)
    app.config_from_object("exploding_config")
    with pytest.raises(AssertionError):
        _ = app.conf.task_default_queue
    return app


def test_a_task_is_not_opened(closed):
    task, then, last, on_failure = (closed.task(name=n)(tell) for n in ("a", "b", "c", "d"))
    on_event("order/paid")(task)
    on_event("order/1", then=then)(task)
    on_event("order/2", then=[then, last], on_failure=on_failure)(task)
    on_event("order/*", filter=lambda event: True, options={"queue": "q"})(task)
    assert not any(proxy.__evaluated__() for proxy in (task, then, last, on_failure))
    assert not closed.finalized


def test_a_shared_task_is_not_opened(closed):
    closed.set_current()
    task, then, on_failure = (shared_task(name=n)(tell) for n in ("a", "b", "c"))
    on_event("order/paid", then=then, on_failure=on_failure)(task)
    on_event("order/*", then=[then])(task)
    assert not closed.finalized


def test_a_refusal_opens_nothing(closed):
    task = closed.task(tell)
    with pytest.raises(InvalidPattern) as caught:
        on_event(task)
    assert str(caught.value).startswith("'a task' is no event pattern. ")
    on_event("order/paid")(task)
    with pytest.raises(DuplicateSubscription):
        on_event("order/paid")(task)
    assert not task.__evaluated__()


# -- what it refuses ---------------------------------------------------------------------------


def put_between(pattern="order/paid"):
    return f"Put @app.task or @shared_task between @on_event({pattern!r}) and the function."


class Callable:
    def __call__(self, data): ...

    def __repr__(self):
        return "<a callable>"


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        (tell, f"the function {__name__}.tell"),
        (Callable().__call__, f"the function {__name__}.Callable.__call__"),
        (len, "the function builtins.len"),
        (Callable(), "<a callable>"),
        (Callable, f"<class '{__name__}.Callable'>"),
        (None, "None"),
    ],
)
def test_only_a_task_subscribes(wrong, name):
    with pytest.raises(NotATask) as caught:
        on_event("order/paid")(wrong)
    assert isinstance(caught.value, TypeError)
    assert (
        str(caught.value) == f"on_event needs a Celery task, and {name} is not one. {put_between()}"
    )


def test_below_the_task_decorator(app):
    with pytest.raises(NotATask) as caught:

        @app.task
        @on_event("order/*")
        def wrong(data): ...

    assert str(caught.value) == (
        f"on_event needs a Celery task, and the function {__name__}.test_below_the_task_decorator"
        f".<locals>.wrong is not one. {put_between('order/*')}"
    )


@pytest.mark.parametrize("wrong", [tell, "tell", [tell], {"task": "tell"}])
def test_only_tasks_and_signatures_follow(app, wrong):
    with pytest.raises(NotATask) as caught:
        on_event("order/paid", then=wrong)(app.task(tell))
    first = wrong[0] if isinstance(wrong, list) else wrong
    name = f"the function {__name__}.tell" if first is tell else repr(first)
    assert str(caught.value) == (
        f"then= needs a Celery task, and {name} is not one. Pass tasks or signatures."
    )


@pytest.mark.parametrize("wrong", ["function", "signature", "group"])
def test_only_a_task_is_told_of_a_failure(app, wrong):
    item = {
        "function": tell,
        "signature": app.signature("tell"),
        "group": group([app.signature("tell")], app=app),
    }[wrong]
    with pytest.raises(NotATask) as caught:
        on_event("order/paid", on_failure=item)(app.task(tell))
    name = f"the function {__name__}.tell" if wrong == "function" else repr(item)
    assert (
        str(caught.value) == f"on_failure= needs a Celery task, and {name} is not one. Pass a task."
    )


NO_PATTERN = (
    "is no event pattern. Use an event name such as 'document/uploaded', a name that ends in '*' "
    "after '/' or '.', such as 'document/*', or '*' alone."
)


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ("order*", "order*"),
        ("", ""),
        (7, "7"),
        (None, "None"),
        (tell, f"the function {__name__}.tell"),  # @on_event without parentheses
    ],
)
def test_only_a_pattern_is_subscribed_to(wrong, name):
    with pytest.raises(InvalidPattern) as caught:
        on_event(wrong)
    assert str(caught.value) == f"{name!r} {NO_PATTERN}"


def test_a_class_that_is_the_type_of_no_event():
    class Paid(BaseModel): ...

    with pytest.raises(InvalidEventType) as caught:
        on_event(Paid)
    assert str(caught.value) == (
        'Paid is the type of no event. Decorate it: @event_type("...") above class Paid.'
    )


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("args", "A subscriber receives the event's data."),
        ("kwargs", "A subscriber receives the event's data."),
        ("task_id", "The task id is the run's id."),
        ("link", "Use then=."),
        ("chain", "Use then=."),
        ("link_error", "Use on_failure=."),
        ("group_id", "A run belongs to no group."),
        ("chord", "A run belongs to no chord."),
        ("producer", "emit() publishes with a producer of its own."),
        ("publisher", "emit() publishes with a producer of its own."),
        ("connection", "emit() publishes with a producer of its own."),
        ("retries", "A run starts at its first attempt."),
        ("root_id", "It follows from where emit() is called."),
        ("parent_id", "It follows from where emit() is called."),
    ],
)
def test_options_that_a_subscription_cannot_set(option, remedy):
    with pytest.raises(InvalidSubscription) as caught:
        on_event("order/paid", options={"queue": "q", option: None})
    assert str(caught.value) == (
        f"A subscription to 'order/paid' cannot have the option {option!r}. {remedy}"
    )


async def accepts(event): ...


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ("data.total > 5", "'data.total > 5'"),
        ({"total": 5}, "{'total': 5}"),
        (accepts, f"the function {__name__}.accepts"),
    ],
)
def test_only_a_function_filters(wrong, name):
    with pytest.raises(InvalidSubscription) as caught:
        on_event("order/paid", filter=wrong)
    assert str(caught.value) == (
        f"A subscription to 'order/paid' cannot have the filter {name}. Use a function that takes "
        "the Event and returns whether to deliver it."
    )


class ClassTask(Task):
    name = "shop.class"

    def run(self, data): ...


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda app: app.task(name="shop.tell")(tell), "a task"),
        (lambda app: shared_task(name="shop.tell")(tell), "a task"),
        (lambda app: app.task(name="shop.tell", lazy=False)(tell), "shop.tell"),
        (lambda app: app.register_task(ClassTask()), "shop.class"),
        (lambda app: ClassTask, "a task"),
    ],
    ids=["app.task", "shared_task", "app.task(lazy=False)", "instance", "class"],
)
def test_the_same_subscription_twice_names_both_places(app, make, name):
    task = make(app)
    first = here(+1)
    on_event("order/paid")(task)
    second = here(+2)
    with pytest.raises(DuplicateSubscription) as caught:
        on_event("order/paid")(task)
    assert str(caught.value) == (
        f"{name}@order/paid is subscribed twice: at {first} and at {second}. Remove one, or join "
        "their filters."
    )


def test_a_module_that_is_reloaded_declares_anew(tmp_path, monkeypatch):
    (tmp_path / "reloaded_subscribers.py").write_text(
        "from celery_fanout import on_event\n"
        "from tests.unit.subscribing.test_on_event import ClassTask\n"
        "on_event('thing/made', options={'priority': 3})(ClassTask)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("reloaded_subscribers")
    before, version = list(declared.all), declared.version
    importlib.reload(module)
    assert len(declared.all) == len(before)
    assert declared.all[-1] is not before[-1]
    assert declared.all[-1].where == before[-1].where == f"{tmp_path}/reloaded_subscribers.py:3"
    assert declared.version > version
    del sys.modules["reloaded_subscribers"]
