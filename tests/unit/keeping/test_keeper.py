"""The keeper, on a clock that stands still: what it does when, and what it leaves alone."""

import dataclasses
import gc
import itertools
import logging
import threading
import types

import pytest
from celery import signals
from celery.worker import state

from celery_fanout.exceptions import StoreUnavailable
from celery_fanout.keeping import keeper as module
from celery_fanout.keeping.keeper import BATCH, FOLLOW_UPS_AT_ONCE, Held, Keeper
from celery_fanout.model.headers import RUN_HEADER
from celery_fanout.stores.memory.ledger import MemoryLedger
from celery_fanout.stores.records import LedgerRules, NewEvent, NewRun
from celery_fanout.stores.states import RunState
from tests.processes import wait_until

RULES = LedgerRules(lease=30, grace=20, republish=100, success_retention=50)
GONE = (
    "The memory ledger cannot be reached (ConnectionError: gone). The run continues when it can be."
)
NONCES = itertools.count()


class Clock:
    def __init__(self):
        self.now = 1_800_000_000.0

    def __call__(self):
        return self.now

    monotonic = __call__


class Ledger(MemoryLedger):
    """One that can be away, and tells how often it was swept."""

    def __init__(self, rules, clock):
        super().__init__(rules, clock)
        self.away = False
        self.asked_the_time = 0  # while it was away
        self.swept = 0
        self.expired = []
        self.before_take = self.before_renew = lambda: None

    def _answer_if_there(self):
        if self.away:
            raise StoreUnavailable(self.name, "ConnectionError: gone")

    def time(self):
        self.asked_the_time += self.away
        self._answer_if_there()
        return super().time()

    def renew(self, boot, run_ids):
        self.before_renew()
        self._answer_if_there()
        super().renew(boot, run_ids)

    def take(self, *args, **kwargs):
        self.before_take()
        self._answer_if_there()
        return super().take(*args, **kwargs)

    def release(self, *args):
        self._answer_if_there()
        return super().release(*args)

    def sweep(self, **options):
        self.swept += 1
        done = super().sweep(**options)
        return self.expired.pop(0) if self.expired else done


class Scene:
    """A ledger, a keeper, and what the keeper did."""

    def __init__(self, clock):
        self.clock = clock
        self.ledger = Ledger(RULES, clock)
        self.held = []
        self.lost = []
        self.published = []
        self.ended = []

    def keeper(self, boot="w1", **options):
        return Keeper(
            self.ledger,
            self.publish,
            self.ended.append,
            boot=boot,
            held=lambda: self.held,
            lost=lambda: self.lost,
            **options,
        )

    def publish(self, taken):
        found = [wakeup.run_id for wakeup in taken.wakeups]
        self.published += found
        self.ledger.mark_published(found)
        return len(found)

    def emit(self, *run_ids, queue="celery", **options):
        runs = [NewRun(run_id, f"{run_id}@order/paid", queue=queue) for run_id in run_ids]
        self.ledger.record([NewEvent(f"e-{run_ids[0]}", "order/paid", "{}", "1", runs, **options)])

    def run(self, run_id, boot="w1"):
        """Emit a run and claim it; return its token."""
        self.emit(run_id)
        claim = self.ledger.claim(run_id, boot, str(next(NONCES)))
        assert claim.status == "claimed"
        return claim.token

    def due_in(self, run_id):
        return self.ledger.run(run_id).due - self.clock.now

    def state(self, run_id):
        return str(self.ledger.run(run_id).state)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    # the keeper's own
    monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic=clock.monotonic))
    return clock


@pytest.fixture
def scene(clock):
    return Scene(clock)


# -- heartbeat ---------------------------------------------------------------------------------


def test_it_renews_the_leases_of_what_the_worker_has(scene, clock):
    scene.run("mine")
    scene.run("not held any more")
    scene.run("theirs", boot="w2")
    scene.held = ["mine", "theirs"]
    keeper = scene.keeper()
    clock.now += 20
    keeper.tick()
    assert scene.due_in("mine") == 30
    assert scene.due_in("not held any more") == scene.due_in("theirs") == 10


def test_it_beats_six_times_a_lease(scene, clock):
    scene.run("mine")
    scene.held = ["mine"]
    keeper = scene.keeper()
    keeper.tick()
    clock.now += 4.9
    keeper.tick()
    assert scene.due_in("mine") == pytest.approx(25.1)
    clock.now += 0.1
    keeper.tick()
    assert scene.due_in("mine") == 30


def test_what_was_received_stays_with_the_worker(scene, clock):
    scene.emit("received")
    scene.ledger.mark_published(["received"])
    scene.held = ["received"]
    scene.keeper().tick()
    assert scene.due_in("received") == 30
    assert scene.ledger.run("received").worker == "w1"


def test_a_keeper_without_a_worker_holds_nothing(scene, clock):
    scene.run("mine")
    scene.held = ["mine"]
    keeper = scene.keeper(boot="")
    clock.now += 10
    keeper.tick()
    assert scene.due_in("mine") == 20
    keeper.stop()
    assert scene.state("mine") == "running"


# -- timers ------------------------------------------------------------------------------------


def test_it_publishes_what_is_due(scene, clock):
    scene.emit("now")
    scene.emit("later", resume_at=clock.now + 100)
    keeper = scene.keeper()
    keeper.tick()
    assert scene.published == []
    clock.now += RULES.grace
    keeper.tick()
    assert scene.published == ["now"]
    clock.now += 80
    keeper.tick()
    assert scene.published == ["now", "later"]


def test_it_looks_once_a_second(scene, clock):
    keeper = scene.keeper()
    keeper.tick()
    scene.emit("due", resume_at=clock.now)
    clock.now += 0.9
    keeper.tick()
    assert scene.published == []
    clock.now += 0.1
    keeper.tick()
    assert scene.published == ["due"]


def test_it_looks_earlier_for_a_timer_that_it_knows(scene, clock):
    scene.emit("due", resume_at=clock.now + 0.25)
    keeper = scene.keeper()
    keeper.tick()
    clock.now += 0.25
    keeper.tick()
    assert scene.published == ["due"]


def test_it_takes_all_that_is_due_at_once(scene, clock):
    ids = [f"r-{number}" for number in range(2 * BATCH + 1)]
    scene.emit(*ids, resume_at=clock.now)
    scene.keeper().tick()
    assert sorted(scene.published) == sorted(ids)


def test_a_run_whose_worker_died_is_published_again(scene, clock):
    scene.run("orphan", boot="w2")
    keeper = scene.keeper()
    keeper.tick()
    clock.now += RULES.lease
    keeper.tick()
    assert scene.published == ["orphan"]
    assert scene.ledger.run("orphan").crashes == 1


def test_one_that_does_not_redrive_beats_and_no_more(scene, clock):
    scene.run("mine")
    scene.emit("due", resume_at=clock.now)
    scene.held, scene.lost = ["mine"], [("celery", clock.now + 1)]
    keeper = scene.keeper(redrive=False)
    clock.now += 200
    keeper.tick()
    assert scene.due_in("mine") == 30
    assert (scene.published, scene.ended, scene.ledger.swept) == ([], [], 0)


# -- what was lost on its way ------------------------------------------------------------------


def test_one_that_only_beats_looks_once_a_second(scene, monkeypatch):
    ticks = []
    keeper = scene.keeper(redrive=False)
    tick = keeper.tick
    monkeypatch.setattr(keeper, "tick", lambda: (ticks.append(keeper._pause()), tick()))
    keeper.start()
    wait_until(lambda: ticks)
    keeper.stop()
    assert set(ticks) == {1.0}


def test_what_has_left_its_queue_unseen_is_published_again(scene, clock):
    scene.emit("lost")
    scene.emit("elsewhere", queue="other")
    scene.emit("received")
    scene.ledger.mark_published(["lost", "elsewhere", "received"])
    scene.held = ["received"]
    clock.now += 1
    scene.lost = [("celery", clock.now)]
    scene.keeper().tick()
    assert scene.published == ["lost"]


def test_it_looks_for_lost_ones_twice_a_lease(scene, clock):
    keeper = scene.keeper()
    keeper.tick()
    scene.emit("lost")
    scene.ledger.mark_published(["lost"])
    scene.lost = [("celery", clock.now + 1)]
    clock.now += 14
    keeper.tick()
    assert scene.published == []
    clock.now += 1
    keeper.tick()
    assert scene.published == ["lost"]


# -- ends that were not followed up --------------------------------------------------------------


def test_it_follows_up_on_ends_that_nobody_followed_up_on(scene, clock):
    token = scene.run("failed")
    scene.ledger.settle("failed", token, RunState.FAILED, error={"type": "E", "message": "no"})
    token = scene.run("seen to")
    scene.ledger.settle("seen to", token, RunState.FAILED, error={"type": "E", "message": "no"})
    scene.ledger.followed_up("seen to")
    keeper = scene.keeper()
    keeper.tick()
    assert scene.ended == []  # who ended it is about to tell
    clock.now += RULES.grace
    keeper.tick()
    assert scene.ended == ["failed"]
    clock.now += RULES.grace
    keeper.tick()
    assert scene.ended == ["failed"]
    clock.now += RULES.grace
    keeper.tick()
    assert scene.ended == ["failed", "failed"]  # until somebody says that it is done


def test_it_tells_of_all_ends_before_it_rests(scene, clock):
    runs = [f"run-{number}" for number in range(2 * FOLLOW_UPS_AT_ONCE + 1)]
    scene.emit(*runs)
    scene.ledger.cancel(runs, "enough")
    clock.now += RULES.grace
    keeper = scene.keeper()
    for _ in range(3):
        keeper.tick()
    assert sorted(scene.ended) == sorted(runs)
    keeper.tick()
    assert len(scene.ended) == len(runs)


def test_it_misses_all_that_was_lost_before_it_rests(scene, clock):
    runs = [f"run-{number}" for number in range(2 * BATCH + 1)]
    scene.emit(*runs)
    scene.ledger.mark_published(runs)
    clock.now += 40
    scene.lost = [("celery", clock.now - 15)]
    keeper = scene.keeper()
    for _ in range(3):
        keeper.tick()
    assert sorted(scene.published) == sorted(runs)


def test_it_sweeps_until_nothing_is_left(scene, clock):
    scene.ledger.expired = [module.SWEEP_AT_ONCE, module.SWEEP_AT_ONCE, 7]
    scene.keeper().tick()
    assert scene.ledger.swept == 3


def test_it_sweeps_once_a_minute(scene, clock):
    keeper = scene.keeper()
    for _ in range(121):
        keeper.tick()
        clock.now += 1
    assert scene.ledger.swept == 3


# -- a ledger that was away --------------------------------------------------------------------


def test_what_could_not_be_renewed_while_the_ledger_was_away_is_no_crash(scene, clock, caplog):
    scene.run("mine")
    scene.run("theirs", boot="w2")
    scene.held = ["mine"]
    keeper = scene.keeper()
    scene.ledger.away = True
    keeper.start()
    wait_until(lambda: caplog.records and scene.ledger.asked_the_time)  # both threads have met it
    clock.now += 2 * RULES.lease
    scene.ledger.away = False
    wait_until(lambda: scene.due_in("theirs") == RULES.lease)
    keeper.stop()
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [("WARNING", GONE)]
    assert scene.ledger.run("theirs").crashes == scene.ledger.run("mine").crashes == 0
    assert scene.published == []


def test_an_outage_that_both_threads_meet_is_logged_once(scene, caplog):
    scene.held = ["mine"]
    scene.ledger.away = True
    logged = threading.Event()
    scene.ledger.before_take = lambda: logged.wait(30)  # the heartbeat is the first to meet it

    class Slow(logging.Handler):
        """Logs for as long as the keeper takes to meet the outage too, and to go on."""

        def emit(self, record):
            logged.set()
            wait_until(lambda: scene.ledger.asked_the_time)

    keeper = scene.keeper()
    module.logger.addHandler(handler := Slow())
    try:
        keeper.start()
        wait_until(lambda: scene.ledger.asked_the_time)
        keeper.stop()
    finally:
        module.logger.removeHandler(handler)
    # the second one is that `stop` could not let go of what the worker had
    assert [r.getMessage() for r in caplog.records] == [GONE, GONE]


def test_a_heartbeat_that_ends_after_an_outage_is_no_other_one(scene, clock, caplog):
    scene.held = ["mine"]
    back = threading.Event()

    def fail_late():
        back.wait(30)
        raise StoreUnavailable(scene.ledger.name, "ConnectionError: gone")

    scene.ledger.before_renew = fail_late
    scene.ledger.away = True
    keeper = scene.keeper()
    keeper.start()
    wait_until(lambda: scene.ledger.asked_the_time)
    clock.now += 1
    scene.ledger.away = False
    wait_until(lambda: scene.ledger.swept)  # which it does after it has had an answer
    back.set()
    keeper.stop()
    assert [r.getMessage() for r in caplog.records] == [GONE]


def test_after_that_a_lease_is_a_lease(scene, clock, caplog):
    scene.run("theirs", boot="w2")
    keeper = scene.keeper()
    scene.ledger.away = True
    keeper.start()
    wait_until(lambda: caplog.records and scene.ledger.asked_the_time)  # both threads have met it
    clock.now += 2 * RULES.lease
    scene.ledger.away = False
    wait_until(lambda: scene.due_in("theirs") == RULES.lease)
    clock.now += RULES.lease
    wait_until(lambda: scene.published == ["theirs"])
    keeper.stop()
    assert scene.ledger.run("theirs").crashes == 1


# -- its thread --------------------------------------------------------------------------------


def test_it_survives_what_it_meets(scene, clock, caplog):
    scene.emit("due", resume_at=clock.now)

    bugs = [RuntimeError("a bug")]

    def publish(taken):
        if bugs:
            raise bugs.pop()
        return scene.publish(taken)

    keeper = Keeper(scene.ledger, publish, scene.ended.append)
    keeper.start()
    wait_until(lambda: caplog.records)
    clock.now += RULES.grace
    wait_until(lambda: scene.published == ["due"])
    keeper.stop()
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == (
        "ERROR",
        "The keeper met an error, and goes on",
    )
    assert repr(record.exc_info[1]) == "RuntimeError('a bug')"


def test_the_heart_beats_while_the_broker_hangs(scene, clock):
    ledger = Ledger(dataclasses.replace(RULES, lease=0.3), clock)
    scene.ledger = ledger
    scene.run("mine")
    scene.emit("due", resume_at=clock.now)
    scene.held = ["mine"]
    hanging, answer = threading.Event(), threading.Event()

    def publish(taken):
        hanging.set()
        answer.wait(60)
        return scene.publish(taken)

    keeper = Keeper(ledger, publish, scene.ended.append, boot="w1", held=lambda: scene.held)
    keeper.start()
    assert hanging.wait(60)
    for _ in range(3):
        clock.now += 0.2
        wait_until(lambda: scene.due_in("mine") == pytest.approx(0.3))
    answer.set()
    wait_until(lambda: scene.published == ["due"])
    keeper.stop()
    assert ledger.run("mine").crashes == 0


def test_the_heart_survives_what_it_meets(scene, clock, caplog):
    scene.ledger = Ledger(dataclasses.replace(RULES, lease=0.3), clock)
    scene.run("mine")
    bugs = [RuntimeError("a bug")]

    def held():
        if bugs:
            raise bugs.pop()
        return ["mine"]

    keeper = Keeper(scene.ledger, scene.publish, scene.ended.append, boot="w1", held=held)
    keeper.start()
    wait_until(lambda: scene.due_in("mine") == pytest.approx(0.3))
    keeper.stop()
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == (
        "ERROR",
        "The heartbeat met an error, and goes on",
    )


def test_stopping_lets_go_of_what_the_worker_has(scene, clock):
    scene.run("running")
    scene.emit("received")
    scene.ledger.mark_published(["received"])
    scene.run("theirs", boot="w2")
    scene.held = ["running", "received", "theirs"]
    keeper = scene.keeper()
    keeper.start()
    wait_until(lambda: scene.ledger.run("received").worker == "w1")
    keeper.stop()
    assert scene.due_in("received") == 0
    clock.now += RULES.lease
    scene.held = []
    scene.keeper(boot="w3").tick()
    assert sorted(scene.published) == ["received", "running", "theirs"]
    # a worker that was stopped has not crashed
    assert scene.ledger.run("running").crashes == 0
    assert scene.ledger.run("theirs").crashes == 1


def test_what_celery_has_forgotten_when_the_pool_has_stopped_is_let_go_of_too(scene, clock):
    scene.run("running")
    scene.emit("received")
    scene.ledger.mark_published(["received"])
    scene.held = ["running", "received"]
    keeper = scene.keeper()
    keeper.tick()
    keeper.leave()
    scene.held = []
    keeper.stop()
    assert scene.due_in("received") == 0
    clock.now += RULES.lease
    scene.keeper(boot="w2").tick()
    assert sorted(scene.published) == ["received", "running"]
    assert scene.ledger.run("running").crashes == 0


def test_stopping_without_a_ledger(scene, caplog):
    scene.held = ["running"]
    scene.ledger.away = True
    scene.keeper().stop()
    assert [record.getMessage() for record in caplog.records] == [GONE]


def test_it_can_be_started_again(scene, clock):
    keeper = scene.keeper()
    for run_id in ("first", "second"):
        clock.now += 1
        scene.emit(run_id, resume_at=clock.now)
        keeper.start()
        wait_until(lambda wanted=run_id: wanted in scene.published)
        keeper.stop()


def test_ending_it_from_elsewhere(scene):
    keeper = scene.keeper()
    keeper.end()
    keeper.run_forever()  # returns


# -- what a worker has -------------------------------------------------------------------------


class Request:
    def __init__(self, id, *, run=True):
        self.id = id
        self.acknowledged = False
        self.request_dict = {RUN_HEADER: id} if run else {}


@pytest.fixture
def held():
    held = Held()
    held.listen()
    yield held
    held.stop()


def receive(request):
    signals.task_received.send(sender="consumer", request=request)
    return request


def test_what_was_received_is_held_until_it_is_done(held):
    waiting = receive(Request("r-1"))  # with an ETA, say: it is in no list of Celery's
    assert held.ids() == ["r-1"]
    waiting.acknowledged = True
    assert held.ids() == []


def test_what_is_acknowledged_early_is_held_while_it_is_executed(held, monkeypatch):
    request = receive(Request("r-1"))
    request.acknowledged = True
    monkeypatch.setattr(state, "requests", {"r-1": request})
    assert held.ids() == ["r-1"]
    monkeypatch.setattr(state, "requests", {})
    assert held.ids() == []


def test_a_request_that_is_gone_is_held_no_more(held):
    request = receive(Request("r-1"))
    del request
    gc.collect()
    assert held.ids() == []


def test_ordinary_tasks_are_nobodys(held, monkeypatch):
    request = receive(Request("t-1", run=False))
    monkeypatch.setattr(state, "requests", {"t-1": request, "t-2": object()})
    assert held.ids() == []


def test_nothing_is_noted_after_the_stop():
    held = Held()
    held.listen()
    held.stop()
    request = receive(Request("r-1"))
    assert (request.id, held.ids()) == ("r-1", [])
