"""Every finding: when it is made, and its whole text."""

from types import SimpleNamespace

import celery
import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from celery_fanout import Concurrency, Throttle, get_fanout, on_event
from celery_fanout.app.checks import Finding, findings, retry_horizon

LATE = {"acks_late": True, "reject_on_worker_lost": True, "time_limit": 60}
QUIET = {"max_retries": 0, **LATE}


def make(conf=None, subscription=None, *, level=1, **options):
    """Return the findings of an app with one subscriber, by id; on level 1 by default."""
    app = Celery("checked", broker="redis://127.0.0.1:1", backend="redis://127.0.0.1:1",
                 set_as_current=False)  # fmt: skip
    app.conf.update({"fanout_store_url": "backend"} if level == 1 else {})
    app.conf.update(conf or {})

    @on_event("thing/made", **(subscription or {}))
    @app.task(shared=False, name="sub", **{**QUIET, **options})
    def sub(data): ...

    found = findings(get_fanout(app))
    assert len({finding.id for finding in found}) == len(found)
    return {finding.id: finding for finding in found}


def test_a_careful_app_has_nothing_to_hear():
    assert make() == {}


def test_settings():
    assert make({"fanout_sorce": "/x"}) == {
        "fanout.E001": Finding(
            "fanout.E001",
            "error",
            "There is no setting 'fanout_sorce'. Did you mean 'fanout_source'?",
            "Correct the setting.",
        )
    }


def test_registration():
    app = Celery("checked", broker="redis://127.0.0.1:1", backend="redis://", set_as_current=False)

    @on_event("thing/made")
    @app.task(shared=False, name="two_arguments", **QUIET)
    def two_arguments(a, b): ...

    [found] = findings(get_fanout(app))
    assert (found.id, found.level) == ("fanout.E002", "error")
    assert found.message.startswith("The subscriber two_arguments at ")
    assert found.remedy == "emit() refuses until this is mended."


def test_no_subscriber(tmp_path):
    # in a process of its own: shared subscribers of other tests are everybody's
    import subprocess
    import sys

    code = (
        "from celery import Celery\n"
        "from celery_fanout import get_fanout\n"
        "from celery_fanout.app.checks import findings\n"
        "app = Celery('empty', broker='redis://', backend='redis://')\n"
        "print(*[(f.id, f.message, f.remedy) for f in findings(get_fanout(app))])\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == str(
        (
            "fanout.W001",
            "No task of this app subscribes to an event.",
            "Decorate a task with @on_event, and list its module in include= or imports=.",
        )
    )


@pytest.mark.parametrize("setting", ["accept_content", "result_accept_content"])
def test_pickle(setting):
    assert make({setting: ["json", "pickle"]}) == {
        "fanout.E003": Finding(
            "fanout.E003",
            "error",
            f"{setting} accepts pickle: whoever can write to the broker or result backend can "
            "execute code in every worker.",
            'Accept ["json"] only.',
        )
    }


@pytest.mark.parametrize("backend", ["rpc://", "disabled://"])
def test_a_backend_that_cannot_hold_steps(backend):
    found = make({"result_backend": backend})["fanout.E004"]
    assert found.level == "error"
    assert "does not support steps. Set result_backend, or fanout_store_url" in found.message
    assert found.remedy == "Until then step.* raises this error."


def test_a_ledger_in_memory():
    found = make({"fanout_store_url": "memory://"})["fanout.W002"]
    assert found.message == (
        "The ledger is kept in the memory of one process: no other worker sees its runs, and they "
        "are gone after a restart."
    )


def test_with_a_ledger_acks_and_visibility_do_not_matter():
    early = {"acks_late": False, "time_limit": None, "default_retry_delay": 100_000}
    assert make(level=2, max_retries=5, **{k: v for k, v in early.items() if v is not None}) == {}


def test_a_keeper_that_is_off():
    found = make({"fanout_keeper": False}, level=2)["fanout.I003"]
    assert (found.level, found.message, found.remedy) == (
        "info",
        "fanout_keeper is off: workers wake no run that sleeps, and send none again.",
        "Run `celery fanout keeper`, at least once and better twice.",
    )


def test_a_lease_that_is_shorter_than_a_hang():
    assert "fanout.W014" not in make({"fanout_lease": 10}, level=2)
    assert "fanout.W014" not in make({"fanout_lease": 2, "fanout_store_url": "memory://"}, level=2)
    found = make({"fanout_lease": 9.5}, level=2)["fanout.W014"]
    assert (found.level, found.message, found.remedy) == (
        "warning",
        "fanout_lease is 9.5 s: a Redis that hangs for longer looks like a dead worker.",
        "Raise it to 10 s, twice fanout_publish_timeout, or lower that.",
    )


def test_cancel_on_needs_a_ledger():
    found = make(subscription={"cancel_on": "thing/gone"})["fanout.E007"]
    assert (found.level, found.message, found.remedy) == (
        "error",
        "sub@thing/made has cancel_on, which needs a ledger.",
        "Use a Redis result backend, or set fanout_store_url to a Redis URL.",
    )
    assert "fanout.E007" not in make(level=2, subscription={"cancel_on": "thing/gone"})


def test_flow_control_needs_a_ledger():
    options = {"cancel_on": "thing/gone", "throttle": Throttle(1, 1), "priority": 5}
    found = make(subscription=options)["fanout.E007"]
    assert (found.level, found.message, found.remedy) == (
        "error",
        "sub@thing/made has cancel_on, throttle, priority, which needs a ledger.",
        "Use a Redis result backend, or set fanout_store_url to a Redis URL.",
    )
    assert "fanout.E007" not in make(level=2, subscription=options)


def test_flow_control_needs_one_shard():
    options = {"throttle": Throttle(1, 1), "priority": 5}
    found = make({"fanout_shards": 2}, level=2, subscription=options)["fanout.E009"]
    assert (found.level, found.message, found.remedy) == (
        "error",
        (
            "sub@thing/made has throttle, priority, and fanout_shards is 2: a limit is counted in "
            "one place."
        ),
        "Set fanout_shards to 1, or leave the options out: until then emit() refuses.",
    )
    assert "fanout.E009" not in make({"fanout_shards": 2}, level=2)
    assert "fanout.E009" not in make(level=2, subscription=options)


def test_one_limit_with_several_numbers():
    app = Celery("scopes", broker="redis://127.0.0.1:1", backend="redis://", set_as_current=False)

    def subscribe(name, *limits):
        @on_event("thing/made", concurrency=limits)
        @app.task(shared=False, name=name, **QUIET)
        def sub(data): ...

    by_tenant = Concurrency(9, key="tenant", scope="ocr")  # not the one without a key
    subscribe("a", Concurrency(5, scope="ocr"), Concurrency(7, scope="app"), Concurrency(1))
    subscribe("b", Concurrency(5, scope="ocr"), Concurrency(7, scope="app"), Concurrency(2))
    subscribe("c", by_tenant, Concurrency(7, scope="app"))
    assert findings(get_fanout(app)) == []

    subscribe("d", Concurrency(2, scope="ocr"))
    subscribe("e", Concurrency(8, key=lambda e: e.data["whose"], scope="ocr"))
    first, second = findings(get_fanout(app))
    assert first == Finding(
        "fanout.W015",
        "warning",
        "The limit 'concurrency ocr' is one for all that share it, and has several numbers: 5 for "
        "a@thing/made, b@thing/made; 2 for d@thing/made. What counts is that of the run which "
        "wants to start.",
        "Give them the same number, or scopes of different names.",
    )
    assert "'concurrency ocr by key'" in second.message


def test_step_results_in_memory():
    found = make({"result_backend": "cache+memory://"})["fanout.W002"]
    assert found.message == (
        "Step results are kept in the memory of one process: another worker, or this one after a "
        "restart, runs every step again."
    )


def test_a_backend_without_expiry_per_value():
    found = make({"result_backend": "db+sqlite://", "result_expires": 3600})
    assert found == {
        "fanout.W003": Finding(
            "fanout.W003",
            "warning",
            "Step results may be dropped after 3,600 s, although fanout_checkpoint_expires is "
            "604,800 s: The result backend DatabaseBackend has no expiry per value.",
            "Raise result_expires, or keep step results elsewhere with fanout_store_url.",
        )
    }


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({"max_retries": 10, "default_retry_delay": 100}, "1,000"),
        ({"max_retries": 4, "retry_backoff": 100, "retry_backoff_max": 600}, "1,300"),
    ],
)
def test_retries_longer_than_checkpoints(options, seconds):
    found = make({"fanout_checkpoint_expires": 900}, autoretry_for=(ConnectionError,), **options)[
        "fanout.W004"
    ]
    assert found.message == (
        f"sub may be retried for {seconds} s, and step results may be dropped after 900 s, so "
        "finished steps would run again."
    )
    assert found.remedy == "Raise fanout_checkpoint_expires, or retry for a shorter time."


def test_retries_without_end():
    found = make(max_retries=None, autoretry_for=(ConnectionError,))["fanout.W004"]
    assert found.message.startswith("sub may be retried for ever, ")


def test_unconfirmed_publishes():
    amqp = {"broker_url": "amqp://127.0.0.1:1"}
    assert make(amqp)["fanout.W005"].remedy == (
        'Set broker_transport_options = {"confirm_publish": True}.'
    )
    assert make({**amqp, "broker_transport_options": {"confirm_publish": True}}) == {}


def test_a_broker_in_memory():
    assert list(make({"broker_url": "memory://"})) == ["fanout.W006"]


def test_visibility_timeout_and_time_limits():
    found = make({"broker_transport_options": {"visibility_timeout": 60}}, default_retry_delay=1)
    assert list(found) == ["fanout.W007", "fanout.I001"] or set(found) == {"fanout.W007"}
    assert found["fanout.W007"].message == (
        "Redis delivers a message again that was not acknowledged in time, and these subscribers "
        "acknowledge late and may run longer: sub."
    )
    assert make(time_limit=None)["fanout.W007"].remedy == (
        "Give them a time_limit below it, or raise "
        'broker_transport_options["visibility_timeout"] (now 3,600 s), for all apps that share the '
        "broker: the shortest counts."
    )


def test_visibility_timeout_and_retry_delays():
    found = make(retry_backoff=True, retry_backoff_max=7200)["fanout.W008"]
    assert found.message == (
        "Redis delivers a waiting retry to several workers if it waits too long, as with: sub."
    )


def test_a_short_visibility_timeout_makes_hops():
    found = make(
        {"broker_transport_options": {"visibility_timeout": 50}},
        time_limit=10,
        default_retry_delay=1,
    )
    assert found["fanout.I001"].message == (
        "visibility_timeout is 50 s, so step.sleep goes in hops of 25 s."
    )


def test_early_acks():
    found = make(acks_late=False)["fanout.W009"]
    assert found.message == (
        "A run is lost when its worker dies, because its message is acknowledged before it starts: "
        "sub."
    )


def test_late_acks_alone_do_not_save_a_killed_process():
    found = make(reject_on_worker_lost=None)["fanout.W010"]
    assert found.message == (
        "A run fails when its pool process is killed, although it acknowledges late: sub."
    )
    if hasattr(celery.Task, "retry_on_worker_lost"):
        assert found.remedy == (
            "Set retry_on_worker_lost=True (bounded by max_retries, after default_retry_delay)."
        )
        assert "fanout.W010" not in make(reject_on_worker_lost=None, retry_on_worker_lost=True)


def test_deduplication_before_celery_57():
    app = Celery("tail", set_as_current=False)
    then = app.signature("elsewhere")
    found = make({"worker_deduplicate_successful_tasks": True}, {"then": then})
    old = tuple(int(part) for part in celery.__version__.split(".")[:2]) < (5, 7)
    assert ("fanout.W011" in found) == old


def test_eager():
    eager = {"task_always_eager": True}
    assert list(make(eager)) == ["fanout.I002"]
    # neither is used
    assert list(make({**eager, "result_backend": None, "broker_url": "amqp://"})) == ["fanout.I002"]


def test_many_names_are_cut_short():
    app = Celery("many", broker="redis://127.0.0.1:1", backend="redis://", set_as_current=False)
    app.conf.fanout_store_url = "backend"
    for number in range(7):

        @on_event("thing/made")
        @app.task(shared=False, name=f"sub{number}", **{**QUIET, "acks_late": False})
        def sub(data): ...

    [found] = findings(get_fanout(app))
    assert found.message.endswith(": sub0, sub1, sub2, sub3, sub4 and 2 more.")


def test_tails_and_on_failure_tasks_are_looked_at_too():
    app = Celery("tails", broker="redis://127.0.0.1:1", backend="redis://", set_as_current=False)
    app.conf.fanout_store_url = "backend"

    @app.task(shared=False, name="last", **{**QUIET, "acks_late": False})
    def last(result): ...

    @app.task(shared=False, name="tell", **{**QUIET, "acks_late": False})
    def tell(failure): ...

    @on_event("thing/made", then=last, on_failure=tell)
    @app.task(shared=False, name="sub", **QUIET)
    def sub(data): ...

    [found] = findings(get_fanout(app))
    assert found.message.endswith(": last, tell.")


def test_a_backend_that_cannot_be_loaded():
    found = make({"result_backend": "nonsense://"})["fanout.E004"]
    assert found.message == (
        "result_backend is 'nonsense', which cannot be loaded (No module named 'nonsense'). It "
        "must be a result backend that is installed."
    )


@given(
    retries=st.one_of(st.integers(0, 300), st.integers(0, 10**400)),
    backoff=st.one_of(st.booleans(), st.floats(0, 1e300), st.integers(0, 10)),
    longest=st.one_of(st.integers(0, 10**6), st.floats(0, 1e300), st.just(float("inf"))),
)
def test_how_long_a_task_is_retried(retries, backoff, longest):
    """It is what the waits add up to, and no number of them is too large."""
    task = SimpleNamespace(
        max_retries=retries, retry_backoff=backoff, retry_backoff_max=longest, default_retry_delay=7
    )
    horizon = retry_horizon(task)
    assert horizon >= 0
    if retries <= 300:
        waits = [min(longest, float(backoff) * 2**n) if backoff else 7 for n in range(retries)]
        assert horizon == pytest.approx(sum(waits))
