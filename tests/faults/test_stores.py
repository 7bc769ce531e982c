"""Brokers and the ledger's Redis restart, lose what they had, are full, or take no writes."""

from __future__ import annotations

import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from celery_fanout import get_fanout
from celery_fanout.app.checks import findings
from celery_fanout.app.live_checks import live_findings
from celery_fanout.exceptions import EmitError, FanoutError
from celery_fanout.stores.states import RunState
from tests.faults.conftest import Jobs
from tests.faults.jobs import LEASE
from tests.processes import Process, wait_until
from tests.servers import ROOT, Oracle, RabbitServer, RedisServer

S = RunState


class Producer(Process):
    """A process that emits: see ``producing.py``."""

    name = "producer"

    def __init__(self, jobs: Jobs, name: str, number: int, pause: float) -> None:
        super().__init__()
        self._arguments = [name, str(number), str(pause)]
        self._environment = {**jobs.environment(), "PYTHONPATH": str(ROOT)}

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "tests.faults.producing", *self._arguments]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), **self._environment}

    def is_ready(self) -> bool:
        return "producing" in self.log


def passes(seconds: float) -> None:
    """Let time pass."""
    begun = time.monotonic()
    wait_until(lambda: time.monotonic() - begun > seconds, timeout=seconds + 30)


def outcomes(oracle: Oracle) -> tuple[int, int]:
    """Return how many events were accepted, and how many were not."""
    whats = [record["what"] for record in oracle.read()]
    return whats.count("emitted"), whats.count("refused")


@pytest.fixture(params=["redis", "rabbit", "confirming rabbit", "one redis"])
def broken(
    request: pytest.FixtureRequest, jobs: Jobs
) -> Iterator[tuple[Process, Callable[[], object]]]:
    """A broker that only this test has, which the jobs use, and what breaks it."""
    jobs.conf["fanout_publish_timeout"] = 2
    if request.param == "one redis":
        jobs.broker = jobs.store.url()
        yield jobs.store, jobs.store.kill_and_restart
        return
    if request.param == "redis":
        with RedisServer(appendonly=True) as own:
            jobs.broker = own.url()
            yield own, own.kill_and_restart
            jobs.app.close()
        return
    with RabbitServer() as rabbit:
        jobs.broker = rabbit.url()
        jobs.conf["transport"] = {"confirm_publish": request.param == "confirming rabbit"}
        yield rabbit, rabbit.kill_and_restart
        jobs.app.close()


@pytest.mark.timeout(700)
def test_the_broker_restarts_while_four_processes_emit(
    jobs: Jobs,
    broken: tuple[Process, Callable[[], object]],
    request: pytest.FixtureRequest,
    bounded: bool,
) -> None:
    """What was accepted is executed; what raised is there as a whole, or not at all."""
    number = 60 if bounded else 500
    _, breaks = broken
    jobs.worker()
    with ExitStack() as stack:
        producers = [stack.enter_context(Producer(jobs, f"p{n}", number, 0.02)) for n in range(4)]
        wait_until(lambda: outcomes(jobs.oracle)[0] > number // 2)
        breaks()
        wait_until(lambda: not any(producer.alive for producer in producers), timeout=240)
        for producer in producers:
            assert "Traceback" not in producer.log, producer.log
    accepted, refused = outcomes(jobs.oracle)
    assert accepted + refused == 4 * number
    if request.node.callspec.params["broken"] != "one redis":
        assert refused == 0  # the ledger was there
    if bounded and request.node.callspec.params["broken"] == "rabbit":
        # it loses what it had not read, which is missed after five minutes: no need to wait
        passes(LEASE)
        jobs.ledger.resend("celery", jobs.ledger.time(), limit=1000)
    counts = jobs.check(timeout=400, revive=True)
    assert set(counts) == {S.SUCCEEDED}
    assert accepted <= counts[S.SUCCEEDED] <= accepted + refused
    print(f"{accepted} accepted, {refused} refused, {counts}")  # noqa: T201


# --- what is lost with Redis is lost, and nobody says otherwise -----------------------------------


def test_a_ledger_without_persistence_restarts(
    jobs: Jobs, oracle: Oracle, tmp_path: Path, start_any: Callable[..., object]
) -> None:
    """Runs whose messages are still there are recorded again, from what the messages carry."""
    with RedisServer() as store, RedisServer() as broker:
        forgetful = Jobs(store, broker.url(), oracle, tmp_path, start_any)
        runs = [forgetful.emit("job/steps", {}).runs[0] for _ in range(5)]
        store.kill_and_restart()
        assert not forgetful.ledger.runs()
        worker = forgetful.worker()
        wait_until(lambda: forgetful.ledger.counts()[S.SUCCEEDED] == 5)
        assert [run.get(timeout=10) for run in runs] == [["a", "b", "c"]] * 5
        assert forgetful.check(revive=True) == {S.SUCCEEDED: 5}
        assert forgetful.counts() == {"body": 5, "a": 5, "b": 5, "c": 5}
        worker.kill()
        forgetful.app.close()


def test_all_is_lost(
    jobs: Jobs, oracle: Oracle, tmp_path: Path, start_any: Callable[..., object]
) -> None:
    """Broker and ledger: nothing of it is ever said to have succeeded, and what is new works."""
    gate = tmp_path / "gate"
    with RedisServer() as store:
        forgetful = Jobs(store, store.url(1), oracle, tmp_path, start_any)
        worker = forgetful.worker(concurrency=1)
        held = forgetful.emit("job/split", {"gate": str(gate)})
        forgetful.wait_until_stored(held.runs[0].id)
        lost = [forgetful.emit("job/steps", {}) for _ in range(3)]
        wait_until(lambda: len([r for r in forgetful.ledger.runs() if r.worker]) == 4)
        store.kill_and_restart()
        gate.touch()  # it stores a step of a run that is gone
        worker.wait_for_log(f"[{held.runs[0].id}] ignored")
        after = forgetful.emit("job/steps", {})
        counts = forgetful.check(known=False, revive=True)
        assert set(counts) == {S.SUCCEEDED}
        # what the worker had in its memory may be recorded again; the one that ran is not repeated
        assert counts[S.SUCCEEDED] <= 4
        assert after.runs[0].get(timeout=5) == ["a", "b", "c"]
        assert forgetful.ledger.run(held.runs[0].id) is None
        assert forgetful.counts(held.runs[0].id) == {"body": 1, "a": 1, "b": 1}
        assert len(lost) == 3
        worker.kill()
        forgetful.app.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fsync", ["everysec", "always"])
def test_a_ledger_with_an_append_only_file_is_killed(
    jobs: Jobs,
    oracle: Oracle,
    tmp_path: Path,
    start_any: Callable[..., object],
    chance: random.Random,
    bounded: bool,
    fsync: str,
) -> None:
    """Redis writes before it answers: only the machine's end could take what was answered."""
    number = 60 if bounded else 500
    with (
        RedisServer(appendonly=True, options={"appendfsync": fsync}) as store,
        ExitStack() as stack,
    ):
        durable = Jobs(store, store.url(1), oracle, tmp_path, start_any)
        durable.conf["fanout_publish_timeout"] = 1
        worker = durable.worker()
        producers = [
            stack.enter_context(Producer(durable, f"p{n}", number, 0.02)) for n in range(2)
        ]
        for kill in range(2 if bounded else 5):
            enough = number // 4 * (kill + 1)
            wait_until(lambda enough=enough: sum(outcomes(oracle)) > enough)
            store.kill_and_restart()
        wait_until(lambda: not any(producer.alive for producer in producers), timeout=240)
        counts = durable.check(timeout=120, revive=True)
        assert set(counts) == {S.SUCCEEDED}
        assert sum(run.crashes for run in durable.ledger.runs(limit=number * 2)) == 0
        worker.kill()
        durable.app.close()


# --- Redis takes no writes ------------------------------------------------------------------------


def fill(client: redis.Redis, directory: Path) -> Callable[[], object]:
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", "1")
    return lambda: client.config_set("maxmemory", "0")


def spoil_the_disk(client: redis.Redis, directory: Path) -> Callable[[], object]:
    shutil.rmtree(directory)
    client.bgsave()
    wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")

    def mend() -> None:
        client.config_set("save", "")  # or it would not end without having saved
        client.config_set("stop-writes-on-bgsave-error", "no")

    return mend


def demote(client: redis.Redis, directory: Path) -> Callable[[], object]:
    client.replicaof("127.0.0.1", "1")
    return lambda: client.replicaof("NO", "ONE")


@pytest.mark.parametrize("one", [False, True], ids=["broker elsewhere", "one redis"])
@pytest.mark.parametrize(
    ("breaks", "says"),
    [(fill, "OutOfMemory"), (spoil_the_disk, "MISCONF"), (demote, "ReadOnly")],
)
def test_redis_takes_no_writes(
    oracle: Oracle,
    tmp_path: Path,
    start_any: Callable[..., object],
    redis_url: str,
    breaks: Callable[[redis.Redis, Path], Callable[[], object]],
    says: str,
    one: bool,
) -> None:
    """emit() raises, and says why; runs wait; nothing is left half done."""
    gate, disk = tmp_path / "gate", tmp_path / "disk"
    disk.mkdir()
    options = {"dir": str(disk), "save": "3600 100000000"}
    with RedisServer(options=options) as store:
        jobs = Jobs(store, store.url() if one else redis_url, oracle, tmp_path, start_any)
        jobs.conf["fanout_publish_timeout"] = 1
        worker = jobs.worker(concurrency=1)
        held = jobs.emit("job/split", {"gate": str(gate)}).runs[0]
        jobs.wait_until_stored(held.id)
        nap = jobs.emit("job/nap", {"seconds": 0.1}).runs[0]
        with store.client() as client:
            mend = breaks(client, disk)
            with pytest.raises(EmitError) as raised:
                jobs.emit("job/tail", {}, id="e-1")
            assert says in str(raised.value)
            gate.touch()
            wait_until(lambda: "b" in jobs.counts())  # its result cannot be stored
            passes(1.5 * LEASE)
            mend()
        jobs.emit("job/tail", {}, id="e-1")
        assert jobs.check(revive=True) == {S.SUCCEEDED: 4}
        assert held.get(timeout=5) == ["", "", ""]
        assert nap.get(timeout=5) == "a"
        counts = jobs.counts(held.id)
        assert (counts["a"], counts["c"]) == (1, 1)
        worker.kill()
        jobs.app.close()


def test_an_outage_longer_than_a_lease_is_no_crash(
    jobs: Jobs, tmp_path: Path, redis_url: str
) -> None:
    """Nobody has died, so nothing brings the run nearer to a dead letter."""
    gate = tmp_path / "gate"
    jobs.broker = redis_url
    jobs.worker(concurrency=1)
    held = jobs.emit("job/split", {"gate": str(gate)}).runs[0]
    jobs.wait_until_stored(held.id)
    jobs.store.kill()
    gate.touch()
    wait_until(lambda: "b" in jobs.counts())
    passes(2 * LEASE)
    jobs.store.start()
    assert jobs.check() == {S.SUCCEEDED: 1}
    assert jobs.run(held.id).crashes == 0


@pytest.mark.parametrize("longer", [False, True])
def test_the_ledger_is_away_while_a_run_emits(
    jobs: Jobs, tmp_path: Path, redis_url: str, longer: bool
) -> None:
    """``step.emit`` waits for it as every step does: a task without retries does not fail of it."""
    gate = tmp_path / "gate"
    jobs.broker = redis_url
    worker = jobs.worker(concurrency=1)
    run = jobs.emit("job/tells", {"gate": str(gate)}).runs[0]
    jobs.wait_for("body")
    jobs.store.kill()
    gate.touch()
    worker.wait_for_log(f"jobs.tells[{run.id}]: The Redis ledger cannot be reached")
    if longer:
        passes(2 * LEASE)
    jobs.store.start()
    assert run.get(timeout=30) == "a"
    assert jobs.check() == {S.SUCCEEDED: 2}
    assert jobs.run(run.id).crashes == 0


# --- Redis evicts ---------------------------------------------------------------------------------


@pytest.fixture
def evicting(
    oracle: Oracle, tmp_path: Path, start_any: Callable[..., object], redis_url: str
) -> Iterator[Jobs]:
    """Jobs whose ledger may be evicted; their broker is another server."""
    options = {"maxmemory": "40mb", "maxmemory-policy": "allkeys-lru"}
    with RedisServer(options=options) as store:
        jobs = Jobs(store, redis_url, oracle, tmp_path, start_any)
        yield jobs
        jobs.app.close()


def test_a_redis_that_may_evict_is_found(evicting: Jobs) -> None:
    fanout = get_fanout(evicting.app)
    found = {finding.id: finding for finding in [*findings(fanout), *live_findings(fanout)]}
    assert found["fanout.W012"].message.endswith("when it is full (allkeys-lru).")


def evict(jobs: Jobs, run_id: str, *prefixes: str) -> None:
    """Take keys of a run away, as Redis does."""
    with jobs.store.client() as client:
        keys = [f"{{fanout}}:{prefix}:{run_id}" for prefix in prefixes]
        assert client.delete(*keys) == len(keys)


def test_a_run_that_was_evicted_while_it_is_executed(evicting: Jobs, tmp_path: Path) -> None:
    """It stops at its next step, and is not said to have succeeded."""
    gate = tmp_path / "gate"
    worker = evicting.worker(concurrency=1)
    run = evicting.emit("job/split", {"gate": str(gate)}).runs[0]
    evicting.wait_until_stored(run.id)
    evict(evicting, run.id, "r", "d")
    gate.touch()
    worker.wait_for_log(f"[{run.id}] ignored")
    assert evicting.counts() == {"body": 1, "a": 1, "b": 1}
    assert evicting.ledger.run(run.id) is None
    with pytest.raises(FanoutError):
        get_fanout(evicting.app).runs.get(run.id)


def test_checkpoints_that_were_evicted_are_made_again(evicting: Jobs, tmp_path: Path) -> None:
    """As the documentation says of eviction: the promise about steps is gone with their results."""
    gate = tmp_path / "gate"
    worker = evicting.worker(concurrency=1)
    run = evicting.emit("job/split", {"gate": str(gate)}).runs[0]
    evicting.wait_until_stored(run.id)
    worker.kill()
    evict(evicting, run.id, "d")
    gate.touch()
    worker.start()
    assert run.get(timeout=30) == ["", "", ""]
    assert evicting.counts(run.id)["a"] == 2
