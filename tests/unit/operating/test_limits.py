"""Limits of flow control as people see and change them: in memory, on a clock that tests move."""

import datetime as dt
import json
import logging

import pytest
from celery import Celery

from celery_fanout import (
    Batch,
    Concurrency,
    Debounce,
    Idempotency,
    RateLimit,
    Singleton,
    Throttle,
    on_event,
)
from celery_fanout.app.fanout import get_fanout
from celery_fanout.exceptions import LimitNotTuned, UnknownLimit
from celery_fanout.model.ids import event_key, run_id
from celery_fanout.operating.limits import LimitControl, declared_limits
from celery_fanout.stores.limits import Flow, Gate, Place
from celery_fanout.stores.memory.ledger import MemoryLedger
from celery_fanout.stores.records import NewEvent, NewRun
from tests.conformance.ledgers import RULES, Clock

SHIP = "shop.ship@order/paid"
BY_TENANT, RATE, SHARED = f"concurrency {SHIP} by tenant", f"throttle {SHIP}", "concurrency bank"


class Shop:
    """An app with limits, a ledger, and what was woken."""

    def __init__(self) -> None:
        app = Celery("shop", broker="memory://", set_as_current=False)

        @on_event(
            "order/paid",
            concurrency=[Concurrency(2, key="tenant"), Concurrency(5, scope="bank")],
            throttle=Throttle(10, per=dt.timedelta(minutes=1)),
        )
        @app.task(name="shop.ship")
        def ship(order): ...

        @on_event("order/*", concurrency=Concurrency(7, scope="bank"))
        @app.task(name="shop.audit")
        def audit(order): ...

        @on_event("order/sent")
        @app.task(name="shop.plain")
        def plain(order): ...

        fanout = get_fanout(app)
        fanout.load()
        self.app = app  # the registry knows it, and its tasks only weakly
        self.registry = fanout.registry
        self.clock = Clock()
        self.ledger = MemoryLedger(RULES, self.clock)
        self.limits = LimitControl(self.ledger, fanout.registry)

    def emit(self, id, tenant="a"):
        """Record an event with one run that needs one of the tenant's places; returns its id."""
        run = run_id("order/paid", id, SHIP)
        flow = Flow(places=(Place(Gate(BY_TENANT, tenant), 2),), lane=tenant)
        key = event_key("order/paid", id)
        runs = [NewRun(run, SHIP, flow=flow)]
        self.ledger.record([NewEvent(key, "order/paid", json.dumps({"id": id}), "{}", runs)])
        return run

    def names(self):
        return [limit.name for limit in self.limits.list()]

    def limit(self, name):
        return self.limits.get(name)


@pytest.fixture
def shop():
    return Shop()


def test_limits_of_the_code_are_listed_though_nobody_used_them(shop):
    assert shop.names() == [BY_TENANT, SHARED, RATE]
    found = shop.limit(BY_TENANT)
    assert (found.kind, found.at_most, found.code, found.keyed) == ("concurrency", 2, ((2, 0),), 1)
    assert (found.used, found.waiting, found.oldest, found.keys) == (0, 0, None, [])
    assert found.subscriptions == (SHIP,)
    rate = shop.limit(RATE)
    assert (rate.kind, rate.at_most, rate.per, rate.keyed) == ("throttle", 10, 60, False)


def test_those_who_share_a_limit_may_differ_in_its_number(shop):
    found = shop.limit(SHARED)
    assert found.code == ((5, 0.0), (7, 0.0))
    assert found.subscriptions == (SHIP, "shop.audit@order/*")


def test_the_numbers_of_each_option():
    app = Celery("all", broker="memory://", set_as_current=False)

    @on_event("a", rate_limit=RateLimit(3, per=60), idempotency=Idempotency("id", ttl=9))
    @on_event("b", singleton=Singleton("id"))
    @on_event("c", debounce=Debounce(5, timeout=50))
    @on_event("d", batch=Batch(20, timeout=10))
    @app.task(name="all.work")
    def work(data): ...

    fanout = get_fanout(app)
    fanout.load()
    found = declared_limits(fanout.registry)
    assert {name: limit.numbers for name, limit in found.items()} == {
        "rate_limit all.work@a": ((3, 60.0),),
        "idempotency all.work@a by id": ((1, 9.0),),
        "singleton all.work@b by id": ((1, 0.0),),
        "debounce all.work@c": ((0, 5.0),),
        "batch all.work@d": ((20, 10.0),),
    }


def test_how_full_a_limit_is_and_for_which_keys(shop):
    for number in range(4):
        shop.emit(f"a-{number}")
        shop.clock.advance(1)
    shop.emit("b-1", "b")
    shop.clock.advance(10)
    found = shop.limit(BY_TENANT)
    assert (found.used, found.waiting) == (3, 2)
    assert found.oldest == shop.clock.now - 12
    keys = [(gate.gate.key, gate.used, gate.waiting, gate.oldest) for gate in found.keys]
    assert keys == [("a", 2, 2, shop.clock.now - 12), ("b", 1, 0, None)]


def test_who_has_a_place_of_a_limit(shop):
    since = shop.clock.now
    first, _ = shop.emit("a-1"), shop.clock.advance(1)
    other, _ = shop.emit("b-1", "b"), shop.clock.advance(1)
    second, _ = shop.emit("a-2"), shop.emit("a-3")
    found = shop.limits.holders(BY_TENANT)
    assert [(holder.gate.key, run.id) for holder, run in found] == [
        ("a", first),
        ("b", other),
        ("a", second),
    ]
    assert [holder.since for holder, _ in found] == [since, since + 1, since + 2]
    assert [run.id for _, run in shop.limits.holders(BY_TENANT, "a")] == [first, second]
    assert [run.id for _, run in shop.limits.holders(BY_TENANT, limit=1)] == [first]
    assert shop.limits.holders(BY_TENANT, "c") == shop.limits.holders(RATE) == []
    with pytest.raises(UnknownLimit):
        shop.limits.holders("concurrency nowhere")


def test_a_limit_that_the_code_no_longer_has_is_listed_while_it_is_in_use(shop):
    gate = Gate("concurrency shop.gone@order/paid")
    runs = [NewRun("r-1", SHIP, flow=Flow(places=(Place(gate, 3),)))]
    shop.ledger.record([NewEvent("e", "order/paid", "{}", "{}", runs)])
    found = shop.limit(gate.limit)
    assert (found.at_most, found.used, found.code, found.subscriptions) == (3, 1, (), ())
    with pytest.raises(UnknownLimit):
        shop.limits.tune(gate.limit, 1)


def test_a_number_is_changed_for_runs_that_wait_already(shop, caplog):
    caplog.set_level(logging.INFO, "celery_fanout.control")
    runs = [shop.emit(f"a-{number}") for number in range(5)]
    assert [str(shop.ledger.run(run).state) for run in runs[2:]] == ["gated"] * 3
    shop.limits.tune(BY_TENANT, 4)
    taken = shop.ledger.take()
    assert {wakeup.run_id for wakeup in taken.wakeups} >= set(runs[2:4])
    assert shop.ledger.run(runs[4]).state == "gated"
    found = shop.limit(BY_TENANT)
    assert (found.at_most, found.tuned, found.code, found.used) == (4, True, ((2, 0),), 4)
    assert shop.limits.untune(BY_TENANT) is True
    assert shop.limits.untune(BY_TENANT) is False
    found = shop.limit(BY_TENANT)
    assert (found.at_most, found.tuned, found.used, found.waiting) == (2, False, 4, 1)
    assert [(record.action, record.getMessage()) for record in caplog.records] == [
        ("limit_tuned", f"Limit {BY_TENANT} set to 4"),
        ("limit_untuned", f"Limit {BY_TENANT} is that of the code"),
        ("limit_untuned", f"Limit {BY_TENANT} is that of the code"),
    ]


def test_a_period_is_changed_with_the_number(shop):
    shop.limits.tune(RATE, 20)
    assert (shop.limit(RATE).at_most, shop.limit(RATE).per) == (20, 60)
    shop.limits.tune(RATE, 20, dt.timedelta(seconds=30))
    assert (shop.limit(RATE).at_most, shop.limit(RATE).per) == (20, 30)
    shop.limits.untune(RATE)
    assert (shop.limit(RATE).at_most, shop.limit(RATE).per) == (10, 60)


def test_a_limit_that_was_changed_and_then_left_the_code_can_be_reset(shop):
    shop.ledger.tune("concurrency shop.gone@a", 3)
    assert shop.limit("concurrency shop.gone@a").tuned
    assert shop.limits.untune("concurrency shop.gone@a") is True
    with pytest.raises(UnknownLimit):
        shop.limits.untune("concurrency shop.gone@a")


def test_names_are_checked(shop):
    near = f"There is no limit 'concurrency banc'. Did you mean {SHARED!r}?"
    for call in (shop.limits.get, shop.limits.untune, lambda name: shop.limits.tune(name, 1)):
        with pytest.raises(UnknownLimit, match=near[:-1]) as caught:
            call("concurrency banc")
        assert str(caught.value) == near
        with pytest.raises(UnknownLimit, match=r"See fanout limits\.$"):
            call("x")


@pytest.mark.parametrize(
    ("name", "numbers", "message"),
    [
        (SHARED, (-1,), "-1 is no number of runs. Use a whole number from 0 to 1,000,000"),
        (SHARED, (2.5,), "2.5 is no number of runs"),
        (SHARED, (True,), "True is no number of runs"),
        (SHARED, (10**9,), "1000000000 is no number of runs"),
        (SHARED, (5, 60), "it is about how many run at once, and has no period. Leave the"),
        (RATE, (5, 0), "0 is no period. Use seconds, more than 0."),
        (RATE, (5, float("inf")), "inf is no period"),
        (RATE, (5, float("nan")), "nan is no period"),
        (RATE, (5, True), "True is no period"),
    ],
)
def test_numbers_are_checked(shop, name, numbers, message):
    with pytest.raises(LimitNotTuned) as caught:
        shop.limits.tune(name, *numbers)
    assert str(caught.value).startswith(f"The limit {name!r} cannot be changed: {message}")
    assert shop.ledger.tuned() == []


def test_what_has_no_number_is_not_changed():
    app = Celery("one", broker="memory://", set_as_current=False)

    @on_event("a", singleton=Singleton())
    @app.task(name="one.work")
    def work(data): ...

    fanout = get_fanout(app)
    fanout.load()
    limits = LimitControl(MemoryLedger(RULES, Clock()), fanout.registry)
    with pytest.raises(LimitNotTuned) as caught:
        limits.tune("singleton one.work@a", 2)
    assert str(caught.value) == (
        "The limit 'singleton one.work@a' cannot be changed: it is one run at a time. Change the "
        "code, and deploy it."
    )
