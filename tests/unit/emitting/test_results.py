"""How a run of the ledger ended, as values, errors, and something like an ``AsyncResult``."""

import datetime as dt
import json
import threading

import pytest
from celery import Celery
from celery._state import _set_task_join_will_block
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import allow_join_result
from kombu.utils import json as kombu_json

from celery_fanout import Emission, Event, Outcome, RunHandle, get_fanout, on_event
from celery_fanout.emitting.emission import RunResult, error_of, value_of
from celery_fanout.exceptions import EmissionTimeout, RunFailed, StoreRefused, StoreUnavailable
from celery_fanout.stores.memory.ledger import MemoryLedger
from celery_fanout.stores.records import LedgerRules, NewEvent, NewRun, RunOutcome
from celery_fanout.stores.states import RunState

S = RunState
BOOM = {"type": "shop.Boom", "message": "no", "traceback": "Traceback ..."}


@pytest.fixture
def ledger():
    ledger = MemoryLedger(LedgerRules())
    ledger.record([NewEvent("e", "order/paid", "{}", "1", [NewRun("r", "tell@order/paid")])])
    return ledger


def claim(ledger, run_id="r"):
    found = ledger.claim(run_id, "w1", f"nonce of {run_id}")
    assert found.status == "claimed"
    return found.token


def end(ledger, to, **options):
    assert ledger.settle("r", claim(ledger), to, **options).ok


def test_not_inside_a_task(ledger):
    """Where Celery's own results refuse, and with the same way out."""
    end(ledger, S.SUCCEEDED, result="1")
    app = Celery("joining", set_as_current=False)

    @on_event("order/paid")
    @app.task(shared=False, name="tell")
    def tell(data): ...

    app.finalize()
    [sub] = get_fanout(app).registry.match(Event("order/paid", 1))
    event = Event("order/paid", 1)
    emission = Emission(event, [RunHandle(app, "r", "r", sub, ledger)])
    _set_task_join_will_block(True)
    try:
        for get in (emission.get, emission.runs[0].get):
            with pytest.raises(RuntimeError, match=r"Never call result.get\(\) within a task!"):
                get(timeout=0)
        assert emission.runs[0].result.get(disable_sync_subtasks=False) == 1
        with allow_join_result():
            assert emission.get(timeout=0)[0].value == 1
    finally:
        _set_task_join_will_block(False)


# -- values and errors -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [None, 7, ["a", None], {"at": dt.datetime(2026, 1, 2, tzinfo=dt.timezone.utc)}]
)
def test_a_value(value):
    assert value_of(RunOutcome("r", S.SUCCEEDED, kombu_json.dumps(value))) == value
    assert error_of(RunOutcome("r", S.SUCCEEDED, kombu_json.dumps(value))) is None


def test_no_value():
    assert value_of(RunOutcome("r", S.SUCCEEDED)) is None
    assert value_of(RunOutcome("r", None)) is None


@pytest.mark.parametrize(
    ("outcome", "message", "kind"),
    [
        (RunOutcome("r", S.FAILED, error=BOOM), "shop.Boom: no", "shop.Boom"),
        (
            RunOutcome("r", S.FAILED, error={"type": "RunFailed", "message": "No retry is left."}),
            "No retry is left.",
            "RunFailed",
        ),
        (RunOutcome("r", S.FAILED, error={}), "?: ", "?"),
        (RunOutcome("r", S.FAILED), "?: ", "?"),
        (RunOutcome("r", S.CANCELLED, reason="expired"), "The run was cancelled: expired", ""),
    ],
)
def test_an_error(outcome, message, kind):
    error = error_of(outcome)
    assert type(error) is RunFailed
    assert str(error) == message
    assert error.error_type == kind


@pytest.mark.parametrize("state", [None, *sorted(set(S) - {S.FAILED, S.CANCELLED})])
def test_no_error(state):
    assert error_of(RunOutcome("r", state, error=BOOM)) is None


# -- results -----------------------------------------------------------------------------------


def test_before_its_end(ledger):
    result = RunResult(ledger, "r")
    assert result.id == "r"
    assert (result.ready(), result.successful(), result.failed()) == (False, False, False)
    assert (result.result, result.traceback, result.run_state) == (None, None, S.PENDING)


def test_a_run_that_the_ledger_does_not_know(ledger):
    result = RunResult(ledger, "other")
    assert (result.state, result.run_state, result.ready()) == ("PENDING", None, False)


def test_success(ledger):
    result = RunResult(ledger, "r")
    end(ledger, S.SUCCEEDED, result=json.dumps({"n": 1}))
    assert result.get() == result.get(timeout=0) == result.result == {"n": 1}
    assert (result.ready(), result.successful(), result.failed()) == (True, True, False)
    assert (result.state, result.run_state, result.traceback) == ("SUCCESS", S.SUCCEEDED, None)


def test_failure(ledger):
    result = RunResult(ledger, "r")
    end(ledger, S.FAILED, error=BOOM)
    with pytest.raises(RunFailed) as caught:
        result.get(timeout=5)
    assert str(caught.value) == str(result.result) == "shop.Boom: no"
    assert str(result.get(propagate=False)) == "shop.Boom: no"
    assert (result.ready(), result.successful(), result.failed()) == (True, False, True)
    assert (result.state, result.traceback) == ("FAILURE", "Traceback ...")


class Away:
    """A ledger that raises errors first."""

    name = "The ledger"

    def __init__(self, ledger, *errors):
        self.ledger, self.errors = ledger, list(errors)

    def outcomes(self, ids):
        if self.errors:
            raise self.errors.pop(0)
        return self.ledger.outcomes(ids)


AWAY = StoreUnavailable("The ledger", "ConnectionError: refused")


def test_a_ledger_that_is_away_is_waited_for(ledger):
    end(ledger, S.SUCCEEDED, result="7")
    assert RunResult(Away(ledger, *[AWAY] * 3), "r").get(timeout=60) == 7
    assert RunResult(Away(ledger, *[AWAY] * 3), "r").get() == 7


def test_it_is_waited_for_no_longer_than_was_asked(ledger):
    with pytest.raises(CeleryTimeoutError) as caught:
        RunResult(Away(ledger, *[AWAY] * 1000), "r").get(timeout=0)
    assert str(caught.value) == "The run r has not ended after 0 s: The ledger cannot be reached."
    assert caught.value.__cause__ is AWAY


def test_a_ledger_that_refuses_is_not_waited_for(ledger):
    refused = StoreRefused("The ledger", "NoPermissionError: no")
    with pytest.raises(StoreRefused):
        RunResult(Away(ledger, refused), "r").get()


def test_cancellation(ledger):
    result = RunResult(ledger, "r")
    ledger.cancel(["r"], "why not")
    with pytest.raises(RunFailed) as caught:
        result.get()
    assert str(caught.value) == "The run was cancelled: why not"
    assert (result.state, result.failed(), result.traceback) == ("REVOKED", True, None)


def test_the_states_in_celerys_words(ledger):
    result = RunResult(ledger, "r")
    found = [(result.state, result.status)]
    ledger.mark_published(["r"])
    found.append((result.state, result.status))
    token = claim(ledger)
    found.append((result.state, result.status))
    ledger.settle("r", token, S.RETRYING, due=0, retries=1)
    found.append((result.state, result.status))
    token = ledger.claim("r", "w1", "again", retries=1).token
    ledger.settle("r", token, S.SUSPENDED, due=ledger.time() + 60)
    found.append((result.state, result.status))
    words = ["PENDING", "PENDING", "STARTED", "RETRY", "STARTED"]
    assert found == [(word, word) for word in words]


def test_the_result_is_that_of_the_last_link(ledger):
    result = RunResult(ledger, "r")
    token = claim(ledger)
    link = NewRun("r2", "tell@order/paid", "then", message="{}")
    ledger.settle("r", token, S.COMPLETING, result="1", child=link)
    ledger.settle("r", token, S.SUCCEEDED)
    assert (result.ready(), result.state, result.run_state) == (False, "PENDING", S.PUBLISHED)
    ledger.settle("r2", claim(ledger, "r2"), S.SUCCEEDED, result="2")
    assert (result.get(timeout=5), result.run_state) == (2, S.SUCCEEDED)


def test_a_failure_that_is_retried_is_no_end_any_more(ledger):
    result = RunResult(ledger, "r")
    end(ledger, S.FAILED, error=BOOM)
    assert result.failed()
    ledger.reopen("r", "try again")
    assert not result.ready()
    end(ledger, S.SUCCEEDED, result="1")
    assert result.get(timeout=0) == 1


def test_a_success_is_remembered(ledger):
    result = RunResult(ledger, "r")
    end(ledger, S.SUCCEEDED, result="1")
    assert result.get(timeout=0) == 1
    assert ledger.client.delete("{fanout}:r:r", "{fanout}:d:r") == 2
    assert result.get(timeout=0) == 1


def test_waiting(ledger):
    result = RunResult(ledger, "r")
    waiter = threading.Timer(0.05, end, (ledger, S.SUCCEEDED), {"result": "7"})
    waiter.start()
    assert result.get(timeout=30) == 7
    waiter.join()


@pytest.mark.parametrize("timeout", [0, 0.02])
def test_waiting_in_vain(ledger, timeout):
    with pytest.raises(CeleryTimeoutError) as caught:
        RunResult(ledger, "r").get(timeout=timeout)
    assert str(caught.value) == f"The run r has not ended after {timeout} s."


def test_what_else_celery_takes(ledger):
    end(ledger, S.SUCCEEDED, result="7")
    result = RunResult(ledger, "r")
    assert result.get(interval=0.5, no_ack=True, disable_sync_subtasks=False) == 7


# -- through handles ---------------------------------------------------------------------------


@pytest.fixture
def handle(ledger):
    from celery import Celery

    app = Celery("shop", set_as_current=False)

    @on_event("order/paid")
    @app.task(name="tell", shared=False, ignore_result=True)
    def tell(order): ...

    app.finalize()
    (subscription,) = get_fanout(app).registry
    return RunHandle(app, "r", "r", subscription, ledger)


def test_a_handle_on_level_2(ledger, handle):
    assert isinstance(handle.result, RunResult)
    assert handle.result is handle.result
    assert not handle.ignored  # how it ended is known all the same
    end(ledger, S.SUCCEEDED)
    assert handle.get(timeout=5) is None
    assert Emission(Event("order/paid"), [handle]).get(timeout=5) == [Outcome(handle)]


def test_the_error_of_a_handle(ledger, handle):
    end(ledger, S.FAILED, error=BOOM)
    with pytest.raises(RunFailed) as caught:
        handle.get()
    assert str(caught.value) == "shop.Boom: no"
    (outcome,) = Emission(Event("order/paid"), [handle]).get()
    assert (outcome.ok, str(outcome.error), outcome.value) == (False, "shop.Boom: no", None)


@pytest.mark.parametrize("timeout", [0, 0.02])
def test_a_handle_that_is_late(handle, timeout):
    with pytest.raises(EmissionTimeout) as caught:
        Emission(Event("order/paid", id="e-1"), [handle]).get(timeout=timeout)
    assert str(caught.value) == (
        f"The event 'order/paid' (e-1) had no outcome after {timeout:g} s from: tell@order/paid. "
        "Wait longer, or look whether a worker serves their queues."
    )
