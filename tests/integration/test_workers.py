"""Runs in real workers, which are killed, stopped, upgraded and cut off from their store."""

from __future__ import annotations

import gc
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import celery
import pytest

from celery_fanout import Emission, Outcome, RunFailed, emit
from tests.integration.orders import BODIES, Typed, make_app
from tests.processes import wait_until
from tests.servers import Oracle, RedisServer, Worker

#: After this time Redis gives the messages of a lost worker to another one that starts.
VISIBILITY_TIMEOUT = 3


class Orders:
    """The app of ``orders.py``, its workers, and what they wrote down."""

    def __init__(
        self, broker: str, backend: str, oracle: Oracle, gates: Path, start: Callable[..., Worker]
    ) -> None:
        self.broker, self.backend = broker, backend
        self.oracle = oracle
        self.gates = gates
        self.conf: dict[str, Any] = {}
        self._start = start
        self._apps: list[Any] = []

    def worker(
        self,
        pool: str = "prefork",
        *,
        concurrency: int = 1,
        version: str = "first",
        signals: Sequence[str] = (),
    ) -> Worker:
        """Start a worker."""
        return self._start(
            "tests.integration.orders",
            pool=pool,
            concurrency=concurrency,
            env={
                **self.oracle.environment,
                "ORDERS_BROKER": self.broker,
                "ORDERS_BACKEND": self.backend,
                "ORDERS_CONF": json.dumps(self.conf),
                "ORDERS_GATES": str(self.gates),
                "ORDERS_SIGNALS": json.dumps(list(signals)),
                "ORDERS_VERSION": version,
            },
        )

    def emit(self, *event: Any) -> Emission:
        """Emit an event."""
        if not self._apps:
            self._apps.append(make_app(self.broker, self.backend, self.conf))
        return emit(*event, app=self._apps[0])

    def outcome(self, *event: Any) -> Outcome:
        """Emit an event with one subscriber, and return how its run ended."""
        (outcome,) = self.emit(*event).get(timeout=60)
        return outcome

    def open(self, gate: str) -> None:
        """Let go on who waits for it."""
        (self.gates / gate).touch()

    def records(self, what: str) -> list[dict[str, Any]]:
        """Return what was written down about something."""
        return [record for record in self.oracle.read() if record["what"] == what]

    def counts(self) -> dict[str, int]:
        """Return how often everything happened."""
        return dict(Counter(record["what"] for record in self.oracle.read()))

    def close(self) -> None:
        for app in self._apps:
            app.close()
        gc.collect()  # results unsubscribe when they go, for which their server must still be there


@pytest.fixture(params=["redis"])
def orders(
    request: pytest.FixtureRequest,
    redis_server: RedisServer,
    redis_url: str,
    oracle: Oracle,
    tmp_path: Path,
    start_worker: Callable[..., Worker],
) -> Iterator[Orders]:
    broker = redis_url if request.param == "redis" else request.getfixturevalue("rabbit_url")
    orders = Orders(broker, redis_server.url(1), oracle, tmp_path, start_worker)
    yield orders
    orders.close()


both_brokers = pytest.mark.parametrize("orders", ["redis", "rabbit"], indirect=True)


def wait_for_visibility(orders: Orders) -> None:
    """Wait until a worker that starts finds the messages of one that was killed."""
    if orders.broker.startswith("amqp"):
        return  # RabbitMQ sees that it is gone
    until = time.monotonic() + VISIBILITY_TIMEOUT + 0.5
    wait_until(lambda: time.monotonic() > until)


# --- retries and crashes -------------------------------------------------------------------------

ONCE = {"1": 1, "2": 1, "3": 1, "4": 4, "5": 1}


@both_brokers
@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent"])
def test_steps_that_are_done_are_not_done_again(orders: Orders, pool: str) -> None:
    """The fourth of five steps fails three times."""
    orders.worker(pool)
    assert orders.outcome("order/placed", {}).value == ["1", "2", "3", "4", "5", 4]
    assert orders.counts() == ONCE


@pytest.mark.parametrize("store", ["sqlite", "postgres", "filesystem", "memcached"])
def test_nor_with_another_store(
    orders: Orders, store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    match store:
        case "sqlite":
            orders.backend = f"db+sqlite:///{tmp_path}/results.sqlite"
        case "postgres":
            url = request.getfixturevalue("postgres_url")
            orders.backend = url.replace("postgresql:", "db+postgresql+psycopg:")
        case "filesystem":
            (tmp_path / "results").mkdir()
            orders.backend = f"file://{tmp_path}/results"
        case "memcached":
            orders.backend = request.getfixturevalue("memcached_url")
    orders.worker(concurrency=2)
    assert orders.outcome("order/placed", {}).value == ["1", "2", "3", "4", "5", 4]
    assert orders.counts() == ONCE


@both_brokers
def test_nor_when_their_process_is_killed(orders: Orders) -> None:
    """The child is killed after the third step, twice, and its message is delivered again."""
    orders.worker(concurrency=2)
    outcome = orders.outcome("order/placed.late", {"kill": 2})
    assert outcome.value == ["1", "2", "3", "4", "5", 4]
    assert orders.counts() == {**ONCE, "killed": 2}
    assert len({record["pid"] for record in orders.records("killed")}) == 2


@both_brokers
def test_nor_when_the_whole_worker_is_killed(orders: Orders) -> None:
    orders.conf = {
        "broker_transport_options": {"visibility_timeout": VISIBILITY_TIMEOUT},
        "fanout_lease": 10,
    }
    first = orders.worker()
    emission = orders.emit("order/held", {})
    wait_until(lambda: orders.records("3"))
    first.kill()
    wait_for_visibility(orders)
    second = orders.worker()
    (outcome,) = emission.get(timeout=60)
    second.wait_for_log(
        f"Run {outcome.run.id} goes on here: the process that had it died (crash 1 of at most 3)"
    )
    # the step in which it was killed had no result, so it began again
    assert outcome.value == [1, 1, 2, 1]


@both_brokers
@pytest.mark.parametrize("end", [Worker.stop, Worker.kill], ids=["stop", "kill"])
def test_a_run_that_sleeps_survives_its_worker(
    orders: Orders, end: Callable[[Worker], None]
) -> None:
    orders.conf = {"broker_transport_options": {"visibility_timeout": VISIBILITY_TIMEOUT}}
    first = orders.worker()
    emission = orders.emit("order/upgraded", {})
    first.wait_for_log("suspended (sleep in step 'pause')")
    end(first)
    if end is Worker.kill:
        wait_for_visibility(orders)
    orders.worker()
    (outcome,) = emission.get(timeout=60)
    assert outcome.value == ["fetch", "parse", "index", "publish"]
    assert orders.counts() == {"fetch": 1, "parse": 1, "index": 1, "publish": 1}


# --- upgrades ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "counts"),
    [
        ("inserted", {"scan": 1}),
        ("renamed", {"download": 1}),
        ("removed", {}),
        ("reordered", {}),
    ],
)
def test_a_run_goes_on_with_new_code(orders: Orders, version: str, counts: dict[str, int]) -> None:
    """Steps are known by their names: only a new name is new."""
    first = orders.worker()
    emission = orders.emit("order/upgraded", {})
    first.wait_for_log("suspended (sleep in step 'pause')")
    first.stop()
    assert orders.counts() == {"fetch": 1, "parse": 1, "index": 1}
    orders.worker(version=version)
    (outcome,) = emission.get(timeout=60)
    assert outcome.value == [name for name in BODIES[version] if name != "PAUSE"]
    assert orders.counts() == {"fetch": 1, "parse": 1, "index": 1, "publish": 1, **counts}


# --- tails ---------------------------------------------------------------------------------------


@both_brokers
def test_a_tail_has_the_event_and_steps_of_its_own(orders: Orders) -> None:
    orders.worker(concurrency=2)
    outcome = orders.outcome("order/shipped", {"id": 1})
    assert outcome.value == ["shipped", "saved", "mailed"]
    assert orders.counts() == {"shipped": 1, "saved": 1, "mailed": 1}
    (saved,), (mailed,) = orders.records("saved"), orders.records("mailed")
    assert (saved["task"], saved["data"]) == ("save", {"id": 1})
    assert (mailed["task"], mailed["data"]) == ("mail", {"id": 1})
    assert len({outcome.run.id, saved["run"], mailed["run"]}) == 3


# --- failures ------------------------------------------------------------------------------------


def the_failure(orders: Orders) -> dict[str, Any]:
    """Return what the on_failure task got; it was told once, and tried three times."""
    wait_until(lambda: orders.records("told"))
    assert [record["attempt"] for record in orders.records("told")] == [3]
    (record,) = orders.records("failed")
    failure: dict[str, Any] = record["failure"]
    return failure


@pytest.mark.parametrize(
    ("name", "how", "attempts", "error"),
    [
        ("order/lost", "exception", 1, {"type": "KeyError", "message": "'no'"}),
        ("order/lost", "exhausted", 6, {"type": "Boom", "message": "no"}),
        (
            "order/lost",
            "step",
            1,
            {
                "type": "RunFailed",
                "message": "The step 'charge' failed after 2 attempts: Boom: no",
            },
        ),
        (
            "order/late",
            "hard limit",
            1,
            {"type": "TimeLimitExceeded", "message": "TimeLimitExceeded(1,)"},
        ),
        ("order/lost", "killed", 1, {"type": "WorkerLostError", "message": ...}),
    ],
    ids=["exception", "exhausted", "step", "hard limit", "killed"],
)
def test_on_failure_is_told_what_failed(
    orders: Orders, name: str, how: str, attempts: int, error: dict[str, Any]
) -> None:
    """The last two only the worker's main process can tell of."""
    if how == "killed":
        orders.conf["fanout_store_url"] = "backend"  # a ledger would run it again
    orders.worker(signals=["run_failed"])
    emission = orders.emit(name, {"how": how})
    failure = the_failure(orders)
    traceback = failure["error"].pop("traceback")
    assert isinstance(traceback, str)
    if error["message"] is ...:
        error = {**error, "message": failure["error"]["message"]}
        assert "signal 9 (SIGKILL)" in error["message"]
    (run,) = emission.runs
    assert failure == {
        "run": run.id,
        "subscription": run.subscription.id,
        "task": run.subscription.task.name,
        "attempts": attempts,
        "event": emission.event.to_cloudevent(),
        "error": error,
    }
    # before 5.7, Celery's main process does not say what failed
    is_told = how not in ("hard limit", "killed") or celery.VERSION >= (5, 7)
    assert [record["run"] for record in orders.records("run_failed")] == [run.id] * is_told


def test_on_failure_is_told_of_a_failing_tail(orders: Orders) -> None:
    orders.worker()
    emission = orders.emit("order/shipped", {"mail": "fails"})
    failure = the_failure(orders)
    assert "Boom: no mail" in failure["error"].pop("traceback")
    (mailed,) = orders.records("mailed")
    assert failure == {
        "run": mailed["run"],
        "subscription": "ship@order/shipped",
        "task": "mail",
        "attempts": 1,
        "event": emission.event.to_cloudevent(),
        "error": {"type": "Boom", "message": "no mail"},
    }


# --- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["prefork", "solo", "gevent"])
def test_a_step_is_interrupted_when_its_time_is_over(orders: Orders, pool: str) -> None:
    orders.worker(pool)
    assert orders.outcome("order/timed", {}).value == "a while"
    assert orders.counts() == {"a while": 2}


def test_in_a_thread_it_cannot_be(orders: Orders) -> None:
    orders.worker("threads")
    error = orders.outcome("order/timed", {}).error
    assert isinstance(error, RunFailed)
    assert str(error).startswith("The step 'a while' has a timeout, and a function in a thread ")
    assert orders.counts() == {}


def test_a_soft_time_limit_inside_a_step_is_the_bodys(orders: Orders) -> None:
    """It is no error of the step, to be tried again: the process is about to be killed."""
    orders.worker()
    assert orders.outcome("order/soft", {}).value == "tidied up"
    assert orders.counts() == {"a while": 1, "tidied up": 1}


# --- what a subscriber can be --------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_every_kind_of_task(orders: Orders, pool: str) -> None:
    orders.worker(pool, concurrency=2)
    outcomes = orders.emit(Typed(id=1, lines=[("tea", 2)])).get(timeout=60)
    assert {outcome.run.subscription.id: outcome.value for outcome in outcomes} == {
        "typed@order/typed": {"id": 1, "lines": [["tea", 2]]},
        "bound@order/typed": ["bound", 1, 1],
        "shared@order/typed": ["shared", 2, 1],
        "class@order/typed": ["called", ["class", 2, 1]],
    }


# --- an outage of the store ----------------------------------------------------------------------


@both_brokers
@pytest.mark.parametrize(
    ("store_url", "sign"),
    [("backend", "suspended (store)"), (None, "The run continues when it can be.")],
    ids=["backend", "ledger"],
)
def test_a_run_waits_for_its_store_to_come_back(
    orders: Orders, store_url: str | None, sign: str
) -> None:
    with RedisServer(appendonly=True) as store:
        orders.backend = store.url()
        # by default Celery itself tries to write for 20 s, before the run is put back
        orders.conf = {
            "result_backend_transport_options": {"retry_policy": {"max_retries": 1}},
            "fanout_store_url": store_url,
        }
        worker = orders.worker()
        emission = orders.emit("order/outage", {})
        wait_until(lambda: orders.records("between"))
        store.stop()
        orders.open("outage")
        worker.wait_for_log(sign)
        store.start()
        (outcome,) = emission.get(timeout=60)
        assert outcome.value == [1, 1, 1]
        orders.close()


# --- signals -------------------------------------------------------------------------------------


def test_signals_are_sent_where_things_happen(orders: Orders) -> None:
    names = [
        *("run_started", "run_suspended", "run_succeeded", "run_failed"),
        *("step_completed", "step_failed"),
    ]
    orders.worker(signals=names)
    run = orders.outcome("order/placed", {}).run.id
    lost = orders.emit("order/lost", {"how": "step"}).runs[0].id
    wait_until(lambda: orders.records("told"))

    def sent(name: str, run: str) -> list[dict[str, Any]]:
        found = [record for record in orders.records(name) if record["run"] == run]
        keys = ("what", "run", "task")
        return [{k: v for k, v in record.items() if k not in keys} for record in found]

    def done(step: str, cached: bool, attempt: int, attempts: int = 1) -> dict[str, Any]:
        return {
            "attempt": attempt,
            "step": step,
            "number": 1,
            "cached": cached,
            "attempts": attempts,
        }

    assert sent("run_started", run) == [{"attempt": n} for n in (1, 1, 2, 3, 4)]
    assert sent("run_suspended", run) == [{"attempt": 1, "reason": "sleep", "step": "nap"}]
    assert sent("run_succeeded", run) == [{"attempt": 4}]
    assert sent("run_failed", run) == []
    three = [done(number, True, attempt) for attempt in (2, 3, 4) for number in ("1", "2", "3")]
    assert [call for call in sent("step_completed", run) if call["step"] in "123"] == [
        *(done(number, False, 1) for number in ("1", "2", "3")),
        *(done(number, True, 1) for number in ("1", "2", "3")),
        *three,
    ]
    failure = {"step": "4", "number": 1, "attempts": 1, "error_type": "Boom", "final": False}
    assert sent("step_failed", run) == [{"attempt": n, **failure} for n in (1, 2, 3)]

    message = "The step 'charge' failed after 2 attempts: Boom: no"
    assert sent("run_failed", lost) == [{"attempt": 1, "exception": f"RunFailed({message!r})"}]
    assert [(call["attempts"], call["final"]) for call in sent("step_failed", lost)] == [
        (1, False),
        (2, True),
    ]
    senders = {record["task"] for name in names for record in orders.records(name)}
    assert senders == {"early", "lost", "failed"}
