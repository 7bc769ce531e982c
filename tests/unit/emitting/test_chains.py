"""Event and subscription become one frozen chain, whose every link knows the event."""

import copy
import datetime as dt
import json

import pytest
from celery import Celery

from celery_fanout import Event, Subscription
from celery_fanout.emitting.chains import chain_for, errback
from celery_fanout.model.ids import child_id, run_id
from celery_fanout.model.run import run_of

EVENT = Event(
    "order/paid",
    {"id": 7, "who": "Grüße"},
    id="e-1",
    source="/shop",
    time=dt.datetime(2026, 11, 22, 12, tzinfo=dt.timezone.utc),
    subject="s",
)
# the ids that runs and results of this event have, for as long as anybody has such messages
RUN = "1cbbcac0-7c6d-5e9a-8c1a-0fc14c4f8788"
FIRST_LINK = "02130afa-1eae-5243-b589-c4c896d41d83"
SECOND_LINK = "2f4d8cf7-9bad-53c2-8081-26724b453e17"
STAMP = {
    "ce_specversion": "1.0",
    "ce_id": "e-1",
    "ce_source": "/shop",
    "ce_type": "order/paid",
    "ce_time": "2026-11-22T12:00:00Z",
    "ce_subject": "s",
    "fanout_subscription": "shop.tell@order/*",
    "fanout_version": 1,
}
DATA = '{"id":7,"who":"Grüße"}'
ERRBACK = {
    "task": "celery_fanout.report_failure",
    "args": (),
    "kwargs": {"on_failure": "shop.apologise"},
    "options": {},
    "subtask_type": None,
    "immutable": False,
}
app = Celery("shop", set_as_current=False)


def subscription(*tail, on_failure=None, id="shop.tell@order/*"):
    return Subscription(
        id=id,
        pattern="order/*",
        task=None,
        filter=None,
        tail=tail,
        on_failure=on_failure,
        options={},
        where="shop.py:3",
        order=0,
    )


def frozen(*tail, **options):
    return chain_for(EVENT, EVENT.headers(), subscription(*tail, **options), "reply-queue")


def test_a_subscriber_alone():
    chain = frozen()
    assert (chain.run_id, chain.result_id) == (RUN, RUN)
    assert chain.args == ({"id": 7, "who": "Grüße"},)
    assert chain.headers == {**STAMP, "fanout_run": RUN}
    assert chain.links is None
    assert chain.errbacks is None
    assert chain.subscription.id == "shop.tell@order/*"


def test_a_tail_is_stamped_link_by_link():
    chain = frozen(dict(app.signature("shop.first")), dict(app.signature("shop.second")))
    assert (chain.run_id, chain.result_id) == (RUN, SECOND_LINK)
    assert chain.headers == {**STAMP, "fanout_run": RUN}
    assert [(link["task"], link["options"]) for link in chain.links] == [
        (
            "shop.second",  # last first, as Celery pops them
            {
                "task_id": SECOND_LINK,
                "reply_to": "reply-queue",
                "headers": {**STAMP, "fanout_run": SECOND_LINK, "fanout_data": DATA},
            },
        ),
        (
            "shop.first",
            {
                "task_id": FIRST_LINK,
                "reply_to": "reply-queue",
                "headers": {**STAMP, "fanout_run": FIRST_LINK, "fanout_data": DATA},
            },
        ),
    ]


def test_the_ids_are_those_of_the_rules():
    assert run_id("order/paid", "e-1", "shop.tell@order/*") == RUN
    assert child_id(RUN, "then", "link", 1) == FIRST_LINK
    assert child_id(RUN, "then", "link", 2) == SECOND_LINK


def test_freezing_again_gives_the_same():
    tail = [dict(app.signature("shop.first")), dict(app.signature("shop.second"))]
    assert frozen(*tail, on_failure="a") == frozen(*tail, on_failure="a")


def test_other_events_and_subscriptions_have_other_ids():
    chains = [
        frozen(),
        frozen(id="shop.other@order/*"),
        chain_for(Event("order/paid", id="e-2"), {}, subscription(), ""),
        chain_for(Event("order/sent", id="e-1"), {}, subscription(), ""),
    ]
    assert len({chain.run_id for chain in chains}) == 4


def test_every_link_reports_its_failure():
    own = {"task": "shop.own", "args": ()}
    chain = frozen(
        dict(app.signature("shop.first", options={"link_error": [own]})),
        dict(app.signature("shop.second")),
        on_failure="shop.apologise",
    )
    assert chain.errbacks == [ERRBACK]
    second, first = chain.links
    assert second["options"]["link_error"] == [ERRBACK]
    assert first["options"]["link_error"] == [own, ERRBACK]
    assert errback("shop.apologise") == ERRBACK


def test_what_the_user_put_on_a_link_stays():
    signature = app.signature(
        "shop.first",
        args=(1,),
        kwargs={"a": 2},
        immutable=True,
        options={"queue": "q", "headers": {"x-own": "1", "fanout_run": "forged"}},
    )
    [link] = frozen(dict(signature)).links
    assert (link["args"], link["kwargs"], link["immutable"]) == ((1,), {"a": 2}, True)
    assert link["options"]["queue"] == "q"
    assert link["options"]["headers"]["x-own"] == "1"
    assert link["options"]["headers"]["fanout_run"] == FIRST_LINK


def test_the_subscription_stays_as_it_was():
    tail = dict(app.signature("shop.first", options={"queue": "q", "headers": {"a": "1"}}))
    before = copy.deepcopy(tail)
    frozen(tail, on_failure="a")
    assert tail == before


def test_a_frozen_chain_can_be_sent():
    chain = frozen(dict(app.signature("shop.first")), on_failure="shop.apologise")
    sent = [chain.args, chain.headers, chain.links, chain.errbacks]
    assert json.loads(json.dumps(sent))[1] == chain.headers


class Request:
    """What a worker makes of a message."""

    def __init__(self, id, args, headers):
        self.id, self.args, self.headers, self.retries = id, args, headers, 0


class Named:
    name = "shop.any"


@pytest.mark.parametrize("place", ["subscriber", "first", "second"])
def test_every_link_finds_its_run_and_event(place):
    chain = frozen(dict(app.signature("shop.first")), dict(app.signature("shop.second")))
    if place == "subscriber":
        request = Request(chain.run_id, chain.args, chain.headers)
    else:
        link = chain.links[1 if place == "first" else 0]["options"]
        request = Request(link["task_id"], ("the result before",), link["headers"])
    run = run_of(Named, request)
    assert (run.id, run.subscription) == (request.id, "shop.tell@order/*")
    assert run.event == EVENT


@pytest.mark.parametrize("number", [1, 2])
def test_no_step_has_the_id_of_a_link(number):
    ids = {FIRST_LINK, SECOND_LINK}
    assert not ids & {child_id(RUN, step, number) for step in ("then", "link", "on_failure")}
