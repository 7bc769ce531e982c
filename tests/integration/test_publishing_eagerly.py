"""``task_always_eager``: every subscriber runs in place, and a failing one stops no other."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from celery_fanout import Event, current_event, current_run, emit, emit_many, on_event, step
from celery_fanout.signals import event_emitted
from tests.integration.publishing import Careful, add_task, make_app, subscribe

pytestmark = pytest.mark.matrix


@pytest.fixture(params=[None, Careful], ids=["stock", "override"])
def app(request: pytest.FixtureRequest) -> Celery:
    """An app whose broker does not exist."""
    return make_app("redis://127.0.0.1:1/0", task_cls=request.param, task_always_eager=True)


def fail(app: Celery, name: str, error: Exception, **subscription: Any) -> None:
    def body(data: Any) -> None:
        raise error

    on_event("order/paid", **subscription)(add_task(app, name, body))


def test_each_runs_and_one_that_fails_stops_no_other(app: Celery) -> None:
    told: list[Any] = []
    apologise = add_task(app, "shop.apologise", lambda_(told.append))
    fail(app, "shop.first", ValueError("first"))
    fail(app, "shop.second", ValueError("second"), on_failure=apologise)
    subscribe(app, "shop.third")

    emission = emit("order/paid", {"n": 1}, app=app)

    outcomes = emission.get()
    assert [repr(outcome.error) for outcome in outcomes[:2]] == [
        "ValueError('first')",
        "ValueError('second')",
    ]
    assert outcomes[2].value == {"n": 1}
    assert [outcome.ok for outcome in outcomes] == [False, False, True]
    [failure] = told
    assert failure["run"] == emission.runs[1].id
    assert failure["error"]["message"] == "second"


def lambda_(call: Any) -> Any:
    """Return a function, which tasks must be made of."""

    def body(data: Any) -> None:
        call(data)

    return body


def test_errors_are_raised_after_all_have_run(app: Celery) -> None:
    app.conf.task_eager_propagates = True
    seen: list[Any] = []
    fail(app, "shop.first", ValueError("first"))
    fail(app, "shop.second", KeyError("second"))
    on_event("order/paid")(add_task(app, "shop.third", lambda_(seen.append)))

    with pytest.raises(ValueError, match=r"^first$"):
        emit("order/paid", {"n": 1}, app=app)

    assert seen == [{"n": 1}]


def test_tails_steps_and_the_run(app: Celery) -> None:
    seen: list[Any] = []

    def begin(data: dict[str, int]) -> int:
        seen.append((current_run(), current_event()))
        step.sleep("a year", 365 * 86_400)
        return step.run("double", lambda: data["n"] * 2)

    def end(number: int) -> int:
        seen.append((current_run(), current_event()))
        return number + 1

    on_event("order/paid", then=add_task(app, "shop.end", end))(add_task(app, "shop.begin", begin))

    emission = emit("order/paid", {"n": 4}, app=app, id="e-1")

    assert emission.get()[0].value == 9
    assert emission.runs[0].result.get() == 9
    assert [event for _, event in seen] == [emission.event] * len(seen)
    assert [run.task for run, _ in seen] == ["shop.begin", "shop.begin", "shop.end"]
    assert {run.id for run, _ in seen[:2]} == {emission.runs[0].id}


def test_several_events_and_the_signal(app: Celery) -> None:
    subscribe(app, "shop.mail")
    events: list[Event] = []

    def keep(event: Event, runs: Any, **kwargs: Any) -> None:
        events.append(event)

    event_emitted.connect(keep, weak=False)
    try:
        emissions = emit_many([("order/paid", 1), ("order/lost", 2), ("order/paid", 3)], app=app)
    finally:
        event_emitted.disconnect(keep)

    assert [emission.event for emission in emissions] == events
    assert [[outcome.value for outcome in emission.get()] for emission in emissions] == [
        *([1], [], [3]),
    ]


def test_options_of_the_subscription(app: Celery) -> None:
    seen: list[Any] = []

    def body(self: Any, data: Any) -> None:
        seen.append((self.request.headers.get("tenant"), self.request.delivery_info))

    task = add_task(app, "shop.mail", body, bind=True)
    on_event("order/paid", options={"priority": 3, "headers": {"tenant": "t-1"}})(task)

    emit("order/paid", 1, app=app)

    [(tenant, delivery_info)] = seen
    assert delivery_info["priority"] == 3
    assert tenant == "t-1"
