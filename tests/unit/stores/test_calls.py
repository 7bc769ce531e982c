"""What Python sends to a script is what the script's header declares."""

from __future__ import annotations

import inspect
import re
from importlib import resources
from typing import Any

import pytest

from celery_fanout.stores.redis import calls
from celery_fanout.stores.redis.client import RedisConnection
from celery_fanout.stores.redis.scripting import Scripts, arguments, library_names, source

FOLDER = resources.files("celery_fanout.stores.redis") / "scripts"
TEXTS = {
    file.name.removesuffix(".lua"): file.read_text("utf-8")
    for file in FOLDER.iterdir()
    if file.name.endswith(".lua")
}
#: What others include, and nobody calls.
LIBRARIES = {"lib", "limits"}
SCRIPTS = sorted(TEXTS.keys() - LIBRARIES)
FUNCTIONS: dict[str, Any] = {
    name: each for name, each in vars(calls).items() if hasattr(each, "__wrapped__")
}


def code_of(script: str) -> str:
    """Return a script without its comments."""
    return re.sub(r"--.*", "", TEXTS[script])


def sent(call: calls.Call[Any]) -> list[Any]:
    """Return the arguments that go to Redis with a call, after the time."""
    return Scripts("a store", "{root}", "", RedisConnection(lambda: None), None).command(call)[5:]


def test_each_script_has_one_call_and_each_call_a_script() -> None:
    assert sorted(FUNCTIONS) == SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_call_has_the_arguments_that_the_header_declares_in_their_order(script: str) -> None:
    names, has_tail = arguments(script)
    declared = inspect.signature(FUNCTIONS[script]).parameters.values()

    assert [each.name for each in declared] == list(names)
    lists = [each.name for each in declared if str(each.annotation).startswith("Sequence[")]
    assert lists == ([names[-1]] if has_tail else [])


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_declares_its_arguments_once_and_uses_each_by_its_name(script: str) -> None:
    assert TEXTS[script].count("-- args: ") == 1
    unused = [
        name for name in arguments(script).names if not re.search(rf"\b{name}\b", code_of(script))
    ]
    assert unused == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_argument_hides_what_the_library_defines(script: str) -> None:
    assert not library_names() & set(arguments(script).names)


@pytest.mark.parametrize("script", sorted(TEXTS))
def test_no_script_knows_where_its_arguments_stand(script: str) -> None:
    found = re.findall(r"ARGV\W*\w*", code_of(script))
    assert found == (["ARGV[1"] if script == "lib" else []), "lib.lua reads the time, for all"


def test_the_loader_gives_a_script_its_arguments_by_name() -> None:
    assert "\nlocal id, token, field, text = unpack(ARGV, 2, 5)\n" in source("store", "")
    prelude = "local boot = unpack(ARGV, 2, 2)\nlocal ids = {}\nfor i = 3, #ARGV do ids[i - 2]"
    assert prelude in source("renew", "")


def test_a_call_is_sent_in_the_order_of_the_header() -> None:
    call = calls.abandon(final=1, error="{}", boot="b", id="run")
    assert sent(call) == ["run", "b", "{}", 1]


def test_a_list_is_sent_item_by_item() -> None:
    assert sent(calls.cancel(reason="no", ids=["a", "b"])) == ["no", "a", "b"]
    assert sent(calls.take(limit=1, grace=0, ids=())) == [1, 0]


def test_arguments_are_given_by_name() -> None:
    with pytest.raises(TypeError):
        calls.reopen("run", "why")  # type: ignore[misc]  # pyright: ignore[reportCallIssue]
