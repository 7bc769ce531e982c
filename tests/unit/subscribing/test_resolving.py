"""From what a user wrote to the tasks and signatures of one app."""

import pytest
from celery import Celery, Task, _state, chain, chord, group, shared_task

from celery_fanout.exceptions import InvalidSubscription
from celery_fanout.subscribing.resolving import resolve_signatures, resolve_task


@pytest.fixture
def app():
    return Celery("shop", set_as_current=False)


@pytest.fixture
def other():
    return Celery("other", set_as_current=False)


def tell(data): ...


class ClassTask(Task):
    def run(self, data): ...


class Named(ClassTask):
    name = "shop.named"


# -- tasks -------------------------------------------------------------------------------------


def test_a_task_is_not_opened_before_its_app_is_finalised(app):
    task = app.task(tell)
    assert resolve_task(app, task) is None
    assert not task.__evaluated__()
    app.finalize()
    assert resolve_task(app, task) is app.tasks[f"{__name__}.tell"]


def test_a_task_of_another_app_is_not_opened(app, other):
    task = other.task(tell)
    app.finalize()
    assert resolve_task(app, task) is None
    assert not task.__evaluated__()
    other.finalize()
    assert resolve_task(app, task) is None


def test_a_task_that_is_no_proxy(app):
    app.finalize()
    task = app.task(lazy=False)(tell)
    assert resolve_task(app, task) is task


def test_a_shared_task_is_each_apps_own(app, other):
    task = shared_task(name="shared")(tell)
    app.finalize()
    other.finalize()
    assert resolve_task(app, task) is app.tasks["shared"]
    assert resolve_task(other, task) is other.tasks["shared"]
    assert app.tasks["shared"] is not other.tasks["shared"]


@pytest.mark.parametrize("main", ["current", None])
def test_the_current_app_stays_current(app, main):
    _state._tls.current_app = before = main and Celery(main)
    task = shared_task(name="shared")(tell)
    app.finalize()
    resolve_task(app, task)
    assert _state._tls.current_app is before


@pytest.mark.parametrize(
    ("cls", "name"), [(ClassTask, f"{__name__}.ClassTask"), (Named, "shop.named")]
)
def test_a_class_is_its_task_once_that_is_registered(app, other, cls, name):
    app.finalize()
    other.finalize()
    assert resolve_task(app, cls) is None
    task = app.register_task(cls())
    assert task.name == name
    assert resolve_task(app, cls) is task
    assert resolve_task(other, cls) is None


def test_an_instance(app, other):
    task = app.register_task(Named())
    app.finalize()
    assert resolve_task(app, task) is task
    assert resolve_task(other, task) is None


# -- signatures --------------------------------------------------------------------------------


def names(signatures):
    return [signature["task"] for signature in signatures]


def test_links(app):
    task, shared = app.task(name="task")(tell), shared_task(name="shared")(tell)
    app.finalize()
    signature = app.signature("elsewhere", args=(1,), options={"queue": "q"}, immutable=True)
    tail = app.signature("a") | app.signature("b")
    found = resolve_signatures(app, (task, shared, signature, tail), "shop.py:3")
    assert names(found) == ["task", "shared", "elsewhere", "a", "b"]
    assert all(type(link) is dict for link in found)
    assert (found[2]["args"], found[2]["options"], found[2]["immutable"]) == (
        (1,),
        {"queue": "q"},
        True,
    )
    assert resolve_signatures(app, (), "shop.py:3") == ()


def test_signatures_are_copied(app):
    signature = app.signature("a", options={"queue": "q"})
    [link] = resolve_signatures(app, (signature,), "shop.py:3")
    signature.set(queue="other")
    assert link["options"] == {"queue": "q"}


def test_chains_in_chains_are_one_chain(app):
    inner = chain(app.signature("b"), app.signature("c"), app=app)
    outer = chain(app.signature("a"), inner, app.signature("d"), app=app)
    assert names(resolve_signatures(app, (outer,), "shop.py:3")) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("kind", ["group", "chord", "chain"])
def test_a_tail_does_not_fan_out(app, kind):
    pair = group([app.signature("a"), app.signature("b")], app=app)
    wrong = {
        "group": pair,
        "chord": chord(pair, app.signature("c"), app=app),
        "chain": chain(app.signature("d"), pair, app=app),
    }[kind]
    with pytest.raises(InvalidSubscription) as caught:
        resolve_signatures(app, (wrong,), "shop.py:3")
    assert str(caught.value) == (
        f"then= at shop.py:3 contains a {kind if kind == 'chord' else 'group'}. A tail is one "
        "chain: emit an event from its last task to fan out again."
    )


def test_a_task_of_another_app_cannot_follow(app, other):
    task = other.task(name="theirs")(tell)
    app.finalize()
    other.finalize()
    with pytest.raises(InvalidSubscription) as caught:
        resolve_signatures(app, (task,), "shop.py:3")
    assert str(caught.value) == (
        f"then= at shop.py:3 names {task!r}, which is no task of the app 'shop'. Use a task of "
        "the same app, a shared task, or a signature."
    )
