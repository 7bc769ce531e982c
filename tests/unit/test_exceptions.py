"""Errors: the whole message of each, the tree, and what survives a process boundary."""

import json
import pickle
import re

import pytest
from celery import Celery
from celery.exceptions import CeleryError, Ignore

from celery_fanout import exceptions as package
from celery_fanout.contrib.django import exceptions as django_package
from celery_fanout.contrib.django.exceptions import (
    InvalidModelEvents,
    InvalidWebhook,
    NoCommitToWaitFor,
    NoOutbox,
    NotInTransaction,
    TransactionError,
    UnreadableRow,
)
from celery_fanout.exceptions import (
    DeliveryUnsupported,
    DuplicateEventType,
    DuplicateSubscription,
    EmissionTimeout,
    EmitError,
    EmitWhileImporting,
    EventNotFound,
    EventTooLarge,
    FanoutError,
    FanoutWarning,
    InvalidEvent,
    InvalidEventData,
    InvalidEventName,
    InvalidEventType,
    InvalidPattern,
    InvalidSetting,
    InvalidStep,
    InvalidSubscription,
    LimitNotTuned,
    MissingExtra,
    NestedStep,
    NoApp,
    NonRetriable,
    NotATask,
    NotPublishedYet,
    ReplayContended,
    RetryAfter,
    RunFailed,
    RunNotFound,
    SleepTooLong,
    StepFailed,
    StepTimeout,
    StepTimeoutUnsupported,
    StoreRefused,
    StoreUnavailable,
    StoreUnsupported,
    Superseded,
    TooMany,
    UnknownLimit,
    UnknownSetting,
    UnknownStep,
    UnknownSubscription,
    WrongKind,
    WrongState,
    describe,
)

MESSAGES = [
    (
        InvalidModelEvents("shop.Order", "has no field 'stat'", "Did you mean 'status'?"),
        "The model shop.Order has no field 'stat'. Did you mean 'status'?",
    ),
    (
        InvalidWebhook("GitHub", "has no secret", "Pass secrets=[...]."),
        "GitHub has no secret. Pass secrets=[...].",
    ),
    (
        Superseded("r-1"),
        (
            "The run r-1 was cancelled, or its lease was over and another worker took it. Nothing "
            "more of this attempt counts."
        ),
    ),
    (
        RunNotFound("r-1"),
        (
            "The ledger has no run 'r-1'. It may have expired, or belong to another app: see "
            "fanout runs."
        ),
    ),
    (RunNotFound("r-1", "Give more of it."), "The ledger has no run 'r-1'. Give more of it."),
    (
        EventNotFound("e-1"),
        (
            "The ledger has no event 'e-1'. It may have expired: see fanout_event_retention, and "
            "fanout events."
        ),
    ),
    (
        WrongState("r-1", "succeeded", "cancelled", "It has ended."),
        "The run r-1 is succeeded and cannot be cancelled. It has ended.",
    ),
    (
        EventNotFound("e-1", "Give its name too."),
        "The ledger has no event 'e-1'. Give its name too.",
    ),
    (
        WrongKind("r-2", "invoke", "retried", "Retry its run r-1."),
        "The run r-2 is of the kind 'invoke' and cannot be retried. Retry its run r-1.",
    ),
    (
        ReplayContended("e-1"),
        (
            "The event e-1 is being replayed by others at the same time. Look whether what they "
            "began is what you want: see fanout show; or try again."
        ),
    ),
    (
        UnknownSubscription("a@b", "a@c"),
        "There is no subscription 'a@b'. Did you mean 'a@c'?",
    ),
    (
        UnknownSubscription("a@b"),
        "There is no subscription 'a@b'. See fanout subscriptions.",
    ),
    (
        UnknownStep("r-1", "x", ["a", "b"]),
        "The run r-1 has no stored step 'x'. It has: 'a', 'b'.",
    ),
    (UnknownStep("r-1", "x", []), "The run r-1 has no stored step 'x'. It has: none."),
    (
        UnknownLimit("concurrency ap", "concurrency app"),
        "There is no limit 'concurrency ap'. Did you mean 'concurrency app'?",
    ),
    (UnknownLimit("x"), "There is no limit 'x'. See fanout limits."),
    (
        LimitNotTuned("concurrency app", "-1 is no number of runs", "Use 0 or more."),
        ("The limit 'concurrency app' cannot be changed: -1 is no number of runs. Use 0 or more."),
    ),
    (
        TooMany(1001, 1000),
        (
            "1,001 runs or more match, and at most 1,000 may be changed at once. Narrow the "
            "filter, or allow more: limit=, or --max of a command."
        ),
    ),
    (
        UnknownSetting("fanout_sorce", "fanout_source"),
        "There is no setting 'fanout_sorce'. Did you mean 'fanout_source'?",
    ),
    (UnknownSetting("fanout_xyz"), "There is no setting 'fanout_xyz'. Remove it."),
    (
        InvalidSetting("fanout_publish_timeout", "-1", "a number of seconds greater than 0"),
        "fanout_publish_timeout is -1. It must be a number of seconds greater than 0.",
    ),
    (
        StoreUnsupported("The result backend rpc://", "steps", "Use another."),
        "The result backend rpc:// does not support steps. Use another.",
    ),
    (
        MissingExtra("The ledger in memory", "lupa", "memory"),
        (
            "The ledger in memory needs lupa, which is not installed. Install it with pip install "
            "'celery-fanout[memory]'."
        ),
    ),
    (
        NoApp([]),
        "There is no Celery app in this process. Import the module that creates it, or pass app=.",
    ),
    (
        NoApp(["one", "two"]),
        (
            "There are several Celery apps in this process (one, two) and none is current in this "
            "thread. Pass app=."
        ),
    ),
    (
        EmitWhileImporting("shop"),
        (
            "An event was emitted while the task modules of the app 'shop' are being imported, so "
            "not all its subscribers are known yet. Emit it in a function that is called later."
        ),
    ),
    (
        NotATask("on_event", "the function shop.tell", "Put @app.task above it."),
        (
            "on_event needs a Celery task, and the function shop.tell is not one. "
            "Put @app.task above it."
        ),
    ),
    (
        InvalidPattern("document*"),
        (
            "'document*' is no event pattern. Use an event name such as 'document/uploaded', a "
            "name that ends in '*' after '/' or '.', such as 'document/*', or '*' alone."
        ),
    ),
    (
        InvalidSubscription("then= at shop.py:3", "contains a group", "Emit an event."),
        "then= at shop.py:3 contains a group. Emit an event.",
    ),
    (
        InvalidEventType("Order", "is no pydantic model", "Derive it from BaseModel."),
        "Order is no pydantic model. Derive it from BaseModel.",
    ),
    (
        DuplicateEventType("order/paid", "shop.Order", "bar.Order"),
        (
            "The event 'order/paid' already has the type shop.Order, so bar.Order cannot be its "
            "type too. Give one of them another event name."
        ),
    ),
    (
        DuplicateSubscription("shop.tell@order/paid", "shop.py:3", "shop.py:9"),
        (
            "shop.tell@order/paid is subscribed twice: at shop.py:3 and at shop.py:9. Remove one, "
            "or join their filters."
        ),
    ),
    (
        InvalidEvent("order/paid", "has no id", "Give it one."),
        "The event 'order/paid' has no id. Give it one.",
    ),
    (
        InvalidEventName("order paid"),
        (
            "The event 'order paid' has no valid name. A name has 1 to 200 characters, starts "
            "with a letter or digit, and goes on with letters, digits, '.', '_', '/' and '-'."
        ),
    ),
    (
        InvalidEventData("order/paid", "data['total']", "JSON has no set", "Use a list."),
        "The event 'order/paid' cannot carry data['total']: JSON has no set. Use a list.",
    ),
    (
        EventTooLarge("order/paid", 300_000, 262_144),
        (
            "The event 'order/paid' has 300,000 bytes of data and fanout_max_event_size allows "
            "262,144. Store the data elsewhere and emit a reference to it, or raise the setting."
        ),
    ),
    (
        EmitError(
            "order/paid",
            "e-1",
            {"r-1": "published", "r-2": "unknown", "r-3": "unpublished", "r-4": "unpublished"},
            "ConnectionError: gone",
        ),
        (
            "The event 'order/paid' was not published to all its subscribers: 1 published, 1 "
            "unknown, 2 unpublished (ConnectionError: gone). Emit it again with id='e-1': that is "
            "safe."
        ),
    ),
    (
        DeliveryUnsupported("order/paid", "delivery='outbox'"),
        (
            "The event 'order/paid' was emitted with delivery='outbox', which needs Django. Put "
            '"celery_fanout.contrib.django" into INSTALLED_APPS, and call django.setup() first.'
        ),
    ),
    (
        NotInTransaction("order/paid", "default"),
        (
            "The event 'order/paid' was emitted into the outbox outside of a transaction on the "
            "database 'default', where it could be kept though what it tells of is not. Emit it in "
            "a block of transaction.atomic(using='default'), together with what happened; or set "
            "fanout_outbox_require_atomic to False."
        ),
    ),
    (
        NoCommitToWaitFor("order/paid", "default"),
        (
            "The event 'order/paid' was to be published when the transaction on the database "
            "'default' commits, but autocommit is off there, and Django tells nobody of such "
            "commits. Turn it on and emit in a block of transaction.atomic(using='default'), or "
            'emit with delivery="outbox"; or with delivery="now" after the commit.'
        ),
    ),
    (
        NoOutbox("order/paid", "default"),
        (
            "The event 'order/paid' was emitted into the outbox of the database 'default', which "
            "has no table for it. Run: manage.py migrate celery_fanout --database default"
        ),
    ),
    (
        NotPublishedYet("order/paid", "e-1"),
        (
            "The event 'order/paid' (e-1) is not published yet: that happens when its transaction "
            "commits, or from the outbox. Wait for its runs after that, and where it was in the "
            "outbox look for them by the event's id."
        ),
    ),
    (
        UnreadableRow(7, "is no event", "Delete it."),
        "Row 7 of the outbox is no event. Delete it.",
    ),
    (
        EmissionTimeout("order/paid", "e-1", 2.5, ["a@order/paid", "b@order/*"]),
        (
            "The event 'order/paid' (e-1) had no outcome after 2.5 s from: a@order/paid, "
            "b@order/*. Wait longer, or look whether a worker serves their queues."
        ),
    ),
    (
        StoreUnavailable("The result backend RedisBackend", "ConnectionError: refused"),
        (
            "The result backend RedisBackend cannot be reached (ConnectionError: refused). "
            "The run continues when it can be."
        ),
    ),
    (
        StoreRefused("The Redis ledger", "ReadOnlyError: a replica"),
        (
            "The Redis ledger answers and refuses (ReadOnlyError: a replica). The run continues "
            "when it no longer does."
        ),
    ),
    (RunFailed("No retry is left."), "No retry is left."),
    (
        InvalidStep("fetch", "has no valid id", "Use a text."),
        "The step 'fetch' has no valid id. Use a text.",
    ),
    (
        NestedStep("inner", "outer"),
        (
            "The step 'inner' was called inside the step 'outer', and steps do not nest. Call "
            "'inner' from the task's body, or call its function directly."
        ),
    ),
    (
        StepTimeout("fetch", 0.5),
        (
            "The step 'fetch' ran longer than its timeout of 0.5 s. Raise the timeout, or make the "
            "step smaller."
        ),
    ),
    (
        StepTimeoutUnsupported("fetch"),
        (
            "The step 'fetch' has a timeout, and a function in a thread cannot be interrupted. Run "
            "the task in a prefork, solo or gevent worker, or give the client that the step calls "
            "a timeout of its own."
        ),
    ),
    (
        SleepTooLong("rest", 864_000, 86_400, "result_expires"),
        (
            "The step 'rest' would sleep for 864,000 s, and the store drops checkpoints after "
            "86,400 s, so finished steps would run again. Raise result_expires, or sleep for less."
        ),
    ),
    (
        StepFailed("fetch", "ValueError", "no"),
        "The step 'fetch' failed after 1 attempt: ValueError: no",
    ),
    (
        StepFailed("fetch", "ValueError", "no", 3),
        "The step 'fetch' failed after 3 attempts: ValueError: no",
    ),
    (RetryAfter(30), "Asked to run again after 30 s."),
    (NonRetriable("The card is stolen."), "The card is stolen."),
]
EXAMPLES = [pytest.param(*each, id=type(each[0]).__name__) for each in MESSAGES]
PACKAGES = (package, django_package)
PUBLIC = [getattr(module, name) for module in PACKAGES for name in module.__all__]
ERRORS = [item for item in PUBLIC if isinstance(item, type) and issubclass(item, FanoutError)]


@pytest.mark.parametrize(("error", "message"), EXAMPLES)
def test_message(error, message):
    assert str(error) == message


def test_each_class_that_is_raised_has_its_message_tested():
    roots = {cls for cls in ERRORS if cls.__init__ is Exception.__init__}
    assert {cls.__name__ for cls in roots} == {
        "ConfigurationError",
        "ControlError",
        "FanoutError",
        "RegistrationError",
        "StepError",
        "StepMisused",
    }
    never_raised = roots | {TransactionError}  # a root as well, with arguments of its own
    assert {type(error) for error, _ in MESSAGES} == set(ERRORS) - never_raised


def same(one, other):
    return (type(one), str(one), one.__dict__) == (type(other), str(other), other.__dict__)


@pytest.mark.parametrize(("error", "message"), EXAMPLES)
def test_survives_pickle(error, message):
    assert same(pickle.loads(pickle.dumps(error)), error)  # noqa: S301 - our own


@pytest.mark.parametrize(("error", "message"), EXAMPLES)
def test_is_rebuilt_from_its_args(error, message):
    assert same(type(error)(*error.args), error)


@pytest.mark.parametrize(("error", "message"), EXAMPLES)
def test_survives_a_json_result_backend(error, message):
    backend = Celery(backend="cache+memory://", set_as_current=False).backend
    stored = json.loads(json.dumps(backend.prepare_exception(error)))
    assert same(backend.exception_to_python(stored), error)


@pytest.mark.parametrize(
    ("module", "others"),
    [
        (package, [("CeleryError",), ("UserWarning",)]),
        (
            django_package,
            [
                ("FanoutError",),
                ("ConfigurationError", "FanoutError", "ImproperlyConfigured"),
                ("RegistrationError", "FanoutError"),
            ],
        ),
    ],
)
def test_the_tree_in_the_docstring_is_the_tree_of_the_classes(module, others):
    drawn = []
    above = []
    for line in module.__doc__.splitlines():
        found = re.fullmatch(r"( {4}[ │├└─]*)(\w+)(?: \((?:[\w.]+\.)?(\w+)\))?", line)
        if found is None:
            continue
        depth, name, second = (len(found[1]) - 4) // 5, found[2], found[3]
        above[depth:] = [name]
        drawn.append((name, *above[depth - 1 : depth], *([second] if second else [])))
    actual = [
        (cls.__name__, *(base.__name__ for base in cls.__bases__))
        for cls in (getattr(module, name) for name in module.__all__)
        if isinstance(cls, type)
    ]
    assert sorted(drawn) == sorted([*actual, *others])


@pytest.mark.parametrize("module", PACKAGES, ids=lambda module: module.__name__)
def test_an_error_is_stored_with_its_public_home(module):
    classes = [getattr(module, name) for name in module.__all__]
    homes = {cls.__module__ for cls in classes if isinstance(cls, type)}
    assert homes == {module.__name__}


@pytest.mark.parametrize("cls", [StoreUnavailable, StepFailed, RetryAfter, NonRetriable])
def test_what_steers_a_run_passes_autoretry(cls):
    assert issubclass(cls, Ignore)


def test_everything_is_a_celery_error():
    assert all(issubclass(cls, CeleryError) for cls in ERRORS)
    assert not issubclass(FanoutWarning, CeleryError)


def test_emit_error_knows_its_runs():
    error = EmitError("a", "e", {"1": "published", "2": "unknown", "3": "unpublished"}, "gone")
    assert (error.published, error.unknown, error.unpublished) == (["1"], ["2"], ["3"])


def test_retry_after_names_its_cause():
    error = RetryAfter(0.5, ValueError("busy"))
    assert str(error) == "Asked to run again after 0.5 s because of ValueError('busy')."
    assert isinstance(error.cause, ValueError)


def test_non_retriable_gives_the_error_to_report():
    cause = ValueError("no")
    assert NonRetriable(cause).error is cause
    assert str(NonRetriable(cause)) == "no"
    error = NonRetriable("The card is stolen.").error
    assert (type(error), str(error)) == (RunFailed, "The card is stolen.")


def test_describe():
    assert describe(KeyError("a")) == {"type": "KeyError", "message": "'a'"}
