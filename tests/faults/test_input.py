"""Input that nobody should send: to ``emit()``, from steps, and straight into the queues."""

from __future__ import annotations

import base64
import json
import pickle
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import amqp
import pytest

from celery_fanout.exceptions import FanoutError
from celery_fanout.stores.states import RunState
from tests.faults.conftest import Jobs
from tests.processes import wait_until
from tests.servers import RabbitServer

S = RunState

LIMIT = 256 * 1024


def nested(depth: int) -> Any:
    data: Any = "bottom"
    for _ in range(depth):
        data = [data]
    return data


# --- emit() ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param("x" * (LIMIT - 1), "bytes", id="one byte over the limit"),
        pytest.param("x" * 50_000_000, "bytes", id="50 MB"),
        pytest.param(nested(5_000), "nest", id="5,000 levels"),
        pytest.param({"n": float("nan")}, "nan", id="NaN"),
        pytest.param({"n": float("inf")}, "inf", id="infinity"),
        pytest.param({"n": object()}, "object", id="an object"),
        pytest.param({1: "one", "1": "one"}, "key", id="keys that become one"),
        pytest.param("half a pair: \ud83d", "surrogate", id="half a surrogate pair"),
    ],
)
def test_what_emit_refuses(jobs: Jobs, data: Any, says: str) -> None:
    with pytest.raises(FanoutError) as raised:
        jobs.emit("job/echo", data)
    assert says in str(raised.value).lower()
    assert len(str(raised.value)) < 1_000  # not the data
    assert jobs.ledger.events() == []


@pytest.mark.parametrize("jobs", ["redis", "rabbit"], indirect=True)
def test_what_arrives_as_it_was_sent(jobs: Jobs) -> None:
    worker = jobs.worker()
    strange: list[Any] = [
        "x" * (LIMIT - 2),
        {f"k{n}": n for n in range(10_000)},
        nested(50),
        2**70,
        -(2**70),
        1e308,
        -0.0,
        "\x00\x1f\u2028 'quoted' \"twice\" \\ / \N{PILE OF POO}",
        {"": {"": []}, "a.b": 1, "*": None, "{x}": "%s {0} $1"},
        None,
        False,
        [],
    ]
    emissions = [jobs.emit("job/echo", data) for data in strange]
    for emission, data in zip(emissions, strange, strict=True):
        assert emission.runs[0].get(timeout=30) == data
    assert jobs.check() == {S.SUCCEEDED: len(strange)}
    assert worker.alive


# --- what comes from the queue --------------------------------------------------------------------


class Bomb:
    """Whoever unpickles it executes code."""

    path: ClassVar[str] = ""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (Path(self.path),)


def envelope(**changes: Any) -> dict[str, Any]:
    """Return a run's message as it should be, with changes: to its headers, body or properties."""
    run_id = str(uuid.uuid4())
    headers: dict[str, Any] = {
        "lang": "py",
        "task": "jobs.steps",
        "id": run_id,
        "root_id": run_id,
        "parent_id": None,
        "group": None,
        "retries": 0,
        "ce_specversion": "1.0",
        "ce_id": "e-1",
        "ce_type": "job/steps",
        "ce_source": "/jobs",
        "ce_time": "2026-01-01T00:00:00Z",
        "fanout_subscription": "jobs.steps@job/steps",
        "fanout_version": 1,
        "fanout_run": run_id,
    }
    for name, value in changes.get("headers", {}).items():
        if value is ...:
            headers.pop(name, None)
        else:
            headers[name] = value
    body = changes.get("body", json.dumps([[{}], {}, {"callbacks": None, "errbacks": None}]))
    return {
        "body": base64.b64encode(body if isinstance(body, bytes) else body.encode()).decode(),
        "content-type": changes.get("content_type", "application/json"),
        "content-encoding": changes.get("content_encoding", "utf-8"),
        "headers": headers,
        "properties": {
            "correlation_id": run_id,
            "reply_to": str(uuid.uuid4()),
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "celery"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }


def malformed(bomb: str) -> list[dict[str, Any]]:
    """Return messages that no emit() has made. None of them is an event of ours."""
    Bomb.path = bomb
    ours = [
        {"headers": {"ce_id": ...}},
        {"headers": {"ce_type": ...}},
        {"headers": {"ce_source": 5}},
        {"headers": {"ce_time": "yesterday"}},
        {"headers": {"ce_time": ["2026"]}},
        {"headers": {"ce_type": "not a name!"}},
        {"headers": {"ce_type": "x" * 10_000}},
        {"headers": {"fanout_run": 17}},
        {"headers": {"fanout_run": None}},
        {"headers": {"fanout_run": {"a": 1}}},
        {"headers": {"fanout_run": "../../*"}},
        {"headers": {"fanout_run": ""}},
        {"headers": {"fanout_version": 999}},
        {"headers": {"fanout_version": "soon"}},
        {"headers": {"fanout_subscription": ["x"]}},
        {"headers": {"fanout_subscription": "nobody@nothing"}},
        {"headers": {"fanout_kind": "kinder"}},
        {"headers": {"fanout_kind": ["event"]}},
        {"headers": {"fanout_generation": "first"}},
        {"headers": {"fanout_generation": -1}},
        {"headers": {"fanout_branch": "not a list"}},
        {"headers": {"fanout_data": "{not json"}},
        {"headers": {"fanout_resume_at": "later"}},
        {"headers": {"fanout_store_retries": "many"}},
        {"headers": {"retries": "none"}},
        {"headers": {"task": "no.such.task"}},
        {"headers": {"id": None}},
        {"body": "not json"},
        {"body": json.dumps([["data", "and more"], {"of": "it"}, {}])},
        {"content_type": "application/nonsense"},
        {"content_encoding": "utf-99"},
        {"content_type": "application/x-python-serialize", "content_encoding": "binary"}
        | {"body": pickle.dumps(([{}], {}, {"b": Bomb()}))},
        {"content_type": "application/json", "body": pickle.dumps(([{}], {}, {"b": Bomb()}))},
        {"content_type": "application/x-yaml"}
        | {"body": f"[[!!python/object/apply:os.system ['touch {bomb}']], {{}}, {{}}]"},
    ]
    return [envelope(**changes) for changes in ours]


@pytest.mark.parametrize("jobs", ["redis", "rabbit", "fast"], indirect=True)
def test_malformed_messages(jobs: Jobs, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """They are dropped or refused. None is executed, and the worker goes on."""
    fast = request.node.callspec.params["jobs"] == "fast"
    bomb = tmp_path / "exploded"
    worker = jobs.worker(concurrency=1, fast=fast)
    assert jobs.emit("job/steps", {}).get(timeout=30)[0].ok
    messages = malformed(str(bomb))
    if jobs.broker.startswith("redis"):
        queue = "fanout" if fast else "celery"
        with jobs.store.client(1) as client:
            for message in messages:
                client.lpush(queue, json.dumps(message))
            wait_until(lambda: not client.llen(queue))
    else:
        server: RabbitServer = request.getfixturevalue("rabbit_server")
        publish(server, jobs.broker.rpartition("/")[2], messages)
    after = [jobs.emit("job/steps", {}) for _ in range(4)]
    for emission in after:
        assert emission.get(timeout=30)[0].ok
    assert worker.alive, worker.log[-3000:]
    assert not bomb.exists()
    known = {run.id for emission in jobs.emissions for run in emission.runs}
    executed = {r["run"] for r in jobs.oracle.read()}
    assert executed <= known, "a malformed message was executed"
    assert jobs.check()[S.SUCCEEDED] == 5


def publish(server: RabbitServer, vhost: str, messages: list[dict[str, Any]]) -> None:
    """Publish messages, and some of which no client would think, with AMQP alone."""
    address = f"127.0.0.1:{server.port}"
    with amqp.Connection(address, virtual_host=vhost) as connection:
        channel = connection.channel()
        raw: list[amqp.Message] = [amqp.Message(b""), amqp.Message(b"\xff\xfe\x00")]
        raw.append(amqp.Message(b"[]", content_type="application/json"))
        raw.extend(
            amqp.Message(
                base64.b64decode(message["body"]),
                content_type=message["content-type"],
                content_encoding=message["content-encoding"],
                application_headers=message["headers"],
                correlation_id=message["properties"]["correlation_id"],
            )
            for message in messages
        )
        for one in raw:
            channel.basic_publish(one, routing_key="celery")


NO_MESSAGES = {
    "no JSON": b"not json",
    "no UTF-8": b"\xff\xfe",
    "nothing": b"",
    "a list": b"[]",
    "null": b"null",
    "an empty object": b"{}",
    "a number as body": b'{"body": 5}',
    # [] or {} would end Celery's worker each time that it is started: it gives the message back
    "an empty body": json.dumps(envelope(body="[null, null, null]")).encode(),
}


@pytest.mark.parametrize("text", NO_MESSAGES.values(), ids=NO_MESSAGES)
def test_what_is_no_message_at_all(jobs: Jobs, text: bytes) -> None:
    """Celery's own worker ends with some. It can be started again, and nothing is lost."""
    worker = jobs.worker(concurrency=1)
    first = jobs.emit("job/steps", {})
    first.get(timeout=30)
    with jobs.store.client(1) as client:
        client.lpush("celery", text)
        wait_until(lambda: not client.llen("celery"))
    after = jobs.emit("job/steps", {})
    wait_until(lambda: jobs.run(after.runs[0].id).state is S.SUCCEEDED or not worker.alive)
    jobs.revive()
    assert after.get(timeout=30)[0].ok
    assert jobs.check() == {S.SUCCEEDED: 2}
    assert jobs.counts() == {"body": 2, "a": 2, "b": 2, "c": 2}


# --- steps that return or raise what nobody can keep ----------------------------------------------


@pytest.mark.parametrize(
    ("what", "reason", "type_"),
    [
        ("an object", "error", "RunFailed"),
        ("too much", "error", "RunFailed"),
        ("two arguments", "error", "TwoArgumentsError"),
        ("no text", "error", "NoTextError"),
        ("deep", "error", "RecursionError"),
    ],
)
def test_what_a_step_cannot_give(jobs: Jobs, what: str, reason: str, type_: str) -> None:
    """The run is a dead letter that says why, its step is not stored, and the worker goes on."""
    worker = jobs.worker(concurrency=1)
    run_id = jobs.emit("job/bad", {"what": what}).runs[0].id
    assert jobs.check() == {S.FAILED: 1}
    run = jobs.run(run_id)
    assert (run.reason, run.detail["error"]["type"]) == (reason, type_)
    done = [text for text in run.detail["checkpoints"].values() if '"s":"done"' in text]
    assert len(done) == 1  # the step before
    assert jobs.counts() == {"body": 1, "a": 1, "b": 1}
    after = jobs.emit("job/steps", {})
    assert after.get(timeout=30)[0].ok
    assert worker.alive
