"""What flow control's options mean for one event: keys, names, lanes and priorities."""

import datetime as dt
import decimal
import uuid

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from celery_fanout import (
    Batch,
    Concurrency,
    Debounce,
    Event,
    Idempotency,
    RateLimit,
    Singleton,
    Throttle,
    emit,
    get_fanout,
    on_event,
)
from celery_fanout.emitting.delivery import Draft
from celery_fanout.emitting.freezing import broker_priority
from celery_fanout.exceptions import InvalidEvent, StoreUnsupported
from celery_fanout.stores.limits import Collect, Flow, Gate, Once, Place, Rate
from celery_fanout.subscribing.admission import flow_of, priority_of

SUB = "tell@order/paid"
DATA = {
    "id": 7,
    "tenant": {"id": "acme"},
    "tags": ["b", "a"],
    "none": None,
    "map": {"b": 1, "a": 2},
}
HOUR = dt.timedelta(hours=1)


def tell(data): ...


def give_back(data):
    return data


def subscription(app=None, **options):
    app = app or Celery("shop", set_as_current=False)
    on_event("order/paid", **options)(app.task(tell, name="tell"))
    app.finalize()
    return get_fanout(app).registry.find(SUB)


def flow(data=DATA, **options):
    return flow_of(subscription(**options), Event("order/paid", data))


# -- what the ledger is told -------------------------------------------------------------------


def test_without_options_there_is_no_flow():
    assert flow() is None


def test_concurrency():
    assert flow(concurrency=Concurrency(5)) == Flow(
        (Place(Gate(f"concurrency {SUB}"), 5),), lane=SUB
    )


def test_limits_with_a_key_come_first():
    found = flow(
        concurrency=[Concurrency(9, scope="app"), Concurrency(2, "tenant.id"), Concurrency(5)],
        singleton=Singleton("id", "queue"),
    )
    assert found.places == (
        Place(Gate(f"concurrency {SUB} by tenant.id", "acme"), 2),
        Place(Gate(f"singleton {SUB} by id", "7"), 1, kept=True, full="wait"),
        Place(Gate(f"concurrency {SUB}"), 5),
        Place(Gate("concurrency app"), 9),
    )


@pytest.mark.parametrize(
    ("mode", "full"), [("skip", "drop"), ("cancel", "cancel"), ("queue", "wait")]
)
def test_singleton(mode, full):
    (place,) = flow(singleton=Singleton(mode=mode)).places
    assert place == Place(Gate(f"singleton {SUB}"), 1, kept=True, full=full)


def test_what_counts_over_time():
    found = flow(
        throttle=Throttle(2, HOUR, burst=3),
        rate_limit=RateLimit(4, 5, "id"),
        idempotency=Idempotency("tenant.id", HOUR),
        start_timeout=HOUR,
        finish_timeout=90,
    )
    assert found == Flow(
        throttle=Rate(Gate(f"throttle {SUB}"), 2, 3600.0, 3),
        rate_limit=Rate(Gate(f"rate_limit {SUB} by id", "7"), 4, 5.0),
        once=Once(Gate(f"idempotency {SUB} by tenant.id", "acme"), 3600.0),
        lane=SUB,
        start_timeout=3600.0,
        finish_timeout=90.0,
    )


def test_what_collects():
    gate = Gate(f"debounce {SUB} by id", "7")
    assert flow(debounce=Debounce(5, "id")).collect == Collect(gate, "debounce", 5.0)
    assert flow(debounce=Debounce(5, "id", HOUR)).collect == Collect(gate, "debounce", 5.0, 3600.0)
    gate = Gate(f"batch {SUB}")
    assert flow(batch=Batch(10, HOUR)).collect == Collect(gate, "batch", 3600.0, max_size=10)


def test_limits_by_name():
    limit, throttle = Concurrency(5, scope="llm"), Throttle(1, 1)
    found = subscription(concurrency=limit, throttle=throttle).limits_by_name()
    assert found == {"concurrency llm": limit, f"throttle {SUB}": throttle}
    assert subscription().limits_by_name() == {}


# -- keys --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("id", "7"),
        ("tenant.id", "acme"),
        ("tags", '["b","a"]'),
        ("tags.1", "a"),
        ("map", '{"a":2,"b":1}'),
        ("none", "null"),
        ("nowhere.at.all", "null"),
        (lambda event: event.name, "order/paid"),
        (lambda event: event.data["id"] > 5, "true"),
        (lambda event: None, "null"),
        (lambda event: 0.5, "0.5"),
        (lambda event: "ключ", "ключ"),
        (lambda event: ("a", 1), '["a",1]'),
        (lambda event: uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (lambda event: decimal.Decimal("1.50"), "1.50"),
        (lambda event: dt.date(2026, 11, 26), "2026-11-26"),
    ],
)
def test_the_value_of_a_key(key, text):
    assert flow(rate_limit=RateLimit(1, 1, key)).rate_limit.gate.key == text


def test_long_values_are_cut_and_stay_apart():
    values = [
        flow({"id": "x" * 200 + end}, idempotency="id").once.gate.key for end in ("", "a", "b", "b")
    ]
    assert values[0] == "x" * 200
    assert len(set(values)) == 3
    assert [len(value) for value in values[1:]] == [242, 242, 242]


class NoHash:
    __hash__ = None

    def __call__(self, event):
        return event.data["id"]


def test_a_key_may_be_an_object_without_a_hash():
    found = flow(concurrency=[Concurrency(1, NoHash()), Concurrency(1)])
    assert found.places[0].gate == Gate(f"concurrency {SUB} by NoHash", "7")
    assert found.places[1].gate == Gate(f"concurrency {SUB}")


def raises(event):
    raise KeyError(event.data["id"])


def interrupted(event):
    raise KeyboardInterrupt


def is_a_set(event):
    return {event.data["id"]}


def is_no_number(event):
    return "high"


def is_too_much(event):
    return 256


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"concurrency": Concurrency(1, raises, "app")},
            (
                "The event 'order/paid' cannot be emitted: raises, the key of the limit "
                f"'concurrency app by key' of {SUB}, raised KeyError. Let it return a value for "
                "every event that the subscription matches."
            ),
        ),
        (
            {"idempotency": is_a_set},
            (
                "The event 'order/paid' cannot be emitted: is_a_set, the key of the limit "
                f"'idempotency {SUB} by is_a_set' of {SUB}, returned a set that JSON cannot carry. "
                "Let it return a text, a number, or a list of them."
            ),
        ),
        (
            {"priority": raises},
            (
                f"The event 'order/paid' cannot be emitted: raises, the priority of {SUB}, raised "
                "KeyError. Let it return a value for every event that the subscription matches."
            ),
        ),
        (
            {"priority": is_no_number},
            (
                f"The event 'order/paid' cannot be emitted: is_no_number, the priority of {SUB}, "
                "returned a str. Let it return a whole number from -255 to 255."
            ),
        ),
        (
            {"priority": is_too_much},
            (
                f"The event 'order/paid' cannot be emitted: is_too_much, the priority of {SUB}, "
                "returned 256. Let it return a whole number from -255 to 255."
            ),
        ),
    ],
)
def test_functions_that_cannot_be_used(options, text):
    with pytest.raises(InvalidEvent) as caught:
        flow(**options)
    assert str(caught.value) == text


def test_an_interrupt_is_none_of_our_business():
    with pytest.raises(KeyboardInterrupt):
        flow(idempotency=interrupted)


# -- order -------------------------------------------------------------------------------------


def test_keys_of_what_runs_wait_for_make_lanes():
    found = flow(
        concurrency=[Concurrency(1), Concurrency(1, "tenant.id"), Concurrency(1, "id", "app")],
        throttle=Throttle(1, 1, key="tags.0"),
    )
    assert found.lane == f'["{SUB}","acme","7","b"]'
    assert flow(batch=Batch(2, 1, "tenant.id")).lane == f'["{SUB}","acme"]'


def test_keys_of_what_drops_and_of_single_things_make_none():
    options = {
        "rate_limit": RateLimit(1, 1, "id"),
        "idempotency": "id",
        "singleton": Singleton("id"),
    }
    assert flow(**options).lane == SUB
    assert flow(debounce=Debounce(1, "id")).lane == SUB


@pytest.mark.parametrize(
    ("priority", "value"), [(5, 5), (-255, -255), (lambda event: event.data["id"], 7)]
)
def test_priority(priority, value):
    assert flow(priority=priority, start_timeout=5).priority == value


def test_a_priority_alone_is_nothing_to_wait_for():
    assert flow(priority=5) is None


@pytest.mark.parametrize(
    ("given", "amqp", "redis"),
    [
        (255, 255, None),
        (3, 3, None),
        (0, None, None),
        (-1, None, 1),
        (-9, None, 9),
        (-255, None, 9),
        (lambda event: 2, 2, None),
        (None, None, None),
    ],
)
def test_the_brokers_priority(given, amqp, redis):
    sub = subscription(priority=given, start_timeout=1)
    priority = priority_of(sub, Event("order/paid", DATA))
    assert broker_priority(sub, priority, "amqp") == amqp
    assert broker_priority(sub, priority, "redis") == redis
    assert broker_priority(sub, priority, "memory") is None


def test_a_priority_among_the_options_is_the_brokers():
    sub = subscription(priority=5, options={"priority": 1})
    assert broker_priority(sub, 5, "amqp") is None


def test_a_message_of_a_run_whose_priority_cannot_be_worked_out_any_more():
    app = Celery("shop", set_as_current=False, broker="pyamqp://127.0.0.1:1", backend="redis://")
    sub = subscription(app, priority=raises, start_timeout=1)
    assert get_fanout(app).freezer.freeze_run(Event("order/paid", DATA), sub, 0).priority is None


# -- who refuses -------------------------------------------------------------------------------


@pytest.fixture
def app():
    app = Celery("shop", set_as_current=False, broker="memory://", backend="cache+memory://")
    subscription(app, throttle=Throttle(1, 1), priority=5)
    return app


def test_level_1_refuses(app):
    with pytest.raises(StoreUnsupported) as caught:
        emit("order/paid", app=app)
    assert str(caught.value) == (
        "The store of the app 'shop' does not support throttle=, priority= of tell@order/paid. It "
        "needs level 2: a Redis result backend, or fanout_store_url with a Redis URL."
    )


def test_shards_refuse(app):
    app.conf.update(fanout_store_url="redis://127.0.0.1:1/0", fanout_shards=2)
    with pytest.raises(StoreUnsupported) as caught:
        emit("order/paid", app=app)
    assert str(caught.value) == (
        "The store of the app 'shop' does not support throttle=, priority= of tell@order/paid. A "
        "limit is counted in one place: leave fanout_shards at 1, or the options out."
    )


@pytest.mark.parametrize(("size", "fits"), [(9_998, True), (9_999, False)])
def test_a_batch_that_rabbitmq_could_not_carry_to_its_tail(size, fits):
    app = Celery("shop", set_as_current=False, broker="pyamqp://127.0.0.1:1", backend="redis://")
    on_event("order/paid", batch=Batch(10, 1), then=app.signature("follow"))(
        app.task(tell, name="tell", shared=False)
    )
    app.finalize()
    freezer, event = get_fanout(app).freezer, Event("order/paid", "x" * size)
    draft = Draft(get_fanout(app), [event])
    if fits:
        ((chain,),) = [frozen.chains for frozen in freezer.freeze([event], {}, 0)]
        whole = Event("order/paid", [event.data] * 10)  # is flushed whatever its brackets add
        assert freezer.freeze_run(whole, chain.subscription, 0, None, chain.run_id)
        return
    with pytest.raises(InvalidEvent) as caught:
        draft.check()
    assert str(caught.value) == (
        "The event 'order/paid' has 10,001 bytes of data, and RabbitMQ carries at most 10,000 for "
        "each of the 10 events of a batch to the links that follow tell@order/paid. Store the data "
        "elsewhere and emit a reference to it."
    )


def test_what_cannot_be_worked_out_is_known_before_a_commit():
    app = Celery("shop", set_as_current=False, broker="memory://", backend="redis://127.0.0.1:1")
    subscription(app, idempotency=raises)
    with pytest.raises(InvalidEvent):  # as emit() asks inside of a transaction
        Draft(get_fanout(app), [Event("order/paid", DATA)]).check()


def test_eager_runs_know_no_flow():
    app = Celery("shop", set_as_current=False, broker="memory://", backend="cache+memory://")
    app.conf.task_always_eager = True
    on_event("order/paid", batch=Batch(2, 1, raises))(app.task(give_back, name="tell"))
    (run,) = emit("order/paid", {"id": 7}, app=app).runs
    assert run.result.get() == [{"id": 7}]  # a batch of one


def test_who_is_asked_first_is_shared_by_few() -> None:
    """Whoever frees places lets in at the last one first: that must be what most runs share."""
    everybody, some = Concurrency(9, scope="app"), Concurrency(5, scope="ocr")
    found = flow(concurrency=[everybody, some, Concurrency(2)], singleton=Singleton("id", "queue"))
    assert [place.gate.limit for place in found.places] == [
        f"singleton {SUB} by id",
        f"concurrency {SUB}",
        "concurrency ocr",
        "concurrency app",
    ]


def test_where_there_is_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A misspelt path is told of, and costs no event."""
    found = flow(concurrency=Concurrency(2, "tennant"), idempotency="number.of")
    assert found.places == (Place(Gate(f"concurrency {SUB} by tennant", "null"), 2),)
    assert found.once is None
    flow(concurrency=Concurrency(2, "tennant"), idempotency="number.of")
    nothing = "The event order/paid has nothing at"
    assert [record.getMessage() for record in caplog.records] == [
        f"{nothing} 'tennant', the key of the limit 'concurrency {SUB} by tennant'. {AS_ONE}",
        f"{nothing} 'number.of', the key of the limit 'idempotency {SUB} by number.of'. {APART}",
    ]


AS_ONE, APART = "Such events count as one.", "Such events count each by itself."


@given(value=st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=5)))
def test_null_is_no_key_of_an_idempotency(value: object) -> None:
    """A typed event sends null for a field that was not given: only one of them would be run."""
    for key in ("invoice", lambda event: event.data["invoice"]):
        found = flow({"invoice": value}, idempotency=key)
        assert (found is None or found.once is None) is (value is None)
