# ruff: noqa: F821 - the names are those of the page
"""What the page says of steps that wait, in a worker on level 2."""

from celery.contrib.testing.worker import start_worker
from proj import calls, llm

from celery_fanout import get_fanout
from celery_fanout.stores.states import RunState
from tests.processes import wait_until

calls.taken()
ledger = get_fanout(app).ledger
attempts = []


@app.task(name="tasks.fails", autoretry_for=(llm.Overloaded,), max_retries=0)
def fails():
    raise llm.Overloaded("never again")


@on_event("article/lost")
@app.task
def lose(article):
    attempts.append(1)
    return step.invoke("fails", fails)


@on_event("items/wanted")
@app.task
def items(wanted):
    def call(number):
        calls.note(f"item {number}")
        if number in wanted["wrong"] and not mended:
            raise ValueError(f"item {number} is wrong")
        return number

    return step.parallel("items", [(call, number) for number in range(4)])


@on_event("message/sent")
@app.task
def twice(message):
    first = step.wait_for_event("one", "reply/sent", timeout=60)
    second = step.wait_for_event("two", "reply/sent", timeout=60)
    return [first.data, second.data]


@on_event("nobody/comes")
@app.task
def patient(data):
    return step.wait_for_event("never", "nobody/came", timeout=1)


mended = False
with start_worker(app, perform_ping_check=False):
    # Sleep for a month: nothing but a timer
    slept = emit("user/signed-up", {"email": "ada@example.com"})
    (run,) = slept.runs
    wait_until(lambda: ledger.run(run.id).state is RunState.SUSPENDED)
    record = ledger.run(run.id)
    assert 29 * 86_400 < record.due - record.created <= 30.1 * 86_400
    assert record.worker == ""
    with app.connection_for_read() as connection:
        assert connection.default_channel.client.llen("celery") == 0

    # Wait for an event; it may come before
    assert [outcome.value for outcome in placed.get(30)] == ["order 17: 120 paid"]
    other = emit("order/placed", {"id": "17", "email": "ada@example.com"})
    wait_until(lambda: ledger.run(other.runs[0].id).state is RunState.SUSPENDED)
    emit("order/paid", {"order": {"id": 17}, "total": 1})
    assert ledger.run(other.runs[0].id).state is RunState.SUSPENDED  # 17 is not "17"
    emit("order/paid", {"order": {"id": "17"}, "total": 2})
    assert other.get(30)[0].value == "order 17: 2 paid"
    assert emit("nobody/comes").get(30)[0].value is None

    # An event is not used up
    pair = emit("message/sent")
    emit("reply/sent", {"number": 1})
    assert pair.get(30)[0].value == [{"number": 1}] * 2

    # Call another task
    (outcome,) = emit("article/written", {"text": "hello"}).get(30)
    assert outcome.value == "DE: HELLO"
    (outcome,) = emit("article/lost").get(30)
    assert outcome.error.error_type == "RunFailed"
    assert "Overloaded: never again" in str(outcome.error)
    assert len(attempts) == 2  # until it calls, and with the outcome

    # Make several calls at once
    calls.taken()
    (outcome,) = emit("album/uploaded", {"photos": ["a", "b", "c"], "sizes": [64, 32]}).get(30)
    assert outcome.value == [[f"small-{name}-{size}" for size in (32, 64)] for name in "abc"]
    assert sorted(calls.taken()) == [f"shrink {name}" for name in "aabbcc"]

    # When one has failed, the others end; retried, only it is called again
    failed = emit("items/wanted", {"wrong": [2, 1]})
    (outcome,) = failed.get(30)
    assert "item 1 is wrong" in str(outcome.error)
    assert sorted(calls.taken()) == [f"item {number}" for number in range(4)]
    mended = True
    get_fanout(app).runs.retry(failed.runs[0].id)
    wait_until(lambda: ledger.run(failed.runs[0].id).state in (RunState.SUCCEEDED, RunState.FAILED))
    assert ledger.run(failed.runs[0].id).detail["result"] == "[0,1,2,3]"
    assert sorted(calls.taken()) == ["item 1", "item 2"]
