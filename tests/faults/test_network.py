"""The line breaks: replies are swallowed, nothing gets through, all is slow, connections are reset.

Of two workers that work on one run, which happens when one of them is cut off for longer than its
lease, the ledger takes the word of the one that claimed it last.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from celery_fanout.exceptions import EmitError
from celery_fanout.stores.states import RunState
from tests.chaos import ChaosProxy
from tests.faults.conftest import Jobs
from tests.faults.jobs import LEASE, make_app
from tests.processes import wait_until

S = RunState

everywhere = pytest.mark.parametrize("jobs", ["redis", "rabbit"], indirect=True)


class Lines(NamedTuple):
    """The two lines of a process."""

    broker: ChaosProxy
    store: ChaosProxy
    env: dict[str, str]


@pytest.fixture
def lines(jobs: Jobs, chance: random.Random) -> Iterator[Lines]:
    """Lines that can be broken, and the environment of a worker that uses them."""
    port = urlsplit(jobs.broker).port
    assert port is not None
    with ExitStack() as stack:
        broker = stack.enter_context(ChaosProxy(port, chance))
        store = stack.enter_context(ChaosProxy(jobs.store.port, chance))
        there = jobs.broker.replace(f":{port}/", f":{broker.port}/")
        yield Lines(broker, store, {"JOBS_BROKER": there, "JOBS_STORE": store.url()})


@pytest.fixture
def emitter(jobs: Jobs, lines: Lines, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The app of a process that emits over these lines."""
    conf = {**jobs.conf, **getattr(request, "param", {})}
    app = make_app(lines.env["JOBS_BROKER"], lines.env["JOBS_STORE"], **conf)
    yield app
    app.close()


def sha(jobs: Jobs, script: str) -> bytes:
    """Return what requests of a script of the ledger contain."""
    name: str = jobs.ledger._scripts.sha(script)  # type: ignore[attr-defined]
    return name.encode()


def passes(seconds: float) -> None:
    """Let time pass: there is nothing to be seen of what must not happen meanwhile."""
    begun = time.monotonic()
    wait_until(lambda: time.monotonic() - begun > seconds, timeout=seconds + 30)


# --- a reply is lost: the server has done what it was asked to, and who asked does not know -------


@everywhere
@pytest.mark.parametrize("emitter", [{}, {"transport": {"confirm_publish": True}}], indirect=True)
def test_the_reply_to_a_publish_is_swallowed(jobs: Jobs, lines: Lines, emitter: Any) -> None:
    """The message is in the queue, and is published again: it is executed once."""
    jobs.worker()
    assert jobs.emit("job/steps", {}, app=emitter).runs[0].get(timeout=30) == ["a", "b", "c"]
    is_redis = jobs.broker.startswith("redis")
    lines.broker.swallow_replies(b"LPUSH" if is_redis else b"job/steps")
    emission = jobs.emit("job/steps", {}, app=emitter)
    assert emission.runs[0].get(timeout=30) == ["a", "b", "c"]
    if is_redis:
        assert lines.broker.swallowed == 1
    assert jobs.check() == {S.SUCCEEDED: 2}
    assert jobs.counts() == {"body": 2, "a": 2, "b": 2, "c": 2}


@pytest.mark.parametrize("one_script", [False, True])
def test_the_reply_to_a_record_is_swallowed(jobs: Jobs, one_script: bool) -> None:
    """The event is recorded again, which changes nothing; in one script with its messages, too."""
    if one_script:
        jobs.broker = jobs.store.url()
    jobs.worker()
    with ChaosProxy(jobs.store.port) as proxy:
        app = make_app(proxy.url() if one_script else jobs.broker, proxy.url())
        jobs.emit("job/steps", {}, app=app)  # the script is loaded
        proxy.swallow_replies(sha(jobs, "record"))
        jobs.emit("job/steps", {}, app=app)
        assert proxy.swallowed == 1
        # as often as it tries
        proxy.swallow_replies(sha(jobs, "record"), times=10)
        with pytest.raises(EmitError) as raised:
            jobs.emit("job/steps", {}, id="e-3", app=app)
        assert set(raised.value.states.values()) == {"unknown"}
        proxy.mend()
        repeated = jobs.emit("job/steps", {}, id="e-3", app=app)
        assert list(raised.value.states) == [run.id for run in repeated.runs]
        assert jobs.check() == {S.SUCCEEDED: 3}
        assert jobs.counts() == {"body": 3, "a": 3, "b": 3, "c": 3}
        app.close()


@pytest.mark.parametrize("script", ["claim", "store", "settle", "published", "take"])
@pytest.mark.parametrize("times", [1, 10])
def test_the_reply_of_the_ledger_is_swallowed(
    jobs: Jobs, lines: Lines, script: str, times: int
) -> None:
    """In a worker; once, and as often as it asks again at once."""
    jobs.worker(concurrency=1, **lines.env)
    first = [jobs.emit(name, {"seconds": 0.1}) for name in ("job/steps", "job/nap")]
    for emission in first:
        emission.get(timeout=30)  # the scripts are loaded
    lines.store.swallow_replies(sha(jobs, script), times=times)
    more = [jobs.emit(name, {"seconds": 0.1}) for name in ("job/steps", "job/nap")]
    wait_until(lambda: lines.store.swallowed >= min(times, 2))
    lines.store.mend()
    for emission in more:
        assert emission.get(timeout=30)[0].ok
    assert jobs.check() == {S.SUCCEEDED: 4}
    assert jobs.counts() == {"body": 2, "a": 4, "b": 2, "c": 2}
    assert [run.crashes for run in jobs.ledger.runs()] == [0] * 4


def test_the_reply_to_the_end_of_a_tail_is_swallowed(jobs: Jobs, lines: Lines) -> None:
    jobs.worker(concurrency=1, **lines.env)
    jobs.emit("job/tail", {}).get(timeout=30)
    jobs.check()
    lines.store.swallow_replies(
        sha(jobs, "settle"), times=2
    )  # it is completing, and it has succeeded
    jobs.emit("job/tail", {}).get(timeout=30)
    assert jobs.check() == {S.SUCCEEDED: 4}
    assert lines.store.swallowed == 2
    assert jobs.counts() == {"body": 2, "a": 2, "save": 2, "saved": 2}


# --- a black hole --------------------------------------------------------------------------------


@everywhere
def test_a_worker_without_its_broker_finishes_what_it_has(
    jobs: Jobs, lines: Lines, tmp_path: Path
) -> None:
    """And others get what it cannot receive."""
    gate = tmp_path / "gate"
    jobs.conf["broker_heartbeat"] = 2  # without it, RabbitMQ believes for minutes that it is there
    cut_off = jobs.worker(concurrency=1, JOBS_NAME="A", **lines.env)
    held = jobs.emit("job/split", {"gate": str(gate)}).runs[0]
    jobs.wait_for("a")
    lines.broker.blackhole()
    other = jobs.worker(concurrency=1, JOBS_NAME="B")
    assert jobs.emit("job/steps", {}).runs[0].get(timeout=30) == ["a", "b", "c"]
    passes(2 * LEASE)
    Path(f"{gate}A").touch()
    assert held.get(timeout=30) == ["A", "A", "A"]
    run = jobs.run(held.id)
    assert (run.token, run.crashes) == (1, 0)
    other.stop()
    lines.broker.mend()
    assert jobs.emit("job/steps", {}).runs[0].get(timeout=60) == ["a", "b", "c"]
    assert cut_off.alive
    assert jobs.check() == {S.SUCCEEDED: 3}
    assert jobs.counts() == {"body": 3, "a": 3, "b": 3, "c": 3}


@everywhere
@pytest.mark.parametrize("both", [False, True])
def test_two_workers_on_one_run(jobs: Jobs, lines: Lines, tmp_path: Path, both: bool) -> None:
    """One is cut off from the ledger for longer than its lease. What it stores then is refused."""
    gate = tmp_path / "gate"
    stale = jobs.worker(concurrency=1, JOBS_NAME="A", **lines.env)
    held = jobs.emit("job/split", {"gate": str(gate)}).runs[0]
    jobs.wait_until_stored(held.id)
    # RabbitMQ would give it the message that is for B
    assert jobs.app.control.cancel_consumer(
        "celery", destination=[stale.hostname], reply=True, timeout=10, limit=1
    )
    jobs.worker(concurrency=1, JOBS_NAME="B")
    lines.store.blackhole()
    if both:
        lines.broker.blackhole()
    wait_until(lambda: jobs.counts(held.id)["body"] == 2)  # B has it too
    Path(f"{gate}A").touch()
    wait_until(lambda: jobs.counts(held.id).get("b") == 1)  # A goes on, and does not know
    lines.store.mend()
    lines.broker.mend()
    stale.wait_for_log(f"[{held.id}] ignored")
    Path(f"{gate}B").touch()
    assert held.get(timeout=30) == ["A", "B", "B"]  # the first was stored before A was cut off
    run = jobs.run(held.id)
    assert (run.token, run.crashes) == (2, 1)
    began = [(r["what"], r["worker"]) for r in jobs.oracle.read()]
    assert began == [(w, "A") for w in ("body", "a")] + [
        ("body", "B"),
        ("b", "A"),
        ("b", "B"),
        ("c", "B"),
    ]
    assert jobs.check() == {S.SUCCEEDED: 1}


def test_a_worker_is_cut_off_for_less_than_a_lease(
    jobs: Jobs, lines: Lines, tmp_path: Path
) -> None:
    """It waits, and nobody notices."""
    gate = tmp_path / "gate"
    jobs.conf["fanout_lease"] = 10
    jobs.worker(concurrency=1, JOBS_NAME="A", **lines.env)
    jobs.worker(concurrency=1, JOBS_NAME="B")
    held = jobs.emit("job/split", {"gate": str(gate)}).runs[0]
    jobs.wait_for("a")
    for name in ("A", "B"):
        Path(f"{gate}{name}").touch()
    lines.store.blackhole()
    passes(2)
    lines.store.mend()
    assert len(set(held.get(timeout=30))) == 1
    run = jobs.run(held.id)
    assert (run.token, run.crashes) == (1, 0)
    jobs.check()
    assert jobs.counts() == {"body": 1, "a": 1, "b": 1, "c": 1}


# --- slow lines, and connections that are reset ---------------------------------------------------


@everywhere
def test_slow_lines(jobs: Jobs, lines: Lines, emitter: Any, bounded: bool) -> None:
    """Up to a fourteenth of a second there, and as much back."""
    number, names = (5, ["A"]) if bounded else (50, ["A", "B"])  # to start takes them long, too
    lines.store.delay(0.02, jitter=0.05)
    lines.broker.delay(0.02, jitter=0.05)
    for name in names:
        jobs.worker(JOBS_NAME=name, **lines.env)
    for _ in range(number):
        jobs.emit("job/steps", {}, app=emitter)
    jobs.emit("job/tail", {}, app=emitter)
    assert jobs.check(timeout=300) == {S.SUCCEEDED: number + 2}
    counts = jobs.counts()
    assert (counts["a"], counts["b"], counts["c"], counts["saved"]) == (
        number + 1,
        number,
        number,
        1,
    )


@everywhere
@pytest.mark.timeout(400)
@pytest.mark.parametrize("emitter", [{"transport": {"confirm_publish": True}}], indirect=True)
def test_connections_are_reset_again_and_again(
    jobs: Jobs, lines: Lines, emitter: Any, chance: random.Random, bounded: bool
) -> None:
    """Everybody's, wherever they are in what they say."""
    number = 60 if bounded else 1_000
    jobs.conf["fanout_max_crashes"] = 50
    # RabbitMQ loses what it had not read, unless the publisher waits for its confirmation
    jobs.conf["transport"] = {"confirm_publish": True}
    workers = [jobs.worker(JOBS_NAME=name, **lines.env) for name in ("A", "B")]
    lines.store.reset_after(lambda: chance.randint(3_000, 60_000))
    lines.broker.reset_after(lambda: chance.randint(3_000, 60_000))
    repeated = 0
    for count in range(number):
        while True:
            try:
                jobs.emit("job/steps", {}, id=f"e-{count}", app=emitter)
                break
            except EmitError:
                repeated += 1
    wait_until(lambda: jobs.counts().get("c", 0) > number // 2, timeout=120)
    before = lines.broker.connections + lines.store.connections
    lines.store.mend()
    lines.broker.mend()
    assert jobs.check(timeout=120) == {S.SUCCEEDED: number}
    counts = jobs.counts()
    assert min(counts["a"], counts["b"], counts["c"]) >= number
    assert all(worker.alive for worker in workers)
    print(f"{number} runs over {before} connections; {repeated} emits were repeated")  # noqa: T201


@pytest.mark.parametrize("emitter", [{"fanout_publish_timeout": 1}], indirect=True)
def test_a_publisher_over_a_black_hole_returns(jobs: Jobs, lines: Lines, emitter: Any) -> None:
    """The ledger has the event: a keeper publishes it."""
    jobs.worker()
    lines.broker.blackhole()
    emission = jobs.emit("job/steps", {}, app=emitter)
    assert emission.runs[0].get(timeout=30) == ["a", "b", "c"]
    assert jobs.check() == {S.SUCCEEDED: 1}


def test_an_emitter_over_a_black_hole_raises(jobs: Jobs, lines: Lines) -> None:
    """Nothing of its event got through, and it says that it does not know."""
    jobs.conf["fanout_publish_timeout"] = 1
    app = make_app(lines.env["JOBS_BROKER"], lines.env["JOBS_STORE"], **jobs.conf)
    lines.store.blackhole()
    done = threading.Event()

    def emit_it() -> None:
        with pytest.raises(EmitError):
            jobs.emit("job/steps", {}, id="e-1", app=app)
        done.set()

    thread = threading.Thread(target=emit_it)
    thread.start()
    assert done.wait(60)
    thread.join()
    lines.store.mend()
    assert not jobs.ledger.runs()
    jobs.worker()
    jobs.emit("job/steps", {}, id="e-1", app=app)
    assert jobs.check() == {S.SUCCEEDED: 1}
    app.close()
