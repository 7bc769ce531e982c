"""`celery -A proj fanout limits`, and what other commands say of limits: a real Redis."""

import json
import os
import re
import sys

import pytest
from celery import Celery

from celery_fanout import Concurrency, on_event
from celery_fanout.app.fanout import get_fanout
from celery_fanout.operating.limits import MOST, LimitControl
from celery_fanout.stores.limits import Flow, Gate, Place
from celery_fanout.stores.records import LedgerRules, NewEvent, NewRun
from celery_fanout.stores.redis import RedisLedger
from tests import forking
from tests.servers import ROOT

PROJECT = """
from celery import Celery
from celery_fanout import Batch, Concurrency, RateLimit, Singleton, Throttle, on_event

app = Celery("shop", broker={url!r}, backend={backend!r})


@on_event(
    "order/paid",
    concurrency=[Concurrency(2, key="user.tenant"), Concurrency(100, scope="app")],
)
@app.task(name="shop.ship")
def ship(order): ...


@on_event("order/sent", throttle=Throttle(10, per=60, key="api_key"))
@app.task(name="shop.tell")
def tell(order): ...


@on_event("order/seen", rate_limit=RateLimit(1, per=3600))
@app.task(name="shop.note")
def note(order): ...


@on_event("order/listed", batch=Batch(3, timeout=3600))
@app.task(name="shop.count")
def count(orders): ...


@on_event("order/closed", singleton=Singleton(), idempotency="id")
@app.task(name="shop.close")
def close(order): ...
"""
SHIP = "shop.ship@order/paid"
BY_TENANT = f"concurrency {SHIP} by user.tenant"
THROTTLE = "throttle shop.tell@order/sent by api_key"
BATCH = "batch shop.count@order/listed"


class Shop:
    """A project in a directory, and its commands."""

    def __init__(self, path):
        self.path = path
        # the package beside these tests, whatever is installed
        self.place = {"cwd": path, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}

    def __call__(self, *arguments, code=0, app="shop"):
        """Return what a command prints: on standard error, if its code is not 0."""
        command = [sys.executable, "-m", "celery", "-A", app, "fanout", *arguments]
        done = forking.run(command, **self.place)
        assert done.returncode == code, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout if code == 0 else done.stderr

    def json(self, *arguments):
        return json.loads(self(*arguments, "--json"))

    def emit(self, name, *data):
        """Emit events, in one process; returns the ids of their runs."""
        source = (
            "import json, sys, shop\n"
            "from celery_fanout import emit\n"
            "name, data = json.loads(sys.argv[1])\n"
            "print(json.dumps([emit(name, each).runs[0].id for each in data]))\n"
        )
        command = [sys.executable, "-c", source, json.dumps([name, data])]
        done = forking.run(command, **self.place)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def row(self, *arguments, of):
        """Return the cells of the line of a limit or a key."""
        for line in self("limits", *arguments).splitlines():
            cells = re.split(r" {2,}", line.strip())
            if cells[0] == of:
                return cells[1:]
        return None


@pytest.fixture
def shop(tmp_path, redis_url):
    (tmp_path / "shop.py").write_text(PROJECT.format(url=redis_url, backend=redis_url))
    (tmp_path / "one.py").write_text(PROJECT.format(url=redis_url, backend="cache+memory://"))
    plain = f"app = Celery('none', broker={redis_url!r}, backend={redis_url!r})"
    (tmp_path / "none.py").write_text(f"from celery import Celery\n{plain}\n")
    return Shop(tmp_path)


def orders(*tenants, **more):
    return [{"user": {"tenant": tenant}, **more} for tenant in tenants]


def test_the_subscriptions_show_their_limits(shop):
    lines = [re.split(r" {2,}", line.strip()) for line in shop("subscriptions").splitlines()]
    assert lines[0] == ["EVENT", "TASK", "FILTER", "THEN", "ON FAILURE", "FLOW CONTROL"]
    assert {line[1]: line[2] for line in lines[1:]} == {
        "shop.ship": "concurrency 2 by user.tenant; concurrency app 100",
        "shop.tell": "throttle 10 per 1 min by api_key",
        "shop.note": "rate_limit 1 per 1 h",
        "shop.count": "batch 3 or 1 h",
        "shop.close": "singleton mode skip; idempotency 1 per 1 d by id",
    }
    ship = shop.json("subscriptions")[0]
    assert ship["flow"] == ["concurrency 2 by user.tenant", "concurrency app 100"]
    assert ship["limits"] == [BY_TENANT, "concurrency app"]


def test_all_limits_are_listed_before_anybody_used_them(shop):
    lines = [re.split(r" {2,}", line.strip()) for line in shop("limits").splitlines()]
    assert lines == [
        ["LIMIT", "NUMBER", "IN USE", "WAITING", "OLDEST", "NEXT START"],
        [BY_TENANT, "2", "0", "0"],
        ["concurrency app", "100", "0", "0"],
        [THROTTLE, "10 per 1 min", "0", "0"],
        ["rate_limit shop.note@order/seen", "1 per 1 h", "0", "0"],
        [BATCH, "3 or 1 h", "0", "0"],
        ["singleton shop.close@order/closed", "1", "0", "0"],
        ["idempotency shop.close@order/closed by id", "1 per 1 d"],
    ]
    assert shop("limits", app="none") == "No subscription has a limit.\n"
    assert json.loads(shop("limits", "--json", app="none")) == []


def test_what_is_in_use_and_for_which_keys(shop):
    shop.emit("order/paid", *orders("a", "a", "a", "a", "b", "b", "b", "c", "d", "e"))
    lines = shop("limits").splitlines()
    names = [re.split(r" {2,}", line.strip())[0] for line in lines]
    assert names[1:4] == [BY_TENANT, "a", "b"]
    assert names[5:7] == ["and 2 more", "concurrency app"]
    cells = shop.row(of=BY_TENANT)
    assert cells[:3] == ["2", "7", "3"]
    assert re.fullmatch(r"\d.* (m?s|min \d+ s)", cells[3])
    assert shop.row(of="a")[:2] == ["2", "2"]
    assert shop.row(of="concurrency app") == ["100", "7", "0"]
    listed = shop("limits", *BY_TENANT.split(), "--limit", "4").splitlines()
    assert len(listed) == 7
    assert listed[-1] == "  and 1 more"
    [found] = shop.json("limits", BY_TENANT)
    assert (found["used"], found["waiting"], found["tuned"], found["code"]) == (
        7,
        3,
        False,
        [[2, 0]],
    )
    assert [(key["key"], key["used"], key["waiting"]) for key in found["keys"][:2]] == [
        ("a", 2, 2),
        ("b", 2, 1),
    ]
    assert len(found["keys"]) == 5


def test_who_has_the_places(shop):
    first, _, _, other, last = shop.emit("order/paid", *orders("a", "a", "a", "b", "c"))
    lines = shop("limits", *BY_TENANT.split(), "--holders").splitlines()
    cells = [re.split(r" {2,}", line.strip()) for line in lines]
    assert cells[0] == ["KEY", "RUN", "SUBSCRIPTION", "STATE", "HAS IT FOR"]
    assert [row[0] for row in cells[1:]] == ["a", "a", "b", "c"]
    assert cells[1][1:4] == [first, SHIP, "published"]
    assert re.fullmatch(r"\d.* (m?s|min \d+ s)", cells[1][4])
    found = shop.json("limits", "concurrency app", "--holders")
    assert [row["run"] for row in found][::3] == [first, last]
    assert found[2] == {
        "key": "",
        "run": other,
        "subscription": SHIP,
        "state": "published",
        "since": found[2]["since"],
    }
    assert len(shop("limits", BY_TENANT, "--holders", "--limit", "2").splitlines()) == 3
    assert shop("limits", "singleton shop.close@order/closed", "--holders") == (
        "No run has a place.\n"
    )
    shop.emit("order/sent", {"api_key": "k-12345"})
    assert shop("limits", THROTTLE, "--holders") == (
        "A throttle has no places: concurrency, singleton have.\n"
    )
    near = f"Error: There is no limit {BY_TENANT[:-1]!r}. Did you mean {BY_TENANT!r}?\n"
    assert shop("limits", BY_TENANT[:-1], "--holders", code=1) == near


def test_a_run_says_for_which_limit_it_waits(shop):
    *_, waits = shop.emit("order/paid", *orders("a", "a", "a"))
    table = shop("runs", "--state", "gated")
    assert waits in table
    assert table.splitlines()[-1].endswith(f"  {BY_TENANT}")
    lines = shop("show", waits).splitlines()
    assert f"state          gated ({BY_TENANT})" in lines
    [line] = [line for line in lines if line.startswith("waits")]
    assert line.startswith(f"waits          for {BY_TENANT}, since ")


def test_what_was_dropped_and_what_was_collected(shop):
    _, dropped = shop.emit("order/seen", {}, {})
    assert "state          cancelled (dropped: rate_limit shop.note@order/seen)" in shop(
        "show", dropped
    )
    first, second = shop.emit("order/listed", {"n": 1}, {"n": 2})
    assert first == second
    text = shop("show", first)
    assert f"waits          {BATCH} collects events, until " in text
    assert len(re.findall(r"^  \+\S+ \S+ +event  order/listed  ", text, re.MULTILINE)) == 2
    listed = shop.json("events", "--name", "order/listed")
    assert len(listed) == 2
    for event in listed:
        assert [run["id"] for run in shop.json("show", event["key"])["runs"]] == [first]
    assert shop.row(of=BATCH)[:3] == ["3 or 1 h", "2", "0"]


def test_explain_says_what_would_happen(shop):
    def said(name, data):
        return next(e["flow"] for e in shop.json("explain", name, json.dumps(data)) if e["matches"])

    [data] = orders("a")
    assert said("order/paid", data) == "would start"
    shop.emit("order/paid", *orders("a", "a", "a"))
    waits = f"would wait: {BY_TENANT} 'a' has 2 of 2 in use, 1 wait"
    assert said("order/paid", data) == waits
    assert f"'order/paid' matches; {waits}\n" in shop("explain", "order/paid", json.dumps(data))
    text = shop("explain", "order/paid", json.dumps(data), app="one")
    assert "'order/paid' matches; emit would refuse it: flow control needs level 2\n" in text


def test_emit_says_what_became_of_the_runs(shop):
    def emitted(*arguments, code=0):
        command = [sys.executable, "-m", "celery", "-A", "shop", "fanout", "emit", *arguments]
        done = forking.run(command, **shop.place)
        assert done.returncode == code, (done.stdout, done.stderr)
        return done.stdout

    first = emitted("order/seen", "{}").splitlines()
    assert re.split(r" {2,}", first[2]) == ["RUN", "SUBSCRIPTION", "STATE"]
    assert first[3].endswith("  shop.note@order/seen  published")
    dropped = "cancelled (dropped: rate_limit shop.note@order/seen)"
    assert emitted("order/seen", "{}").splitlines()[3].endswith(f"  {dropped}")
    [run] = json.loads(emitted("order/seen", "{}", "--json"))["runs"]
    assert run["state"] == dropped
    shop.emit("order/paid", *orders("a", "a"))
    [data] = orders("a")
    waits = emitted("order/paid", json.dumps(data), "--wait", "0.1", code=1)
    assert waits.splitlines()[3].endswith(f"  {SHIP}  pending  gated ({BY_TENANT})")


def test_a_number_is_changed_and_reset(shop):
    shop.emit("order/paid", *orders("a", "a", "a"))
    assert shop.row(*BY_TENANT.split(), "--set", "3", of=BY_TENANT)[0] == "3 (code: 2)"
    assert shop.row(of=BY_TENANT)[0] == "3 (code: 2)"
    [found] = shop.json("limits", BY_TENANT)
    assert (found["at_most"], found["tuned"], found["code"]) == (3, True, [[2, 0]])
    changed = shop.row(THROTTLE, "--set", "20", "--per", "30", of=THROTTLE)
    assert changed[0] == "20 per 30 s (code: 10 per 1 min)"
    assert shop.row(THROTTLE, "--set", "0", of=THROTTLE)[0] == "0 per 1 min (code: 10 per 1 min)"
    assert shop.row(THROTTLE, "--reset", of=THROTTLE)[0] == "10 per 1 min"
    assert shop.json("limits", BY_TENANT, "--reset")[0]["tuned"] is False


def test_the_values_of_a_secret_are_left_out(shop):
    shop.emit("order/sent", {"api_key": "k-12345"})
    text = shop("limits")
    assert "k-12345" not in text
    assert "  [redacted]" in text
    assert "k-12345" not in shop("limits", "--json")


def test_what_cannot_be_changed(shop):
    near = f"Error: There is no limit {BY_TENANT[:-1]!r}. Did you mean {BY_TENANT!r}?\n"
    assert shop("limits", BY_TENANT[:-1], code=1) == near
    assert shop("limits", BY_TENANT[:-1], "--set", "3", code=1) == near
    assert shop("limits", BY_TENANT[:-1], "--reset", code=1) == near
    assert shop("limits", "x", code=1) == "Error: There is no limit 'x'. See fanout limits.\n"
    assert shop("limits", "concurrency", "app", "--set", "-1", code=1) == (
        "Error: The limit 'concurrency app' cannot be changed: -1 is no number of runs. Use a "
        "whole number from 0 to 1,000,000; with 0 nothing starts.\n"
    )
    assert shop("limits", "concurrency", "app", "--set", "1", "--per", "5", code=1) == (
        "Error: The limit 'concurrency app' cannot be changed: it is about how many run at once, "
        "and has no period. Leave the period out.\n"
    )
    assert shop("limits", BATCH, "--set", "5", code=1) == (
        f"Error: The limit {BATCH!r} cannot be changed: it has its size and time in the code. "
        "Change the code, and deploy it.\n"
    )
    for arguments, text in [
        (["--set", "3"], "Name the limit to change: fanout limits lists them."),
        (["--reset"], "Name the limit to change: fanout limits lists them."),
        (["concurrency app", "--set", "3", "--reset"], "Either --set a number or --reset it."),
        (["concurrency app", "--per", "3"], "--per goes with --set."),
        (["--holders"], "--holders goes with the name of a limit alone."),
        (
            ["concurrency app", "--reset", "--holders"],
            "--holders goes with the name of a limit alone.",
        ),
    ]:
        assert shop("limits", *arguments, code=2).endswith(f"Error: {text}\n")


def test_without_a_ledger(shop):
    assert shop("limits", app="one", code=1) == (
        "Error: The store of the app 'shop' does not support limits. It needs level 2: a Redis "
        "result backend, or fanout_store_url with a Redis URL.\n"
    )


def test_the_keys_of_one_limit_do_not_hide_another(redis_url):
    app = Celery("many", broker=redis_url, set_as_current=False)

    @on_event("a", concurrency=[Concurrency(1, scope="app"), Concurrency(1, key="id")])
    @app.task(name="many.work")
    def work(data): ...

    fanout = get_fanout(app)
    fanout.load()
    ledger = RedisLedger(redis_url, LedgerRules())

    def record(event, *gates):
        runs = [
            NewRun(f"{event}-{n}", "many.work@a", flow=Flow((Place(gate, 1),)))
            for n, gate in enumerate(gates)
        ]
        ledger.record([NewEvent(event, "a", "{}", "{}", runs)])

    shared, keyed = "concurrency app", "concurrency many.work@a by id"
    record("first", Gate(shared), Gate(shared))
    for start in range(0, MOST, 1000):
        record(f"e-{start}", *[Gate(keyed, str(n)) for n in range(start, start + 1000)])
    listed = LimitControl(ledger, fanout.registry).list()
    found = {limit.name: limit for limit in listed}
    assert (found[shared].used, found[shared].waiting) == (1, 1)
    assert len(found[keyed].keys) == MOST
