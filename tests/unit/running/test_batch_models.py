"""Batches of pydantic models: by Celery's own rules for one model."""

import datetime as dt
from collections.abc import Sequence

import pydantic
import pytest
from celery import Celery

from celery_fanout import Batch, emit, on_event, step
from celery_fanout.running.batch_models import as_models
from celery_fanout.testing import FanoutTester


class Order(pydantic.BaseModel):
    id: int
    at: dt.date | None = None

    @pydantic.field_validator("id")
    @classmethod
    def noted(cls, value, info):
        return value + (info.context or {}).get("plus", 0)


@pytest.fixture
def app():
    return Celery("shop", set_as_current=False, broker="memory://", backend="cache+memory://")


def plain(orders: list[Order]): ...


def sequence(orders: Sequence[Order]): ...


def bound(self, orders: list[Order]): ...


def dicts(orders: list[dict]): ...


def unknown(orders): ...


def one(order: Order): ...


DATA = [{"id": 1}, {"id": 2, "at": "2026-11-26"}]


@pytest.mark.parametrize(
    ("body", "options"),
    [(plain, {}), (sequence, {}), (bound, {"bind": True}), (plain, {"autoretry_for": (OSError,)})],
)
def test_models(app, body, options):
    task = app.task(body, name="task", shared=False, pydantic=True, **options)
    assert as_models(task, DATA) == [Order(id=1), Order(id=2, at=dt.date(2026, 11, 26))]


def test_celerys_options_count(app):
    told = app.task(plain, name="a", shared=False, pydantic=True, pydantic_context={"plus": 10})
    assert [order.id for order in as_models(told, DATA)] == [11, 12]
    strict = app.task(plain, name="b", shared=False, pydantic=True, pydantic_strict=True)
    with pytest.raises(pydantic.ValidationError):
        as_models(strict, DATA)


@pytest.mark.parametrize("body", [dicts, unknown, one])
def test_what_is_no_list_of_models(app, body):
    assert as_models(app.task(body, name="task", shared=False, pydantic=True), DATA) is DATA


def test_without_pydantic(app):
    assert as_models(app.task(plain, name="task", shared=False), DATA) is DATA


def test_each_attempt_has_models_of_its_own(app):
    seen = []

    @on_event("order/paid", batch=Batch(2, 60))
    @app.task(name="task", shared=False, pydantic=True)
    def task(orders: list[Order]):
        seen.append([order.id for order in orders])
        orders.clear()
        step.sleep("rest", 60)
        return len(seen)

    with FanoutTester(app).simulate() as simulation:
        runs = [emit("order/paid", {"id": number}, app=app).runs[0] for number in (1, 2)]
        simulation.finish()
        assert seen == [[1, 2], [1, 2]]
        assert runs[0].result.get() == 2


def test_what_does_not_fit_fails_the_run(app):
    @on_event("order/paid", batch=Batch(2, 60))
    @app.task(name="task", shared=False, pydantic=True)
    def task(orders: list[Order]): ...

    with FanoutTester(app).simulate() as simulation:
        runs = [emit("order/paid", {"id": number}, app=app).runs[0] for number in (1, "x")]
        simulation.finish()
        found = simulation.runs.get(runs[0].id)
        assert found.state == "failed"
        assert found.detail["error"]["type"] == "ValidationError"


def test_a_call_by_hand_is_celerys(app):
    @on_event("order/paid", batch=Batch(2, 60))
    @app.task(name="task", shared=False, pydantic=True)
    def task(orders: list[Order]):
        return [type(order).__name__ for order in orders]

    app.finalize()
    assert task.apply(([{"id": 1}],)).get() == ["dict"]
