"""Both versions (see ``versioning.py``) write the same: all keys of Redis, all messages.

Each does the same things with servers of its own, and then their databases and queues are compared,
field by field. What names a time, a process or a draw of chance has to be there, whatever it is.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import kombu
import pytest
import redis

from celery_fanout.stores.states import FINAL
from tests.faults.normalising import normalised, word
from tests.faults.stories import BEFORE_IT_LEAVES, EARLY, HELD, UNTOUCHED, Stories
from tests.faults.versioning import Client, Versions, clients, open_versions
from tests.faults.versions_steps import LATER, ONCE
from tests.processes import wait_until

__all__ = ["clients"]  # the fixture

#: Tasks that wait for an event, for one another, or for somebody.
STAY = ("waits", "typed", "emits", "one", "stopped", "paused", "batch")

#: Those that wait for runs of their own.
CALLS = ("invokes", "parallel")

#: Those that go on after a time.
LEAVE = ("sleeps", "times_out", "late", "retries", "step_retries", "parallel")

#: The states of all these.
WAITING = ("suspended", "retrying", "gated")

#: The lists of the queue that no worker serves at first: one is that of a higher priority.
LATER_QUEUES = (LATER, f"{LATER}\x06\x163")

#: Those that need no ledger.
LEVEL_1 = {"v/plain", "v/options", "v/sleeps", "v/fails", "v/tail", "v/quick-tail"}

#: Keys that are there for less than a second, and kombu's own.
LEFT_OUT = re.compile(r"\{fanout\}:busy|unacked.*|_kombu\.(?!binding\.(celery|later)$).*")

#: Fields of a run's record: boot id, nonce, and how often it was published. (What is throttled may
#: be published a bit early.)
DRAWN = {"b", "h", "y"}

#: Another one, which is there if a throttled run's message came too early to start.
BY_CHANCE = "lr"

#: How exactly expiries are compared, in seconds.
COARSE = 600


def dump(client: redis.Redis, *, ordered: bool) -> dict[str, Any]:
    """Return the type, expiry and value of each key in a database.

    Args:
        client: of the database.
        ordered: whether messages are in the order in which they were sent.
    """
    found: dict[str, Any] = {}
    readers: dict[str, Callable[[Any], Any]] = {
        "hash": client.hgetall,
        "list": lambda key: messages(client.lrange(key, 0, -1), ordered=ordered),
        "set": lambda key: sorted(map(str, map(normalised, client.smembers(key)))),
        "string": client.get,
        "zset": lambda key: sorted(
            map(str, map(normalised, client.zrange(key, 0, -1, withscores=True)))
        ),
    }
    for key in client.scan_iter(count=1000):
        name = key.decode()
        if not LEFT_OUT.fullmatch(name):
            kind, ttl = client.type(key).decode(), client.ttl(key)
            expires = round(ttl / COARSE) * COARSE if ttl >= 0 else None
            value = found[word(name)] = [kind, expires, normalised(readers[kind](key))]
            if ":r:" in name:
                value[2].pop(BY_CHANCE, None)
                for field in DRAWN & value[2].keys():
                    value[2][field] = re.sub("[0-9a-f]", "?", value[2][field])
    return found


def messages(texts: list[bytes], *, ordered: bool) -> list[Any]:
    """Return what a list has: messages with their bodies, or other texts."""
    found: list[Any] = []
    for text in texts:
        value = json.loads(text) if text[:1] == b"{" else text
        if isinstance(value, dict) and "body" in value:
            value["body"] = json.loads(base64.b64decode(value["body"]))
        found.append(value)
    return (
        found
        if ordered
        else sorted(
            found,
            key=lambda each: str(each["headers"]["id"]) if isinstance(each, dict) else str(each),
        )
    )


def messages_of(url: str) -> list[Any]:
    """Take all messages out of the queues of RabbitMQ, and return them."""
    found: list[Any] = []
    with kombu.Connection(url) as connection, connection.channel() as channel:
        for queue in ("celery", LATER):
            while (got := channel.basic_get(queue, no_ack=True)) is not None:
                found.append(
                    [queue, got.headers, got.properties, json.loads(got.body), got.delivery_info]
                )
    return found


def differences(before: Any, this: Any, at: str = "") -> Iterator[str]:
    """Say where two values differ."""
    if isinstance(before, dict) and isinstance(this, dict):
        for key in sorted(before.keys() | this.keys()):
            missing = "<nothing>"
            yield from differences(before.get(key, missing), this.get(key, missing), f"{at} {key}")
    elif isinstance(before, list) and isinstance(this, list) and len(before) == len(this):
        for number, pair in enumerate(zip(before, this, strict=True)):
            yield from differences(*pair, f"{at} {number}")
    elif before != this:
        yield f"{at}:\n  {before}\n  {this}"


def check_equal(before: Any, this: Any) -> None:
    """Fail, and say what differs."""
    found = list(differences(before, this))
    assert not found, "\n".join([f"{len(found)} differences", *found[:20]])


class Writing:
    """One version at work."""

    def __init__(self, versions: Versions, client: Client, path: Path) -> None:
        self.versions = versions
        self.client = client
        self.path = path  # the same for both, as events have it in their data
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        self.hold = path / "open"
        self.hold.touch()
        versions.connect(client)
        self.stories = Stories(versions, self.gate, seconds=2)

    def gate(self, name: str, number: int) -> Path:
        """Return a file that is there, or one that is from the second time on; or never."""
        if name in ("v/held", "v/limited"):
            return self.hold
        return self.path / ("never" if name == "v/fails" else f"{number}{ONCE}")

    def dump(self, *, ordered: bool = False) -> dict[str, Any]:
        """Return all keys of all databases of its Redis."""
        found: dict[str, Any] = {}
        for db in range(2):
            with self.versions.store.client(db) as client:
                found.update(
                    (f"{db} {key}", value) for key, value in dump(client, ordered=ordered).items()
                )
        return found

    def rests(self, *waiting: str, queues: Sequence[str]) -> bool:
        """Say whether nothing moves.

        Args:
            waiting: names of the tasks whose runs may have left their worker, or wait to begin.
            queues: those in which messages may be: each run that is published has one there.
        """
        subscriptions = {f"versions.{task}@v/{task.replace('_', '-')}" for task in waiting}
        with self.versions.store.client() as client:
            if client.exists("{fanout}:gates"):  # the timer of a throttle, maybe for nobody
                return False
            texts = [text for queue in queues for text in client.lrange(queue, 0, -1)]
        sent = {json.loads(text)["headers"]["id"] for text in texts}
        return all(
            run.state in FINAL
            or (str(run.state) in WAITING and run.subscription in subscriptions)
            or (str(run.state) == "published" and run.id in sent)
            for run in self.versions.ledger.runs(limit=10_000)
        )


@pytest.fixture
def writing(clients: dict[str, Client], tmp_path: Path) -> Callable[..., Iterator[Writing]]:
    """A function that gives the one version at work and then the other."""

    def each(where: str = "", request: Any = None) -> Iterator[Writing]:
        for name, client in clients.items():
            path = tmp_path / name
            path.mkdir()
            broker = ""
            if where == "rabbit":
                server = request.getfixturevalue("rabbit_server")
                broker = server.url(server.add_vhost())
            with open_versions(path, broker=broker) as versions:
                if where == "two databases":
                    versions.broker = versions.store.url(1)
                elif where == "level 1":
                    versions.conf["fanout_store_url"] = "backend"
                yield Writing(versions, client, tmp_path / "gates")

    return each


@pytest.mark.timeout(300)
def test_both_write_the_same_records(writing: Any, bounded: bool) -> None:
    """What is recorded, what a worker makes of it, what a keeper publishes, and how it ends."""
    found: list[list[dict[str, Any]]] = []
    for each in writing():
        versions, client, stories, rests = each.versions, each.client, each.stories, each.rests
        client.command("pause", "versions.paused@v/paused")
        stories.begin(client, EARLY + UNTOUCHED)
        dumps = [each.dump(ordered=True)]

        worker = versions.start(client.version, pool="solo", queues="celery")
        wait_until(lambda rests=rests: rests(*STAY, *CALLS, queues=LATER_QUEUES), 60)
        stories.begin(client, BEFORE_IT_LEAVES)
        stay = (*STAY, *CALLS, *LEAVE)
        wait_until(lambda rests=rests, stay=stay: rests(*stay, queues=LATER_QUEUES), 60)
        each.hold = each.path / "hold"
        stories.wait_until_left(stories.begin(client, [HELD]))
        versions.kill(worker)
        dumps.append(each.dump())

        worker = versions.start(client.version, pool="solo", queues="nobody")  # a keeper alone
        client.command("resume", "versions.paused@v/paused")
        stories.go_on(client)
        queues = ("celery", *LATER_QUEUES)
        wait_until(lambda rests=rests, queues=queues: rests("one", *CALLS, queues=queues), 60)
        versions.kill(worker)
        dumps.append(each.dump())

        if not bounded:
            each.hold.touch()
            worker = versions.start(client.version, pool="solo")
            wait_until(lambda rests=rests: rests(queues=()), 60)
            versions.kill(worker)
            dumps.append(each.dump())
        found.append(dumps)
    for before, this in zip(*found, strict=True):
        check_equal(before, this)


@pytest.mark.parametrize("where", ["two databases", "rabbit"])
def test_both_publish_the_same_messages(
    request: pytest.FixtureRequest, writing: Any, where: str
) -> None:
    """Where recording and publishing are two things."""
    found: list[dict[str, Any]] = []
    for each in writing(where, request):
        each.stories.begin(each.client, (*EARLY, *BEFORE_IT_LEAVES, *UNTOUCHED))
        found.append(each.dump(ordered=True))
        if where == "rabbit":
            found[-1]["messages"] = normalised(messages_of(each.versions.broker))
            assert len(found[-1]["messages"]) > 20
        else:
            assert len(found[-1]["1 celery"][2]) > 20
    check_equal(*found)


def test_both_do_the_same_without_a_ledger(writing: Any) -> None:
    """On level 1: messages, checkpoints and results."""
    stories = [
        story
        for story in (*EARLY, *BEFORE_IT_LEAVES, *UNTOUCHED)
        if set(story.events) <= LEVEL_1 and "expires" not in story.options
    ]
    numbers = {"a": 10, "c": 6, "saved": 3, "told": 1}
    found: list[list[dict[str, Any]]] = []
    for each in writing("level 1"):
        each.stories.begin(each.client, stories)
        dumps = [each.dump(ordered=True)]
        worker = each.versions.start(each.client.version, pool="solo")
        wait_until(lambda each=each: numbers.items() <= each.versions.counts().items(), 60)
        worker.stop()
        found.append([*dumps, each.dump()])
    for before, this in zip(*found, strict=True):
        check_equal(before, this)
