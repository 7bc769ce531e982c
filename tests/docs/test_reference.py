"""The reference lists everything that there is."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import fields
from pathlib import Path

import click
import pytest
from celery import Celery

import celery_fanout
from celery_fanout import checks, cli, exceptions, signals, testing
from celery_fanout.contrib.django import exceptions as django_exceptions
from celery_fanout.contrib.django import signals as django_signals
from celery_fanout.model import settings
from celery_fanout.model.settings import Settings
from tests.docs.blocks import DOCS

REFERENCE = DOCS / "reference"

#: Where the public names of the Django app are.
DJANGO_MODULES = ("contrib/django/model_events", "contrib/django/signatures")


def rows(page: str) -> list[list[str]]:
    """Return the cells of all tables of a page."""
    lines = (REFERENCE / page).read_text().splitlines()
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in lines
        if line.startswith("| `")
    ]


def code(cell: str) -> list[str]:
    """Return what stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def test_every_public_name_is_in_the_api_reference() -> None:
    listed = re.findall(r"^::: (\S+)$", (REFERENCE / "api.md").read_text(), re.MULTILINE)
    public = [f"celery_fanout.{name}" for name in celery_fanout.__all__]
    public += [f"celery_fanout.checks.{name}" for name in checks.__all__]
    public += [f"celery_fanout.testing.{name}" for name in testing.__all__]
    for module in DJANGO_MODULES:  # read, not imported: this process has no settings
        tree = ast.parse((Path(celery_fanout.__file__).parent / f"{module}.py").read_text())
        [names] = [
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        ]
        public += [f"celery_fanout.{module.replace('/', '.')}.{name}" for name in names]
    public.append("celery_fanout.contrib.django.webhooks.webhook")  # its other names are the last's
    public.append("celery_fanout.contrib.django.testing.drain_outbox")
    assert sorted(listed) == sorted(public)


def test_the_settings_and_their_defaults() -> None:
    listed = {code(row[0])[0]: code(row[1])[0] for row in rows("settings.md") if len(row) > 2}
    actual = Settings.from_app(Celery("proj", set_as_current=False))
    assert {name: eval(default, {}) for name, default in listed.items()} == {  # noqa: S307
        settings.PREFIX + field.name: getattr(actual, field.name) for field in fields(Settings)
    }


def test_every_error() -> None:
    classes = {
        name
        for module in (exceptions, django_exceptions)
        for name, item in inspect.getmembers(module, inspect.isclass)
        if name in module.__all__
    }
    listed = [code(row[0])[0] for row in rows("errors.md")]
    assert sorted([*listed, "FanoutError"]) == sorted(classes)


@pytest.mark.parametrize("row", [row for row in rows("errors.md") if len(row) == 3])
def test_what_an_error_is_besides(row: list[str]) -> None:
    name = code(row[0])[0]
    error = getattr(exceptions if name in exceptions.__all__ else django_exceptions, name)
    for base in code(row[1]):
        assert base.rpartition(".")[2] in {
            kind.__name__ for kind in error.__mro__ if not kind.__module__.startswith("celery_f")
        }


def test_every_check_and_its_level() -> None:
    here = Path(celery_fanout.__file__).parent
    ours = [here / "app" / "checks.py", here / "app" / "live_checks.py"]
    listed = [code(row[0])[0] for row in rows("checks.md")]
    expected: list[str] = []
    django = here / "contrib" / "django" / "checks.py"
    for files, prefix in ((ours, ""), ([django], "celery_")):
        source = "".join(file.read_text() for file in files)
        ids = re.findall(r'"(fanout\.[EWI]\d{3})",', source)
        assert ids != []
        names = sorted(set(ids), key=lambda name: ("EWI".index(name[7]), name))
        expected += [prefix + name for name in names]
    assert listed == expected


def test_every_signal_and_its_arguments() -> None:
    listed = {code(row[0])[0]: set(code(row[2])) for row in rows("signals.md")}
    assert listed == {
        name: set(getattr(module, name).providing_args)
        for module in (signals, django_signals)
        for name in module.__all__
    }


def test_every_command_and_its_options() -> None:
    text = (REFERENCE / "cli.md").read_text()
    assert isinstance(cli.fanout, click.Group)
    for name, command in cli.fanout.commands.items():
        assert f"\n## {name}\n" in text
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.opts[0] in text, f"{name} {parameter.opts[0]}"


@pytest.mark.parametrize(
    "word",
    [
        *("attempt", "checkpoint", "emission", "emit", "event", "registry"),
        *("run", "step", "subscriber", "subscription", "suspension"),
        *("claim", "dead letter", "fencing token", "keeper", "lease", "wait"),
        *("deliver", "draft", "freeze", "publish", "record", "settle"),
    ],
)
def test_the_glossary_has_the_word(word: str) -> None:
    text = (REFERENCE / "glossary.md").read_text().lower()
    assert f"**{word}**\n:   " in text


def test_the_glossary_says_each_word_once_and_in_order() -> None:
    heads = re.findall(r"^(\*\*.+)$", (REFERENCE / "glossary.md").read_text(), re.MULTILINE)
    words = [word.lower() for head in heads for word in re.findall(r"\*\*([^*]+)\*\*", head)]
    assert len(words) == len(set(words))
    first = [re.findall(r"\*\*([^*]+)\*\*", head)[0].lower() for head in heads]
    assert first == sorted(first)
