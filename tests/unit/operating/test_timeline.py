"""A run as text, from the records of the ledger in memory."""

import json
from textwrap import dedent

import pytest

from celery_fanout.operating.texts import age, moment
from celery_fanout.operating.timeline import describe_event, timeline
from celery_fanout.stores.checkpoints import Checkpoint, field_of
from celery_fanout.stores.limits import Collect, Flow, Gate, Place, Rate
from celery_fanout.stores.memory.ledger import MemoryLedger
from celery_fanout.stores.records import EventRecord, NewEvent, NewRun, RunRecord
from celery_fanout.stores.states import RunState as S
from tests.conformance.ledgers import RULES, Clock

RUN, SHIP = "c91906ac-f38b-5b1c-ab55-4b03c5c28a86", "shop.ship@order/paid"
ATTRIBUTES = {"id": "o-1", "type": "order/paid", "source": "/shop", "subject": "order 1"}


class Desk:
    """One run in a ledger."""

    def __init__(self):
        self.clock = Clock()
        self.ledger = MemoryLedger(RULES, self.clock)
        self.token = 0
        self.record([NewRun(RUN, SHIP)])

    def record(self, runs, **more):
        new = NewEvent("key", "order/paid", json.dumps(ATTRIBUTES), '{"total":5}', runs, **more)
        self.ledger.record([new])

    def begin(self, run=RUN):
        claim = self.ledger.claim(run, "boot-1", f"nonce-{self.clock.now}")
        if run == RUN:
            self.token = claim.token
        return claim.token

    def store(self, *key, after=1.0, **checkpoint):
        self.clock.advance(after)
        made = Checkpoint(stored=self.clock.now, **checkpoint)
        self.ledger.store(RUN, self.token, field_of(key), made.dumps(), final=made.final)

    def settle(self, to, after=1.0, **more):
        self.clock.advance(after)
        self.ledger.settle(RUN, self.token, to, **more)

    def text(self, run=RUN, **options):
        record = self.ledger.run(run)
        children = [self.ledger.run(child) for child in record.detail["children"]]
        event = self.ledger.event("key")
        return timeline(record, event, children, now=self.clock.now, **options)

    def rows(self, **options):
        """Return the rows of the timeline itself."""
        return [line[2:] for line in self.text(**options).splitlines() if line.startswith("  ")]


@pytest.fixture
def desk():
    return Desk()


def test_a_whole_run(desk):
    desk.clock.advance(0.069)
    desk.begin()
    desk.store("fetch", 1, after=0.001, status="done", value={"total": 9900}, attempts=1)
    error = {"type": "ConnectionError", "message": "the bank is away"}
    desk.settle(S.RETRYING, 0.001, error=error, retries=1, due=desk.clock.now + 75)
    desk.clock.advance(75)
    desk.ledger.take()
    desk.ledger.claim(RUN, "boot-2", "another", retries=1)
    desk.token = 2
    desk.store("charge", 1, status="done", value="p-1", attempts=3)
    desk.settle(S.SUCCEEDED, result="9900")
    assert desk.text() == dedent("""\
        run            c91906ac-f38b-5b1c-ab55-4b03c5c28a86
        subscription   shop.ship@order/paid
        event          order/paid  o-1
        state          succeeded
        counts         2 executions, 1 retry, 0 crashes

        2027-01-15 08:00:00 UTC
          +0 ms        recorded
          +69 ms       execution 1 began
          +70 ms         step 'fetch'  {"total": 9900}
          +71 ms       execution 1 ended: retrying  ConnectionError: the bank is away
          +1 min 15 s  execution 2 began
          +1 min 16 s    step 'charge'  "p-1"  (3 tries)
          +1 min 17 s  execution 2 ended: succeeded
          +1 min 17 s  succeeded

        result         9900""")


def test_a_dead_letter(desk):
    desk.begin()
    desk.store("charge", 1, status="failed", error={"type": "Gone", "message": "no"}, attempts=2)
    error = {"type": "Gone", "message": "no", "traceback": "Traceback:\n  Gone: no\n"}
    desk.settle(S.FAILED, error=error, reason="error")
    text = desk.text()
    assert "state          failed (error)" in text.splitlines()
    assert text.endswith("\n\nerror          Gone: no")
    assert desk.text(traceback=True) == f"{text}\n\nTraceback:\n  Gone: no"
    assert desk.rows() == [
        "+0 ms    recorded",
        "+0 ms    execution 1 began",
        "+1.00 s    step 'charge'  failed: Gone: no  (2 tries)",
        "+2.00 s  execution 1 ended: failed  Gone: no",
        "+2.00 s  failed (error)",
    ]


def test_what_is_waited_for(desk):
    desk.begin()
    due = desk.clock.now + 3700
    desk.store("night", 1, after=0, status="waiting", due=due)
    desk.store("ask", 2, after=0, status="retrying", error={"type": "E", "message": "x"}, due=due)
    field = field_of(("ok", 1))
    desk.ledger.wait(RUN, 1, field, "order/approved", '{"id": 1}', since=0, due=due)
    desk.settle(S.SUSPENDED, 0, group=field, due=due, reason="event")
    lines = desk.text().splitlines()
    assert "state          suspended (event)" in lines
    assert "waits          until 2027-01-15 09:01:40, in 1 h 1 min" in lines
    assert desk.rows()[2:5] == [
        "+0 ms    step 'night'  sleeps until 2027-01-15 09:01:40, in 1 h 1 min",
        "+0 ms    step 'ask (2)'  E: x; waits until 2027-01-15 09:01:40, in 1 h 1 min",
        (
            "+0 ms    step 'ok'  waits for order/approved (id) until 2027-01-15 09:01:40, "
            "in 1 h 1 min"
        ),
    ]
    came = {"a": {"type": "order/approved", "id": "a-1"}, "d": {"id": 1}}
    desk.ledger.record([NewEvent("k2", "order/approved", json.dumps(came["a"]), '{"id":1}')])
    assert desk.rows()[-2] == "+0 ms    step 'ok'  order/approved  {\"id\": 1}"


def test_children(desk):
    desk.begin()
    group = field_of(("ask", 1))
    message = json.dumps({"signature": {"task": "shop.add"}})
    invoked = NewRun("kid", SHIP, "invoke", message=message, field=group, group=group)
    items = [
        NewRun(f"item-{n}", SHIP, "parallel", field=field_of(("ask", 2, n)), group="g")
        for n in range(25)
    ]
    desk.ledger.spawn(RUN, 1, group, [invoked])
    desk.ledger.spawn(RUN, 1, "g", items)
    desk.begin("item-3")
    desk.settle(S.SUSPENDED, group=group, reason="invoke")
    assert "waits          for its child runs" in desk.text().splitlines()
    assert desk.rows()[2:4] == [
        "+0 ms      invoke  shop.add  kid  pending",
        "+0 ms      parallel  25 runs: 24 pending, 1 running",
    ]
    assert f"kind           invoke of {RUN}" in desk.text("kid").splitlines()
    desk.clock.advance(1)
    desk.ledger.settle("item-3", 1, S.SUCCEEDED, result="[1]")
    assert desk.rows()[-1] == "+2.00 s    step 'ask (2) [3]'  [1]"


def test_a_run_that_works(desk):
    desk.begin()
    desk.settle(S.RETRYING, retries=1, due=desk.clock.now)
    desk.clock.advance(1)
    desk.ledger.claim(RUN, "boot-2", "n", retries=1)
    assert "worker         boot-2" in desk.text().splitlines()
    assert desk.rows()[-1] == "+2.00 s  execution 2 began"


def test_what_people_did(desk):
    desk.begin()
    desk.settle(S.FAILED, error={"type": "E", "message": "x"}, reason="error")
    desk.ledger.reopen(RUN, "mended")
    lines = desk.text().splitlines()
    assert "state          pending (mended)" in lines
    assert lines[4].endswith("0 crashes, retried by hand 1 time")
    desk.clock.advance(1)
    desk.begin()
    desk.ledger.cancel([RUN], "sold out")
    assert desk.rows()[-5:] == [
        "+1.00 s  execution 1 ended: failed  E: x",
        "+1.00 s  retried by hand: mended",
        "+2.00 s  execution 2 began",
        "+2.00 s  execution 2 ended: cancelled  sold out",
        "+2.00 s  cancelled (sold out)",
    ]


def test_an_execution_whose_worker_was_stopped(desk):
    desk.begin()
    desk.clock.advance(1)
    desk.ledger.release("boot-1", [RUN])
    desk.clock.advance(RULES.lease)
    desk.ledger.take()
    desk.clock.advance(1)
    desk.begin()
    assert [row.split("  ", 1)[1].strip() for row in desk.rows()] == [
        "recorded",
        "execution 1 began",
        "execution 1 ended: released",
        "execution 2 began",
    ]


def test_a_rerun_begins_with_what_another_has_done(desk):
    done = Checkpoint("done", None, attempts=1, stored=desk.clock.now).dumps()
    desk.clock.advance(60)
    new = NewRun("again", SHIP, checkpoints={field_of(("fetch", 1)): done})
    desk.record([new], generation=1, replay=True)
    lines = desk.text("again").splitlines()
    assert "generation     1" in lines
    assert lines[-2:] == [
        "  +0 ms  recorded",
        "  +0 ms    step 'fetch'  (of an earlier run)",
    ]


def test_an_event_that_is_gone():
    record = RunRecord("r", "fan-in", "", "e", S.PENDING, created=0.0, due=50.0)
    detail = {"checkpoints": {}, "attempts": [], "children": {}, "waits": {}}
    detail.update(result=None, error=None, message="")
    object.__setattr__(record, "detail", detail)
    assert timeline(record, None, now=20.0) == dedent("""\
        run            r
        subscription   -
        kind           fan-in
        state          pending
        waits          until 1970-01-01 00:00:50, in 30.0 s
        counts         0 executions, 0 retries, 0 crashes

        1970-01-01 00:00:00 UTC
          +0 ms  recorded""")


def test_an_event():
    data = json.dumps({"text": "x" * 200})
    event = EventRecord("key", "order/paid", json.dumps(ATTRIBUTES), data, 0.0, 1, ["a"], ["b"], 1)
    assert describe_event(event) == dedent(f"""\
        event          order/paid
        id             o-1
        key            key
        source         /shop
        subject        order 1
        recorded       1970-01-01 00:00:00 UTC
        data           {{"text": "{"x" * 89}\u2026
        runs           1, 1 open; 1 by replay and rerun""")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.0694, "69 ms"),
        (1.25, "1.2 s"),
        (75, "1 min 15 s"),
        (3700, "1 h 1 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_age(seconds, text):
    assert age(seconds) == text


def test_moment():
    assert moment(0) == "1970-01-01 00:00:00"
    assert moment(None) == ""


def flow_event(ledger, id, run, flow):
    """Record an event with a run that has a flow; returns its key and the id of its run."""
    attributes = json.dumps({"id": id, "type": "order/paid"})
    new = NewEvent(f"key-{id}", "order/paid", attributes, "{}", [NewRun(run, SHIP, flow=flow)])
    [recorded] = ledger.record([new])
    return new.key, recorded.runs[0][0]


def shown(desk, run):
    record = desk.ledger.run(run)
    events = [desk.ledger.event(key) for key in record.detail["events"][:2]]
    return timeline(record, desk.ledger.event(record.event), (), events, now=desk.clock.now)


def test_a_run_that_waits_for_its_place(desk):
    gate = Gate(f"concurrency {SHIP}")
    flow = Flow(places=(Place(gate, 1),))
    flow_event(desk.ledger, "o-1", "first", flow)
    flow_event(desk.ledger, "o-2", "second", flow)
    desk.clock.advance(65)
    lines = desk.text("second").splitlines()
    assert f"state          gated (concurrency {SHIP})" in lines
    assert (
        f"waits          for concurrency {SHIP}, since 2027-01-15 08:00:00, for 1 min 5 s"
    ) in lines


def test_a_run_that_was_dropped(desk):
    flow = Flow(rate_limit=Rate(Gate(f"rate_limit {SHIP}"), 1, 60))
    flow_event(desk.ledger, "o-1", "first", flow)
    flow_event(desk.ledger, "o-2", "second", flow)
    assert f"state          cancelled (dropped: rate_limit {SHIP})" in desk.text("second").split(
        "\n"
    )
    assert desk.text("second").endswith(f"+0 ms  cancelled (dropped: rate_limit {SHIP})")


def test_a_run_that_collects_events(desk):
    flow = Flow(collect=Collect(Gate(f"batch {SHIP}"), "batch", 30, max_size=10))
    keys = []
    for number in range(1, 4):
        key, run = flow_event(desk.ledger, f"o-{number}", f"run-{number}", flow)
        assert run == "run-1"
        keys.append(key)
        desk.clock.advance(2)
    lines = shown(desk, "run-1").splitlines()
    assert (
        f"waits          batch {SHIP} collects events, until 2027-01-15 08:00:30, in 24.0 s"
        in lines
    )
    assert lines[-4:] == [
        "  +0 ms    recorded",
        "  +0 ms      event  order/paid  o-1",
        "  +2.00 s    event  order/paid  o-2",
        "  +2.00 s    and 1 event more",
    ]
    for key in keys:  # from each of them one finds the run
        assert [run.id for run in desk.ledger.runs(event=key)] == ["run-1"]
        assert "runs           1, 1 open" in describe_event(desk.ledger.event(key)).splitlines()
