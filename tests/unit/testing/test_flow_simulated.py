"""Flow control in ``simulate()``: the options of subscribers, on the ledger in memory."""

from dataclasses import replace

import pytest
from celery import Celery

from celery_fanout import (
    Batch,
    Concurrency,
    Debounce,
    Event,
    RateLimit,
    Singleton,
    Throttle,
    current_event,
    current_run,
    emit,
    emit_many,
    get_fanout,
    on_event,
    step,
)
from celery_fanout.exceptions import InvalidEvent, StoreUnsupported, WrongKind
from celery_fanout.model.ids import event_key
from celery_fanout.operating.replaying import begin_again
from celery_fanout.stores.memory.ledger import MemoryConnection
from celery_fanout.subscribing.limits import Limits
from celery_fanout.testing import Clock, FanoutTester

NOWHERE = "redis://127.0.0.1:1"


class Shop:
    """An app with one subscriber, which notes what it gets."""

    def __init__(self):
        self.app = Celery("shop", broker=NOWHERE, backend=NOWHERE, set_as_current=False)
        self.got = []
        self.fanout = FanoutTester(self.app)

    def subscribe(self, body=None, pattern="order/paid", **options):
        def work(data):
            self.got.append(data)
            return body(data) if body is not None else data

        task = self.app.task(work, name="work", shared=False)
        on_event(pattern, **options)(task)
        return task

    def emit(self, data=None, name="order/paid", **options):
        return emit(name, data, app=self.app, **options)


@pytest.fixture
def shop():
    return Shop()


@pytest.fixture
def simulation(shop):
    with shop.fanout.simulate(clock=Clock(1000.0)) as simulation:
        yield simulation


def test_a_place_is_given_back_while_a_run_sleeps(shop, simulation):
    shop.subscribe(lambda data: step.sleep("rest", 60), concurrency=Concurrency(1))
    runs = [shop.emit(number).runs[0].id for number in range(2)]
    assert [simulation.runs.get(run).state for run in runs] == ["published", "gated"]
    assert simulation.runs.get(runs[1]).reason == "concurrency work@order/paid"
    simulation.work()
    assert shop.got == [0, 1]
    assert simulation.finish() > 0
    assert [simulation.runs.get(run).state for run in runs] == ["succeeded", "succeeded"]


def test_a_message_of_a_run_that_waits_is_dropped(shop, simulation):
    shop.subscribe(lambda data: step.sleep("rest", 60), singleton=Singleton(mode="queue"))
    shop.emit(1)
    simulation.work()
    second = shop.emit(2).runs[0]
    level2, event = simulation.level2, Event("order/paid", 2)
    chain = level2.freezer.freeze_run(event, second.subscription, 0, None, second.id)
    level2.publisher.publish([chain])
    simulation.work()
    assert shop.got == [1]
    assert simulation.runs.get(second.id).state == "gated"
    simulation.finish()
    assert simulation.runs.get(second.id).state == "succeeded"


def test_starts_are_spread(shop, simulation):
    shop.subscribe(throttle=Throttle(1, 10))
    for number in range(3):
        shop.emit(number)
    simulation.work()
    assert shop.got == [0]
    simulation.advance(9.9)
    assert shop.got == [0]
    simulation.advance(0.2)
    assert shop.got == [0, 1]
    simulation.advance(10)
    assert shop.got == [0, 1, 2]


def test_what_is_dropped_is_kept_with_its_reason(shop, simulation):
    shop.subscribe(rate_limit=RateLimit(2, 60), idempotency="id")
    emissions = [shop.emit({"id": number}) for number in (1, 1, 2, 3)]
    simulation.work()
    assert shop.got == [{"id": 1}, {"id": 2}]
    found = [simulation.runs.get(emission.runs[0].id) for emission in emissions]
    assert [(run.state, run.reason) for run in found] == [
        ("succeeded", ""),
        ("cancelled", "dropped: idempotency work@order/paid by id"),
        ("succeeded", ""),
        ("cancelled", "dropped: rate_limit work@order/paid"),
    ]


@pytest.mark.parametrize(
    ("mode", "got", "states"),
    [
        ("skip", [1], ["succeeded", "cancelled"]),
        ("cancel", [1, 2], ["cancelled", "succeeded"]),
        ("queue", [1, 2], ["succeeded", "succeeded"]),
    ],
)
def test_singletons(shop, simulation, mode, got, states):
    shop.subscribe(lambda data: step.sleep("rest", 60), singleton=Singleton(mode=mode))
    first = shop.emit(1).runs[0].id
    simulation.work()
    second = shop.emit(2).runs[0].id
    simulation.work()
    assert shop.got == ([1] if mode == "queue" else got)
    simulation.finish()
    assert list(dict.fromkeys(shop.got)) == got
    assert [simulation.runs.get(run).state for run in (first, second)] == states


def test_priorities_decide_who_starts_first(shop, simulation):
    shop.subscribe(throttle=Throttle(1, 10), priority=lambda event: event.data["p"])
    for number, priority in enumerate([0, 0, 5, -5, 5]):
        shop.emit({"n": number, "p": priority})
    simulation.finish()
    assert [data["n"] for data in shop.got] == [0, 2, 4, 1, 3]


def test_a_run_that_does_not_start_in_time(shop, simulation):
    shop.subscribe(throttle=Throttle(1, 60), start_timeout=30)
    runs = [shop.emit(number).runs[0].id for number in range(2)]
    simulation.finish()
    assert shop.got == [0]
    found = simulation.runs.get(runs[1])
    assert (found.state, found.reason) == ("cancelled", "start_timeout")


def test_a_run_that_does_not_finish_in_time(shop, simulation):
    shop.subscribe(lambda data: step.sleep("rest", 3600), finish_timeout=60)
    run = shop.emit().runs[0].id
    simulation.finish()
    found = simulation.runs.get(run)
    assert (found.state, found.reason) == ("cancelled", "finish_timeout")


# -- runs of several events --------------------------------------------------------------------


def seen(data):
    run, event = current_run(), current_event()
    return {"events": list(run.events), "id": event.id, "data": event.data}


def test_a_debounced_run_has_the_last_event(shop, simulation):
    shop.subscribe(seen, debounce=Debounce(10))
    emissions = []
    for number in range(3):
        emissions.append(shop.emit(number, id=f"e{number}"))
        simulation.advance(9)
    assert shop.got == []
    simulation.advance(2)
    assert shop.got == [2]
    first = emissions[0].runs[0].id
    assert [[run.id for run in emission.runs] for emission in emissions] == [[first]] * 3
    (outcome,) = emissions[2].get()
    keys = [event_key("order/paid", f"e{number}") for number in range(3)]
    assert outcome.value == {"events": keys, "id": "e2", "data": 2}
    shop.emit(3)
    simulation.advance(11)
    assert shop.got == [2, 3]


def test_a_batch_has_all_of_them(shop, simulation):
    shop.subscribe(seen, batch=Batch(2, 10))
    emissions = [shop.emit(number, id=f"e{number}") for number in range(3)]
    simulation.work()
    assert shop.got == [[0, 1]]
    assert emissions[0].runs[0].id == emissions[1].runs[0].id != emissions[2].runs[0].id
    keys = [event_key("order/paid", f"e{number}") for number in range(3)]
    assert emissions[1].get()[0].value == {"events": keys[:2], "id": "e1", "data": [0, 1]}
    simulation.advance(10)
    assert shop.got == [[0, 1], [2]]
    assert emissions[2].get()[0].value == {"events": keys[2:], "id": "e2", "data": [2]}


def test_a_batch_of_one_emit_many(shop, simulation):
    shop.subscribe(batch=Batch(3, 10, key="k"))
    emissions = emit_many([("order/paid", {"k": n % 2, "n": n}) for n in range(6)], app=shop.app)
    simulation.work()
    assert [[data["n"] for data in batch] for batch in shop.got] == [[0, 2, 4], [1, 3, 5]]
    assert len({emission.runs[0].id for emission in emissions}) == 2


def test_a_repeated_emit_finds_the_run_that_collected_its_event(shop, simulation):
    shop.subscribe(batch=Batch(2, 10))
    first = [shop.emit(number, id=f"e{number}").runs[0].id for number in range(2)]
    assert shop.emit(1, id="e1").runs[0].id == first[0]
    simulation.work()
    assert shop.emit(1, id="e1").runs[0].id == first[0]
    assert shop.emit(0, id="e0").runs[0].id == first[0]
    simulation.work()
    assert shop.got == [[0, 1]]


def test_what_follows_a_batch(shop, simulation):
    followed = []

    def follow(value):
        followed.append((value, current_event().data, current_run().events))
        return 2 * value

    task = shop.app.task(follow, name="follow", shared=False)
    shop.subscribe(sum, batch=Batch(2, 10), then=task)
    emissions = [shop.emit(number) for number in (3, 4)]
    simulation.work()
    assert followed == [(7, [3, 4], ())]
    assert [emission.get()[0].value for emission in emissions] == [14, 14]


def test_a_link_that_is_sent_again_has_the_list_too(shop, simulation):
    followed = []

    def follow(value):
        followed.append((value, current_event().data))
        if len(followed) == 1:
            raise ConnectionError

    task = shop.app.task(follow, name="follow", shared=False)
    shop.subscribe(sum, batch=Batch(2, 10), then=task)
    for number in (3, 4):
        shop.emit(number)
    simulation.work()
    (link,) = simulation.runs.list(state="failed")
    simulation.runs.retry(link.id)
    simulation.work()
    assert followed == [(7, [3, 4])] * 2


def test_items_of_a_parallel_step_of_a_batch_see_all_of_it(shop, simulation):
    def body(data):
        return step.parallel("each", [(lambda n=n: data[n] * 2,) for n in range(len(data))])

    shop.subscribe(body, batch=Batch(3, 10))
    emissions = [shop.emit(number, id=f"e{number}") for number in range(3)]
    simulation.finish()
    assert emissions[0].get()[0].value == [0, 2, 4]
    assert shop.got == [[0, 1, 2]] * 5


def test_items_of_a_parallel_step_of_a_debounced_run_see_its_events(shop, simulation):
    runs = []

    def body(data):
        runs.append(current_run())
        return step.parallel("each", [(lambda n=n: data * n,) for n in range(2)])

    shop.subscribe(body, debounce=Debounce(10))
    emissions = [shop.emit(number, id=f"e{number}") for number in range(1, 4)]
    simulation.finish()
    assert emissions[0].get()[0].value == [0, 3]
    assert [(run.event.id, len(run.events)) for run in runs] == [("e3", 3)] * 4


def test_who_is_told_of_a_failure_is_told_of_the_whole_batch(shop, simulation):
    told = []
    failed = shop.app.task(noting(told), name="failed", shared=False)
    follow = shop.app.task(fail, name="follow", shared=False)
    shop.subscribe(sum, batch=Batch(2, 10), then=follow, on_failure=failed)
    for number in (3, 4):
        shop.emit(number, id=f"e{number}")
    simulation.work()
    assert [(found["event"]["id"], found["event"]["data"]) for found in told] == [("e4", [3, 4])]


def fail(value):
    raise ConnectionError


def noting(told):
    def note(failure):
        told.append(failure)

    return note


def test_retries_and_sleeps_of_a_batch_have_the_same_list(shop, simulation):
    tries = []

    def body(data):
        step.sleep("rest", 60)
        tries.append(current_run().events)
        if len(tries) == 1:
            raise ConnectionError

    shop.subscribe(body, batch=Batch(2, 10))
    emissions = [shop.emit(number, id=f"e{number}") for number in range(2)]
    simulation.finish()
    run = emissions[0].runs[0].id
    assert simulation.runs.get(run).state == "failed"
    simulation.runs.retry(run)
    simulation.finish()
    assert simulation.runs.get(run).state == "succeeded"
    assert shop.got == [[0, 1]] * 3
    assert tries == [tuple(event_key("order/paid", f"e{n}") for n in range(2))] * 2


def test_a_replayed_event_is_a_batch_by_itself(shop, simulation):
    shop.subscribe(lambda data: step.run("count", len, data), batch=Batch(2, 10))
    emissions = [shop.emit(number, id=f"e{number}") for number in range(2)]
    simulation.work()
    (new,) = simulation.runs.replay("e0", name="order/paid")
    simulation.work()
    assert shop.got == [[0, 1], [0]]
    assert simulation.runs.get(new).state == "succeeded"
    run = emissions[0].runs[0].id
    with pytest.raises(WrongKind) as caught:
        simulation.runs.rerun(run, "count")
    assert str(caught.value) == (
        f"The run {run} is of the kind 'batch' and cannot be rerun. Replay its events, or retry it."
    )
    again = simulation.runs.rerun(new, "count")
    simulation.work()
    assert shop.got[2:] == [[0]]
    assert simulation.runs.get(again).state == "succeeded"


def test_replays_are_on_purpose(shop, simulation):
    shop.subscribe(idempotency="id", rate_limit=RateLimit(1, 3600), singleton=Singleton())
    shop.emit({"id": 1}, id="e1")
    simulation.work()
    simulation.runs.replay("e1", name="order/paid")
    simulation.work()
    assert shop.got == [{"id": 1}, {"id": 1}]


def test_a_delayed_run_is_admitted_when_it_is_due(shop, simulation):
    shop.subscribe(lambda data: step.sleep("rest", 30), singleton=Singleton(mode="queue"))
    delayed = shop.emit(1, delay=10).runs[0].id
    shop.emit(2)
    simulation.advance(11)
    assert shop.got == [2]
    assert simulation.runs.get(delayed).state == "gated"
    simulation.finish()
    assert simulation.runs.get(delayed).state == "succeeded"


def test_nothing_is_recorded_if_a_key_cannot_be_worked_out(shop, simulation):
    shop.subscribe(concurrency=Concurrency(1, lambda event: event.data["tenant"]))
    with pytest.raises(InvalidEvent):
        emit_many([("order/paid", {"tenant": 1}), ("order/paid", {})], app=shop.app)
    assert simulation.ledger.runs() == []
    assert simulation.ledger.events() == []


def test_a_batch_that_the_ledger_has_lost_comes_back_with_its_message(shop):
    shop.subscribe(lambda data: step.sleep("rest", 60), batch=Batch(2, 10))
    with shop.fanout.simulate(clock=Clock()) as simulation:  # no event may be too old
        for number in range(2):
            shop.emit(number)
        simulation.collect()
        simulation.ledger._scripts.connection = MemoryConnection(simulation.clock)
        simulation.finish()
        assert shop.got == [[0, 1], [0, 1]]


def test_shards_are_refused_for_replays_too(shop, simulation):
    shop.subscribe()
    shop.emit(1, id="e1")
    simulation.work()
    sub = get_fanout(shop.app).registry.find("work@order/paid")
    limited = replace(sub, limits=Limits(concurrency=(Concurrency(1),)))
    event = simulation.runs.event("e1")
    simulation.ledger.supports_flow = False
    with pytest.raises(StoreUnsupported):
        begin_again(simulation.ledger, event, [limited], {})


def test_run_ignores_flow(shop):
    task = shop.subscribe(seen, batch=Batch(2, 10))
    run = shop.fanout.run(task, 5, id="e")
    assert shop.got == [[5]]
    assert run.value["data"] == [5]


def test_a_subscriber_without_flow_costs_nothing(shop, simulation):
    shop.subscribe()
    fanout = get_fanout(shop.app)
    [frozen] = fanout.freezer.freeze([Event("order/paid", 1)], {}, 0)
    assert [(chain.flow, chain.priority) for chain in frozen.chains] == [(None, None)]
