"""What is shown of data."""

import json
import logging

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from celery_fanout.exceptions import InvalidSetting
from celery_fanout.model.settings import Settings
from celery_fanout.operating.redaction import (
    REDACTED,
    redact,
    redacted_event,
    redacted_run,
    redactor_of,
)
from celery_fanout.stores.checkpoints import Checkpoint
from celery_fanout.stores.records import EventRecord, RunRecord
from celery_fanout.stores.states import RunState

KEYS = [
    *("password", "userPassword", "PASSWD", "pass_phrase", "client_secret", "token", "accessToken"),
    *("refresh-token", "Authorization", "Proxy-Authorization", "authorisation", "cookie"),
    *("Set-Cookie", "api_key", "apiKey", "X-API-Key", "aws_access_key_id", "private_key", "pin"),
    *("pass", "otp", "otp_code", "totp", "jwt", "id_jwt", "dsn", "SENTRY_DSN", "database_url"),
    *("DATABASE_URI", "connection_string", "passcode"),
    *("credentials", "sessionid", "csrf_token", "signature", "cvv", "ssn", "auth", "pwd", "iban"),
]


@pytest.mark.parametrize("key", KEYS)
def test_secrets_are_left_out(key):
    assert redact("a/b", {"x": [{key: "s3cret"}, 1]}) == {"x": [{key: REDACTED}, 1]}
    assert redact("a/b", {key: {"nested": 1}, "other": 2}) == {key: REDACTED, "other": 2}


@pytest.mark.parametrize(
    "data",
    [
        {"prompt_tokens": 812, "max_token": 1.5},  # not secrets, but numbers of them
        {"author": "x", "monkey": "x", "keyboard": "x", "opinion": "x", "assn": 1, "pinned": "x"},
        {"password": None, "token": False, "has_password": True},
        [None, 1, 2**70, 1.5, "password", True],
    ],
)
def test_what_stays(data):
    assert redact("a/b", data) == data


@pytest.mark.parametrize("key", KEYS)
def test_names_of_secrets_that_are_data(key):
    pairs = [[key, "s3cret"], ("x", "y"), [key], [key, None]]
    assert redact("a/b", pairs) == [[key, REDACTED], ["x", "y"], [key], [key, None]]
    for word in ("name", "key", "field", "header"):
        named = {word: key, "value": "s3cret", "other": 1}
        assert redact("a/b", [named]) == [{**named, "value": REDACTED}]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://:pw@h:1/0", "redis://:[redacted]@h:1/0"),
        ("see amqp://me:p:w@h/v, or x://y", "see amqp://me:[redacted]@h/v, or x://y"),
        ("https://me@h/?a=1&api_key=s&b=2", "https://me@h/?a=1&api_key=[redacted]&b=2"),
        ("https://h/cb#access_token=s", "https://h/cb#access_token=[redacted]"),
        ("https://h:8/a@b:c@d", "https://h:8/a@b:c@d"),
    ],
)
def test_secrets_in_urls(text, shown):
    assert redact("a/b", {"at": [text]}) == {"at": [shown]}


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(data=_ANY)
def test_what_was_redacted_stays_as_it_is(data):
    once = redact("a/b", data)
    assert redact("a/b", once) == once


@given(
    user=st.from_regex(r"[a-z]{0,5}", fullmatch=True),
    password=st.from_regex(r"[A-Za-z0-9:%!*_-]{1,20}", fullmatch=True),
)
def test_no_password_of_a_url_is_shown(user, password):
    shown = redact("a/b", f"redis://{user}:{password}@localhost/1?x=1")
    assert shown == f"redis://{user}:{REDACTED}@localhost/1?x=1"


def test_data_are_not_changed_in_place():
    data = {"token": "s", "list": [{"secret": "s"}]}
    redact("a/b", data)
    assert data == {"token": "s", "list": [{"secret": "s"}]}


def settings(**conf):
    return Settings.from_app(Celery("proj", set_as_current=False, **conf))


def of_domain(name, data):
    return {"name": name, "keys": sorted(data)}


def test_ones_own_function():
    for own in (of_domain, f"{__name__}.of_domain", f"{__name__}:of_domain"):
        found = redactor_of(settings(fanout_redact=own))
        assert found("a/b", {"x": 1, "token": "s"}) == {"name": "a/b", "keys": ["token", "x"]}


def test_the_default():
    assert redactor_of(settings())("a/b", {"token": "s"}) == {"token": REDACTED}


@pytest.mark.parametrize("given", [5, "", "nodots", "not a.path", ["a.b"]])
def test_what_cannot_be_a_function(given):
    with pytest.raises(InvalidSetting) as caught:
        settings(fanout_redact=given)
    assert str(caught.value) == (
        f"fanout_redact is {given!r}. It must be a function, or the dotted path of one."
    )


def test_a_function_that_is_not_there():
    with pytest.raises(InvalidSetting) as caught:
        redactor_of(settings(fanout_redact="no_such_module.function"))
    assert str(caught.value) == (
        "fanout_redact is 'no_such_module.function', which cannot be imported "
        "(ModuleNotFoundError: No module named 'no_such_module'). "
        "It must be the dotted path of a function of an event's name and data."
    )


def fails(name, data):
    raise ValueError(f"cannot read {data}")


def gives_no_json(name, data):
    return object()


@pytest.mark.parametrize(("given", "error"), [(fails, "ValueError"), (gives_no_json, "TypeError")])
def test_a_function_that_fails_shows_nothing(given, error, caplog):
    with caplog.at_level(logging.ERROR):
        shown = redactor_of(settings(fanout_redact=given))("a/b", {"x": "private"})
    assert shown == f"[fanout_redact raised {error}]"
    assert f"fanout_redact raised {error} for a/b" in caplog.text
    assert "private" not in caplog.text


def run(**detail):
    empty = {"checkpoints": {}, "attempts": [], "children": {}, "waits": {}, "message": ""}
    detail = {**empty, "result": None, "error": None, **detail}
    return RunRecord("r", "event", "s", "k", RunState.FAILED, detail=detail)


def test_an_event():
    event = EventRecord("k", "a/b", "{}", '{"token":"s","n":1180591620717411303425}', 0.0, 0, [])
    assert redacted_event(event, redact).data == (
        '{"token":"[redacted]","n":1180591620717411303425}'
    )


def test_a_run():
    waited = {"a": {"type": "c/d", "id": "1"}, "d": {"token": "s"}}
    whole = run(
        checkpoints={
            "s1": Checkpoint("done", {"token": "s"}, stored=1.0).dumps(),
            "s2": Checkpoint("done", waited).dumps(),
            "s3": Checkpoint("failed", error={"type": "E", "message": "s"}).dumps(),
        },
        result='{"token":"s"}',
        message=json.dumps({"signature": {"task": "t", "args": [{"pin": "s"}], "kwargs": {}}}),
        error={"type": "E", "message": "s", "traceback": "s"},
        attempts=[{"number": 1, "error": "E: s"}, {"number": 2, "error": None}],
    )
    found = redacted_run(whole, "a/b", redact).detail
    read = {field: Checkpoint.loads(text) for field, text in found["checkpoints"].items()}
    assert read["s1"].value == {"token": REDACTED}
    assert read["s1"].stored == 1.0
    assert read["s2"].value == {"a": waited["a"], "d": {"token": REDACTED}}
    assert read["s3"].error == {"type": "E", "message": "s"}
    assert found["result"] == '{"token":"[redacted]"}'
    assert json.loads(found["message"])["signature"]["args"] == [{"pin": REDACTED}]
    assert found["error"] == whole.detail["error"]
    hidden = redacted_run(whole, "a/b", lambda name, data: None, texts=False).detail
    assert '"s"' not in json.dumps({**hidden, "checkpoints": 0})
    assert hidden["error"] == {"type": "E"}
    assert [attempt["error"] for attempt in hidden["attempts"]] == ["E", ""]
    read = {field: Checkpoint.loads(text) for field, text in hidden["checkpoints"].items()}
    assert [read[field].value for field in read] == [None, {"a": waited["a"], "d": None}, None]
    assert read["s3"].error == {"type": "E", "message": ""}
    assert whole.detail["result"] == '{"token":"s"}'
