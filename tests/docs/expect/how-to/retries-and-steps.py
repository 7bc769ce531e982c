# ruff: noqa: F821 - the names are those of the page
import contextlib
import datetime as dt
import decimal
import uuid
import warnings

import pytest
from proj import calls, llm, payments

from celery_fanout import StepFailed, exceptions
from celery_fanout.testing import run

calls.taken()  # of the page itself

# Retry the task
llm.failures = 2
found = run(summarize, {"id": "d-1"})
assert (found.state, found.retries) == ("retrying", 1)
assert found.finish().state == "succeeded"
assert calls.taken() == ["get d-1", "summarize", "summarize", "summarize"]

# Give a step retries of its own
llm.failures = 2
found = run(classify, {"id": "d-1"})
assert found.state == "suspended"
assert 0 <= found.due - found.clock.now <= 2
assert found.finish().value == "invoice"
assert found.retries == 0
llm.failures = 6
found = run(classify, {"id": "d-1"}).finish()
assert found.state == "failed"
assert "failed after 6 attempts: Overloaded" in str(found.error)
llm.failures = 0

# Wait as long as the server says
calls.taken()
llm.failures = 1
found = run(answer, {"text": "why?"})
assert (found.state, found.retries) == ("retrying", 1)
assert found.due - found.clock.now == 17
assert found.finish().value == "WHY?"

# Repeat a step in a loop
found = run(make_thumbnails, {"photos": ["a", "b"]}, crash_after="thumbnail")
assert found.state == "crashed"
assert found.resume().value == ["small-a", "small-b"]
assert found.executed == ["thumbnail", "thumbnail"]

# Get a step's value back as its type
found = run(book, {"id": "d-1"}, crash_after="parse").resume()
assert found.value == "17 is due in May"

VALUES = {
    "tuple": ((1, 2), [1, 2]),
    "keys": ({1: 2}, {"1": 2}),
    **{
        type(value).__name__: (value, value)
        for value in (
            dt.datetime(2026, 5, 3, 12, tzinfo=dt.timezone.utc),
            dt.date(2026, 5, 3),
            uuid.uuid4(),
            decimal.Decimal("1.20"),
            b"bytes",
        )
    },
}


@on_event("value/wanted")
@app.task(serializer="json")
def values(data):
    for name, (returned, stored) in VALUES.items():
        assert step.run(name, lambda value=returned: value) == stored
    return "all"


assert run(values).value == "all"


def wrong() -> dt.date:
    return "text"


@on_event("value/wrong")
@app.task
def misfit(data):
    return step.run("wrong", wrong)


with pytest.warns(exceptions.StepValueWarning):
    assert run(misfit).value == "text"


@on_event("value/impossible")
@app.task(autoretry_for=(Exception,))
def impossible(data):
    try:
        step.run("set", lambda: {1, 2})
    except StepFailed:
        return "failed for good"


@on_event("value/large")
@app.task
def large(data):
    try:
        step.run("large", lambda: "x" * 1_048_577)
    except StepFailed as failed:
        return failed.message


assert run(impossible).value == "failed for good"
assert "fanout_max_step_size" in run(large).value

# Tell the other side that it is the same request
calls.taken()
answers = iter([ConnectionError(), None])
original = payments.charge


def cut_off(order, idempotency_key=None):
    charged = original(order, idempotency_key=idempotency_key)
    if error := next(answers):
        raise error
    return charged


payments.charge = cut_off
take_payment.max_retries = 1
found = run(take_payment, {"id": 1})
assert found.state == "failed"  # nothing retries this task
first = run(take_payment, {"id": 1}, id="e-1")
answers = iter([None])
second = run(take_payment, {"id": 1}, id="e-1")
keys = calls.taken()
assert first.id == second.id
assert keys[1] == keys[2] != keys[0]
assert "None" not in keys[0]

# Let suspensions pass
llm.failures = 1
found = run(answer_or_apologise, {"text": "why?"}, event="question/asked")
assert found.state == "suspended"
assert found.finish().value == "WHY?"


@on_event("question/whispered")
@app.task
def careless(question):
    with contextlib.suppress(Exception):
        step.sleep("a while", 60)
    return step.run("never", lambda: 1)


with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert run(careless).state == "suspended"
assert caught[0].category is exceptions.SwallowedSuspensionWarning


# Rules
@on_event("rule/broken")
@app.task
def nested(data):
    return step.run("outer", lambda: step.run("inner", lambda: 1))


broken = run(nested).error
assert isinstance(broken, exceptions.RunFailed), broken
assert isinstance(broken.__cause__, exceptions.NestedStep)
