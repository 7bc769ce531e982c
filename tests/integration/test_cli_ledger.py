"""The fast worker, a keeper of its own, and an app without a ledger: real processes and Redis."""

import json
import sys

from celery_fanout.stores.records import LedgerRules
from celery_fanout.stores.redis import RedisLedger
from tests import forking
from tests.processes import wait_until
from tests.servers import Worker

PROJECT = """
from celery import Celery
from celery_fanout import on_event, step

app = Celery("shop", broker={url!r}, backend={url!r}, fanout_queue={queue!r})


@on_event("order/paid")
@app.task(name="shop.ship")
def ship(order):
    number = step.run("number", lambda: order["n"])
    step.run("charge", lambda: 1 / number)
    return number


@on_event("order/late")
@app.task(name="shop.wait")
def wait(order):
    step.sleep("long", 3600)


@app.task(name="shop.plain")
def plain(): return "plain"
"""


def project(tmp_path, url, queue=None):
    """Write an app, and return what calls its commands."""
    (tmp_path / "shop.py").write_text(PROJECT.format(url=url, queue=queue))

    def celery(*arguments, code=0):
        command = [sys.executable, "-m", "celery", "-A", "shop", "fanout", *arguments]
        done = forking.run(command, cwd=tmp_path)
        assert done.returncode == code, (done.stdout, done.stderr)
        return done.stdout or done.stderr

    def emit(name, data):
        found = json.loads(celery("emit", name, json.dumps(data), "--json"))
        return found["event"]["id"], found["runs"][0]["run"]

    celery.emit = emit
    celery.path = tmp_path
    celery.run = lambda run: RedisLedger(url, LedgerRules()).run(run)
    celery.state = lambda run: str(celery.run(run).state)
    return celery


def test_without_a_ledger(tmp_path):
    shop = project(tmp_path, f"db+sqlite:///{tmp_path}/results")
    for command in ("runs", "events", "dead-letters", "pause"):
        assert "does not support runs. It needs level 2" in shop(command, code=1)
    assert "does not support a keeper" in shop("keeper", code=1)
    told = shop("emit", "order/paid", "{}", "--expires", "60", code=1)
    assert "does not support emit(expires=)" in told


def test_no_other_process_keeps_a_ledger_in_memory(tmp_path):
    shop = project(tmp_path, "cache+memory://")
    with (tmp_path / "shop.py").open("a") as file:
        file.write('\n\napp.conf.fanout_store_url = "memory://"\n')
    told = shop("keeper", code=1)
    assert "which is in memory, does not support a keeper in a process of its own" in told


def test_a_fast_worker_sends_ordinary_tasks_elsewhere(tmp_path, redis_url, redis_server):
    shop = project(tmp_path, redis_url, queue="fast")
    worker = FastWorker("shop", cwd=tmp_path)
    with worker:
        _, run = shop.emit("order/paid", {"n": 2})
        wait_until(lambda: shop.state(run) == "succeeded")
        code = "from shop import plain; plain.apply_async(queue='fast')"
        done = forking.run([sys.executable, "-c", code], cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        worker.wait_for_log("does not belong into the queue of a fast worker")
        with redis_server.client() as client:
            wait_until(lambda: client.llen("celery") == 1)
    assert "fanout_queue is not set" in project(tmp_path, redis_url)("worker", code=1)


class FastWorker(Worker):
    """``celery fanout worker``."""

    def command(self):
        return [
            *(sys.executable, "-m", "celery", "--app", self.app, "fanout", "worker"),
            *("--hostname", self.hostname, "--loglevel", "INFO"),
        ]


def test_a_keeper_of_its_own(tmp_path, redis_url):
    shop = project(tmp_path, redis_url)
    with (shop.path / "shop.py").open("a") as file:
        file.write("\n\napp.conf.fanout_keeper = False\n")
        file.write(
            "\n\n@on_event('order/nap')\n@app.task(name='shop.nap')\n"
            "def nap(order):\n    step.sleep('nap', 0.5)\n    return 'rested'\n"
        )
    with Worker("shop", cwd=shop.path, pool="solo"):
        _, run = shop.emit("order/nap", {})
        wait_until(lambda: shop.state(run) == "suspended")
        keeper = Keeper("shop", cwd=tmp_path)
        with keeper:
            wait_until(lambda: shop.state(run) == "succeeded")
            keeper.stop()
            assert keeper.log.endswith("keeper ready.\nkeeper ended.\n")


def test_a_keeper_of_its_own_misses_what_a_fast_worker_has_lost(tmp_path, redis_url, redis_server):
    shop = project(tmp_path, redis_url, queue="fast")
    with (shop.path / "shop.py").open("a") as file:
        file.write(
            "\n\napp.conf.update(fanout_keeper=False, fanout_lease=2, fanout_publish_timeout=1)\n"
        )
    _, run = shop.emit("order/paid", {"n": 2})
    with redis_server.client() as client:
        assert client.delete("fast") == 1  # a fast worker took it, and died before it had told
        with Keeper("shop", cwd=tmp_path):
            wait_until(lambda: client.llen("fast") == 1)
    with FastWorker("shop", cwd=tmp_path):
        wait_until(lambda: shop.state(run) == "succeeded")


class Keeper(Worker):
    """``celery fanout keeper``."""

    def command(self):
        return [sys.executable, "-m", "celery", "--app", self.app, "fanout", "keeper"]

    def is_ready(self):
        return "keeper ready." in self.log_since_start
