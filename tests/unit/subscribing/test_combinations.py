"""What flow control's options take, what they refuse, and which go together."""

import ast
import dataclasses
import datetime as dt
import functools
import math
from pathlib import Path

import pytest
from celery import Celery

from celery_fanout import (
    Batch,
    CancelOn,
    Concurrency,
    Debounce,
    Idempotency,
    RateLimit,
    Singleton,
    Throttle,
    get_fanout,
    on_event,
)
from celery_fanout.exceptions import InvalidSubscription
from celery_fanout.subscribing import combinations
from celery_fanout.subscribing.combinations import checked_limits
from celery_fanout.subscribing.limits import Limits, limit_name
from celery_fanout.subscribing.on_event import declared

HOUR = dt.timedelta(hours=1)
NO_KEY = "Use a dotted path into the data, such as 'document.id', or a function of the Event."
NO_SECONDS = "It takes seconds, as a number above 0, or a timedelta; at most 100 years."


def tenant_of(event): ...


async def later(event): ...


def tell(data): ...


def refused(call, *args, **kwargs):
    with pytest.raises(InvalidSubscription) as caught:
        call(*args, **kwargs)
    return str(caught.value)


# -- one by one --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (lambda: Concurrency(1), "Concurrency(limit=1, key=None, scope='subscription')"),
        (lambda: Throttle(1, 0.5), "Throttle(limit=1, per=0.5, burst=0, key=None)"),
        (lambda: RateLimit(1, HOUR), f"RateLimit(limit=1, per={HOUR!r}, key=None)"),
        (lambda: Debounce(5), "Debounce(period=5, key=None, timeout=None)"),
        (lambda: Debounce(5, timeout=5), "Debounce(period=5, key=None, timeout=5)"),
        (lambda: Batch(2, 1), "Batch(max_size=2, timeout=1, key=None)"),
        (lambda: Batch(1000, 1, "a.b"), "Batch(max_size=1000, timeout=1, key='a.b')"),
        (Singleton, "Singleton(key=None, mode='skip')"),
        (lambda: Idempotency("id"), "Idempotency(key='id', ttl=86400)"),
    ],
)
def test_they_are_values(make, shown):
    assert make() == make()
    assert hash(make()) == hash(make())
    assert repr(make()) == shown
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().key = "other"


@pytest.mark.parametrize(
    "key", ["id", "document.tags.0", tenant_of, lambda event: 1, functools.partial(tenant_of)]
)
def test_keys(key):
    for make in (
        functools.partial(Concurrency, 1),
        functools.partial(Throttle, 1, 1),
        functools.partial(RateLimit, 1, 1),
        functools.partial(Debounce, 1),
        functools.partial(Batch, 2, 1),
        Singleton,
        Idempotency,
    ):
        assert make(key=key).key is key


@pytest.mark.parametrize("key", ["", "a..b", ".a", 7, ["id"], later])
def test_no_keys(key):
    for make, name in (
        (functools.partial(Concurrency, 1), "Concurrency"),
        (functools.partial(Throttle, 1, 1), "Throttle"),
        (functools.partial(RateLimit, 1, 1), "RateLimit"),
        (functools.partial(Debounce, 1), "Debounce"),
        (functools.partial(Batch, 2, 1), "Batch"),
        (Singleton, "Singleton"),
        (Idempotency, "Idempotency"),
    ):
        assert refused(make, key=key) == f"{name} cannot have key={key!r}. {NO_KEY}"


def test_an_idempotency_needs_a_key():
    assert refused(Idempotency, None) == f"Idempotency cannot have key=None. {NO_KEY}"


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "1", None])
def test_no_limits(value):
    for make, name in (
        (Concurrency, "Concurrency"),
        (functools.partial(Throttle, per=1), "Throttle"),
        (functools.partial(RateLimit, per=1), "RateLimit"),
    ):
        assert refused(make, value) == (
            f"{name} cannot have limit={value!r}. It takes a whole number of at least 1."
        )


def test_no_burst():
    assert refused(Throttle, 1, 1, burst=-1) == (
        "Throttle cannot have burst=-1. It takes a whole number of at least 0."
    )


@pytest.mark.parametrize("value", [1, 1001, True, 2.0, None])
def test_no_sizes(value):
    assert refused(Batch, value, 1) == (
        f"Batch cannot have max_size={value!r}. It takes a whole number from 2 to 1,000."
    )


@pytest.mark.parametrize(
    "value", [0, -1, 0.0, math.nan, math.inf, True, "1", dt.timedelta(0), -HOUR, None]
)
def test_no_durations(value):
    for make, name in (
        (functools.partial(Throttle, 1), "Throttle cannot have per"),
        (functools.partial(RateLimit, 1), "RateLimit cannot have per"),
        (Debounce, "Debounce cannot have period"),
        (functools.partial(Batch, 2), "Batch cannot have timeout"),
        (functools.partial(Idempotency, "id"), "Idempotency cannot have ttl"),
    ):
        assert refused(make, value) == f"{name}={value!r}. {NO_SECONDS}"
    if value is not None:
        assert refused(Debounce, 1, timeout=value) == (
            f"Debounce cannot have timeout={value!r}. {NO_SECONDS}"
        )


def test_a_debounce_that_is_never_quiet():
    assert refused(Debounce, HOUR, timeout=60) == (
        f"Debounce cannot have timeout=60, which is shorter than period={HOUR!r}. It would always "
        "start at the timeout: make that longer, or the period shorter."
    )


def test_no_mode():
    assert refused(Singleton, mode="drop") == (
        "Singleton cannot have mode='drop'. Use 'skip', 'cancel' or 'queue'."
    )


@pytest.mark.parametrize("scope", ["", "a b", "docs.tasks.run@document/uploaded", None, 7])
def test_no_scope(scope):
    assert refused(Concurrency, 1, scope=scope) == (
        f"Concurrency cannot have scope={scope!r}. Use 'subscription', 'app', or a name of "
        "letters, digits, '.', '_', '/' and '-'."
    )


# -- names -------------------------------------------------------------------------------------


class KeyOf:
    def __call__(self, event): ...


@pytest.mark.parametrize(
    ("limit", "name"),
    [
        (Concurrency(1), "concurrency t@e"),
        (Concurrency(1, "tenant.id"), "concurrency t@e by tenant.id"),
        (Concurrency(1, tenant_of), "concurrency t@e by tenant_of"),
        (Concurrency(1, KeyOf()), "concurrency t@e by KeyOf"),
        (Concurrency(1, scope="app"), "concurrency app"),
        (Concurrency(1, "id", scope="app"), "concurrency app by key"),
        (Concurrency(1, scope="llm"), "concurrency llm"),
        (Concurrency(1, tenant_of, scope="llm"), "concurrency llm by key"),
        (Throttle(1, 1), "throttle t@e"),
        (RateLimit(1, 1, "id"), "rate_limit t@e by id"),
        (Debounce(1), "debounce t@e"),
        (Batch(2, 1, "id"), "batch t@e by id"),
        (Singleton("id"), "singleton t@e by id"),
        (Idempotency("id"), "idempotency t@e by id"),
    ],
)
def test_names(limit, name):
    assert limit_name(limit, "t@e") == name


def test_the_limits_of_a_subscription():
    limits = (Concurrency(5), Concurrency(1, "id"), Singleton(), Throttle(1, 1))
    options = Limits(limits[:2], singleton=limits[2], throttle=limits[3], priority=5)
    assert options.by_name("t@e") == {
        "concurrency t@e": limits[0],
        "concurrency t@e by id": limits[1],
        "throttle t@e": limits[3],
        "singleton t@e": limits[2],
    }
    assert options.names == ("concurrency", "throttle", "singleton", "priority")


# -- on_event ----------------------------------------------------------------------------------


@pytest.fixture
def app():
    return Celery("shop", set_as_current=False)


def test_without_any_nothing_is_kept(app):
    on_event("order/paid", concurrency=[], priority=None)(app.task(tell))
    assert declared.all[-1].limits is None


def test_what_is_kept(app):
    limit, throttle = Concurrency(1), Throttle(1, HOUR)
    task = app.task(tell, name="tell")
    on_event(
        "order/paid",
        concurrency=limit,
        throttle=throttle,
        idempotency="id",
        priority=tenant_of,
        start_timeout=HOUR,
        finish_timeout=5,
    )(task)
    expected = Limits(
        (limit,),
        throttle=throttle,
        idempotency=Idempotency("id"),
        priority=tenant_of,
        start_timeout=3600.0,
        finish_timeout=5.0,
    )
    assert declared.all[-1].limits == expected
    app.finalize()
    assert get_fanout(app).registry.find("tell@order/paid").limits == expected


def test_a_function_is_short_for_an_idempotency(app):
    on_event("order/paid", idempotency=tenant_of)(app.task(tell))
    assert declared.all[-1].limits == Limits(idempotency=Idempotency(tenant_of))


@pytest.mark.parametrize("priority", [-255, 0, 255])
def test_priorities(priority):
    assert on_event_flow(priority=priority).priority == priority


def on_event_flow(**given):
    cancels = given.pop("cancel_on", ())
    options = dict.fromkeys(
        (
            "throttle",
            "rate_limit",
            "debounce",
            "batch",
            "singleton",
            "idempotency",
            "priority",
            "start_timeout",
            "finish_timeout",
        )
    )
    one = given.get("concurrency", ())
    given["concurrency"] = (one,) if isinstance(one, Concurrency) else tuple(one)
    return checked_limits("S", cancel_on=cancels, **{**options, **given})


#: Options that are refused, and what is said of it.
SINGLE = {
    "a number for a throttle": (
        {"throttle": 5},
        "S cannot have throttle=5. Use celery_fanout.Throttle(...).",
    ),
    "a number for a concurrency": (
        {"concurrency": [5]},
        "S cannot have concurrency=5. Use celery_fanout.Concurrency(...).",
    ),
    "nothing among several concurrencies": (
        {"concurrency": [Concurrency(1), None]},
        "S cannot have concurrency=None. Use celery_fanout.Concurrency(...).",
    ),
    "another option": (
        {"debounce": Batch(2, 1)},
        (
            "S cannot have debounce=Batch(max_size=2, timeout=1, key=None). Use "
            "celery_fanout.Debounce(...)."
        ),
    ),
    "no key": ({"idempotency": ""}, f"Idempotency cannot have key=''. {NO_KEY}"),
    "no idempotency": (
        {"idempotency": 5},
        "S cannot have idempotency=5. Use celery_fanout.Idempotency(...).",
    ),
    "a priority beyond": (
        {"priority": 256},
        (
            "S cannot have priority=256. Use a whole number from -255 to 255, or a function of the "
            "Event that returns one."
        ),
    ),
    "a text as priority": (
        {"priority": "high"},
        (
            "S cannot have priority='high'. Use a whole number from -255 to 255, or a function of "
            "the Event that returns one."
        ),
    ),
    "a truth as priority": (
        {"priority": True},
        (
            "S cannot have priority=True. Use a whole number from -255 to 255, or a function of "
            "the Event that returns one."
        ),
    ),
    "no time to start": ({"start_timeout": 0}, f"S cannot have start_timeout=0. {NO_SECONDS}"),
    "no time to finish": (
        {"finish_timeout": "1h"},
        f"S cannot have finish_timeout='1h'. {NO_SECONDS}",
    ),
}
DROPS_FROM_BATCHES = (
    "It would count events, and drop some from batches: use throttle= to have fewer batches, or "
    "leave events out with filter=."
)
DROPS_BEFORE_THE_LAST = (
    "What is dropped is decided with each event, before the last one is known: use throttle= to "
    "have fewer runs, or leave events out with filter=."
)
WHOM_IT_CONCERNS = (
    "Whom it concerns is decided with each event, before the last one is known: use mode='queue'."
)
ONE_LIMIT = (
    "They would be one limit with two numbers: keep one, or give the functions different names."
)
#: As docs/reference/flow-control.md lists them.
COMBINATIONS = {
    "four concurrency limits": (
        {"concurrency": [Concurrency(1, key) for key in ("a", "b", "c", "d")]},
        "4 concurrency limits. Use at most 3: each costs every run a look.",
    ),
    "the same limit twice": (
        {"concurrency": [Concurrency(1), Concurrency(2)]},
        f"two concurrency limits with scope='subscription' and no key. {ONE_LIMIT}",
    ),
    "the same key twice": (
        {"concurrency": [Concurrency(1, "id"), Concurrency(2, "id")]},
        f"two concurrency limits with scope='subscription' and the key id. {ONE_LIMIT}",
    ),
    "two keys in a scope that is shared": (
        {"concurrency": [Concurrency(1, "a", "llm"), Concurrency(2, "b", "llm")]},
        f"two concurrency limits with scope='llm' and the key a. {ONE_LIMIT}",
    ),
    "singleton queue and concurrency": (
        {"singleton": Singleton("id", "queue"), "concurrency": Concurrency(2, "id")},
        (
            "singleton with mode='queue' beside a concurrency limit with the same key. The "
            "singleton is the narrower limit: leave the other out."
        ),
    ),
    "batch and debounce": (
        {"batch": Batch(2, 1), "debounce": Debounce(1)},
        "batch beside debounce. One keeps all events and the other the last: choose one of them.",
    ),
    "batch and singleton": (
        {"batch": Batch(2, 1), "singleton": Singleton(mode="queue")},
        (
            "batch beside singleton. A batch begins before it is known which runs there are when "
            "it starts: use concurrency=Concurrency(1)."
        ),
    ),
    "batch and cancel_on": (
        {"batch": Batch(2, 1), "cancel_on": (CancelOn("order/cancelled"),)},
        (
            "batch beside cancel_on. What cancels one event would cancel the whole batch: look in "
            "the task for what is to be left out."
        ),
    ),
    "batch and rate_limit": (
        {"batch": Batch(2, 1), "rate_limit": RateLimit(1, 1)},
        f"batch beside rate_limit. {DROPS_FROM_BATCHES}",
    ),
    "batch and idempotency": (
        {"batch": Batch(2, 1), "idempotency": "id"},
        f"batch beside idempotency. {DROPS_FROM_BATCHES}",
    ),
    "batch and a function as priority": (
        {"batch": Batch(2, 1), "priority": tenant_of},
        (
            "batch beside a function as priority. A batch has many events and one priority: use a "
            "number."
        ),
    ),
    "a batch of several keys and a concurrency with one": (
        {"batch": Batch(2, 1), "concurrency": [Concurrency(1), Concurrency(1, "id")]},
        (
            "batch without a key beside concurrency with one. A batch of events with different "
            "keys counts for none of them: give the batch the same key."
        ),
    ),
    "a batch of several keys and a throttle with one": (
        {"batch": Batch(2, 1), "throttle": Throttle(1, 1, key="id")},
        (
            "batch without a key beside throttle with one. A batch of events with different keys "
            "counts for none of them: give the batch the same key."
        ),
    ),
    "debounce and rate_limit": (
        {"debounce": Debounce(1), "rate_limit": RateLimit(1, 1)},
        f"debounce beside rate_limit. {DROPS_BEFORE_THE_LAST}",
    ),
    "debounce and idempotency": (
        {"debounce": Debounce(1), "idempotency": "id"},
        f"debounce beside idempotency. {DROPS_BEFORE_THE_LAST}",
    ),
    "debounce and singleton skip": (
        {"debounce": Debounce(1), "singleton": Singleton()},
        f"debounce beside singleton with mode='skip'. {WHOM_IT_CONCERNS}",
    ),
    "debounce and singleton cancel": (
        {"debounce": Debounce(1), "singleton": Singleton(mode="cancel")},
        f"debounce beside singleton with mode='cancel'. {WHOM_IT_CONCERNS}",
    ),
    "start_timeout and a debounce without end": (
        {"debounce": Debounce(1), "start_timeout": HOUR},
        (
            "start_timeout beside a debounce without a timeout. Events that keep coming would keep "
            "the run from starting until it is cancelled: give the debounce a timeout that is "
            "shorter than start_timeout."
        ),
    ),
    "start_timeout and a longer debounce": (
        {"debounce": Debounce(1, timeout=HOUR), "start_timeout": HOUR},
        (
            "start_timeout=3600, which is not longer than the timeout of its debounce. The run "
            "would be cancelled before it may start: make it longer."
        ),
    ),
    "start_timeout and a longer batch": (
        {"batch": Batch(2, 60), "start_timeout": 59.5},
        (
            "start_timeout=59.5, which is not longer than the timeout of its batch. The run would "
            "be cancelled before it may start: make it longer."
        ),
    ),
}


@pytest.mark.parametrize("case", SINGLE)
def test_what_an_option_cannot_be(case):
    given, text = SINGLE[case]
    assert refused(on_event_flow, **given) == text


@pytest.mark.parametrize("case", COMBINATIONS)
def test_what_does_not_go_together(case):
    given, text = COMBINATIONS[case]
    assert refused(on_event_flow, **given) == f"S cannot have {text}"


def test_on_event_says_whose_options_they_are():
    text = refused(on_event, "order/*", batch=Batch(2, 1), cancel_on="order/cancelled")
    assert (
        text == f"A subscription to 'order/*' cannot have {COMBINATIONS['batch and cancel_on'][1]}"
    )


@pytest.mark.parametrize(
    "given",
    [
        {"concurrency": [Concurrency(1), Concurrency(1, "a"), Concurrency(1, "a", "app")]},
        {"concurrency": [Concurrency(1, tenant_of), Concurrency(1, lambda event: 1)]},
        {"singleton": Singleton("a", "queue"), "concurrency": Concurrency(1, "b")},
        {"singleton": Singleton("a", "queue"), "concurrency": Concurrency(1, "a", "app")},
        {"singleton": Singleton("a", "skip"), "concurrency": Concurrency(1, "a")},
        {"singleton": Singleton("a", "queue"), "debounce": Debounce(1, "a")},
        {"batch": Batch(2, 1, "a"), "concurrency": Concurrency(1, "b"), "priority": 5},
        {"batch": Batch(2, 1), "concurrency": Concurrency(1), "throttle": Throttle(1, 1)},
        {"batch": Batch(2, 60), "start_timeout": 61, "finish_timeout": 1},
        {"debounce": Debounce(1, timeout=HOUR), "start_timeout": 3601},
        {"debounce": Debounce(1), "priority": tenant_of, "throttle": Throttle(1, 1, key="a")},
        {"rate_limit": RateLimit(1, 1), "idempotency": "id", "singleton": Singleton()},
    ],
)
def test_what_goes_together(given):
    assert on_event_flow(**given) is not None


def test_every_refusal_of_a_combination_has_a_case_here():
    tree = ast.parse(Path(combinations.__file__).read_text())
    yielded = [node.value for node in ast.walk(tree) if isinstance(node, ast.Yield)]
    pairs = [node.args for node in yielded if isinstance(node, ast.Call)]
    remedies = {remedy.value for _, remedy in pairs if isinstance(remedy, ast.Constant)}
    assert len(remedies) > 9
    said = " ".join(text for _, text in COMBINATIONS.values())
    assert [remedy for remedy in remedies if remedy not in said] == []


def test_the_documentation_lists_what_does_not_go_together():
    page = Path(__file__).parents[3].joinpath("docs/reference/flow-control.md").read_text()
    section = page.partition("## What does not go together")[2].partition("## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:1] == "|"]
    listed = dict(rows[2:])
    assert listed == {case: text.partition(". ")[2] for case, (_, text) in COMBINATIONS.items()}
