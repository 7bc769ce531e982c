"""Messages that come out of order: made by hand, of a retry, a tail, a generation, a claim before.

Whatever a message says, the ledger decides.
"""

from __future__ import annotations

import base64
import json
import uuid
from pathlib import Path
from typing import Any

import redis

from celery_fanout.model.headers import STORE_LEFT_HEADER, STORE_RETRIES_HEADER
from celery_fanout.stores.states import RunState
from tests.faults.conftest import Jobs
from tests.processes import wait_until

S = RunState

Message = dict[str, Any]


def broker_of(jobs: Jobs) -> redis.Redis:
    """Return a client of the database that the broker is."""
    return jobs.store.client(1)


def waiting(jobs: Jobs) -> list[Message]:
    """Return the messages in the queue, the oldest first."""
    with broker_of(jobs) as client:
        return [json.loads(text) for text in reversed(client.lrange("celery", 0, -1))]


def send(jobs: Jobs, message: Message, **headers: Any) -> None:
    """Put a message into the queue, with these headers."""
    made = json.loads(json.dumps(message))
    made["headers"].update(headers)
    made["properties"]["delivery_tag"] = str(uuid.uuid4())
    with broker_of(jobs) as client:
        client.lpush("celery", json.dumps(made))


def all_read(jobs: Jobs) -> None:
    """Wait until workers have seen to all messages."""
    with broker_of(jobs) as client:
        wait_until(lambda: not client.llen("celery") and not client.hlen("unacked"))


def test_a_retry_that_comes_after_the_success(jobs: Jobs) -> None:
    run = jobs.emit("job/steps", {}).runs[0]
    (message,) = waiting(jobs)
    jobs.worker()
    assert run.get(timeout=30) == ["a", "b", "c"]
    for retries in (0, 1, 7):
        send(jobs, message, retries=retries)
    all_read(jobs)
    assert jobs.counts() == {"body": 1, "a": 1, "b": 1, "c": 1}
    assert jobs.check() == {S.SUCCEEDED: 1}
    assert (jobs.run(run.id).token, jobs.run(run.id).retries) == (1, 0)


def test_messages_of_earlier_retries(jobs: Jobs, tmp_path: Path) -> None:
    """They come all the time while the run is retried, and make no execution more."""
    gate = tmp_path / "gate"
    run = jobs.emit("job/flaky", {"gate": str(gate)}).runs[0]
    (message,) = waiting(jobs)
    jobs.worker()

    def tried_three_times() -> bool:
        for retries in (0, 0, 1):
            send(jobs, message, retries=retries)
        return jobs.counts().get("body", 0) >= 3

    wait_until(tried_three_times, 60)
    gate.touch()
    assert run.get(timeout=30) == "a"
    all_read(jobs)
    assert jobs.check() == {S.SUCCEEDED: 1}
    found = jobs.run(run.id)
    assert jobs.counts()["body"] == found.token == found.retries + 1
    assert [attempt["outcome"] for attempt in found.detail["attempts"]] == [
        *["retrying"] * found.retries,
        "succeeded",
    ]


def test_a_tail_that_comes_before_its_parent(jobs: Jobs) -> None:
    """It is executed, as the ledger could have lost it; and once, whatever its parent sends."""
    run = jobs.emit("job/tail", {}).runs[0]
    (message,) = waiting(jobs)
    _, _, embed = json.loads(base64.b64decode(message["body"]))
    (link,) = embed["chain"]
    early = json.loads(json.dumps(message))
    options = link["options"]
    early["headers"].update(options["headers"], id=options["task_id"], task=link["task"])
    early["properties"]["correlation_id"] = options["task_id"]
    body = [["too early"], {}, {**embed, "chain": None}]
    early["body"] = base64.b64encode(json.dumps(body).encode()).decode()
    with broker_of(jobs) as client:
        client.delete("celery")
    worker = jobs.worker()
    send(jobs, early)
    wait_until(lambda: jobs.counts().get("saved"))
    send(jobs, message)
    assert run.get(timeout=30) == "too early"
    send(jobs, early)
    all_read(jobs)
    assert jobs.counts() == {"body": 1, "a": 1, "save": 1, "saved": 1}
    assert jobs.check() == {S.SUCCEEDED: 2}
    assert worker.alive


def test_a_message_of_an_older_generation(jobs: Jobs) -> None:
    """Each generation is a run of its own: none begins another, and none goes on for it."""
    jobs.conf["fanout_dedup_window"] = 1
    first = jobs.emit("job/steps", {}, id="e").runs[0]
    (older,) = waiting(jobs)
    worker = jobs.worker()
    assert first.get(timeout=30) == ["a", "b", "c"]

    def next_generation() -> str:
        found: str = jobs.emit("job/steps", {}, id="e").runs[0].id
        jobs.emissions.pop()  # the event's runs are those of its last emit
        return found if found != first.id else ""

    second = wait_until(next_generation)
    wait_until(lambda: jobs.run(second).state is S.SUCCEEDED)
    assert jobs.run(second).generation == 1
    jobs.emissions.clear()
    send(jobs, older)
    send(jobs, older, fanout_generation=1)  # and one that contradicts itself
    all_read(jobs)
    assert jobs.counts(first.id) == jobs.counts(second) == {"body": 1, "a": 1, "b": 1, "c": 1}
    assert jobs.check() == {S.SUCCEEDED: 2}
    assert worker.alive


def test_a_message_of_an_earlier_claim(jobs: Jobs, tmp_path: Path) -> None:
    """A worker that put the run back said which claim it left; by now another one holds it."""
    gate = tmp_path / "gate"
    run = jobs.emit("job/held", {"gate": str(gate)}).runs[0]
    (message,) = waiting(jobs)
    worker = jobs.worker()
    jobs.wait_for("body")
    worker.kill()
    worker.start()
    wait_until(lambda: jobs.counts()["body"] == 2)
    assert jobs.run(run.id).token == 2
    send(jobs, message, **{STORE_RETRIES_HEADER: 1, STORE_LEFT_HEADER: 1})
    worker.wait_for_log(f"Run {run.id} is not executed: it is held")
    assert jobs.counts()["body"] == jobs.run(run.id).token == 2
    gate.touch()
    assert run.get(timeout=30) == "a"
    assert jobs.counts() == {"body": 2, "a": 1}
    assert jobs.check() == {S.SUCCEEDED: 1}
