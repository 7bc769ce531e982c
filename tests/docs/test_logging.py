"""The loggers and actions of docs/how-to/monitoring.md are those of the code, letter for letter."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.docs.blocks import PAGES, ROOT

PAGE = PAGES["docs/how-to/monitoring.md"].read_text()
MODULES = {
    file.relative_to(ROOT / "celery_fanout"): ast.parse(file.read_text())
    for file in sorted((ROOT / "celery_fanout").rglob("*.py"))
}


class Logged(NamedTuple):
    """A call of a logger that has an ``action``."""

    room: str
    logger: str
    level: str
    #: the literals that the action may be; none if it is an argument of the function around it
    actions: frozenset[str]


def texts(tree: ast.AST) -> set[str]:
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def loggers(module: ast.Module) -> dict[str, str]:
    """Return the loggers of a module that have a name of their own, by variable."""
    found: dict[str, str] = {}
    for node in module.body:
        match node:
            case ast.Assign(
                targets=[ast.Name(id=variable)],
                value=ast.Call(func=function, args=[ast.Constant(value=str(name))]),
            ) if re.search("get_?(task_)?logger$", ast.unparse(function), re.IGNORECASE):
                found[variable] = name
    return found


def calls() -> Iterator[Logged]:
    for path, module in MODULES.items():
        named = loggers(module)
        for node in ast.walk(module):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id=variable), attr=method), keywords=keywords
                ) if variable in named:
                    for keyword in keywords:
                        if keyword.arg == "extra" and isinstance(keyword.value, ast.Dict):
                            [action] = keyword.value.values
                            actions = frozenset(texts(action))
                            yield Logged(path.parts[0], named[variable], method.upper(), actions)


CALLS = list(calls())
ROWS = [
    (logger, level, re.findall(r"`(\w+)`", actions))
    for logger, level, actions in re.findall(
        r"^\| `(celery_fanout[\w.]*)` \| (\w+) \| ([^|]+) \|", PAGE, re.MULTILINE
    )
]


def test_the_names_that_people_have_configured() -> None:
    names = {logger.rpartition(".")[2] for logger, _, _ in ROWS}
    assert names == {"emit", "run", "claims", "control"}
    assert "`celery_fanout.relay`" in PAGES["docs/how-to/the-outbox.md"].read_text()
    assert {call.logger.rpartition(".")[2] for call in CALLS} == names | {"relay"}


@pytest.mark.parametrize(
    ("logger", "level", "action"),
    [(logger, level, action) for logger, level, actions in ROWS for action in actions],
)
def test_what_the_table_says_is_logged(logger: str, level: str, action: str) -> None:
    matching = [call for call in CALLS if (call.logger, call.level) == (logger, level)]
    passed_on = {call.room for call in matching if not call.actions}
    said = {
        text
        for path, module in MODULES.items()
        if path.parts[0] in passed_on
        for text in texts(module)
    }
    assert action in said.union(*(call.actions for call in matching))


def test_what_is_logged_with_an_action_is_in_the_table() -> None:
    listed = {(logger, action) for logger, _, actions in ROWS for action in actions}
    logged = {
        (call.logger, action)
        for call in CALLS
        for action in call.actions
        if call.logger != "celery_fanout.relay"
    }
    assert logged - listed == set()
