"""`celery -A proj fanout ...` as a user calls it: processes, a real Redis, a real worker."""

import json
import re
import subprocess
import sys

import pytest

from tests.servers import Worker

PROJECT = """
from celery import Celery
from celery_fanout import on_event, step

app = Celery("shop", broker={url!r}, backend={url!r})
app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True, task_time_limit=60)


def is_big(event):
    return event.data["total"] > 100


@app.task(name="shop.notify", max_retries=0)
def notify(result): return result


@on_event("order/paid", then=notify, on_failure=notify)
@app.task(name="shop.ship", max_retries=0)
def ship(order):
    if order["total"] < 0:
        raise ValueError("nothing to ship")
    return step.run("label", lambda: "label")


@on_event("order/*", filter=is_big)
@app.task(name="shop.audit", max_retries=0)
def audit(order): return order["total"]
"""


@pytest.fixture
def shop(tmp_path, redis_url):
    (tmp_path / "shop.py").write_text(PROJECT.format(url=redis_url))

    def run(*arguments, stdin=None, app="shop"):
        return subprocess.run(
            [sys.executable, "-m", "celery", "-A", app, "fanout", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            input=stdin,
            check=False,
        )

    def celery(*arguments, code=0, **options):
        done = run(*arguments, **options)
        assert done.returncode == code, (done.stdout, done.stderr)
        return done.stdout if code != 2 and done.stdout else done.stderr

    celery.path, celery.run = tmp_path, run
    return celery


def test_subscriptions(shop):
    assert shop("subscriptions") == (
        "EVENT       TASK        FILTER  THEN         ON FAILURE\n"
        "order/paid  shop.ship           shop.notify  shop.notify\n"
        "order/*     shop.audit  is_big\n"
    )
    first = json.loads(shop("subscriptions", "--json"))[0]
    assert first.pop("where").endswith("shop.py:17")
    assert first == {
        "event": "order/paid",
        "task": "shop.ship",
        "filter": "",
        "then": ["shop.notify"],
        "on_failure": "shop.notify",
        "options": {},
        "limits": [],
        "flow": [],
    }


def test_explain(shop):
    assert shop("explain", "order/paid", '{"total": 5}') == (
        "RUNS  SUBSCRIPTION          REASON\n"
        "yes   shop.ship@order/paid  'order/paid' matches\n"
        "no    shop.audit@order/*    its filter is_big returned a false value\n"
    )
    found = json.loads(shop("explain", "order/refunded", "-", "--json", stdin='{"total": 500}'))
    assert [(e["subscription"], e["matches"]) for e in found] == [
        ("shop.ship@order/paid", False),
        ("shop.audit@order/*", True),
    ]


def test_emit_and_wait(shop):
    (shop.path / "order.json").write_text('{"total": 500}')
    with Worker("shop", cwd=shop.path, pool="solo"):
        out = shop("emit", "order/paid", "@order.json", "--id", "o-1", "--wait", "30")
        assert re.sub(r"[0-9a-f-]{36}", "RUN", out) == (
            "order/paid  o-1\n"
            "\n"
            "RUN  SUBSCRIPTION          OUTCOME\n"
            'RUN  shop.ship@order/paid  succeeded  "label"\n'
            "RUN  shop.audit@order/*    succeeded  500\n"
        ).replace("RUN  SUB", "RUN" + " " * 35 + "SUB")

        out = shop("emit", "order/paid", '{"total": -1}', "--wait", "30", "--json", code=1)
        found = json.loads(out)
        assert found["event"]["data"] == {"total": -1}
        assert [(r["outcome"], r["error"]) for r in found["runs"]] == [
            ("failed", "ValueError: nothing to ship")
        ]


def test_emit_without_waiting(shop):
    out = shop(
        "emit", "order/paid", '{"total": 1}', "--id", "o-1", "--subject", "s", "--delay", "5"
    )
    assert out.splitlines()[0] == "order/paid  o-1"
    assert out.splitlines()[2].split() == ["RUN", "SUBSCRIPTION"]
    assert shop("emit", "nobody/listens", "{}", "--id", "n-1") == (
        "nobody/listens  n-1\nNo task subscribes to it.\n"
    )


def test_a_name_that_is_nearly_that_of_an_event(shop):
    def warned(*arguments):
        done = shop.run("emit", *arguments)
        assert done.returncode == 0
        return done.stderr

    near = "No task subscribes to {!r}. Did you mean 'order/paid'?\n"
    assert warned("orders/paid", '{"total": 1}') == near.format("orders/paid")
    assert warned("Order/payed", "1", "--json") == near.format("Order/payed")
    assert warned("order/payed", '{"total": 1}') == ""  # order/* has it, and its filter says no
    assert warned("user/deleted", "{}") == warned("order/paid", '{"total": 1}') == ""


def test_waiting_for_nobody_ends(shop):
    out = shop("emit", "order/paid", '{"total": 1}', "--id", "o-1", "--wait", "0.2", code=1)
    head, row = out.splitlines()[2:]
    assert head.split() == ["RUN", "SUBSCRIPTION", "OUTCOME"]
    assert row.split()[1:] == ["shop.ship@order/paid", "pending"]


def test_bad_input(shop):
    assert "DATA is no JSON" in shop("emit", "order/paid", "{", code=2)
    assert shop("emit", "order paid", "{}", code=1) == (
        "Error: The event 'order paid' has no valid name. A name has 1 to 200 characters, starts "
        "with a letter or digit, and goes on with letters, digits, '.', '_', '/' and '-'.\n"
    )
    assert "No such file" in shop("emit", "order/paid", "@missing.json", code=2)


def test_check(shop, redis_url):
    assert shop("check") == "0 error(s), 0 warning(s).\n"
    out = shop("check", "--connect")
    host = "127.0.0.1"
    assert out == (
        f"WARNING  fanout.W013  Redis at {host} does not persist every write: after a crash "
        "finished steps may run again.\n"
        "         -> Set appendonly yes.\n"
        "0 error(s), 1 warning(s).\n"
    )
    shop("check", "--connect", "--fail-on", "warning", code=1)
    [finding] = json.loads(shop("check", "--connect", "--json"))
    assert (finding["id"], finding["level"]) == ("fanout.W013", "warning")


def test_check_without_servers(shop):
    source = (shop.path / "shop.py").read_text()
    down = re.sub(r"redis://[^']*", "redis://127.0.0.1:1", source)
    down = down.replace('Celery("shop", ', 'Celery("shop", fanout_publish_timeout=1, ', 1)
    (shop.path / "down.py").write_text(down)
    out = shop("check", "--connect", app="down", code=1)
    assert "ERROR    fanout.E005  The broker cannot be reached: " in out
    assert "ERROR    fanout.E006  The Redis ledger cannot be reached" in out
    assert out.endswith("2 error(s), 0 warning(s).\n")
    out = shop("runs", app="down", code=1)
    assert out.startswith("Error: The Redis ledger cannot be reached (ConnectionError: ")
    assert out.endswith(
        "). Start it, or mend fanout_store_url. `celery fanout check` tells more.\n"
    )


def test_a_wrong_subscription_is_shown(shop):
    with (shop.path / "shop.py").open("a") as file:
        file.write(
            '\n@on_event("order/paid")\n@app.task(name="shop.wrong")\ndef wrong(a, b): ...\n'
        )
    out = shop("subscriptions", code=1)
    assert "shop.audit" in out
    assert "E002" in shop("check", code=1)


def test_help(shop):
    out = shop("--help")
    for command in ("check", "emit", "explain", "subscriptions"):
        assert re.search(rf"^  {command} +\S", out, re.MULTILINE)
    assert "..." not in out.split("Commands:")[1]
