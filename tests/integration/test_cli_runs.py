"""`celery -A proj fanout runs | show | cancel | ...`: processes, a real Redis and worker."""

import contextlib
import json
import os
import pty
import re
import subprocess
import sys

import pytest

from celery_fanout.operating.reading import RunReader
from celery_fanout.stores.records import LedgerRules, NewEvent, NewRun
from celery_fanout.stores.redis import RedisLedger
from tests import forking
from tests.processes import wait_until
from tests.servers import ROOT, Worker

PROJECT = """
from pathlib import Path
from celery import Celery
from celery_fanout import on_event, step

app = Celery("shop", broker={url!r}, backend={backend!r})
app.conf.broker_transport_options = {{"polling_interval": 0.05}}
MENDED = Path(__file__).with_name("mended")


@on_event("order/paid")
@app.task(name="shop.ship", max_retries=0)
def ship(order):
    label = step.run("label", lambda: "label of " + order["id"])
    step.run("pack", lambda: "packed")
    if not MENDED.exists():
        raise ConnectionError("the carrier is away")
    return label


@on_event("order/*", filter=lambda event: event.data["total"] > 100)
@app.task(name="shop.audit", max_retries=0)
def audit(order):
    step.sleep("night", 8 * 3600)


@app.task(name="shop.file", max_retries=0)
def file(number):
    return number


@on_event("order/closed", then=file)
@app.task(name="shop.close", max_retries=0)
def close(order):
    return order["id"]
"""
SHIP = "shop.ship@order/paid"
#: All commands that need a ledger, with the arguments that they insist on.
COMMANDS = [
    *(["events"], ["runs"], ["dead-letters"], ["show", "r-12345"], ["cancel", "r-12345"]),
    *(["retry", "r-12345"], ["replay", "e-1"], ["rerun", "r-12345", "--from", "label"]),
    *(["pause", SHIP], ["resume", SHIP], ["pause"], ["cancel", "--state", "running"]),
    *(["limits"], ["limits", "concurrency app"], ["limits", "concurrency app", "--set", "1"]),
    ["limits", "concurrency app", "--reset"],
]


class Shop:
    """A project in a directory, and its commands."""

    def __init__(self, path, url):
        self.path = path
        # the package beside these tests, whatever is installed
        self.place = {"cwd": path, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}
        self.reader = RunReader(RedisLedger(url, LedgerRules()))

    def write(self, name, **urls):
        (self.path / f"{name}.py").write_text(PROJECT.format(**urls))

    def command(self, *arguments, app="shop"):
        return [sys.executable, "-m", "celery", "-A", app, "fanout", *arguments]

    def __call__(self, *arguments, code=0, **options):
        """Return what a command prints: on standard error, if its code is not 0."""
        command = self.command(*arguments, **options)
        done = forking.run(command, **self.place)
        assert done.returncode == code, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout if code == 0 else done.stderr

    def json(self, *arguments):
        return json.loads(self(*arguments, "--json"))

    def emit(self, *orders, total=5):
        """Emit events, in one process; returns the ids of all their runs."""
        data = [{"id": order, "total": total} for order in orders]
        source = (
            "import json, sys, shop\n"
            "from celery_fanout import Event, emit_many\n"
            "orders = json.loads(sys.argv[1])\n"
            "events = [Event('order/paid', order, id=order['id']) for order in orders]\n"
            "print(json.dumps([run.id for e in emit_many(events) for run in e.runs]))\n"
        )
        command = [sys.executable, "-c", source, json.dumps(data)]
        done = forking.run(command, **self.place)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def wait_for(self, state, count):
        wait_until(lambda: len(self.reader.list(state=state)) == count, 60)

    def on_a_terminal(self, *arguments, answer):
        """Return exit code, standard output, and what a person sees who answers a question."""
        person, terminal = pty.openpty()
        process = subprocess.Popen(
            self.command(*arguments),
            **self.place,
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=terminal,
            text=True,
        )
        os.close(terminal)
        os.write(person, f"{answer}\n".encode())
        printed = process.communicate(timeout=60)[0]
        seen = b""
        with contextlib.suppress(OSError):  # Linux says that nobody else has the terminal any more
            while more := os.read(person, 100_000):  # which may be less than there is
                seen += more
        os.close(person)
        return process.returncode, printed, seen.decode()


@pytest.fixture
def shop(tmp_path, redis_url):
    shop = Shop(tmp_path, redis_url)
    shop.write("shop", url=redis_url, backend=redis_url)
    return shop


def plain(text):
    """Return a text with what changes replaced, and the width that it had."""
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "<id>", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "<time>", text)
    text = re.sub(r"\+[\d.]+ m?s +", "<after> ", text)
    return "".join(f"{re.sub(' {2,}', '  ', line)}\n" for line in text.splitlines())


def test_an_event_is_shown_with_what_its_runs_asked_for(shop):
    with Worker("shop", cwd=shop.path, pool="solo"):
        shop("emit", "order/closed", '{"id": "o-9", "total": 5}', "--id", "o-9")
        shop.wait_for("succeeded", 2)
    runs = shop.json("show", "o-9")["runs"]
    assert sorted(run["kind"] for run in runs) == ["event", "then"]


def test_looking(shop):
    assert shop("runs") == "The ledger has no run.\n"
    assert shop("events") == "The ledger has no such event.\n"
    assert shop("dead-letters") == "The ledger has no such dead letter.\n"
    with Worker("shop", cwd=shop.path, pool="solo"):
        ship, audit = shop.emit("o-1", total=500)
        shop.wait_for("failed", 1)
        shop.wait_for("suspended", 1)
    (shop.path / "mended").touch()
    assert plain(shop("runs")) == (
        "1 suspended, 1 failed\n"
        "\n"
        "CHANGED (UTC)  RUN  SUBSCRIPTION  STATE  RETRIES  REASON\n"
        "<time>  <id>  shop.audit@order/*  suspended  0  sleep\n"
        "<time>  <id>  shop.ship@order/paid  failed  0  error\n"
    )
    assert plain(shop("events", "--name", "order/paid", "--since", "1h")) == (
        "RECORDED (UTC)  NAME  ID  RUNS  OPEN  KEY\n<time>  order/paid  o-1  2  1  <id>\n"
    )
    command = shop.command("runs", "--limit", "1")
    done = forking.run(command, **shop.place)
    assert done.stderr == "There are more: these are the latest 1. See --limit.\n"
    assert len(done.stdout.splitlines()) == 4
    assert plain(shop("dead-letters", "--error", "ConnectionError")) == (
        "FAILED (UTC)  RUN  SUBSCRIPTION  EXECUTIONS  ERROR\n"
        "<time>  <id>  shop.ship@order/paid  1  ConnectionError: the carrier is away\n"
    )
    assert plain(shop("show", ship[:8])) == (
        "run  <id>\n"
        "subscription  shop.ship@order/paid\n"
        "event  order/paid  o-1\n"
        "state  failed (error)\n"
        "counts  1 execution, 0 retries, 0 crashes\n"
        "\n"
        "<time> UTC\n"
        "  <after> recorded\n"
        "  <after> execution 1 began\n"
        "  <after> step 'label'  \"label of o-1\"\n"
        "  <after> step 'pack'  \"packed\"\n"
        "  <after> execution 1 ended: failed  ConnectionError: the carrier is away\n"
        "  <after> failed (error)\n"
        "\n"
        "error  ConnectionError: the carrier is away\n"
    )
    assert "ConnectionError: the carrier is away\n" in shop("show", ship, "--traceback")[-60:]
    assert "step 'night'  sleeps until" in shop("show", audit)
    event = plain(shop("show", "o-1"))
    assert 'data  {"id": "o-1", "total": 500}\nruns  2, 1 open\n' in event
    assert event.endswith("shop.ship@order/paid  failed  0  error\n")

    detail = shop.json("show", ship)["detail"]
    assert list(detail["checkpoints"]) == ['["label",1]', '["pack",1]']
    assert detail["checkpoints"]['["label",1]']["r"] == "label of o-1"
    (letter,) = shop.json("dead-letters")
    assert (letter["id"], letter["error"]["type"]) == (ship, "ConnectionError")
    found = shop.json("show", "o-1", "--name", "order/paid")
    assert (found["data"]["id"], {run["id"] for run in found["runs"]}) == ("o-1", {ship, audit})
    assert [run["id"] for run in shop.json("runs", "--event", "o-1", "--state", "failed")] == [ship]
    assert shop("runs", "--state", "running") == "The ledger has no such run.\n"
    assert shop("show", "ffffffff", code=1) == (
        "Error: The ledger has no run 'ffffffff'. It may have expired, or belong to another app: "
        "see fanout runs.\n"
    )
    assert "'soon' is no duration. Use 90s, 15m, 2h or 7d." in shop(
        "runs", "--since", "soon", code=2
    )


def test_a_subscription_that_nobody_knows(shop):
    """A misspelt name in a script must not look as if there were nothing to do."""
    said = "There is no subscription 'shipp@order/paid'. Did you mean 'shop.ship@order/paid'?\n"
    for command in (["runs"], ["cancel", "--yes"], ["retry", "--yes"]):
        assert shop(*command, "--subscription", "shipp@order/paid", code=1) == f"Error: {said}"
    assert "Did you mean 'shop.ship@order/paid'?" in shop("pause", "ship@", code=1)
    assert shop("runs", "--subscription", "shop.ship@order/paid") == "The ledger has no such run.\n"


def test_running_again(shop):
    with Worker("shop", cwd=shop.path, pool="solo"):
        one, two = shop.emit("o-1", "o-2")
        shop.wait_for("failed", 2)
        (shop.path / "mended").touch()
        assert shop("retry", one[:8], "--reason", "mended") == "1 run(s) changed.\n"
        shop.wait_for("succeeded", 1)
        assert "retried by hand 1 time" in shop("show", one)
        assert shop("retry", one, "nobody-1", code=1) == (
            "Error: The ledger has no run 'nobody-1'. It may have expired, or belong to another "
            "app: see fanout runs.\n"
            f"Error: The run {one} is succeeded and cannot be retried. Use replay, or rerun from a "
            "step.\n"
        )
        assert shop("retry", "--error", "ConnectionError", code=1).endswith(
            f"{two}  {SHIP}  failed\nNothing was changed. Add --yes to retry them.\n"
        )
        found = shop.json("retry", "--error", "ConnectionError", "--yes")
        assert found == {"changed": [two], "new": [], "problems": {}}
        shop.wait_for("succeeded", 2)

        (new,) = shop.json("rerun", two, "--from", "pack")["new"]
        shop.wait_for("succeeded", 3)
        text = shop("show", new)
        assert "step 'label'  \"label of o-2\"  (of an earlier run)\n" in text
        assert "step 'pack'  \"packed\"\n" in text
        assert shop("rerun", two, "--from", "weigh", code=1) == (
            f"Error: The run {two} has no stored step 'weigh'. It has: 'label', 'pack'.\n"
        )

        lines = shop("replay", "o-1", "--reason", "lost").splitlines()
        assert lines[1:] == ["1 new run(s)."]
        assert len(shop.json("replay", "--name", "order/paid", "--yes")["new"]) == 2
        shop.wait_for("succeeded", 6)
        assert "There is no subscription" in shop("replay", "o-1", "--subscription", "x", code=1)
        assert "The ledger has no event 'o-9'" in shop("replay", "o-9", code=1)
        assert "Name the events to replay" in shop("replay", code=2)


def test_cancelling(shop):
    ids = shop.emit(*[f"o-{n}" for n in range(7)])
    question = shop("cancel", "--state", "published", code=1).splitlines()
    assert question[0] == "7 run(s) match:"
    assert question[-2:] == ["and 2 more", "Nothing was changed. Add --yes to cancel them."]
    assert shop("cancel", "--name", "order/paid", "--max", "3", "--yes", code=1) == (
        "Error: 4 runs or more match, and at most 3 may be changed at once. Narrow the filter, or "
        "allow more: limit=, or --max of a command.\n"
    )
    assert shop("cancel", code=2).endswith("Name the runs to cancel, or give a filter; not both.\n")
    assert "not both" in shop("cancel", ids[0], "--name", "order/paid", code=2)
    # what has failed has ended, so that would mean no run
    assert "No such option" in shop("cancel", "--error", "ConnectionError", code=2)
    for command in ("runs --limit 0", "events --limit -1", "cancel --state pending --max 0"):
        assert "is not in the range x>=1" in shop(*command.split(), code=2)
    assert shop("cancel", ids[0], ids[1][:8], "--reason", "sold out") == "2 run(s) changed.\n"
    assert "state          cancelled (sold out)\n" in shop("show", ids[1])
    assert shop("cancel", ids[0], code=1) == (
        f"Error: The run {ids[0]} is cancelled and cannot be cancelled. It has ended.\n"
    )

    code, printed, seen = shop.on_a_terminal("cancel", "--name", "order/paid", answer="n")
    assert (code, printed) == (1, "")
    assert "5 run(s) match:" in seen
    assert seen.endswith("Nothing was changed.\r\n")
    code, printed, seen = shop.on_a_terminal("cancel", "--name", "order/paid", answer="y")
    assert (code, printed) == (0, "5 run(s) changed.\n")
    assert re.search(r"Cancel them\? \[y/N\]: .*cancel .*#.* 5/5", seen, re.DOTALL)
    assert shop("cancel", "--name", "order/paid", "--yes") == "0 run(s) changed.\n"


def test_pausing(shop):
    assert shop("pause") == "No subscription is paused.\n"
    assert shop("pause", SHIP) == f"{SHIP} is paused.\n"
    assert shop.json("pause", SHIP) == {"paused": SHIP, "new": False}
    assert plain(shop("pause")) == f"SINCE (UTC)  SUBSCRIPTION\n<time>  {SHIP}\n"
    shop.emit("o-1")
    assert "1 gated\n" in shop("runs")
    assert shop("resume", SHIP) == f"{SHIP} goes on; 1 run(s) were held back.\n"
    assert shop("pause", "shop.ship@order/pai", code=1) == (
        f"Error: There is no subscription 'shop.ship@order/pai'. Did you mean '{SHIP}'?\n"
    )
    assert "There is no subscription" in shop("resume", "shop.ship@order/pai", code=1)


def test_without_a_ledger(shop, redis_url):
    """In one process, because there are many."""
    shop.write("small", url=redis_url, backend="cache+memory://")
    source = (
        "import json, sys\n"
        "from celery.bin.celery import celery\n"
        "from click.testing import CliRunner\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    done = CliRunner().invoke(celery, ['-A', 'small', 'fanout', *arguments])\n"
        "    print(json.dumps([done.exit_code, done.output]))\n"
    )
    command = [sys.executable, "-c", source, json.dumps(COMMANDS)]
    done = forking.run(command, **shop.place)
    refusal = (
        "Error: The store of the app 'shop' does not support {}. It needs level 2: a Redis "
        "result backend, or fanout_store_url with a Redis URL.\n"
    )
    features = ["limits" if command[0] == "limits" else "runs" for command in COMMANDS]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found == [[1, refusal.format(feature)] for feature in features]


def test_one_time_may_be_more_than_a_page(redis_url):
    """What one script records has one time, and no order of its own."""
    ledger = RedisLedger(redis_url, LedgerRules())
    ids = {f"run-{n}" for n in range(1300)}
    runs = [NewRun(run, SHIP) for run in ids]
    ledger.record([NewEvent("e-1", "order/paid", '{"id":"o-1"}', "{}", runs)])
    ledger.record([NewEvent("e-2", "order/paid", '{"id":"o-2"}', "{}", [NewRun("late", SHIP)])])
    reader = RunReader(ledger)
    for filters in ({}, {"state": "pending"}, {"name": "order/paid"}, {"subscription": SHIP}):
        found = [run.id for run in reader.list(**filters, limit=5000)]
        assert len(found) == len(set(found)) == 1301
        assert found[0] == "late"
    assert len(reader.list(state="pending", limit=700)) == 700
