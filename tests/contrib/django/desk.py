"""Subscribers for the tests of the admin: each leaves its run in another state."""

from __future__ import annotations

import os
from pathlib import Path

from celery import shared_task

from celery_fanout import Batch, Concurrency, get_fanout, on_event, step
from celery_fanout.stores.states import RunState
from tests.contrib.django.words import BIG, NASTY, SECRET


@on_event("desk/paid")
@shared_task(name="desk.pay")
def pay(data):
    step.run("charge", lambda: {"amount": BIG, "api_key": SECRET, "note": NASTY})
    step.run(f"receipt {NASTY}", lambda: "sent")
    return {"paid": data["id"], "token": SECRET}


@on_event("desk/failed")
@shared_task(name="desk.fail")
def fail(data):
    step.run("look", lambda: 1)
    if not Path(os.environ["TEST_MENDED"]).exists():
        raise ValueError(f"no {NASTY} for {data['id']}")
    return "mended"


@on_event("desk/slept")
@shared_task(name="desk.sleep")
def sleep(data):
    step.sleep("night", 3600)


@on_event("desk/retried")
@shared_task(name="desk.retry", autoretry_for=(OSError,), retry_kwargs={"countdown": 3600})
def retry(data):
    raise OSError("the line is busy")


@on_event("desk/awaited")
@shared_task(name="desk.wait")
def wait(data):
    step.wait_for_event("answer", "desk/answered", match={"id": data["id"]}, timeout=3600)


@shared_task(name="desk.add")
def add(a, b):
    return a + b


@on_event("desk/asked", then=add.s(1))
@shared_task(name="desk.ask")
def ask(data):
    step.parallel("parts", [(lambda n=n: n * n,) for n in range(3)])
    return step.invoke("add", add, 2, 3)


@on_event("desk/nobody", options={"queue": "nobody"})
@shared_task(name="desk.nobody")
def nobody(data):
    pass


@on_event("desk/held")
@shared_task(name="desk.held")
def held(data):
    pass


@on_event("desk/limited", concurrency=Concurrency(1))
@shared_task(name="desk.limited")
def limited(data):
    pass


@on_event("desk/listed", batch=Batch(200, timeout=3600))
@shared_task(name="desk.listed")
def listed(data):
    pass


@on_event("desk/*")
@shared_task(name="desk.late")
def late(data):
    pass


EVENTS = ("paid", "failed", "slept", "retried", "awaited", "asked")


def fill(app):
    """Emit what leaves runs in all states, once a worker was there."""
    fanout = get_fanout(app)
    fanout.runs.pause("desk.held@desk/held")
    data = {"id": "doc-77", "title": NASTY, "password": SECRET, "number": BIG}
    for name in (*EVENTS, "nobody", "held"):
        fanout.emit(f"desk/{name}", data, id=f"{name}-1", delivery="now")
    fanout.emit("desk/later", data, id="later-1", delay=3600, delivery="now")
    fanout.emit("desk/cancelled", data, id="cancelled-1", delay=3600, delivery="now")
    fanout.runs.cancel(fanout.runs.event("cancelled-1").runs[0], "not needed")


def hold(app):
    """Make, by hand, what passes too fast or needs a worker that is busy for the whole test."""
    fanout = get_fanout(app)
    data = {"id": "doc-77"}
    for name in ("running", "completing"):
        fanout.emit("desk/nobody", data, id=f"{name}-1", delivery="now")
        (run,) = fanout.runs.list(
            event=fanout.runs.event(f"{name}-1").key, subscription="desk.nobody@desk/nobody"
        )
        claim = fanout.ledger.claim(run.id, "another-boot", "nonce")
        assert claim.status == "claimed", claim
        if name == "completing":
            fanout.ledger.settle(run.id, claim.token, RunState.COMPLETING, result="1")


def redact(name, data):
    """Show nothing but whose data it is."""
    return f"ours: {name}"
